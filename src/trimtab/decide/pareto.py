"""Who is beaten in nothing: the front over time, memory and quality loss. Pure.

A deployment leaves the front only if another one was measured no worse in all three and is better beyond the noise in at least one. So
what leads by chance only beats nobody, two that are alike both stay, and nothing can be beaten in a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.core.measurement import Interval

DIMENSIONS = ("time", "memory", "quality")
ALIKE_MEMORY = 0.01
"""Peaks this near to each other count as alike: one is taken a session, so its noise is not known."""


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """One deployment. Smaller is better in all three: ms, bytes, nats/token. Ends that are not known are taken as the value."""

    id: str
    time_ms: Interval
    memory_bytes: float
    loss_nats: Interval

    def figure(self, dimension: str) -> Interval:
        """Value and ends in one of `DIMENSIONS`."""
        if dimension == "memory":
            half = self.memory_bytes * ALIKE_MEMORY / 2
            return Interval(value=self.memory_bytes, low=self.memory_bytes - half, high=self.memory_bytes + half)
        return self.time_ms if dimension == "time" else self.loss_nats


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a deployment stands. beaten_by: ids, empty on the front; best_at: dimensions in which no other is better beyond the noise."""

    id: str
    beaten_by: tuple[str, ...]
    best_at: tuple[str, ...]

    @property
    def on_front(self) -> bool:
        return not self.beaten_by


def pareto(points: Sequence[TradeOff]) -> tuple[Place, ...]:
    """A place for each point, in the order given."""
    return tuple(
        Place(
            id=point.id,
            beaten_by=tuple(other.id for other in points if beats(other, point)),
            best_at=tuple(
                dimension
                for dimension in DIMENSIONS
                if not any(surely_better(other.figure(dimension), point.figure(dimension)) for other in points)
            ),
        )
        for point in points
    )


def beats(one: TradeOff, other: TradeOff) -> bool:
    """Whether `one` takes `other` off the front."""
    pairs = [(one.figure(dimension), other.figure(dimension)) for dimension in DIMENSIONS]
    return all(mine.value <= theirs.value for mine, theirs in pairs) and any(surely_better(mine, theirs) for mine, theirs in pairs)


def surely_better(one: Interval, other: Interval) -> bool:
    """Whether the intervals do not touch and `one` lies below."""
    high = one.value if one.high is None else one.high
    low = other.value if other.low is None else other.low
    return high < low
