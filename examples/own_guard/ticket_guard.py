"""A guard for trimtab in a package of its own: numbers of internal tickets, such as OPS-1234, leave the company in no answer."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options, texts_option


class TicketNumbers(Guard):
    """Options: `projects` (OPS, SEC): which prefixes tickets have."""

    contract_version = 1  # a plain number: the one this class was written for
    name = "tickets"
    sides: ClassVar[frozenset[Side]] = frozenset({"in", "out"})
    # A ticket's number has six letters, a dash and six digits at most, and one character after it tells where it ends. In a stream so much
    # is held back, unless `open_from` says that less is enough.
    reach_chars = 14

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        check_options(self.name, options, ("projects",))
        projects = texts_option(self.name, options, "projects") or ("OPS", "SEC")
        self._pattern = re.compile(rf"\b(?:{'|'.join(re.escape(one[:6]) for one in projects)})-\d{{1,6}}\b")

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        return tuple(
            Finding(
                rule="tickets.number",
                start=match.start(),
                end=match.end(),
                reason="the number of an internal ticket",
                replacement="[TICKET]",
            )
            for match in self._pattern.finditer(text, start)
        )

    def open_from(self, text: str, start: int = 0) -> int:
        """Only the last word can still become a number, and it ends at a blank."""
        at = max(text.rfind(" "), text.rfind("\n")) + 1
        return max(start, at, len(text) - self.reach_chars)
