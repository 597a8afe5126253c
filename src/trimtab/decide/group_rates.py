"""Rates by group with their intervals: each group against all others, and the largest gap between any two.

Rows are taken as independent. A rate whose denominator is below the policy's least size is "cannot tell": it has counts and no value.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trimtab.core.measurement import Interval
from trimtab.decide.decision_table import Confusion, DecisionTable
from trimtab.stats.multiplicity import holm
from trimtab.stats.proportions import p_differences_outside, rate_difference, rate_differences, rate_ratio, wilson

CONFIDENCE = 0.95
METRICS = ("selection_rate", "base_rate", "tpr", "fpr", "ppv", "accuracy")
WORDS = {
    "selection_rate": "selection rate",
    "base_rate": "base rate",
    "tpr": "true positive rate",
    "fpr": "false positive rate",
    "ppv": "positive predictive value",
    "accuracy": "accuracy",
}


@dataclass(frozen=True, kw_only=True)
class Rate:
    """count of n; value, low, high are None where n is too small to tell."""

    count: int
    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class AgainstRest:
    """A group's rate minus that of everybody else, with its interval; p_holm: two-sided, corrected over the groups of the axis."""

    value: float
    low: float
    high: float
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class GroupRates:
    """rates: by metric; against_rest: by metric, only where both sides are large enough."""

    group: str
    confusion: Confusion
    rates: Mapping[str, Rate]
    against_rest: Mapping[str, AgainstRest]


@dataclass(frozen=True, kw_only=True)
class LargestGap:
    """The largest difference of a metric between two groups that are large enough, with the interval of that difference by itself.

    ratio: the lower rate over the higher one with its interval; None where the higher is 0
    """

    metric: str
    high_group: str
    low_group: str
    value: float
    low: float
    high: float
    ratio: Interval | None
    n_groups: int


@dataclass(frozen=True, kw_only=True)
class AxisRates:
    """All groups of one axis (`("sex",)`, or an intersection). too_small: groups of fewer rows than the least size, with their n."""

    axis: tuple[str, ...]
    groups: tuple[GroupRates, ...]
    gaps: tuple[LargestGap, ...]
    too_small: Mapping[str, int]


def fraction(confusion: Confusion, metric: str) -> tuple[int, int] | None:
    """Count and denominator of a metric; None where it needs labels and there are none."""
    c = confusion
    if metric == "selection_rate":
        return c.selected, c.n
    if c.tp is None or c.fp is None or c.fn is None or c.tn is None:
        return None
    return {
        "base_rate": (c.tp + c.fn, c.n),
        "tpr": (c.tp, c.tp + c.fn),
        "fpr": (c.fp, c.fp + c.tn),
        "ppv": (c.tp, c.selected),
        "accuracy": (c.tp + c.tn, c.n),
    }[metric]


def axis_rates(table: DecisionTable, axis: tuple[str, ...], min_group: int) -> AxisRates:
    """Rates, comparisons and largest gaps over one axis."""
    confusions = table.confusions(axis)
    everyone = table.confusion(np.ones(table.n.size, dtype=bool))
    rests = {name: everyone.without(confusion) for name, confusion in confusions.items()}
    known = [metric for metric in METRICS if fraction(next(iter(confusions.values())), metric) is not None]
    against: dict[str, dict[str, AgainstRest]] = {name: {} for name in confusions}
    for metric in known:
        for name, found in _against_rest(confusions, rests, metric, min_group).items():
            against[name][metric] = found
    groups = tuple(
        GroupRates(
            group=name,
            confusion=confusion,
            rates={metric: rate_of(confusion, metric, min_group) for metric in known},
            against_rest=against[name],
        )
        for name, confusion in confusions.items()
    )
    gaps = [gap for metric in known if (gap := largest_gap(confusions, metric, min_group)) is not None]
    too_small = {name: confusion.n for name, confusion in confusions.items() if confusion.n < min_group}
    return AxisRates(axis=axis, groups=groups, gaps=tuple(gaps), too_small=too_small)


def overall_rates(table: DecisionTable, *, before: bool = False) -> dict[str, Rate]:
    """Rates over everybody: what the decision is able to do, to stand beside every gap."""
    everyone = np.ones(table.n.size, dtype=bool)
    confusion = table.confusion(everyone, before=before)
    return {metric: rate_of(confusion, metric, 1) for metric in METRICS if fraction(confusion, metric) is not None}


def rate_of(confusion: Confusion, metric: str, min_group: int) -> Rate:
    """A rate with its 95 % Wilson interval, or without a value where too few cases stand behind it."""
    count, n = fraction(confusion, metric) or (0, 0)
    if n < max(1, min_group):
        return Rate(count=count, n=n)
    found = wilson(count, n, CONFIDENCE)
    return Rate(count=count, n=n, value=found.value, low=found.low, high=found.high)


def large_enough(confusions: Mapping[str, Confusion], metric: str, min_group: int) -> dict[str, tuple[int, int]]:
    """Count and denominator by group, of the groups that can be told."""
    found = {name: fraction(confusion, metric) for name, confusion in confusions.items()}
    return {name: pair for name, pair in found.items() if pair is not None and pair[1] >= min_group}


def largest_gap(confusions: Mapping[str, Confusion], metric: str, min_group: int) -> LargestGap | None:
    """None where fewer than two groups are large enough."""
    known = large_enough(confusions, metric, min_group)
    if len(known) < 2:
        return None
    high = max(known, key=lambda name: known[name][0] / known[name][1])
    low = min((name for name in known if name != high), key=lambda name: known[name][0] / known[name][1])
    found = rate_difference(*known[high], *known[low], CONFIDENCE)
    ratio = rate_ratio(*known[low], *known[high], CONFIDENCE) if known[high][0] else None
    assert found.low is not None
    assert found.high is not None
    return LargestGap(
        metric=metric,
        high_group=high,
        low_group=low,
        value=found.value,
        low=found.low,
        high=found.high,
        ratio=ratio,
        n_groups=len(known),
    )


def _against_rest(
    confusions: Mapping[str, Confusion], rests: Mapping[str, Confusion], metric: str, min_group: int
) -> dict[str, AgainstRest]:
    known = large_enough(confusions, metric, min_group)
    others = large_enough(rests, metric, min_group)
    names = [name for name in known if name in others]
    cells = [(*known[name], *others[name]) for name in names]
    p_values = p_differences_outside(cells)
    adjusted = p_values.tolist() if len(confusions) == 2 else holm(p_values)  # of two groups each is the other's rest: one test
    values, lows, highs = (column.tolist() for column in rate_differences(cells, CONFIDENCE))
    return {
        name: AgainstRest(value=value, low=low, high=high, p_holm=p_holm)
        for name, value, low, high, p_holm in zip(names, values, lows, highs, adjusted, strict=True)
    }
