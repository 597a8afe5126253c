"""Whose turn it is, where all requests that run together must use the same adapter.

Requests are admitted in the order in which they came, as long as their adapter is the one in use. Once one of another adapter is the
oldest that waits, those of the adapter in use may still overtake it for JOIN_S; then nobody joins, what runs ends, and the oldest goes
next. So with k adapters in use the first request of one waits for k - 1 turns of others at most, beside those that came before it. Such
a turn lasts JOIN_S and as long as its longest request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

JOIN_S = 2.0
"""Longer: fewer changes of adapters and fuller batches; shorter: shorter waits."""


class Waiting(Protocol):
    """A request that waits. adapter: empty = none; came_s: when it came"""

    @property
    def adapter(self) -> str: ...

    @property
    def came_s(self) -> float: ...


R = TypeVar("R", bound=Waiting)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Requests of one adapter run. began_s: since the first of them, with none before it"""

    adapter: str
    began_s: float


def next_of(waiting: Sequence[R], turn: Turn | None, now_s: float) -> R | None:
    """The request that goes next, None if all must wait.

    waiting: in the order in which they came; turn: of those that run, None = nothing runs. Times are seconds of one clock.
    """
    if not waiting:
        return None
    oldest = waiting[0]
    if turn is None or oldest.adapter == turn.adapter:
        return oldest
    if now_s - max(turn.began_s, oldest.came_s) >= JOIN_S:
        return None
    return next((one for one in waiting if one.adapter == turn.adapter), None)
