"""A new version beside the one that answers already: worse from its first request on, which no change of its own would tell.

Both are watched from the same moment; the new one is told as worse once its bound is beyond the other's. Bounds hold at every moment
(stats/change.py) and are of what was to be expected of each version's requests: who of them gets which must be a matter of chance, and
their shares should not move with the hour.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from trimtab.core.files import digest_of
from trimtab.core.measurement import Interval
from trimtab.core.watching import Alarm, Signal
from trimtab.stats.change import mean_bounds

RISK = 0.01
"""Chance that anything is told wrongly of one trial, over all its signals, however long it lasts."""
LOOK = 16
EXAMPLES = 5
BESIDE = "beside "
"""What the method of such an alarm begins with; the name of the version that it is held against follows."""


class Trial:
    """candidate: the version that came later; stable: the busiest one then; since_s: from when on; told: signals that were told

    sums: signal -> side (0 stable, 1 candidate) -> [n, total, squares about the mean so far], values brought to 0..1
    """

    def __init__(self, stable: str, candidate: str, since_s: float, n_signals: int) -> None:
        self.stable, self.candidate, self.since_s = stable, candidate, since_s
        self.risk = RISK / (2 * n_signals)
        self.told: list[str] = []
        self.sums: dict[str, list[list[float]]] = {}
        self.examples: dict[str, list[str]] = {}

    def take(self, model: str, version: str, signal: Signal, value: float, at_s: float, request: str) -> Alarm | None:
        """One value of one of the two; of signals without a good side nothing is told."""
        if version not in (self.stable, self.candidate) or signal.worse == "both" or signal.kind == "category":
            return None
        side = int(version == self.candidate)
        sums = self.sums.setdefault(signal.name, [[0, 0.0, 0.0], [0, 0.0, 0.0]])
        scaled = (min(max(value, signal.low), signal.high) - signal.low) / (signal.high - signal.low)
        mine = sums[side]
        mine[2] += (scaled - (mine[1] + 0.5) / (mine[0] + 1)) ** 2
        mine[0] += 1
        mine[1] += scaled
        rising = signal.worse == "up"
        if side and (scaled * mine[0] >= mine[1]) == rising:
            self.examples[signal.name] = [*self.examples.get(signal.name, [])[1 - EXAMPLES :], request]
        if signal.name in self.told or not side or mine[0] % LOOK:
            return None
        (low, high), (own_low, own_high) = (self._bounds(one) for one in sums)
        if (own_low <= high) if rising else (own_high >= low):
            return None
        self.told.append(signal.name)
        levels = [_level(one, ends, signal) for one, ends in zip(sums, ((low, high), (own_low, own_high)), strict=True)]
        return self._alarm(model, signal, at_s, *levels)

    def _bounds(self, sums: list[float]) -> tuple[float, float]:
        low, high = mean_bounds(sums[0], np.array([sums[1]]), np.array([sums[2]]), 2 * self.risk)
        return float(low[0]), float(high[0])

    def _alarm(self, model: str, signal: Signal, at_s: float, before: Interval, after: Interval) -> Alarm:
        ends = (before.low, before.high, after.low, after.high)
        low = None if None in ends else float(ends[2] or 0.0) - float(ends[1] or 0.0)
        high = None if None in ends else float(ends[3] or 0.0) - float(ends[0] or 0.0)
        return Alarm(
            id=digest_of([BESIDE, model, self.candidate, self.stable, signal.name, self.since_s])[:16],
            model=model,
            version=self.candidate,
            signal=signal.name,
            at_s=at_s,
            since_s=self.since_s,
            n_since=after.n,
            before=before,
            after=after,
            change=Interval(value=after.value - before.value, low=low, high=high, n=after.n),
            method=f"{BESIDE}{self.stable} from the same moment on, wrong with chance {100 * RISK:g} % at most at all moments together",
            examples=tuple(self.examples.get(signal.name, ())),
        )

    def state(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value for name, value in vars(self).items() if name != "risk"}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], n_signals: int) -> "Trial":
        """What `state` gave."""
        made = cls(state["stable"], state["candidate"], state["since_s"], n_signals)
        made.told, made.sums, made.examples = list(state["told"]), dict(state["sums"]), dict(state["examples"])
        return made


def held_against(method: str) -> str:
    """The version that an alarm's version is held against, by the alarm's method; empty = its own past."""
    return method.removeprefix(BESIDE).partition(" from the same")[0] if method.startswith(BESIDE) else ""


def _level(sums: list[float], ends: tuple[float, float], signal: Signal) -> Interval:
    width = signal.high - signal.low
    low, high = (signal.low + width * min(max(end, 0.0), 1.0) for end in ends)
    return Interval(value=signal.low + width * sums[1] / sums[0], low=low, high=high, n=int(sums[0]))
