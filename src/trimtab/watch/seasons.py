"""The daily and weekly rhythm of a signal, learnt from its own past, so that the evening rush is no alarm.

Means by hour of the week differ from the overall mean by chance and by rhythm. How much of it is rhythm is estimated from all cells
together (one-way random effects, by moments), and each cell's difference is shrunken by it (Efron & Morris 1973): where there is no rhythm
nothing is taken off and nothing is allowed for.

A profile is used from a full day of history on (24 hours of the day, alike on all days), again from a week on, and by hour of the week
from two weeks on; in between it stands still, so that what grows slowly is not taken for a rhythm. Before the first day is over nothing is
known of a rhythm: detectors of signals that may have one then allow for FIRST_DAY deviations of a value.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HOUR_S = 3600.0
HOURS = 168
ADOPTED_S = (86_400.0, 7 * 86_400.0, 14 * 86_400.0)
"""History, in seconds, at which the profile is taken into use anew."""
FIRST_DAY = 1.0
"""Deviations of a value that a mean may move within the first day, before the rhythm is known."""
ALLOWED = 4.0
"""Posterior deviations of a cell's effect that its mean may be off."""


def hour_of_week(at_s: float) -> int:
    """0 = Monday, 0 to 1 h UTC; 1970-01-01 was a Thursday."""
    return int(at_s // HOUR_S + 72) % HOURS


class Season:
    """Effects by hour of the week of `streams` signals within 0..1. Memory: 168 counts and 336 sums a stream.

    effect: (168, streams), to be taken off; allowed: (168, streams), how far a mean may still be off; None = no history yet
    """

    def __init__(self, streams: int) -> None:
        self.streams = streams
        self.since_s: float | None = None
        self.adopted = 0
        self.effect: Floats | None = None
        self.allowed: Floats | None = None
        self._clear()

    def _clear(self) -> None:
        self.counts = np.zeros(HOURS)
        self.sums = np.zeros((HOURS, self.streams))
        self.squares = np.zeros(self.streams)

    def forget(self) -> None:
        """Learn from here on alone (after a change); the effects in use stay in use, until there is as much history again."""
        self._clear()
        self.since_s, self.adopted = None, min(self.adopted, len(ADOPTED_S) - 1)

    def take(self, block: Floats, at_s: float) -> bool:
        """Learn from `block` (b, streams), all of one hour. True = other effects are in use from now on."""
        if self.since_s is None:
            self.since_s = at_s
        changed = False
        if self.adopted < len(ADOPTED_S) and at_s - self.since_s >= ADOPTED_S[self.adopted]:
            self.adopted += 1
            changed = self._adopt(weekly=self.adopted == len(ADOPTED_S))
        hour = hour_of_week(at_s)
        self.counts[hour] += block.shape[0]
        self.sums[hour] += block.sum(axis=0)
        self.squares += np.einsum("ij,ij->j", block, block)
        return changed

    def _adopt(self, *, weekly: bool) -> bool:
        if self.counts.sum() < 240:  # ten a cell, or there is nothing to learn from
            return False
        mean = self.sums.sum(axis=0) / self.counts.sum()
        daily_counts, daily_sums = self.counts.reshape(7, 24).sum(axis=0), self.sums.reshape(7, 24, -1).sum(axis=0)
        within = np.maximum(self.squares / self.counts.sum() - mean**2, 1e-9)
        effect, off = shrunken(daily_counts, daily_sums - daily_counts[:, None] * mean, within)
        effect, off = np.tile(effect, (7, 1)), np.tile(off, (7, 1))
        if weekly:
            more, off_more = shrunken(self.counts, self.sums - self.counts[:, None] * (mean + effect), within)
            effect, off = effect + more, np.hypot(off, off_more)
        self.effect, self.allowed = effect, ALLOWED * off
        return True

    def at(self, at_s: float, deviation: Floats) -> tuple[Floats, Floats]:
        """What to take off a value of this moment, and how far its mean may be off, (streams,) each."""
        if self.effect is None or self.allowed is None:
            return np.zeros(self.streams), FIRST_DAY * deviation
        hour = hour_of_week(at_s)
        return self.effect[hour], self.allowed[hour]

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "streams": self.streams,
            "since_s": self.since_s,
            "adopted": self.adopted,
            "effect": None if self.effect is None else self.effect.tolist(),
            "allowed": None if self.allowed is None else self.allowed.tolist(),
            "counts": self.counts.tolist(),
            "sums": self.sums.tolist(),
            "squares": self.squares.tolist(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Season":
        """What `state` gave."""
        made = cls(state["streams"])
        made.since_s, made.adopted = state["since_s"], state["adopted"]
        made.effect = None if state["effect"] is None else np.array(state["effect"], dtype=float)
        made.allowed = None if state["allowed"] is None else np.array(state["allowed"], dtype=float)
        made.counts, made.sums = np.array(state["counts"], dtype=float), np.array(state["sums"], dtype=float)
        made.squares = np.array(state["squares"], dtype=float)
        return made


def shrunken(counts: Floats, sums: Floats, within: Floats) -> tuple[Floats, Floats]:
    """Effects of cells and their posterior deviations, (c, streams) each. A cell never seen has no effect, and that of all to spare.

    counts: (c,); sums: of differences from the overall mean, (c, streams); within: variance within cells, (streams,)
    """
    n, filled = counts.sum(), np.maximum(counts, 1.0)[:, None]
    means = sums / filled
    spread = (counts[:, None] * means**2).sum(axis=0)
    cells = int((counts > 0).sum())
    between = np.maximum(0.0, (spread - (cells - 1) * within) / max(n - (counts**2).sum() / n, 1e-9))
    noise = np.where(counts[:, None] > 0, within / filled, np.inf)
    kept = between / np.maximum(between + noise, 1e-300)
    return kept * means, np.sqrt(between * (1.0 - kept))
