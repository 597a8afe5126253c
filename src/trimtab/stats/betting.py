"""Confidence sequences by betting: intervals for a mean that hold at every moment together, however often one looks and whenever one stops.

For production, where nobody plans the looks. Values must be bounded beforehand. With replacement, or a stream whose mean given its past
does not move: Waudby-Smith & Ramdas, J. R. Stat. Soc. B 86(1), 2024 (arXiv 2010.09686), hedged capital with predictable plug-in bets
(sections 4.2 and 4.4). Without replacement, for the mean of a finite suite in random order: the same bets against the mean of what is left,
which a hypothesis about the whole and the values seen so far imply (arXiv 2006.04347; 2010.09686, section 5).

A gambler bets that the mean is not m, at odds that would be fair if it were; by Ville's inequality the capital then ever reaches 1 / alpha
with chance alpha at most. Means at which it did are left out.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import InputError

Floats = NDArray[np.float64]
STAKE = 0.5
"""Most of the capital that one bet may risk: 1/2 or 3/4 are what Waudby-Smith & Ramdas recommend."""
GRID = 1000
"""Means that are tried, evenly between the bounds; ends are rounded outwards to the next."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceSequence:
    """estimates, lows, highs after 1, 2, ... observations; all intervals hold together with the confidence asked for.

    An interval that has become empty (low above high) says that the mean has moved.
    """

    estimates: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


def confidence_sequence(values: ArrayLike, *, low: float, high: float, alpha: float, size: int | None = None) -> ConfidenceSequence:
    """Sequence for the mean of `values` (n,), in the order they came, each within low..high.

    size: number of items of the finite suite that they are drawn from without replacement; None = a stream
    Take one value a cluster (its mean), if items share one. Raises InputError for values out of bounds or not finite, or more than `size`.
    """
    scaled = _scaled(values, low, high, size)
    tried = np.linspace(0.0, 1.0, GRID + 1)
    above, below = (log_capital(scaled[None, :], tried[:, None], side, alpha=alpha, size=size) for side in ("above", "below"))
    limit = float(np.log(2.0 / alpha))  # each side plays with half of the capital
    # The larger the mean that is bet against, the less its excess pays: what is left out are a lower and an upper end.
    lows = np.array([_last(column >= limit) for column in np.maximum.accumulate(above, axis=1).T])
    highs = np.array([GRID - _last(column[::-1] >= limit) for column in np.maximum.accumulate(below, axis=1).T])
    n = np.arange(1, scaled.size + 1)

    def real(shares: Floats) -> tuple[float, ...]:
        return tuple((low + (high - low) * shares).tolist())

    return ConfidenceSequence(estimates=real(np.cumsum(scaled) / n), lows=real(tried[lows]), highs=real(tried[highs]))


def mean_bounds(values: ArrayLike, *, low: float, high: float, alpha: float) -> tuple[float, float]:
    """Where the mean of a stream lies by all values so far: each end is wrong at any moment ever with chance alpha at most (one-sided).

    All intervals of `confidence_sequence` at 2 alpha so far, cut with each other, to a millionth of the range. A lower end above the
    upper one says that the mean has moved. Raises InputError as there.
    """
    scaled = _scaled(values, low, high, None)
    lower = _last_excluded(scaled, alpha)
    upper = 1.0 - _last_excluded(1.0 - scaled, alpha)
    return low + (high - low) * lower, low + (high - low) * upper


def _last_excluded(scaled: Floats, alpha: float) -> float:
    """The largest mean that bets above it have excluded at some moment, by bisection: the capital falls as that mean rises."""
    inside, outside, limit = 0.0, 1.0, float(-np.log(alpha))
    for _ in range(20):
        middle = (inside + outside) / 2.0
        won = float(log_capital(scaled, middle, "above", alpha=2.0 * alpha).max()) >= limit
        inside, outside = (middle, outside) if won else (inside, middle)
    return inside


def anytime_p(values: ArrayLike, bound: float, side: Literal["above", "below"], *, low: float, high: float, alpha: float) -> float:
    """Anytime-valid p-value of "the mean is not `side` `bound`": small = it is shown to lie there. May be looked at after every value.

    alpha: level that the bets are tuned to; the p-value is valid at every level.
    """
    scaled = _scaled(values, low, high, None)
    capital = log_capital(scaled, (bound - low) / (high - low), side, alpha=alpha)
    return float(np.exp(-max(0.0, capital.max(initial=0.0))))


def log_capital(
    values: ArrayLike, mean: ArrayLike, side: Literal["above", "below"], *, alpha: float, size: int | None = None
) -> NDArray[np.float64]:
    """Logarithm of the capital after each of `values` (..., n; within 0..1) of who bets that their mean lies `side` `mean` (broadcast).

    Infinite from where the values exclude the mean by themselves (without replacement only).
    """
    seen = np.asarray(values, dtype=float)
    n = seen.shape[-1]
    bets = _bets(seen, alpha)
    if size is None:
        fair = np.asarray(mean, dtype=float)
        excluded = np.zeros(1, dtype=bool)
    else:
        total, so_far = size * np.asarray(mean, dtype=float), np.cumsum(seen, axis=-1)
        fair = np.clip((total - so_far + seen) / (size - np.arange(n)), 0.0, 1.0)
        slack = 1e-9 * size
        left = size - np.arange(1, n + 1)
        excluded = total < so_far - slack if side == "above" else total > so_far + left + slack
    with np.errstate(divide="ignore"):
        if side == "above":
            gains = np.log1p(np.minimum(bets, STAKE / fair) * (seen - fair))
        else:
            gains = np.log1p(np.minimum(bets, STAKE / (1.0 - fair)) * (fair - seen))
    return np.where(excluded, np.inf, np.cumsum(gains, axis=-1))


def _bets(values: Floats, alpha: float) -> Floats:
    """The share to bet at each step from what was seen before it: sqrt(2 log(2 / alpha) / (variance t log(1 + t)))."""
    steps = np.arange(1, values.shape[-1] + 1)
    means = (0.5 + np.cumsum(values, axis=-1)) / (steps + 1.0)
    variances = (0.25 + np.cumsum((values - means) ** 2, axis=-1)) / (steps + 1.0)
    known = np.concatenate([np.full((*values.shape[:-1], 1), 0.25), variances[..., :-1]], axis=-1)
    return np.asarray(np.sqrt(2.0 * np.log(2.0 / alpha) / (known * steps * np.log1p(steps))))


def _last(excluded: NDArray[np.bool_]) -> int:
    """The last mean from the end that is left out, so that the first one kept lies above it; 0 if none is."""
    kept = np.flatnonzero(~excluded)
    return int(excluded.size - 1) if kept.size == 0 else max(0, int(kept[0]) - 1)


def _scaled(values: ArrayLike, low: float, high: float, size: int | None) -> Floats:
    sample = np.asarray(values, dtype=float)
    if not low < high:
        raise InputError(f"The bounds of the values must rise, not {low!r} to {high!r}.")
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all() or sample.min() < low or sample.max() > high:
        raise InputError(f"A confidence sequence needs finite values between its bounds of {low:g} and {high:g}.")
    if size is not None and sample.size > size:
        raise InputError(f"{sample.size} values cannot be drawn without replacement from {size}.")
    return np.asarray((sample - low) / (high - low))
