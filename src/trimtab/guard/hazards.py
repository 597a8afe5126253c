"""Requests for harm or fraud, and texts that do harm: known wordings and a linear judge.

No library without a model covers this; a guard model does (guard/model.py), and much better. The judge knows what moderation data calls
hate, threats, violence, self-harm and sexual content, and requests for weapons, drugs, break-ins and deceit. It reads words, not sense.
"""

from collections.abc import Mapping
from typing import Any

import regex

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options, number_option, texts_option
from trimtab.guard.folding import fold
from trimtab.guard.linear import LinearModel, load_model
from trimtab.guard.rules import find
from trimtab.guard.wordings import rules_of, table_of


class Hazards(Guard):
    """Rules: `hazards.` and a kind of harm of hazards.toml, `hazards.judge`. It reads requests and answers as a whole.

    Options: `threshold` (0.5) of the linear judge, 1 switches it off; `kinds` (all) of the wordings.
    """

    name = "hazards"
    stride_chars = 160

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("threshold", "kinds"))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        self._threshold = number_option(self.name, options, "threshold", 0.5, 0.0, 1.0)
        rules = {rule.name.removeprefix("hazards."): rule for rule in rules_of(self.name)}
        kinds = texts_option(self.name, options, "kinds") or tuple(rules)
        for kind in kinds:
            if kind not in rules:
                raise InputError(f"Guard {self.name!r} has no kind {kind!r}; the kinds are {', '.join(rules)}.")
        self._rules = tuple(rules[kind] for kind in kinds)
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


HARMLESS = regex.compile(rf"\b(?:{'|'.join(table_of('hazards')['harmless'])})\b", regex.IGNORECASE)
