"""What a flow tells while it runs. A flow calls `on_event`; who shows it, and how, is not its business."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Event:
    """One step of progress.

    phase: short name of the part of the work, the same word in all its events
    message: what is being done now, fit for a terminal line; empty = only the numbers moved
    done, total: work of the phase in any unit; done == total ends the phase. Neither = a note, worth a line of its own
    seconds_left: estimate for the whole flow, None = not known yet
    """

    phase: str
    message: str = ""
    done: float | None = None
    total: float | None = None
    seconds_left: float | None = None


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """For callers who want no progress."""
