"""What can be done about a gap without touching the model, and what it costs.

Reweighing (Kamiran and Calders, Knowl. Inf. Syst. 33, 2012): weights for a training set in which group and label are independent.
Thresholds by group (Hardt, Price and Srebro 2016, without their random decisions): fitted on one half of the rows, judged on the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval
from trimtab.decide.decision_table import DecisionTable, Flags
from trimtab.stats.proportions import paired_difference

Criterion = Literal["demographic_parity", "equalised_odds"]
LEGAL_NOTE = (
    "Deciding by another threshold for another group is treated as unlawful disparate treatment in many jurisdictions, whatever its "
    "purpose: ask a lawyer before you use it."
)
_STEPS = 50
_WIDER = 1.5

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One group and label: rows, and the weight of each of them."""

    group: str
    label: bool
    n: int
    weight: float


def reweighing(table: DecisionTable) -> tuple[Weight, ...]:
    """P(group) P(label) / P(group, label) over the intersection of all group columns. Raises InputError without labels."""
    if table.actual is None:
        raise InputError("Reweighing balances groups against labels; name the label with --label.")
    total = int(table.n.sum())
    found = []
    for name, lines in table.split(table.columns):
        in_group = int(table.n[lines].sum())
        for label in (False, True):
            same = table.actual == label
            n, of_label = int(table.n[lines & same].sum()), int(table.n[same].sum())
            if n:
                found.append(Weight(group=name, label=label, n=n, weight=in_group * of_label / (total * n)))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """A threshold a group: positive where score >= threshold. tolerance: how far apart the rates were allowed to be in the fitting half.

    too_small: groups that had too few cases to fit, and keep the threshold of all
    """

    criterion: Criterion
    by_group: Mapping[str, float]
    tolerance: float
    too_small: tuple[str, ...]


def fit_thresholds(table: DecisionTable, criterion: Criterion, *, tolerance: float, min_group: int) -> Thresholds:
    """The thresholds with the most right decisions among those that bring the groups within `tolerance` of each other.

    For every corner of a grid, each group takes its best point in the square (equalised odds: TPR and FPR) or strip (demographic parity:
    selection rate) that begins there; where no corner has a point for every group, the square grows by half. Raises InputError without
    scores or labels, or if fewer than two groups are large enough.
    """
    if table.level is None or table.actual is None:
        raise InputError("Thresholds by group are fitted on scores and labels; give --score and --label.")
    curves, small = {}, []
    for name, lines in table.split(table.columns):
        curve = _curve(table, lines)
        if min(curve.n_positive, curve.n_negative) < min_group:
            small.append(name)
        else:
            curves[name] = curve
    if len(curves) < 2:
        raise InputError(
            f"Fewer than two groups have {min_group} cases of both outcomes in one half of the rows: no thresholds can be fitted."
        )
    everyone = _curve(table, np.ones(table.n.size, dtype=bool))
    shared = _edge(table, int(np.argmax(everyone.right)))
    while True:
        chosen = _best(curves, criterion, tolerance)
        if chosen:
            by_group = {name: _edge(table, place) for name, place in chosen.items()} | dict.fromkeys(small, shared)
            return Thresholds(criterion=criterion, by_group=by_group, tolerance=tolerance, too_small=tuple(small))
        tolerance = min(1.0, tolerance * _WIDER)


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A group's rates if everybody from level k on is selected, k = 0..levels (none): arrays (levels + 1,)."""

    tpr: Floats
    fpr: Floats
    rate: Floats
    right: Floats
    n_positive: int
    n_negative: int


def _curve(table: DecisionTable, lines: Flags) -> _Curve:
    assert table.level is not None
    assert table.actual is not None
    levels = len(table.level_values)
    positive = np.bincount(table.level[lines], table.n[lines] * table.actual[lines], levels)
    negative = np.bincount(table.level[lines], table.n[lines] * ~table.actual[lines], levels)
    tp = np.append(np.cumsum(positive[::-1])[::-1], 0.0)
    fp = np.append(np.cumsum(negative[::-1])[::-1], 0.0)
    n1, n0 = positive.sum(), negative.sum()
    return _Curve(
        tpr=tp / max(n1, 1.0),
        fpr=fp / max(n0, 1.0),
        rate=(tp + fp) / max(n1 + n0, 1.0),
        right=tp + (n0 - fp),
        n_positive=int(n1),
        n_negative=int(n0),
    )


def _best(curves: Mapping[str, _Curve], criterion: Criterion, tolerance: float) -> dict[str, int]:
    """Level by group of the best corner; empty if none has a point of every group."""
    corners = np.linspace(0.0, 1.0, _STEPS + 1)
    total: Floats | None = None
    places = {}
    for name, curve in curves.items():
        inside = [
            (axis[None, :] >= corners[:, None] - 1e-12) & (axis[None, :] <= corners[:, None] + tolerance)
            for axis in _axes(curve, criterion)
        ]
        where = inside[0] if len(inside) == 1 else inside[0][:, None, :] & inside[1][None, :, :]
        right = np.where(where, curve.right, -np.inf)
        places[name] = right.argmax(axis=-1)
        best = right.max(axis=-1)
        total = best if total is None else total + best
    assert total is not None
    if not np.isfinite(total).any():
        return {}
    corner = np.unravel_index(int(total.argmax()), total.shape)
    return {name: int(place[corner]) for name, place in places.items()}


def _axes(curve: _Curve, criterion: Criterion) -> list[Floats]:
    return [curve.tpr, curve.fpr] if criterion == "equalised_odds" else [curve.rate]


def _edge(table: DecisionTable, place: int) -> float:
    """The score from which level `place` begins; beyond the last level, something above every score."""
    if table.is_grid:
        return place / 1000 if place < 1000 else 1.001
    values = table.level_values
    return values[place] if place < len(values) else float(np.nextafter(values[-1], np.inf))


def decided(table: DecisionTable, thresholds: Thresholds) -> Flags:
    """The decision of each line under thresholds by group."""
    assert table.level is not None
    selected = np.zeros(table.n.size, dtype=bool)
    values = np.asarray(table.level_values)
    for name, lines in table.split(table.columns):
        edge = thresholds.by_group.get(name, np.inf)
        selected[lines] = values[table.level[lines]] >= edge
    return selected


def accuracy_change(table: DecisionTable, selected: Flags, confidence: float = 0.95) -> Interval:
    """Share of right decisions under another decision minus that under the table's own, on the same rows, with its interval."""
    assert table.actual is not None
    new, old = selected == table.actual, table.selected == table.actual

    def rows(lines: Flags) -> int:
        return int(table.n[lines].sum())

    return paired_difference(rows(new & old), rows(new & ~old), rows(~new & old), rows(~new & ~old), confidence)
