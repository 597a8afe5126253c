"""How wrong predictions are: errors, bias and coverage by source and pooled, and the three ways of leaving rows out.

A leave-out is nested: the fold that is judged takes part neither in the fit nor in the calibration of its intervals.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trimtab.core.errors import InputError
from trimtab.plan.anchors.conformal import Calibration, calibrated
from trimtab.plan.anchors.residual import Residual, fitted_with_rows
from trimtab.plan.anchors.scheme import Anchor, Features, Floats, Scheme, full_features

Way = Literal["configuration", "model", "source"]
WAYS: tuple[Way, ...] = ("configuration", "model", "source")
N_FOLDS = 10


@dataclass(frozen=True)
class Outcome:
    """A predicted row beside what was measured; predicted None: refused."""

    source: str
    measured: float
    predicted: float | None = None
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Score:
    """Of some rows: n of them, the share predicted, and of the predicted ones the errors in percent and the share inside the interval.

    bias_pct: median of the signed errors, positive = predicted too high. None where no row was predicted.
    """

    n: int
    predicted_share: float
    median_ape_pct: float | None
    mean_ape_pct: float | None
    bias_pct: float | None
    coverage: float | None


@dataclass(frozen=True)
class Held:
    """Predictions of rows that took no part, in logarithms of measured / physics: (n,) each, in the order of the anchors."""

    mean: Floats
    low: Floats
    high: Floats
    nearness: Floats


def score(outcomes: Sequence[Outcome]) -> Score:
    """The figures of these rows together."""
    done = [outcome for outcome in outcomes if outcome.predicted is not None]
    share = len(done) / len(outcomes) if outcomes else 0.0
    if not done:
        return Score(len(outcomes), share, None, None, None, None)
    signed = np.array([(outcome.predicted or 0.0) / outcome.measured - 1 for outcome in done])
    inside = [outcome.low <= outcome.measured <= outcome.high for outcome in done]
    error = np.abs(signed) * 100
    return Score(len(outcomes), share, float(np.median(error)), float(error.mean()), float(np.median(signed)) * 100, float(np.mean(inside)))


def scores_by_source(outcomes: Iterable[Outcome]) -> dict[str, Score]:
    """A score for each source, in order of size, and `pooled` first."""
    grouped: dict[str, list[Outcome]] = {}
    everything = list(outcomes)
    for outcome in everything:
        grouped.setdefault(outcome.source, []).append(outcome)
    ordered = sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0]))
    return {"pooled": score(everything)} | {source: score(rows) for source, rows in ordered}


def folds(groups: Sequence[str], n_folds: int = N_FOLDS) -> list[int]:
    """The fold of each row: groups whole, the largest first, each to the fold with fewest rows. The same for the same groups, always."""
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    load = [0] * max(1, min(n_folds, len(sizes)))
    of: dict[str, int] = {}
    for group, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        of[group] = load.index(min(load))
        load[of[group]] += size
    return [of[group] for group in groups]


def leave_out(anchors: Sequence[Anchor], scheme: Scheme, way: Way, n_folds: int = N_FOLDS) -> Held:
    """Every anchor predicted by a fit, with a calibration, that saw no anchor of its setting, its model or its source.

    Raises `InputError` where there is only one group to leave out.
    """
    names = {"configuration": "setting", "model": "model", "source": "source"}
    groups = [str(getattr(anchor, names[way])) for anchor in anchors]
    if len(set(groups)) < 2:
        raise InputError(f"All rows share one {way}, so none can be left out; give rows of more, or leave out something else.")
    fold = np.array(folds(groups, n_folds))
    start: Residual | None = None
    held = Held(*(np.zeros(len(anchors)) for _ in range(4)))
    for number in range(int(fold.max()) + 1):
        at = np.flatnonzero(fold == number)
        fitted = fitted_with_rows([anchor for anchor, of in zip(anchors, fold, strict=True) if of != number], scheme, start)
        start = fitted.residual
        mean, low, high, nearness = interval(fitted.residual, calibrated(fitted), [full_features(anchors[int(i)]) for i in at])
        held.mean[at], held.low[at], held.high[at], held.nearness[at] = mean, low, high, nearness
    return held


def interval(residual: Residual, calibration: Calibration, rows: Sequence[Features]) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, low, high (logarithms of the ratio to physics) and nearness at rows."""
    shifts = residual.shift(rows)
    half = shifts.sd * np.array([calibration.factor(residual, row) for row in rows])
    return shifts.mean, shifts.mean - half, shifts.mean + half, shifts.nearness


def outcomes_of(anchors: Sequence[Anchor], held: Held) -> list[Outcome]:
    """Held-out predictions as outcomes, in units of the measured value (1 each)."""
    return [
        Outcome(anchor.source, 1.0, *(float(np.exp(part[at] - anchor.log_ratio)) for part in (held.mean, held.low, held.high)))
        for at, anchor in enumerate(anchors)
    ]
