"""Has a mean moved? Evidence that may be looked at after every value, for ever, at a stated number of false alarms.

Values lie within 0..1; before a change their mean, given all that came before, is one unknown number (it need not be known, nor need the
values be independent or alike otherwise). Two parts:

`Baseline`: bounds for that number that hold at every moment together, from counts and sums alone. For a predictable centre m and
|x - m| <= 1, exp(l (x - mean) - psi(l) (x - m)^2) is on average at most 1, psi(l) = -log(1 - l) - l, 0 < l < 1 (Fan, Grama & Liu 2015,
Electron. J. Probab. 20; Howard, Ramdas, McAuliffe & Sekhon 2021, Ann. Stat. 49(2), theorem 4), so by Ville's inequality, R the risk,

    mean <= (sum of x + (log(1 / R) + psi(l) * sum of (x - m)^2) / l) / n   for all n, with chance 1 - R at least.

A grid of l shares R. The smallest such bound so far stands: later values only tighten it. So whatever rises, at once or slowly, is
held against the lowest level that was shown, and never becomes its own baseline.

`EDetector`: Shin, Ramdas & Rinaldo, arXiv 2203.03532 (New England J. Stat. Data Sci. 2(2), 2024). L = 1 + l (x - bound) is on average at
most 1 where the mean is at most `bound`, for any predictable l <= 1 / bound. Sums of products of L over all starts, and what lies below
such a sum, are e-detectors:

    Shiryaev-Roberts: M = (M + 1) L        CUSUM: M = max(M, 1) L

and for any stopping time E M <= E time. Averages of e-detectors are e-detectors, here over a grid of l, two sides and several streams.
An alarm at M >= c, then M = 0 again: M + c * alarms - time does not rise on average, so

    E (false alarms within n values) <= n / c   for every n; the average run length to a false alarm is c at least,

however often one looks. A block of b values counts as b starts at its first value, (M + b) * product of L, which keeps the bound and is
looked at only at its end.

The unknown baseline is paid for: a bound fails with chance R at most, which costs one alarm, for then a new baseline begins. With
threshold c and risk R: E alarms <= (n / c + R) / (1 - R).
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval

Floats = NDArray[np.float64]
Kind = Literal["sr", "cusum"]

_RATES = 2.0 ** -np.arange(0.5, 14.0)
"""Rates l of the bounds: the best one is sqrt(2 log(1 / R) / sum of squares); a grid by factors of 2 widens by 6 % at most."""
_PSI = -np.log1p(-_RATES) - _RATES
EFFECTS = 2.0 ** np.arange(-6.0, 2.0)
"""Changes that are bet on, in standard deviations of a value: the best l for a change d of values with deviation s is about d / s^2."""
STAKE = 0.75
"""Most of the capital that one value may cost."""
_LOOK = 1.05
"""The bounds are computed anew when there are this many times as many values: looking less often costs no validity."""


def mean_bounds(n: float | Floats, total: Floats, spread: Floats, risk: float | Floats) -> tuple[Floats, Floats]:
    """Lower and upper bounds for means, valid at every n together, each with chance `risk` / 2 of ever failing.

    total: sums (s,) of n values each; spread: sums (s,) of (value - a centre known before it) squared, distances at most 1; n and risk are
    those of all, or one each (s,).
    """
    if np.min(n) <= 0:
        return np.full(total.shape, -np.inf), np.full(total.shape, np.inf)
    cost = np.log(2.0 * _RATES.size / risk)
    radius = ((cost + _PSI[:, None] * spread[None, :]) / (_RATES[:, None] * n)).min(axis=0)
    mean = total / n
    return mean - radius, mean + radius


def student(mean: float, deviation: float, n: int, confidence: float) -> Interval:
    """Student's interval of a mean of n values, looked at once."""
    radius = float(stdtrit(n - 1, (1.0 + confidence) / 2.0)) * deviation / float(np.sqrt(n))
    return Interval(value=mean, low=mean - radius, high=mean + radius, n=n)


class Baseline:
    """Bounds for the means of `streams` from their first value on. Memory: six numbers a stream.

    low, high: the tightest so far, (streams,); n, total, spread: as `mean_bounds` takes them; centre: recent means
    risk: chance that any of them ever fails
    """

    def __init__(self, streams: int, *, risk: float) -> None:
        if not 0.0 < risk < 1.0:
            raise InputError(f"The risk of a baseline must lie between 0 and 1, not {risk!r}.")
        self.risk = risk
        self.n = 0
        self.total = np.zeros(streams)
        self.spread = np.zeros(streams)
        self.centre = np.full(streams, 0.5)
        self.low = np.full(streams, -1.0)  # of values within 0..1, less an offset within -1..1
        self.high = np.full(streams, 2.0)
        self._next = 16.0

    @property
    def deviation(self) -> Floats:
        """Standard deviation of a value, with half a unit of squares too many, so that it is never zero."""
        return np.asarray(np.sqrt((self.spread + 0.5) / (self.n + 1.0)))

    def take(self, block: Floats, offset: Floats | float = 0.0) -> tuple[Floats, Floats, bool]:
        """Learn from `block` (b, streams). Returns its sums, its squares about the centre, and whether the bounds were computed anew.

        offset: what is known to be in each stream's mean now and not in the others' (a season); bounds are of what is left.
        """
        b = block.shape[0]
        away = block - np.clip(self.centre + offset, 0.0, 1.0)
        sums, squares = block.sum(axis=0) - b * offset, np.einsum("ij,ij->j", away, away)
        # At least the last thousand values, all of them in the beginning: a centre may be any that was known before the block.
        self.centre = sums / b if not self.n else self.centre + (sums / b - self.centre) * max(b / 1000.0, b / (self.n + b))
        self.n += b
        self.total += sums
        self.spread += squares
        renewed = self.n >= self._next
        if renewed:
            self._next = self.n * _LOOK
            low, high = mean_bounds(self.n, self.total, self.spread, self.risk / self.total.size)
            self.low, self.high = np.maximum(self.low, low), np.minimum(self.high, high)
        return sums, squares, renewed

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("total", "spread", "centre", "low", "high")}
        return {"risk": self.risk, "n": self.n, "next": self._next, **arrays}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Baseline":
        """What `state` gave."""
        made = cls(len(state["total"]), risk=state["risk"])
        made.n, made._next = state["n"], state["next"]
        for name in ("total", "spread", "centre", "low", "high"):
            setattr(made, name, np.array(state[name], dtype=float))
        return made


class EDetector:
    """The average of e-detectors over `streams`, sides and sizes of change, against bounds that the caller knows to hold.

    evidence: (streams, 2, effects): above, below; a side that is not watched stays at zero and takes no weight
    """

    def __init__(self, streams: int, *, sides: Literal["above", "below", "both"] = "both", kind: Kind = "sr") -> None:
        self.sides: Literal["above", "below", "both"] = sides
        self.kind: Kind = kind
        self.evidence = np.zeros((streams, 2, EFFECTS.size))
        watched = np.array([sides != "below", sides != "above"])
        self._weights = (watched / (watched.sum() * streams * EFFECTS.size))[None, :, None]
        self._watched = np.broadcast_to(watched, (streams, 2))
        self._sign = np.array([1.0, -1.0])
        self._bounds = np.zeros((streams, 2))
        self._rates = np.zeros((streams, 2, EFFECTS.size))
        self._starts = np.zeros((streams, 2, 1))

    def bet(self, low: Floats, high: Floats, deviation: Floats) -> None:
        """Bet from now on that means (streams,) lie above `high` or below `low`; no bet where a bound says nothing."""
        self._bounds = np.stack([np.maximum(high, 1e-9), np.minimum(low, 1.0 - 1e-9)], axis=1)
        reach = np.stack([self._bounds[:, 0], 1.0 - self._bounds[:, 1]], axis=1)
        informed = self._watched & (reach < 1.0)
        wished = EFFECTS / np.maximum(deviation, 1e-6)[:, None, None]
        self._rates = np.where(informed[..., None], np.minimum(wished, STAKE / np.maximum(reach, 1e-9)[..., None]), 0.0)
        self._bounds = np.where(informed, self._bounds, 0.0)
        self._starts = informed[..., None].astype(float)

    def take(self, block: Floats) -> float:
        """The evidence after `block` (b, streams), whose values are as independent of the bounds and rates as those of the future are."""
        gains = (block[:, :, None] - self._bounds) * self._sign
        factors = np.multiply.reduce(1.0 + self._rates * gains[..., None], axis=0)
        starts = block.shape[0] * self._starts if self.kind == "sr" else self._starts
        before = self.evidence + starts if self.kind == "sr" else np.maximum(self.evidence, starts)
        self.evidence = before * factors
        return float((self.evidence * self._weights).sum())

    def strongest(self) -> tuple[int, Literal["above", "below"]]:
        """The stream and the side with most of the evidence."""
        stream, side = divmod(int((self.evidence * self._weights).sum(axis=2).argmax()), 2)
        return stream, "below" if side else "above"

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        arrays = {name: getattr(self, f"_{name}").tolist() for name in ("bounds", "rates", "starts")}
        return {"sides": self.sides, "kind": self.kind, "evidence": self.evidence.tolist(), **arrays}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "EDetector":
        """What `state` gave."""
        made = cls(len(state["evidence"]), sides=state["sides"], kind=state["kind"])
        made.evidence = np.array(state["evidence"], dtype=float)
        for name in ("bounds", "rates", "starts"):
            setattr(made, f"_{name}", np.array(state[name], dtype=float))
        return made
