"""Does a score mean the same in every group? Observed share against mean score, in bins and as a whole.

The expected calibration error of a perfectly calibrated score is above zero in any sample; so what chance alone reaches is simulated at the
same scores and sizes and stands beside it (Bröcker and Smith, Weather Forecast. 22(3), 2007).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.core.measurement import Interval
from trimtab.decide.decision_table import DecisionTable, Flags
from trimtab.decide.group_rates import CONFIDENCE
from trimtab.stats.proportions import wilson

N_BINS = 10
MOST_LEVELS_SHOWN = 20
_DRAWS = 1000
_SINGLE_CASES = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Cases whose score lies in one bin: their number, mean score, and observed share of positive outcomes with its interval."""

    n: int
    score: float
    observed: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class GroupCalibration:
    """One group. excess: mean of score minus outcome, above 0 = the score is too high for this group; None = too few cases, or the
    scores are no probabilities. error: expected calibration error; error_by_chance: what a perfectly calibrated score stays below in 95 %
    of samples like this. se: of excess
    """

    group: str
    n: int
    bins: tuple[Bin, ...]
    excess: float | None = None
    low: float | None = None
    high: float | None = None
    se: float | None = None
    error: float | None = None
    error_by_chance: float | None = None


def are_probabilities(table: DecisionTable) -> bool:
    return bool(table.level_values) and table.level_values[0] >= 0.0 and table.level_values[-1] <= 1.0


def group_calibration(table: DecisionTable, axis: tuple[str, ...], min_group: int, seed: int = 0) -> list[GroupCalibration]:
    """Calibration of each group of an axis; empty without scores or labels, or with more than 20 scores that are no probabilities."""
    if table.level is None or table.actual is None:
        return []
    probable = are_probabilities(table)
    if not probable and len(table.level_values) > MOST_LEVELS_SHOWN:
        return []
    random = np.random.default_rng(seed)
    return [_of_group(table, name, lines, min_group, probable, random) for name, lines in table.split(axis)]


def _of_group(
    table: DecisionTable, name: str, lines: Flags, min_group: int, probable: bool, random: np.random.Generator
) -> GroupCalibration:
    assert table.level is not None
    assert table.actual is not None
    levels = len(table.level_values)
    scores = np.asarray(table.level_values, dtype=float)
    counts: Floats = np.bincount(table.level[lines], table.n[lines], levels).astype(float)
    positives: Floats = np.bincount(table.level[lines], table.n[lines] * table.actual[lines], levels).astype(float)
    place = np.minimum((scores * N_BINS + 1e-9).astype(int), N_BINS - 1) if probable else np.arange(levels)
    n_bins = N_BINS if probable else levels
    n = int(counts.sum())
    bins = _bins(*(np.bincount(place, weights, n_bins).astype(float) for weights in (counts, positives, counts * scores)))
    if not probable or n < min_group:
        return GroupCalibration(group=name, n=n, bins=bins)
    excess = float((counts * scores - positives).sum()) / n
    squares = float((positives * (scores - 1.0) ** 2 + (counts - positives) * scores**2).sum()) / n
    se = math.sqrt(max(0.0, squares - excess**2) / (n - 1))
    reach = 1.959964 * se
    seen = counts > 0  # of a thousand levels a small group has few
    chance = float(np.quantile(_errors_by_chance(counts[seen], scores[seen], place[seen], random), CONFIDENCE))
    return GroupCalibration(
        group=name,
        n=n,
        bins=bins,
        excess=excess,
        low=excess - reach,
        high=excess + reach,
        se=se,
        error=float(np.abs(np.bincount(place, positives - counts * scores, n_bins)).sum()) / n,
        error_by_chance=chance,
    )


def _bins(counts: Floats, positives: Floats, sums: Floats) -> tuple[Bin, ...]:
    found = []
    for n, positive, total in zip(counts, positives, sums, strict=True):
        if n:
            share = wilson(round(positive), round(n), CONFIDENCE)
            assert share.low is not None
            assert share.high is not None
            found.append(Bin(n=round(n), score=total / n, observed=share.value, low=share.low, high=share.high))
    return tuple(found)


def _errors_by_chance(counts: Floats, scores: Floats, place: NDArray[np.intp], random: np.random.Generator) -> Floats:
    """Expected calibration error of scores that are true, in each of _DRAWS samples. place: bin of each level, ascending."""
    n, sizes = counts.sum(), counts.astype(np.int64)
    if n <= _SINGLE_CASES * sizes.size:  # of few cases a level it is faster to draw each
        scores, place = np.repeat(scores, sizes), np.repeat(place, sizes)
        sizes = np.ones(scores.size, dtype=np.int64)
        drawn = (random.random((_DRAWS, scores.size)) < scores).astype(np.int64)
    else:
        drawn = random.binomial(sizes, scores, size=(_DRAWS, scores.size))
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    gaps = np.add.reduceat(drawn, starts, axis=1) - np.add.reduceat(sizes * scores, starts)
    return np.asarray(np.abs(gaps).sum(axis=1) / n)


def area_under_curve(table: DecisionTable) -> Interval | None:
    """Chance that a positive case scores above a negative one, ties half (Hanley and McNeil, Radiology 143, 1982); None without both."""
    if table.level is None or table.actual is None:
        return None
    levels = len(table.level_values)
    positive = np.bincount(table.level, table.n * table.actual, levels)
    negative = np.bincount(table.level, table.n * ~table.actual, levels)
    n1, n0 = float(positive.sum()), float(negative.sum())
    if not n1 or not n0:
        return None
    below = np.cumsum(negative) - negative
    area = float((positive * (below + negative / 2)).sum()) / (n1 * n0)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (n1 - 1) * (q1 - area**2) + (n0 - 1) * (q2 - area**2)) / (n1 * n0)
    reach = 1.959964 * math.sqrt(max(0.0, variance))
    return Interval(value=area, low=max(0.0, area - reach), high=min(1.0, area + reach), n=int(n1 + n0))


def told(rows: Sequence[GroupCalibration]) -> Mapping[str, GroupCalibration]:
    """By group, those with an excess."""
    return {row.group: row for row in rows if row.excess is not None}
