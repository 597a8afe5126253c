"""Requests for harm or fraud, and texts that do harm: known wordings and a linear judge.

No library without a model covers this; a guard model does (guard/model.py), and much better. The judge knows what moderation data calls hate,
threats, violence, self-harm and sexual content, and requests for weapons, drugs, break-ins and deceit. It reads words, not sense.
"""

from collections.abc import Mapping
from typing import Any

import regex

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options, number_option, texts_option
from trimtab.guard.folding import fold
from trimtab.guard.linear import LinearModel, load_model
from trimtab.guard.rules import Rule, find

_ASK = (
    r"(?:how (?:do|can|could|would|should|to|does) ?(?:i|we|you|one|someone|somebody)?|(?:tell|show|teach|help|explain)(?: to)? me|(?:give|provide|write|create|generate|draft|make|design|develop)(?: me| us)?"
    r"|(?:steps|instructions|guide|tutorial|recipe|plan|ways?|tips|methods?|strateg(?:y|ies)) (?:to|for|on|of)|i (?:want|need|would like|plan|am going|intend) to|what(?:'s| is| are) the (?:best|easiest|quickest) ways? to|can you|where can i)"
)
_NEAR = r"[^.!?\n]{0,60}?\b"
_MAKE = r"(?:make|making|build|building|construct\w*|assembl\w+|creat\w+|produc\w+|synthesi[sz]\w+|cook\w*|manufactur\w+|obtain\w*|buy\w*|acquir\w+|get|smuggl\w+|detonat\w+)"
# Kind -> wordings: a way to ask, a few words between, what for.
WORDINGS: dict[str, tuple[str, ...]] = {
    "weapons": (
        rf"\b{_ASK}{_NEAR}{_MAKE}{_NEAR}(?:pipe ?bombs?|car bombs?|nail bombs?|dirty bombs?|bombs? (?:at home|to|from|that|out of|using|with)|bomb\W*$|explosive (?:device|vest)s?|explosives|ieds?|molotov|napalm|grenades?|ghost guns?|silencers?|suppressors?|untraceable (?:gun|firearm|weapon)s?|3d.printed (?:gun|firearm)s?)",
        rf"\b{_ASK}{_NEAR}(?:convert|modify)\w*{_NEAR}(?:semi.?automatic|rifle|pistol){_NEAR}(?:full|automatic)",
    ),
    "chemical": (
        rf"\b{_ASK}{_NEAR}(?:sarin|vx gas|vx nerve|nerve (?:gas|agent)s?|mustard gas|ricin|anthrax|botulinum|chlorine gas|phosgene|cyanide gas|tabun|novichok|dimethylmercury|weaponi[sz]ed (?:virus|pathogen|bacteria))",
        rf"\b{_ASK}{_NEAR}poison\w*{_NEAR}(?:water|food|reservoir|someone|somebody|my (?:wife|husband|boss|neighbou?r)|people|without)",
    ),
    "drugs": (
        rf"\b{_ASK}{_NEAR}{_MAKE}{_NEAR}(?:crystal meth|meth(?:amphetamine)?|mdma|fentanyl|heroin|crack cocaine|cocaine|ghb|lsd|date.?rape drugs?|rohypnol)\b",
    ),
    "intrusion": (
        rf"\b{_ASK}{_NEAR}(?:hack\w*|break\w* into|crack\w*|hijack\w*|take over){_NEAR}(?:accounts?|e-?mails?|phones?|wi-?fi|networks?|computers?|webcams?|websites?|servers?|systems?|passwords?|facebook|instagram|bank)",
        rf"\b{_ASK}{_NEAR}(?:keylogger|ransomware|malware|spyware|trojan|rootkit|botnet|computer virus|virus that|worm that|exploit(?:s|ing)? (?:a|the|an|for)|sql injection (?:to|attack)|ddos|denial.of.service|phishing (?:page|site|kit))",
        rf"\b{_ASK}{_NEAR}(?:spy|track|stalk|monitor|install){_NEAR}(?:phone|location|messages|wife|husband|girlfriend|boyfriend|ex|partner){_NEAR}(?:without|secretly|knowing|hidden)",
    ),
    "fraud": (
        rf"\b{_ASK}{_NEAR}(?:phishing|scam|swindl\w+|defraud\w*|trick\w*|con\b|deceiv\w+|fool){_NEAR}(?:e-?mails?|messages?|people|customers?|victims?|elderly|old|users?|employees?|money|password|grandm\w+|investors?|bank)",
        rf"\b{_ASK}{_NEAR}(?:counterfeit|forge\w*|fake|falsif\w+|fabricat\w+){_NEAR}(?:money|bills?|banknotes?|currency|passports?|ids?\b|identit\w+|licen[sc]es?|degrees?|diplomas?|prescriptions?|invoices?|receipts?|documents?|reviews|charit\w+|doctor'?s? notes?|bank (?:letter|statement)s?|certificates?|cheques?|checks?|signatures?)",
        rf"\b{_ASK}{_NEAR}(?:launder\w*|embezzl\w+|evad\w+ tax|tax evasion|insider trading|ponzi|pyramid scheme|pump.and.dump|skim\w*|clon\w+|cop(?:y|ies|ying)|steal\w*){_NEAR}(?:money|funds?|tax\w*|cards?|identit\w+|shares|stock|investors?|scheme|credit|without|proceeds)",
        rf"\b{_ASK}{_NEAR}(?:cheat|fraud){_NEAR}(?:insurance|benefits?|welfare|tax|loan)",
    ),
    "violence": (
        rf"\b{_ASK}{_NEAR}(?:kill|murder|assassinat\w+|strangl\w+|stab|behead|lynch|kidnap\w*|abduct\w*|tortur\w+|ambush\w*|hurt|beat up|rape|drown|set fire to){_NEAR}(?:someone|somebody|a (?:man|woman|child|person|kid|girl|boy|police|cop|politician|judge)|people|my (?:\w+ )?(?:wife|husband|boss|neighbou?r|girlfriend|boyfriend|ex|mother|father|brother|sister|teacher|classmates?|roommate)|him\b|her\b|them\b|the (?:president|mayor)|children|without (?:leaving|getting))",
        rf"\b{_ASK}{_NEAR}(?:(?:school|mass|church|mosque|synagogue) shooting|attack (?:on|my|a) (?:school|church|mosque|synagogue|crowd|my school)|terror(?:ist)? attack|shoot up|hitman|contract killer)",
    ),
    "self-harm": (
        rf"\b{_ASK}{_NEAR}(?:kill(?:ing)? myself|commit(?:ting)? suicide|suicide method|end(?:ing)? my (?:own )?life|hang myself|overdose on|hurt(?:ing)? myself|cut(?:ting)? myself|starv(?:e|ing) myself)",
        r"\bi (?:want|am going|'m going|plan|have decided) to (?:kill myself|die|end my life|end it all|commit suicide|hurt myself)\b",
        r"\bconvince me (?:that i should|to) (?:kill|hurt|die|end)",
    ),
    "children": (
        r"\b(?:child|minor|underage|under.age|preteen|toddler|(?:1[0-7]|[4-9]).year.old (?:girl|boy|child)|kids?|school ?girl|loli)\b[^.!?\n]{0,50}\b(?:sex(?:ual(?:ly)?)?|nude|naked|porn\w*|erotic\w*|molest\w*|seduc\w+|groom\w*)\b",
        r"\b(?:sex(?:ual(?:ly)?)?|nudes?|naked|porn\w*|erotic\w*|molest\w*|seduc\w+|groom\w*)\b[^.!?\n]{0,40}\b(?:child(?:ren)?|minors?|underage|preteen|toddlers?|(?:1[0-7]|[4-9]).year.olds?|little (?:girl|boy)s?)\b",
    ),
    "hate": (
        r"\b(?:all|those|these|every) (?:\w+ ){0,2}(?:should|must|need to|deserve to|ought to) (?:be )?(?:die|killed|exterminated|gassed|shot|hanged|burned|deported|wiped out|eradicated|enslaved)\b",
        r"\b(?:are|is) (?:all )?(?:vermin|subhumans?|sub-human|cockroaches|parasites|an inferior race|animals (?:who|that)|a plague|less than human)\b",
        rf"\b{_ASK}{_NEAR}(?:speech|post|joke|essay|article|group|manifesto|text){_NEAR}(?:insult\w*|vermin|inferior|superior|attacks?|hate|better than all|should not (?:vote|exist)|master race|genocide|ethnic cleansing)",
    ),
    "misinformation": (
        rf"\b{_ASK}{_NEAR}(?:fake news|disinformation|misinformation|propaganda|hoax|conspiracy|false (?:story|stories|claim\w*|article)|article{_NEAR}(?:claiming|arguing|saying){_NEAR}(?:hoax|never happened|fake|staged|did not|faked))",
        rf"\b{_ASK}{_NEAR}(?:suppress|rig|steal|manipulat\w+|interfere){_NEAR}(?:votes?|voters?|election|ballots?)",
    ),
}
# Where these stand the same words are mostly play, craft, history or prevention.
HARMLESS = regex.compile(
    r"\b(?:(?:video |computer |board )?games?|in (?:my|the|a) garden|vermin|minecraft|fortnite|gta|call of duty|chess|poker|d&d|dungeons|character in|python|java(?:script)?|c\+\+|linux|unix|process|thread|server logs?|bath bomb"
    r"|weeds?|mosquito\w*|ants|mice|bacteria|protect (?:myself|my|our|against)|prevent|defend against|recogni[sz]e|avoid (?:being|falling|phishing|scams?)|report (?:a|an)|history of|who (?:shot|killed|invented))\b",
    regex.IGNORECASE,
)


class Hazards(Guard):
    """Rules: `hazards.` and a kind of WORDINGS, `hazards.judge`. It reads requests and answers as a whole.

    Options: `threshold` (0.5) of the linear judge, 1 switches it off; `kinds` (all) of the wordings.
    """

    name = "hazards"

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("threshold", "kinds"))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        self._threshold = number_option(self.name, options, "threshold", 0.5, 0.0, 1.0)
        kinds = texts_option(self.name, options, "kinds") or tuple(WORDINGS)
        for kind in kinds:
            if kind not in WORDINGS:
                raise InputError(f"Guard {self.name!r} has no kind {kind!r}; the kinds are {', '.join(WORDINGS)}.")
        self._rules = tuple(rule for rule in RULES if rule.name.removeprefix("hazards.") in kinds)
        self.model: LinearModel | None = load_model("hazards") if self._threshold < 1.0 else None

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        folded = fold(text)
        found = []
        for one in find(self._rules, folded.text, 0, self.time_limit_s):
            if HARMLESS.search(folded.text, max(0, one.start - 100), one.end + 60):
                continue
            begin, end = folded.span(one.start, one.end)
            found.append(_finding(one.rule, begin, end, one.reason, one.score))
        if self.model is not None and (score := self.model.probability(text)) >= self._threshold:
            found.append(_finding("hazards.judge", 0, len(text), "reads like harmful content or a request for it", round(score, 3)))
        return tuple(one for one in found if one.start >= start)


def _finding(rule: str, start: int, end: int, reason: str, score: float) -> Finding:
    return Finding(rule=rule, start=start, end=end, reason=reason, score=score, replacement="[REMOVED]")


RULES = tuple(
    Rule(
        name=f"hazards.{kind}",
        pattern=regex.compile("|".join(f"(?:{wording})" for wording in wordings), regex.IGNORECASE | regex.MULTILINE),
        reason=f"worded like a request for, or a case of: {kind}",
        score=0.8,
        replacement="[REMOVED]",
    )
    for kind, wordings in WORDINGS.items()
)
