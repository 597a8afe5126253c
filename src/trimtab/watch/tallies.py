"""Counts of a signal in bounded memory: its level since the watch began, and of the last hour by half minutes. Plain numbers, no arrays."""

import math
from collections.abc import Mapping
from typing import Any

from trimtab.core.measurement import Interval
from trimtab.core.watching import SignalKind

Z = 1.959964
STEP_S = 30.0
POINTS = 120
LABELS = 32
OTHER = "other"


class Tally:
    """n values, their sum and squares. Memory: three numbers."""

    __slots__ = ("n", "squares", "total")

    def __init__(self, n: int = 0, total: float = 0.0, squares: float = 0.0) -> None:
        self.n, self.total, self.squares = n, total, squares

    def add(self, value: float) -> None:
        """One value more."""
        self.n += 1
        self.total += value
        self.squares += value * value

    def level(self, kind: SignalKind) -> dict[str, Any]:
        """{"value", "low", "high", "n"} with a 95 % interval: Wilson's of a share, z of a mean. Nulls where nothing is known."""
        return plain_level(self.interval(kind))

    def interval(self, kind: SignalKind, z: float = Z) -> Interval | None:
        """The same as an Interval, None without values. z: of the interval."""
        n = self.n
        if not n:
            return None
        mean = self.total / n
        if n < 2:
            return Interval(value=mean, n=n)
        if kind != "mean":
            centre, spread = mean + z * z / (2 * n), z * math.sqrt(max(mean * (1 - mean), 0.0) / n + z * z / (4 * n * n))
            shrink = 1 + z * z / n
            return Interval(value=mean, low=max(0.0, (centre - spread) / shrink), high=min(1.0, (centre + spread) / shrink), n=n)
        half = z * math.sqrt(max(self.squares - n * mean * mean, 0.0) / (n - 1) / n)
        return Interval(value=mean, low=mean - half, high=mean + half, n=n)

    def state(self) -> list[float]:
        """For JSON."""
        return [self.n, self.total, self.squares]


def plain_level(level: Interval | None) -> dict[str, Any]:
    """An interval as live.json has it."""
    if level is None:
        return {"value": None, "low": None, "high": None, "n": 0}
    return {"value": level.value, "low": level.low, "high": level.high, "n": level.n}


class Recent:
    """A signal by half minutes, the newest POINTS of them that had values, by the requests' own clock."""

    __slots__ = ("points",)

    def __init__(self, points: Mapping[int, Tally] | None = None) -> None:
        self.points: dict[int, Tally] = dict(points or {})

    def add(self, value: float, at_s: float) -> None:
        """One value more. What is older than everything kept is passed over."""
        step = int(at_s // STEP_S)
        point = self.points.get(step)
        if point is None:
            if len(self.points) >= POINTS:
                oldest = min(self.points)
                if step < oldest:
                    return
                del self.points[oldest]
            point = self.points[step] = Tally()
        point.add(value)

    def hour(self, at_s: float) -> Tally:
        """Everything of the 60 minutes before at_s."""
        last = int(at_s // STEP_S)
        found = Tally()
        for step, point in self.points.items():
            if last - POINTS < step <= last:
                found.n += point.n
                found.total += point.total
                found.squares += point.squares
        return found

    def series(self, at_s: float) -> list[dict[str, Any]]:
        """Points of the 60 minutes before at_s, oldest first."""
        last = int(at_s // STEP_S)
        kept = sorted(step for step in self.points if last - POINTS < step <= last)
        return [{"at_s": step * STEP_S, "value": self.points[step].total / self.points[step].n, "n": self.points[step].n} for step in kept]

    def state(self) -> list[list[float]]:
        """For JSON."""
        return [[step, *point.state()] for step, point in self.points.items()]

    @classmethod
    def from_state(cls, state: list[list[float]]) -> "Recent":
        """What `state` gave."""
        return cls({int(step): Tally(int(n), total, squares) for step, n, total, squares in state})


def counted(counts: dict[str, int], label: str) -> None:
    """One more of a label; those beyond LABELS together as `other`."""
    if label not in counts and len(counts) >= LABELS:
        label = OTHER
    counts[label] = counts.get(label, 0) + 1
