"""Parts of all requests against the rest of them, in one signal: means that may be looked at after every request, for ever.

A part's mean and the rest's are bounded by stats/change.mean_bounds, from counts and sums alone; what is bounded is the average of what was
to be expected of each of its requests, so nothing need stay as it is. Memory: four numbers a part, and no more parts than were allowed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.stats.change import mean_bounds

Floats = NDArray[np.float64]
Key = tuple[str, ...]
"""What a part is called: the caller's own words."""
_STEPS = 40
_LEAST_P = 1e-12


@dataclass(frozen=True, kw_only=True)
class Table:
    """Parts in order with counts, means and bounds (parts,), of each and of the rest, on the scale 0..1.

    Every bound of a row is wrong at any moment with chance `risk` in all; so is the difference's.
    """

    keys: Sequence[Key]
    n: Floats
    n_rest: Floats
    mean: Floats
    low: Floats
    high: Floats
    rest_mean: Floats
    rest_low: Floats
    rest_high: Floats


class Contrasts:
    """One signal. Values lie within 0..1. dropped: values of parts beyond the most that are kept."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.n, self.total, self.spread = 0, 0.0, 0.0
        self.dropped = 0
        self._parts: dict[Key, list[float]] = {}  # n, total, squares about its own mean so far, squares about that of all so far

    @property
    def keys(self) -> Sequence[Key]:
        return tuple(self._parts)

    def add(self, parts: Iterable[Key], value: float) -> None:
        """One request's value, to all and to the parts that it is in."""
        of_all = (value - (self.total + 0.5) / (self.n + 1)) ** 2
        self.n += 1
        self.total += value
        self.spread += of_all
        for key in parts:
            part = self._parts.get(key)
            if part is None:
                if len(self._parts) >= self.most:
                    self.dropped += 1
                    continue
                part = self._parts[key] = [0.0, 0.0, 0.0, 0.0]
            away = value - (part[1] + 0.5) / (part[0] + 1.0)
            part[0] += 1.0
            part[1] += value
            part[2] += away * away
            part[3] += of_all

    def table(self, risk: float) -> Table:
        """All parts. risk: that of a row, of ever being wrong."""
        n, total, spread, of_all = self._columns()
        n_rest, rest_total, rest_spread = self.n - n, self.total - total, np.maximum(self.spread - of_all, 0.0)
        low, high = _bounds(n, total, spread, risk / 2.0)
        rest_low, rest_high = _bounds(n_rest, rest_total, rest_spread, risk / 2.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean, rest_mean = total / n, rest_total / n_rest
        return Table(
            keys=tuple(self._parts),
            n=n,
            n_rest=n_rest,
            mean=mean,
            low=low,
            high=high,
            rest_mean=rest_mean,
            rest_low=rest_low,
            rest_high=rest_high,
        )

    def p_beyond(self, worse: int) -> Floats:
        """Anytime-valid p-values (parts,) of "its mean is no higher than the rest's" (worse = 1), or no lower (-1): the least risk at
        which their bounds lie apart, by bisection."""
        n, total, spread, of_all = self._columns()
        rest = self.n - n, self.total - total, np.maximum(self.spread - of_all, 0.0)
        shown, open_ = np.zeros(n.size), np.full(n.size, np.log(_LEAST_P))  # logarithms of the risk: apart at `shown`, not at `open_`
        for step in range(_STEPS):
            risk = np.exp(shown if step == 0 else (shown + open_) / 2.0)
            low, high = _bounds(n, total, spread, risk)
            rest_low, rest_high = _bounds(*rest, risk)
            apart = low > rest_high if worse > 0 else high < rest_low
            if step == 0:
                never = ~apart
                continue
            shown, open_ = np.where(apart, np.log(risk), shown), np.where(apart, open_, np.log(risk))
        return np.where(never, 1.0, np.exp(shown))

    def _columns(self) -> tuple[Floats, Floats, Floats, Floats]:
        columns = np.array(list(self._parts.values()), dtype=float).reshape(-1, 4).T
        return columns[0], columns[1], columns[2], columns[3]

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "all": [self.n, self.total, self.spread],
            "dropped": self.dropped,
            "parts": [[list(key), part] for key, part in self._parts.items()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], most: int) -> "Contrasts":
        """What `state` gave."""
        made = cls(most)
        made.n, made.total, made.spread = int(state["all"][0]), float(state["all"][1]), float(state["all"][2])
        made.dropped = int(state["dropped"])
        made._parts = {tuple(key): [float(number) for number in part] for key, part in state["parts"]}
        return made


def _bounds(n: Floats, total: Floats, spread: Floats, risk: Floats | float) -> tuple[Floats, Floats]:
    """As stats/change.mean_bounds with an n and a risk for each row, cut to 0..1; a row without values is 0..1."""
    known = np.maximum(n, 1.0)
    low, high = mean_bounds(known, total, spread, risk)
    empty = n < 1.0
    return np.where(empty, 0.0, np.clip(low, 0.0, 1.0)), np.where(empty, 1.0, np.clip(high, 0.0, 1.0))
