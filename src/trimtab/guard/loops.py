"""Answers that go round in circles: the end of the text repeats itself. No library does this; models with cut weights need it."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options, number_option

SEEN_CHARS = 4000
LONGEST_UNIT = 500
LINES = 24
COUNTED = re.compile(r"\d+")


class Loops(Guard):
    """Options: `repeats` (8), how often a phrase must stand in a row; `min_chars` (160), how long the whole repetition must be.

    Longer units need fewer repeats, three at least. Lines that differ in numbers alone count as the same. Runs of one character that is no
    letter or digit (rules, dots, blanks) are layout up to ten times `min_chars`. Redacting keeps the first and drops the rest.
    """

    name = "loops"
    sides = frozenset({"out"})
    stride_chars = 16

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("repeats", "min_chars"))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        self._repeats = int(number_option(self.name, options, "repeats", 8, 3, 1000))
        self._min_chars = int(number_option(self.name, options, "min_chars", 160, 20, SEEN_CHARS // 2))

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        tail = text[-SEEN_CHARS:]
        kept = self._unit_repeated(tail)
        rule, reason = "phrase", "the end of the answer repeats one phrase"
        if kept is None:
            kept = self._lines_repeated(tail)
            rule, reason = "lines", "the last lines repeat each other but for numbers"
        at = None if kept is None else len(text) - len(tail) + kept
        if at is None or at < start:
            return ()
        return (Finding(rule=f"loops.{rule}", start=at, end=len(text), reason=reason, replacement="…"),)

    def _unit_repeated(self, tail: str) -> int | None:
        """Where the second of a row of equal units begins, None if the tail does not end in such a row."""
        for unit in range(1, min(LONGEST_UNIT, len(tail) // 3) + 1):
            if tail[-unit:] != tail[-2 * unit : -unit]:
                continue
            at = len(tail) - 2 * unit
            while at >= unit and tail[at - unit : at] == tail[-unit:]:
                at -= unit
            length = len(tail) - at
            needed = 10 * self._min_chars if len(set(tail[-unit:])) == 1 and not tail[-1].isalnum() else self._min_chars
            if length >= needed and length // unit >= max(3, min(self._repeats, SEEN_CHARS // (4 * unit))):
                return at + unit
        return None

    def _lines_repeated(self, tail: str) -> int | None:
        """Where the second of many lines begins that are equal but for numbers."""
        lines = tail.split("\n")[:-1][-LINES:]
        plain = [COUNTED.sub("0", line.strip()) for line in lines]
        if len(lines) < LINES or sum(len(line) for line in lines) < self._min_chars:
            return None
        common, count = Counter(plain).most_common(1)[0]
        if count < LINES * 3 // 4 or sum(char.isalpha() for char in common) < 8:
            return None
        return len(tail) - len("\n".join(tail.split("\n")[-LINES:])) + len(lines[0]) + 1
