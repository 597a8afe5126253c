"""Personal data by pattern, check digits and words before it: e-mail, phones, cards, IBAN, national numbers, addresses, birth dates.

Libraries: presidio's recognisers for national numbers, phonenumbers for phones; the kinds that `fairness data` counts have one pattern for
both (`describe/personal_data.py`). Names of people, free-form addresses and what only the sense gives away are not found by any pattern.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import regex

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding, Side
from trimtab.describe.personal_data import CARD, EMAIL, IBAN, IPV4, IPV6, PHONE, SSN, iban_is_valid, is_address, luhn_is_valid
from trimtab.guard.base import Guard, check_options, missing, texts_option
from trimtab.guard.presidio import recognizers
from trimtab.guard.rules import CONTEXT_CHARS, Rule, find, open_from

REACH_CHARS = 320
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "BR", "AU", "CA")
KINDS = ("email", "phone", "card", "iban", "ip", "national-id", "address", "birth-date")
# Presidio's class -> what stands for it, and words one of which must stand before it. A number that is digits alone needs such a word even
# where it has a check digit: one in ten of all numbers would pass.
NATIONAL: dict[str, tuple[str, str]] = {
    "UsItinRecognizer": ("US_ITIN", r"\bitin\b|taxpayer"),
    "UsMbiRecognizer": ("US_MBI", r"medicare|\bmbi\b"),
    "UsPassportRecognizer": ("US_PASSPORT", "passport"),
    "MedicalLicenseRecognizer": ("US_DEA", r"\bdea\b|licen[sc]e"),
    "AbaRoutingRecognizer": ("US_ROUTING", r"routing|\baba\b"),
    "NhsRecognizer": ("UK_NHS", r"\bnhs\b|national health"),
    "UkNinoRecognizer": ("UK_NINO", ""),
    "UkDrivingLicenceRecognizer": ("UK_LICENCE", ""),
    "UkPassportRecognizer": ("UK_PASSPORT", "passport"),
    "DeTaxIdRecognizer": ("DE_TAX_ID", r"steuer|\bidnr|tax"),
    "DeSocialSecurityRecognizer": ("DE_SOCIAL", r"versicherung|rente|\bsvnr|social"),
    "DeHealthInsuranceRecognizer": ("DE_HEALTH", r"kranken|versicher|\bkvnr|health"),
    "DeIdCardRecognizer": ("DE_ID", r"ausweis|\bid\b|identity"),
    "DePassportRecognizer": ("DE_PASSPORT", r"pass(?:port|nummer|\b)"),
    "EsNifRecognizer": ("ES_NIF", ""),
    "EsNieRecognizer": ("ES_NIE", ""),
    "ItFiscalCodeRecognizer": ("IT_FISCAL", ""),
    "ItIdentityCardRecognizer": ("IT_ID", r"carta|identit"),
    "ItPassportRecognizer": ("IT_PASSPORT", r"passaporto|passport"),
    "PlPeselRecognizer": ("PL_PESEL", "pesel"),
    "InAadhaarRecognizer": ("IN_AADHAAR", r"aadha?ar|\buidai"),
    "InPanRecognizer": ("IN_PAN", r"\bpan\b|permanent account"),
    "InVoterRecognizer": ("IN_VOTER", r"voter|\bepic\b"),
    "InPassportRecognizer": ("IN_PASSPORT", "passport"),
    "AuTfnRecognizer": ("AU_TFN", r"\btfn\b|tax file"),
    "AuMedicareRecognizer": ("AU_MEDICARE", "medicare"),
    "SgFinRecognizer": ("SG_FIN", r"\bn?ric\b|\bfin\b"),
    "FiPersonalIdentityCodeRecognizer": ("FI_HETU", ""),
    "SePersonnummerRecognizer": ("SE_PERSONNUMMER", r"person"),
    "KrRrnRecognizer": ("KR_RRN", r"\brrn\b|resident|주민"),
    "TrNationalIdRecognizer": ("TR_TCKN", r"kimlik|\btc\b|tckn"),
    "ThTninRecognizer": ("TH_ID", r"บัตร|\bthai|national"),
    "CaSinRecognizer": ("CA_SIN", r"\bsin\b|social insurance|nas\b"),
    "NgNinRecognizer": ("NG_NIN", r"\bnin\b"),
    "ZaIdNumberRecognizer": ("ZA_ID", r"\bid\b|identity"),
}
PHONE_WORDS = r"phone|\btel\b|telefon|t[ée]l[ée]|\bcall\b|\bcell|mobile?|handy|whatsapp|\bfax\b|\bsms\b|rufnummer|reach (?:me|us|her|him)"
NATIONAL_PHONE = r"(?<![\w.+-])\(?\d(?:[ .()/-]{0,2}\d){6,13}(?![\w-])"
STREETS = (
    r"Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Place|Pl|Terrace|Close|Crescent|Highway|Hwy|Parkway"
    r"|Pkwy|Way"
)
NAME = r"[A-ZÁÉÍÓÚ][\w'’-]{1,24}(?: [A-ZÁÉÍÓÚ][\w'’-]{1,24})?"
ADDRESSES = (
    rf"(?<![\w.,-])\d{{1,5}}[A-Za-z]? (?:[NSEW]\.? )?(?:(?:[A-Z][\w'’-]{{1,20}}|\d{{1,3}}(?:st|nd|rd|th)) ){{1,3}}?(?:{STREETS})\b",
    r"\bP\.? ?O\.? Box \d{1,6}\b",
    r"\b[A-ZÄÖÜ][a-zäöüß-]{2,24}(?:straße|strasse|str\.|weg|platz|allee|gasse|ring) \d{1,4} ?[a-z]?\b",
    r"(?<![\w.,-])\d{1,4}(?: ?bis)?,? (?:rue|avenue|boulevard|place|chemin|impasse|allée|quai) "
    rf"(?:(?:de|du|des|la|le|les) |[dl]['’]){{0,2}}{NAME}",
    r"\b(?:Calle|Avenida|Plaza|Paseo|Via|Viale|Piazza|Rua) (?:(?:de|del|della|di|la|las|los|da|do) ){0,2}"
    rf"{NAME},? (?:n[.º°] ?)?\d{{1,4}}\b",
    r"\b[A-Z]{1,2}\d[A-Z\d]? \d[ABD-HJLNP-UW-Z]{2}\b",
    r"\b[A-Z][a-z]{2,20}(?: [A-Z][a-z]{2,20})?, [A-Z]{2} \d{5}(?:-\d{4})?\b",
)
BIRTH_DATE = (
    r"\b(?:\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\d{1,2}(?:st|nd|rd|th)? [A-Z][a-z]{2,8},? \d{4}"
    r"|[A-Z][a-z]{2,8} \d{1,2}(?:st|nd|rd|th)?,? \d{4})\b"
)
BIRTH_WORDS = r"\bborn\b|birth|\bd\.?o\.?b\b|geboren|geburts|né[e]? le|nacid[oa]|nascid[oa]|nat[oa] il"
HAS_DIGIT = regex.compile(r"\d")


class PersonalData(Guard):
    """Options: `kinds` (all): some of email, phone, card, iban, ip, national-id, address, birth-date; `regions`: countries in which a phone
    number without country code is looked for, as two letters."""

    name = "personal"
    reach_chars = REACH_CHARS

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("kinds", "regions"))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        kinds = texts_option(self.name, options, "kinds") or KINDS
        for kind in kinds:
            if kind not in KINDS:
                raise InputError(f"Guard {self.name!r} has no kind {kind!r}; the kinds are {', '.join(KINDS)}.")
        regions = texts_option(self.name, options, "regions") or REGIONS
        self._all = tuple(rule for kind in kinds for rule in _rules(kind, regions))
        self._email = tuple(rule for rule in self._all if rule.name == "personal.email")
        self._alone = tuple(rule for rule in self._all if rule.before is None and rule not in self._email)
        self._after_words = tuple(rule for rule in self._all if rule.before is not None)
        words = sorted({rule.before.pattern for rule in self._after_words if rule.before})
        self._words = regex.compile("|".join(words), regex.IGNORECASE)

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        found = tuple(find(self._email, text, start, self.time_limit_s)) if "@" in text else ()
        if HAS_DIGIT.search(text, start):
            found += tuple(find(self._alone, text, start, self.time_limit_s))
            # One search in place of thirty: most texts have none of the words.
            if self._words.search(text, max(0, start - CONTEXT_CHARS), timeout=self.time_limit_s):
                found += tuple(find(self._after_words, text, start, self.time_limit_s))
        return _without_inner(found)

    def open_from(self, text: str, start: int = 0) -> int:
        return max(open_from(self._all, text, start), len(text) - REACH_CHARS)


def _without_inner(found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Findings that do not lie in a longer one: a phone number inside a card number is no second thing."""
    kept: list[Finding] = []
    for one in sorted(found, key=lambda finding: (finding.start, -finding.end)):
        if not kept or one.end > kept[-1].end:
            kept.append(one)
    return tuple(kept)


@functools.cache
def _rules(kind: str, regions: tuple[str, ...]) -> tuple[Rule, ...]:
    if kind == "national-id":
        return (_rule("us-ssn", SSN, "the form of a US social security number", "[US_SSN]"), *_national())
    if kind == "phone":
        return _phones(regions)
    if kind == "address":
        return tuple(_rule(kind, pattern, "the form of a postal address", "[ADDRESS]", score=0.7) for pattern in ADDRESSES)
    if kind == "birth-date":
        return (_rule(kind, BIRTH_DATE, "a date after a word for birth", "[BIRTH_DATE]", score=0.8, before=BIRTH_WORDS, within_chars=20),)
    if kind == "iban":
        return (_rule(kind, IBAN, "an IBAN whose check digits are right", "[IBAN]", length=_iban_length),)
    if kind == "ip":
        both = (IPV4, IPV6)
        return tuple(_rule(kind, pattern, "an IP address", "[IP]", length=_if(is_address)) for pattern in both)
    if kind == "card":
        return (_rule(kind, CARD, "a card number whose check digit is right", "[CARD]", length=_card_length),)
    return (_rule(kind, EMAIL, "an e-mail address", "[EMAIL]"),)


def _rule(name: str, pattern: Any, reason: str, replacement: str, **more: Any) -> Rule:
    before = more.pop("before", "")
    return Rule(
        name=f"personal.{name}",
        pattern=regex.compile(pattern if isinstance(pattern, str) else pattern.pattern),
        reason=reason,
        replacement=replacement,
        before=regex.compile(before, regex.IGNORECASE) if before else None,
        **more,
    )


def _if(holds: Callable[[str], bool]) -> Callable[[str], int]:
    return lambda matched: len(matched) if holds(matched) else 0


def _card_length(matched: str) -> int:
    """Of a match that may have swallowed a number after the card's: the longest beginning of whole groups whose check digit is right."""
    ends = [len(matched), *(place for place in range(len(matched) - 1, 12, -1) if not matched[place].isdigit())]
    return next((end for end in ends if luhn_is_valid(matched[:end])), 0)


def _iban_length(matched: str) -> int:
    """Of a match that may have swallowed a word after the IBAN: the longest beginning whose check digits are right."""
    ends = [len(matched), *(place for place in range(len(matched) - 1, 0, -1) if matched[place] == " ")]
    return next((end for end in ends if iban_is_valid(matched[:end])), 0)


def _phones(regions: tuple[str, ...]) -> tuple[Rule, ...]:
    try:
        import phonenumbers
    except ImportError as error:
        raise missing("personal", "phonenumbers", "pip install 'trimtab[guard]'") from error
    unknown = set(regions) - set(phonenumbers.SUPPORTED_REGIONS)
    if unknown:
        raise InputError(f"Guard 'personal' knows no region {min(unknown)!r}; regions are two letters, such as US.")

    @functools.lru_cache(maxsize=4096)
    def is_number(matched: str) -> bool:
        text = "+" + matched[2:] if matched.startswith("00") else matched
        for region in [None] if text.startswith("+") else regions:
            try:
                if phonenumbers.is_valid_number(phonenumbers.parse(text, region)):
                    return True
            except phonenumbers.NumberParseException:
                continue
        return False

    reason = "a phone number that the numbering plan of a country allows"
    return (
        _rule("phone", PHONE, reason, "[PHONE]", length=_if(is_number)),
        _rule("phone", NATIONAL_PHONE, f"{reason}, after a word for it", "[PHONE]", length=_if(is_number), before=PHONE_WORDS, score=0.7),
    )


def _national() -> tuple[Rule, ...]:
    """A rule for each pattern of presidio's recognisers of the table, with presidio's own check."""
    classes = recognizers()
    rules = []
    for name, (entity, before) in NATIONAL.items():
        if name not in classes:
            continue  # another version of presidio
        one = classes[name]()
        for pattern in one.patterns:
            if ".*" in pattern.regex:
                continue  # it looks ahead without end: a stream would have to wait for the end
            rules.append(
                Rule(
                    name=f"personal.{entity.lower().replace('_', '-')}",
                    pattern=regex.compile(pattern.regex, one.global_regex_flags),
                    reason=f"the form of a number of the kind {entity}" + (", after a word for it" if before else ", its check passed"),
                    replacement=f"[{entity}]",
                    score=0.8 if before else 0.9,
                    length=_if(_checked(one)),
                    before=regex.compile(before, regex.IGNORECASE) if before else None,
                )
            )
    return tuple(rules)


def _checked(recognizer: Any) -> Callable[[str], bool]:
    """Presidio's verdict on a match: False only where its check fails."""
    return lambda matched: recognizer.validate_result(matched) is not False and not recognizer.invalidate_result(matched)
