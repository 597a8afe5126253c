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
from trimtab.guard.wordings import rules_of, table_of

LONG_RUN = regex.compile(r"(?<![\w+/])[A-Za-z0-9+/]{24,4000}={0,2}(?![\w+/])|\b(?:[0-9A-Fa-f]{2}[ :]?){16,2000}\b")
# ignore, disregard, forget, instruction, prompt, anything now
ROT13_SIGNS = ("vtaber", "qvfertneq", "sbetrg", "vafgehpgvba", "cebzcg", "nalguvat abj")
FLOOD_CHARS = 900
FLOOD_RATIO = 0.06


class Injection(Guard):
    """Rules: `injection.` and a rule of injection.toml, `.other-language`, `.encoded`, `.flood`, `.judge`. It reads requests as a whole.

    Options: `threshold` (0.5) of the linear judge, 1 switches it off; `rules_above` (0): rules of less certainty are left out.
    """

    name = "injection"
    sides = frozenset({"in"})

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("threshold", "rules_above"))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        self._threshold = number_option(self.name, options, "threshold", 0.5, 0.0, 1.0)
        least = number_option(self.name, options, "rules_above", 0.0, 0.0, 1.0)
        self._rules = tuple(rule for rule in rules_of(self.name) if rule.score >= least)
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
        turned = codecs.encode(text, "rot13") if any(sign in text.lower() for sign in ROT13_SIGNS) else ""
        if any(True for _ in find(ROT13_RULES, turned, 0, self.time_limit_s)):
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


OTHER = Rule(
    name="injection.other-language",
    pattern=regex.compile("|".join(table_of("injection")["other_languages"]), regex.IGNORECASE),
    reason="tells the model to drop its instructions, in another language than English",
    score=0.9,
    replacement="[REMOVED]",
)
# What is looked for behind rot13: more would cost every request.
ROT13_RULES = tuple(
    rule for rule in rules_of("injection") if rule.name.removeprefix("injection.") in ("override", "override-all", "no-limits", "leak")
)
