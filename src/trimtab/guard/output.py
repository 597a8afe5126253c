"""What an answer must not carry to where it is shown or run: markup that acts, links that leak, terminal codes, template tokens.

garak's probes of the families xss, ansiescape and leakage ask for these. No library without a model covers them; patterns do.
"""

from collections.abc import Mapping
from typing import Any

import regex

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options, texts_option
from trimtab.guard.rules import Rule, find, open_from

REACH_CHARS = 600
# Rule -> (pattern, reason, replacement). A pattern matches REACH_CHARS at the most.
WORDINGS: dict[str, tuple[str, str, str]] = {
    "image-link": (
        r"!\[[^\]\n]{0,120}\]\( ?https?://[^\s)\n]{1,200}[?&=][^\s)\n]{0,200} ?\)|<img\b[^>\n]{0,120}\bsrc ?= ?[\"']?https?://[^>\s\n]{1,200}[?&=][^>\n]{0,100}>",
        "an image whose address carries data out when it is shown",
        "[IMAGE]",
    ),
    "active-markup": (
        r"<script\b[^>\n]{0,200}>|<iframe\b[^>\n]{0,200}>"
        r"|<[a-z]{1,12}\b[^>\n]{0,120}\bon(?:error|load|click|mouseover|focus) ?=[^>\n]{0,200}>"
        r"|\]\( ?(?:javascript|data:text/html)[^)\n]{0,200}\)",
        "markup that runs code where it is shown",
        "[MARKUP]",
    ),
    "terminal-codes": (
        r"(?:\x1b|\x9b)(?:\[[0-?]{0,16}[ -/]{0,4}[@-~]|\][^\x07\x1b\n]{0,200}(?:\x07|\x1b\\)?|[PX^_c78=>])?",
        "a code that a terminal acts on",
        "",
    ),
    "template-token": (
        r"<\|(?:im_start|im_end|system|user|assistant|start_header_id|end_header_id|eot_id|begin_of_text|endoftext|eom_id|python_tag)\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>",
        "a token of the chat template, which no answer should hold",
        "",
    ),
}


class DisallowedOutput(Guard):
    """Rules: `output.` and a name of WORDINGS, `output.phrase`, `output.canary`.

    Options: `rules` (all): which of WORDINGS; `phrases`: texts that must not be said, in any case (or patterns between slashes, which match
    200 characters at the most); `canaries`: words put into a system prompt to see whether it leaks.
    """

    name = "output"
    sides = frozenset({"out"})
    reach_chars = REACH_CHARS

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("rules", "phrases", "canaries"))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        names = texts_option(self.name, options, "rules") or tuple(WORDINGS)
        for name in names:
            if name not in WORDINGS:
                raise InputError(f"Guard {self.name!r} has no rule {name!r}; the rules are {', '.join(WORDINGS)}.")
        rules = [_rule(name, *WORDINGS[name]) for name in names]
        if phrases := texts_option(self.name, options, "phrases"):
            rules.append(_rule("phrase", _either(phrases), "a phrase that the policy of this route forbids", "[REMOVED]"))
        if canaries := texts_option(self.name, options, "canaries"):
            rules.append(_rule("canary", _either(canaries), "a canary word: the system prompt leaks", "[REMOVED]"))
        self._rules = tuple(rules)

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        return tuple(find(self._rules, text, start, self.time_limit_s))

    def open_from(self, text: str, start: int = 0) -> int:
        return max(open_from(self._rules, text, start), len(text) - REACH_CHARS)


def _rule(name: str, pattern: str, reason: str, replacement: str) -> Rule:
    try:
        compiled = regex.compile(pattern, regex.IGNORECASE)
    except regex.error as error:
        raise InputError(f"A pattern of guard 'output' cannot be read: {error}.") from error
    return Rule(name=f"output.{name}", pattern=compiled, reason=reason, replacement=replacement)


def _either(texts: tuple[str, ...]) -> str:
    """One pattern for texts and patterns between slashes."""
    return "|".join(text[1:-1] if len(text) > 2 and text.startswith("/") and text.endswith("/") else regex.escape(text) for text in texts)
