"""Prompt injection and jailbreaks: wordings that are known, the same behind base64, hex or rot13, and a linear judge of the rest.

garak (probes) and LLM Guard (a 180M-parameter classifier) cover this field with models; no library that runs without one does. Texts are
matched as they look (`folding.py`), so that accents, look-alike letters and invisible characters do not hide them.
"""

import base64
import binascii
import codecs
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import regex

from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options, number_option
from trimtab.guard.folding import fold
from trimtab.guard.linear import LinearModel, load_model
from trimtab.guard.rules import Rule, find

_EARLIER = r"(?:previous|prior|earlier|preceding|above|foregoing|former|initial|original|existing|past|system|safety|pre-?set|default|current)"
_ORDERS = (
    r"(?:instructions?|directions?|directives?|prompts?|rules?|guidelines?|commands?|orders?|programming|training|constraints?|restrictions?"
    r"|limitations?|polic(?:y|ies)|filters?|protocols?|messages?|context|conversations?|text)"
)
_DROP = (
    r"(?:ignore|disregard|forget|overlook|bypass|override|neglect|abandon|discard|erase|cancel|reset|unlearn|pay no attention to"
    r"|do not (?:follow|obey|listen to|adhere to)|don'?t (?:follow|obey|listen to)|stop (?:following|obeying))"
)
_SPEAK = r"(?:reveal|show|print|repeat|output|display|disclose|leak|recite|dump|write(?: out| down)?|tell me|give me|share|what (?:is|are|was|were)|what'?s)"
# Name -> (pattern, what it means, certainty). Matched without case on folded text.
WORDINGS: dict[str, tuple[str, str, float]] = {
    "override": (
        rf"\b{_DROP} (?:about |of |to |from |the |all |any |every |each |your |my |these |those |of |other |and ){{0,4}}{_EARLIER}"
        rf"(?: (?:and|or|\w+)){{0,2}} {_ORDERS}\b",
        "tells the model to drop earlier instructions",
        0.95,
    ),
    "override-all": (
        rf"\b{_DROP} (?:about )?(?:(?:all|any|every(?:thing)?|anything)(?: of)?(?: the| your| those| these| its| about)?(?: \w+)? {_ORDERS}"
        rf"|your (?:\w+ )?{_ORDERS}|(?:everything|anything|all|what(?:ever)?)(?: that)? (?:you|i|we)(?:'ve|'d| have| had| were| are)?(?: \w+)? ?"
        r"(?:been |was )?(?:told|said|instructed|learned|know|given|asked|were)|(?:the|everything|all|what is|what's) (?:written )?(?:above|before)\b)",
        "tells the model to drop its instructions",
        0.9,
    ),
    "new-orders": (
        r"\b(?:new|real|actual|updated|true) (?:instructions?|orders?|directives?|task)(?: (?:are|is|for you))?:|\byour new (?:task|instructions?|role|orders?) (?:is|are)\b"
        r"|\bfrom (?:now|this (?:point|moment)) on(?:wards?|ward)?,? (?:you|answer|respond|reply|act|every|all|ignore|only)\b",
        "gives the model new orders",
        0.7,
    ),
    "no-limits": (
        r"\b(?:do anything now|no (?:longer )?(?:have |any )?(?:ethical|moral|content|safety) (?:\w+ ){0,3}(?:guidelines?|restrictions?|limits?|limitations?|filters?|constraints?|boundaries|rules)"
        r"|(?:has|have|with|without|free (?:of|from)) (?:\w+ ){0,2}(?:restrictions|filters?|censorship|limitations|ethical|moral(?:s|ity)?) (?:or|and|whatsoever|at all|\w+ guidelines)"
        r"|(?:broken|break|breaks) free (?:of|from)|unfiltered and|uncensored|amoral|not bound by|bypass(?:es|ing)? (?:\w+ ){0,3}(?:filter|safety|ethical|guidelines|restrictions|polic)"
        r"|(?:completely |totally )?unrestricted (?:ai|model|chatbot|assistant|mode|version))\b",
        "asks for a model without limits",
        0.85,
    ),
    "persona": (
        r"\b(?:act(?:ing)?|pretend|respond|answer|reply|behave|role-?play|you are(?: now| going to be)?|you'?re(?: now)?|immerse yourself|simulate)\b[^.!?\n]{0,60}"
        r"\b(?:dan|aim|stan|dude|jailbr\w+|evil ?(?:bot|gpt|ai|confidant)|(?:developer|dev|god|sudo|debug|opposite|unrestricted|uncensored) mode|without (?:any )?(?:rules|ethics|morals|restrictions|limits|filters))\b"
        r"|\b(?:developer|god|sudo|jailbreak|unrestricted|dan|opposite) mode (?:is )?(?:enabled|activated|on|output)\b|\[?\bjailbr(?:eak|oken)\b\]?:?",
        "makes the model play somebody without limits",
        0.85,
    ),
    "never-refuse": (
        r"\b(?:never|can ?not|can'?t|do not|don'?t|won'?t|must not|doesn'?t|does not|not allowed to)(?: ever)? (?:refuses?|declines?|reject|say no|say that you can'?t|say you can'?t|break character|censor)\b"
        r"|\b(?:never|do not|don'?t|without)(?: \w+){0,2} (?:say|use|include|mention|add(?:ing)?|give|giving|any|write)?(?: any| the| \w+)? ?"
        r"(?:disclaimers?|apolog(?:y|ies|ize)|(?:ethical|moral|safety) (?:warnings?|notices?|concerns?|lectures?)|\"?i'?m sorry|\"?sorry, (?:but )?i)\b",
        "forbids the model to refuse",
        0.75,
    ),
    "leak": (
        rf"\b{_SPEAK} (?:me )?(?:all |exactly )?(?:of )?(?:your|the|its) (?:\w+ ){{0,2}}?(?:system|initial|hidden|original|secret|internal|pre-?prompt|above|previous) "
        r"(?:prompt|instructions?|message|rules|key|code|word|password|configuration|text)\b"
        rf"|\b{_SPEAK} (?:me )?(?:your|the) (?:secret|password|passcode|instructions|prompt|pre-?prompt)\b|\b(?:repeat|print|output) (?:everything|all|the (?:text|words?|sentences?|message)) (?:above|before|verbatim)\b",
        "asks for the hidden prompt or a secret",
        0.8,
    ),
    "fake-turn": (
        r"<\|?(?:im_start|im_end|system|assistant|user|start_header_id|end_header_id|eot_id|begin_of_text|endoftext)\|?>|\[/?INST\]|<</?SYS>>|</?(?:system|instructions?)(?: \w+)?>"
        r"|^ {0,3}#{2,4} ?(?:system|instruction|assistant)s?:?|^ {0,3}(?:system|assistant|developer) ?(?:prompt|message|note|override)?:|\[(?:system|admin|developer)(?: \w+)?\]"
        r"|\b(?:system|admin|root|maintenance|security) (?:override|mode|reset|command)\b",
        "writes as if it were the system or the model",
        0.75,
    ),
    "authority": (
        r"\bi(?: am|'m) (?:your|the|an?) (?:\w+ )?(?:developer|creator|administrator|admin|programmer|owner|root user)\b[^.!?\n]{0,80}\b(?:you|your|password|secret|key|reveal|mode|access|give|need)\b"
        r"|\bas (?:an?|the|your) (?:\w+ )?(?:openai|system|model)(?: \w+)? (?:developer|administrator|admin|engineer|employee)\b",
        "claims authority over the model",
        0.7,
    ),
    "exfiltration": (
        r"\b(?:send|post|upload|forward|e-?mail|transmit|append|exfiltrate)\b[^.!?\n]{0,60}\b(?:conversation|chat history|api keys?|passwords?|credentials|secrets?|system prompt|user data|personal data|private)\b"
        r"[^.!?\n]{0,40}(?:https?://|\b[\w.+-]+@[\w-]+\.|\bto the (?:following )?(?:url|address|server))",
        "asks to send data out",
        0.85,
    ),
}
# In other languages, matched on the text as written.
ELSEWHERE = (
    r"ignore[zr]?s?\s(?:toutes?\s)?(?:les?|tes|vos|des)\s(?:\w+\s)?(?:instructions?|consignes?|règles?|directives)(?:\sprécédent\w+)?|oublie[zr]?\s(?:toutes?\s)?(?:les|tes|vos)\s(?:instructions|consignes|règles)"
    r"|(?:ignorier\w*|vergiss|vergessen sie|missachte)\s(?:alle\s|bitte\s)?(?:die\s|deine\s|ihre\s)?(?:vorherig\w+|bisherig\w+|obig\w+|vorangegangen\w+|früher\w+)?\s?(?:anweisung\w*|instruktion\w*|regeln|vorgaben|befehle)"
    r"|(?:ignora|olvida|desestima)[rd]?\s(?:todas?\s)?(?:las?|tus|sus)\s(?:instrucciones|órdenes|reglas|indicaciones)|(?:ignore|esqueça|desconsidere)\s(?:todas?\s)?(?:as|suas)\s(?:instruções|ordens|regras)"
    r"|(?:ignora|dimentica)\s(?:tutte\s)?(?:le\s)?(?:tue\s)?(?:istruzioni|regole|indicazioni)|negeer\s(?:alle\s)?(?:de\s)?(?:vorige|eerdere)\s(?:instructies|opdrachten)"
    r"|zignoruj\s(?:wszystkie\s)?(?:poprzednie|wcześniejsze)\s(?:instrukcje|polecenia)|(?:önceki|yukarıdaki)\s(?:tüm\s)?(?:talimatları|yönergeleri)\s(?:yok say|unut|görmezden)"
    r"|(?:игнорируй|игнорируйте|забудь|забудьте)\s(?:все\s)?(?:предыдущие|прежние|прошлые|свои|ваши)\s(?:инструкции|указания|правила|команды)"
    r"|(?:忽略|无视|忘记|忽視|無視)(?:你|您|掉)?(?:之前|以上|前面|上述|先前|所有|一切|全部)[^。!?\n]{0,8}(?:指令|指示|提示|规则|命令|内容|要求)"
    r"|(?:以前|これまで|上記|前|今まで)の(?:すべての|全ての)?(?:指示|命令|ルール|プロンプト)を?(?:無視|忘れ)|(?:이전|위의|앞의|기존)\s?(?:모든\s?)?(?:지시|명령|지침|프롬프트)\S{0,3}\s?(?:무시|잊)"
    r"|(?:पिछले|पहले के|उपरोक्त)\s(?:सभी\s)?(?:निर्देशों|नियमों|आदेशों)\sको\s(?:अनदेखा|भूल|नज़रअंदाज़)|(?:تجاهل|انس|تجاهلي)\s(?:جميع\s|كل\s)?(?:التعليمات|الأوامر|القواعد)"
)
LONG_RUN = regex.compile(r"(?<![\w+/])[A-Za-z0-9+/]{24,4000}={0,2}(?![\w+/])|\b(?:[0-9A-Fa-f]{2}[ :]?){16,2000}\b")
FLOOD_CHARS = 900
FLOOD_RATIO = 0.06


class Injection(Guard):
    """Rules: `injection.` and a name of WORDINGS, `.other-language`, `.encoded`, `.flood`, `.judge`. It reads requests as a whole.

    Options: `threshold` (0.5) of the linear judge, 1 switches it off; `rules_above` (0): wordings of less certainty are left out.
    """

    name = "injection"
    sides = frozenset({"in"})

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("threshold", "rules_above"))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        self._threshold = number_option(self.name, options, "threshold", 0.5, 0.0, 1.0)
        least = number_option(self.name, options, "rules_above", 0.0, 0.0, 1.0)
        self._rules = tuple(rule for rule in RULES if rule.score >= least)
        self.model: LinearModel | None = load_model("injection") if self._threshold < 1.0 else None

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        folded = fold(text)
        found = []
        for one in find(self._rules, folded.text, 0, self.time_limit_s):
            begin, end = folded.span(one.start, one.end)
            found.append(_finding(one.rule, begin, end, one.reason, one.score))
        found += find((OTHER,), text, 0, self.time_limit_s)
        found += self._encoded(text)
        if len(text) >= FLOOD_CHARS and len(zlib.compress(text.encode(errors="replace"))) < FLOOD_RATIO * len(text):
            found.append(_finding("injection.flood", 0, len(text), "the same few words over and over", 0.6))
        if self.model is not None and (score := self.model.probability(text)) >= self._threshold:
            found.append(_finding("injection.judge", 0, len(text), "reads like a jailbreak or an injection", round(score, 3)))
        return tuple(one for one in found if one.start >= start)

    def _encoded(self, text: str) -> Iterator[Finding]:
        """Known wordings behind an encoding."""
        for match in LONG_RUN.finditer(text, timeout=self.time_limit_s):
            decoded = _decoded(match.group())
            if decoded and any(True for _ in find(self._rules, decoded, 0, self.time_limit_s)):
                yield _finding("injection.encoded", match.start(), match.end(), "an encoded text that tells the model what to do", 0.95)
        if text.isascii() and len(text) < 20_000 and any(True for _ in find(ROT13_RULES, codecs.encode(text, "rot13"), 0, self.time_limit_s)):
            yield _finding("injection.encoded", 0, len(text), "a text in rot13 that tells the model what to do", 0.9)


def _finding(rule: str, start: int, end: int, reason: str, score: float) -> Finding:
    return Finding(rule=rule, start=start, end=end, reason=reason, score=score, replacement="[REMOVED]")


def _decoded(run: str) -> str:
    """The text behind base64 or hex, empty where there is none."""
    plain = run.replace(" ", "").replace(":", "")
    for decode in (binascii.unhexlify, lambda run: base64.b64decode(run + "=" * (-len(run) % 4))):
        try:
            text: str = decode(plain).decode("utf-8")
        except ValueError:
            continue
        if text.isprintable() or text.replace("\n", "").isprintable():
            return text
    return ""


def _rule(name: str) -> Rule:
    pattern, reason, score = WORDINGS[name]
    return Rule(
        name=f"injection.{name}",
        pattern=regex.compile(pattern, regex.IGNORECASE | regex.MULTILINE),
        reason=reason,
        score=score,
        replacement="[REMOVED]",
    )


RULES = tuple(_rule(name) for name in WORDINGS)
ROT13_RULES = tuple(_rule(name) for name in ("override", "override-all", "no-limits", "leak"))
OTHER = Rule(
    name="injection.other-language",
    pattern=regex.compile(ELSEWHERE, regex.IGNORECASE),
    reason="tells the model to drop its instructions, in another language than English",
    score=0.9,
    replacement="[REMOVED]",
)
