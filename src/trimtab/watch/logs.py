"""Traffic logs of any OpenAI-style server to what is watched of each request. Which fields are read of which log: docs/signals.md."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimtab.core.watching import Late, Observed

FaultKind = Literal["broken", "truncated", "too_long", "unknown", "duplicate", "untimed", "late", "clock", "ungrouped"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something about a log that the reader has put right or left out. One of each kind, after the log's last item.

    n: lines; lines: numbers of the first of them, from 1; text: what was done about them
    """

    kind: FaultKind
    n: int
    lines: tuple[int, ...]
    text: str


def read_log(path: Path) -> Iterator[Observed | Late | Fault]:
    """Items in order of time, then the faults. Raises InputError where the file cannot be read at all."""
    raise NotImplementedError
