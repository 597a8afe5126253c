"""Personal data by pattern: how often and where, never what. Patterns find what looks like it; they miss names, addresses and more."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address

KINDS = ("e-mail address", "phone number", "IBAN", "card number", "IP address", "US social security number")

EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
PHONE = re.compile(r"(?<![\w.+-])(?<!\d )(?:(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,6}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?![\w-])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")


def count_personal(text: str) -> dict[str, int]:
    """How many things of each kind a text holds; kinds that do not occur are left out. What is one kind is not counted as another."""
    found: dict[str, int] = {}
    rest = text
    for kind, pattern, is_one in _TESTS:
        spans = [match.span() for match in pattern.finditer(rest) if is_one(match.group())]
        if spans:
            found[kind] = found.get(kind, 0) + len(spans)
            rest = "".join(_blanked(rest, spans))
    return found


def _blanked(text: str, spans: list[tuple[int, int]]) -> Iterator[str]:
    at = 0
    for start, end in spans:
        yield text[at:start]
        yield "\n"
        at = end
    yield text[at:]


def iban_is_valid(text: str) -> bool:
    """Checksum of ISO 13616 (mod 97 = 1)."""
    code = text.replace(" ", "")
    if not 15 <= len(code) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in code[4:] + code[:4])) % 97 == 1


def luhn_is_valid(text: str) -> bool:
    """Checksum of card numbers (ISO/IEC 7812), 13 to 19 digits, not all the same."""
    digits = [int(char) for char in text if char.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def is_address(text: str) -> bool:
    """Whether it is an IP address of a host, and not a version number or an abbreviation of colons."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not address.is_unspecified and not (address.version == 6 and text.count(":") < 3)


def _is_phone(text: str) -> bool:
    return 8 <= sum(char.isdigit() for char in text) <= 15


_TESTS: tuple[tuple[str, "re.Pattern[str]", Callable[[str], bool]], ...] = (
    ("e-mail address", EMAIL, lambda text: True),
    ("IBAN", IBAN, iban_is_valid),
    ("card number", CARD, luhn_is_valid),
    ("US social security number", SSN, lambda text: True),
    ("IP address", IPV4, is_address),
    ("IP address", IPV6, is_address),
    ("phone number", PHONE, _is_phone),
)
