"""Findings by pattern. Patterns are of the `regex` package: it stops at a time limit, and it knows when a text ends inside a match."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import regex

from trimtab.core.guarding import Finding
from trimtab.guard.base import scaled_limit_s

# A match that ends this near the end of a text may end elsewhere once more text has come: `4111 1111 1111 1111 ` and then another digit.
# No pattern may need more than this between one place where a match can end and the next.
SLACK_CHARS = 8
CONTEXT_CHARS = 80
LONG_CHARS = 10_000  # from here on other threads run while a pattern is searched


def whole(matched: str) -> int:
    return len(matched)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A pattern and what a match means.

    pattern: no match may be longer than the guard's reach. Lookaround may see at most SLACK_CHARS ahead
    length: how many characters of a match are real, 0 for a false alarm: check digits and the like
    before: words one of which must stand in the `within_chars` before the match; None = none need to
    """

    name: str
    pattern: "regex.Pattern[str]"
    reason: str
    replacement: str = "[REDACTED]"
    score: float = 1.0
    length: Callable[[str], int] = whole
    before: "regex.Pattern[str] | None" = None
    within_chars: int = CONTEXT_CHARS


def find(rules: Sequence[Rule], text: str, start: int, time_limit_s: float) -> Iterator[Finding]:
    """Findings from `start` on. Raises TimeoutError. What a false alarm covers is searched again, but for its first character."""
    until_s = time.monotonic() + scaled_limit_s(time_limit_s, text)
    is_long = len(text) > LONG_CHARS
    for rule in rules:
        at = start
        while match := rule.pattern.search(text, at, timeout=max(1e-3, until_s - time.monotonic()), concurrent=is_long):
            begin = int(match.start())
            length = rule.length(match.group())
            at = begin + max(1, length)
            if length and _in_context(rule, text, begin):
                yield Finding(
                    rule=rule.name, start=begin, end=begin + length, reason=rule.reason, score=rule.score, replacement=rule.replacement
                )


def _in_context(rule: Rule, text: str, start: int) -> bool:
    return rule.before is None or rule.before.search(text, max(0, start - rule.within_chars), start) is not None


def open_from(rules: Sequence[Rule], text: str, start: int) -> int:
    """Where the first match begins that more text could make or change; the end of the text if there is none."""
    return min((_open_in(rule.pattern, text, start) for rule in rules), default=len(text))


def _open_in(pattern: "regex.Pattern[str]", text: str, start: int) -> int:
    at = start
    while match := pattern.search(text, at, partial=True):
        if match.partial:
            return int(match.start())
        # A whole match hides an earlier one that has only begun.
        begun = (place for place in range(at, match.start()) if _begins(pattern, text, place))
        if (first := next(begun, -1)) >= 0:
            return first
        if match.end() > len(text) - SLACK_CHARS:
            return int(match.start())
        at = match.start() + 1
    return len(text)


def _begins(pattern: "regex.Pattern[str]", text: str, place: int) -> bool:
    match = pattern.match(text, place, partial=True)
    return match is not None and bool(match.partial)
