"""Gates on gaps between groups: pass, fail or cannot tell, by the intervals of every pair.

With m the largest gap allowed: pass if every pair's two one-sided bounds lie within +-m (no correction, all must); fail if some pair is
shown to lie outside (Holm over all pairs and axes of the gate: a search); else, or where a group is too small, inconclusive.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from trimtab.core.decision import Verdict
from trimtab.core.measurement import Interval
from trimtab.decide.calibration import GroupCalibration, told
from trimtab.decide.counterfactual import CounterfactualGap, bounds
from trimtab.decide.decision_table import DecisionTable, Flags
from trimtab.decide.fairness_policy import FairnessPolicy, GapSpec
from trimtab.decide.group_rates import WORDS, fraction
from trimtab.stats.equivalence import tost
from trimtab.stats.multiplicity import holm
from trimtab.stats.proportions import combined_difference, p_beyond, p_differences_outside, paired_difference, rate_differences

Floats = NDArray[np.float64]
Names = tuple[str, str, str, str]
"""Axis, one group, the other, and in what they differ."""
Columns = tuple[Sequence[Names], Floats, Floats, Floats, Floats]
"""Names, value, low, high, p_outside of some pairs."""
Calibrations = Mapping[tuple[str, ...], Sequence[GroupCalibration]]
MOST_SMALL_NAMED = 6


@dataclass(frozen=True, kw_only=True)
class PairGap:
    """Two groups, or a group and all others: the difference with its bounds at the policy's level, and the p-value of being outside."""

    axis: str
    one: str
    other: str
    metric: str
    value: float
    low: float
    high: float
    p_outside: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All pairs of a gate as columns (pairs,), because a few hundred groups are a hundred thousand pairs; and the groups that are too
    small, by `axis: group` with the cases they have."""

    names: Sequence[Names]
    value: Floats
    low: Floats
    high: Floats
    p_outside: Floats
    too_small: Mapping[str, int]

    @property
    def reach(self) -> Floats:
        """How far apart each pair may be."""
        return np.maximum(-self.low, self.high)

    def pair(self, place: int) -> PairGap:
        axis, one, other, metric = self.names[place]
        value, low, high, p_outside = (float(column[place]) for column in (self.value, self.low, self.high, self.p_outside))
        return PairGap(axis=axis, one=one, other=other, metric=metric, value=value, low=low, high=high, p_outside=p_outside)


def _evidence(parts: Sequence[Columns], too_small: Mapping[str, int]) -> Evidence:
    """Columns one under the other."""
    value, low, high, p_outside = (np.concatenate([np.empty(0), *(part[place] for part in parts)]) for place in range(1, 5))
    names = [name for part in parts for name in part[0]]
    return Evidence(names=names, value=value, low=low, high=high, p_outside=p_outside, too_small=too_small)


def _columns(pair: PairGap) -> Columns:
    value, low, high, p_outside = (np.array([number]) for number in (pair.value, pair.low, pair.high, pair.p_outside))
    return [(pair.axis, pair.one, pair.other, pair.metric)], value, low, high, p_outside


@dataclass(frozen=True, kw_only=True)
class GapResult:
    """One gate's answer. worst: the pair that may be furthest apart, None = nothing could be compared; n_pairs: pairs looked at."""

    metric: str
    max_gap: float
    reason: str
    required: bool
    verdict: Verdict
    reasons: tuple[str, ...]
    confidence: float
    worst: PairGap | None
    n_pairs: int
    too_small: Mapping[str, int]


def judge_gap(spec: GapSpec, evidence: Evidence, policy: FairnessPolicy, *, required: bool) -> GapResult:
    """The answer of one gate."""
    m, reasons, reach = spec.max_gap, [], evidence.reach
    worst = evidence.pair(int(reach.argmax())) if reach.size else None
    outside = np.flatnonzero(np.array(holm(evidence.p_outside)) < policy.alpha)
    blocked = bool(evidence.too_small) and policy.small_groups == "cannot tell"
    verdict: Verdict
    if outside.size:
        verdict = "fail"
        furthest = outside[np.argsort(-np.abs(evidence.value[outside]), kind="stable")]
        reasons += [_sentence(evidence.pair(int(place)), m, "is more than the", policy.alpha) for place in furthest[:3]]
        if outside.size > 3:
            reasons.append(f"{outside.size - 3} more pairs of groups differ by more than {m:.3g}")
    elif worst is None:
        verdict = "inconclusive"
        reasons.append("no two groups are large enough to be compared: cannot tell")
    elif reach.max() >= m:
        verdict = "inconclusive"
        reasons.append(_sentence(worst, m, "reaches beyond the", policy.alpha))
    else:
        verdict = "inconclusive" if blocked else "pass"
        reasons.append("of the groups that are large enough, " * blocked + _sentence(worst, m, "is within the", policy.alpha))
    if evidence.too_small:
        named = [f"{name} (n = {n})" for name, n in list(evidence.too_small.items())[:MOST_SMALL_NAMED]]
        more = len(evidence.too_small) - len(named)
        reasons.append(f"cannot tell for {', '.join(named)}" + (f" and {more} more" if more else ""))
    return GapResult(
        metric=spec.metric,
        max_gap=m,
        reason=spec.reason,
        required=required,
        verdict=verdict,
        reasons=tuple(reasons),
        confidence=1.0 - 2.0 * policy.alpha,
        worst=worst,
        n_pairs=len(evidence.names),
        too_small=evidence.too_small,
    )


def joint_verdict(gates: Sequence[GapResult]) -> Verdict:
    """Fail if a required gate fails, inconclusive if one is or none is required, else pass."""
    verdicts = [gate.verdict for gate in gates if gate.required]
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts and all(verdict == "pass" for verdict in verdicts) else "inconclusive"


def rate_evidence(table: DecisionTable, spec: GapSpec, policy: FairnessPolicy) -> Evidence:
    """Every two groups of every axis in one metric; `equalised_odds` in two."""
    parts: list[Columns] = []
    too_small: dict[str, int] = {}
    for axis in table.axes:
        name = " x ".join(axis)
        confusions = table.confusions(axis)
        for single in parts_of(spec.metric):
            cases = {group: fraction(confusion, single) or (0, 0) for group, confusion in confusions.items()}
            too_small |= _small(name, single, {group: n for group, (_, n) in cases.items()}, policy.min_group)
            known = [group for group, (_, n) in cases.items() if n >= policy.min_group]
            one, other, names = _every_two(name, known, WORDS[single])
            counts = np.array([cases[group] for group in known], dtype=float).reshape(-1, 2)
            cells = np.hstack([counts[one], counts[other]])
            ends = rate_differences(cells, 1.0 - 2.0 * policy.alpha)
            parts.append((names, *ends, p_differences_outside(cells, spec.max_gap)))
    return _evidence(parts, too_small)


def _every_two(axis: str, groups: Sequence[str], metric: str) -> tuple[NDArray[np.intp], NDArray[np.intp], list[Names]]:
    """Places of the first and of the second of every two groups, and what the pair is called."""
    one, other = np.triu_indices(len(groups), 1)
    named = [(axis, groups[first], groups[second], metric) for first, second in zip(one.tolist(), other.tolist(), strict=True)]
    return one, other, named


def parts_of(metric: str) -> tuple[str, ...]:
    """The rates behind a metric: equalised odds are two."""
    single = metric.removesuffix("_change")
    return ("tpr", "fpr") if single == "equalised_odds" else (single,)


def calibration_evidence(calibrations: Calibrations, spec: GapSpec, policy: FairnessPolicy) -> Evidence:
    """Every two groups of every axis: how much higher the score is than the outcomes, in one against the other."""
    parts: list[Columns] = []
    too_small: dict[str, int] = {}
    z = float(ndtri(1.0 - policy.alpha))
    for axis, rows in calibrations.items():
        name = " x ".join(axis)
        known = told(rows)
        too_small |= {f"{name}: {row.group}": row.n for row in rows if row.group not in known}
        one, other, names = _every_two(name, list(known), "score above outcome")
        excess, se = (np.array([getattr(row, name) for row in known.values()], dtype=float) for name in ("excess", "se"))
        value, spread = excess[one] - excess[other], np.hypot(se[one], se[other])
        beyond = np.abs(value) - spec.max_gap
        with np.errstate(divide="ignore", invalid="ignore"):  # scores that fit every case have no spread
            p_outside = np.where(beyond > 0.0, 2.0 * ndtr(-beyond / spread), 1.0)
        parts.append((names, value, value - z * spread, value + z * spread, p_outside))
    return _evidence(parts, too_small)


def counterfactual_evidence(gaps: Sequence[CounterfactualGap], spec: GapSpec, policy: FairnessPolicy) -> Evidence:
    """Each group against the others of the same cases."""
    parts: list[Columns] = []
    too_small: dict[str, int] = {}
    sides = Counter((gap.axis, gap.outcome) for gap in gaps)
    seen: set[tuple[str, str]] = set()
    for gap in gaps:
        side = (gap.axis, gap.outcome)
        if sides[side] == 2 and side in seen:
            continue  # of two groups each is the other's contrast: one test
        seen.add(side)
        if gap.n_clusters < policy.min_pairs:
            too_small[f"{gap.axis}: {gap.group}"] = gap.n_clusters
            continue
        low, high = bounds(gap.mean, policy.alpha, gap.is_bounded)
        p = tost(gap.mean, spec.max_gap).p_outside
        parts.append(
            _columns(
                PairGap(
                    axis=gap.axis,
                    one=gap.group,
                    other="the same cases with another identity",
                    metric=f"counterfactual {gap.outcome}",
                    value=gap.value,
                    low=low,
                    high=high,
                    p_outside=p,
                )
            )
        )
    return _evidence(parts, too_small)


def change_evidence(table: DecisionTable, spec: GapSpec, policy: FairnessPolicy) -> Evidence:
    """Each group's change between the two decisions about the same rows, minus that of all others of its axis."""
    parts: list[Columns] = []
    too_small: dict[str, int] = {}
    for axis in table.axes:
        name = " x ".join(axis)
        groups = list(table.split(axis))
        for single in parts_of(spec.metric):
            for group, lines in groups[:1] if len(groups) == 2 else groups:  # of two groups each is the other's rest: one test
                sizes = [_cells(table, chosen, single) for chosen in (lines, ~lines)]
                n = min(sum(cells) for cells in sizes)
                if n < policy.min_group:
                    too_small |= _small(name, single, {group: n}, policy.min_group)
                    continue
                parts.append(_columns(_change_pair(name, group, single, sizes, spec, policy)))
    return _evidence(parts, too_small)


def _cells(table: DecisionTable, lines: Flags, metric: str) -> tuple[int, int, int, int]:
    """Cases of a rate's denominator by (now and before, now only, before only, neither)."""
    assert table.before is not None
    if metric != "selection_rate":
        assert table.actual is not None
        lines = lines & (table.actual if metric == "tpr" else ~table.actual)
    n, now, before = table.n[lines], table.selected[lines], table.before[lines]
    return int(n[now & before].sum()), int(n[now & ~before].sum()), int(n[~now & before].sum()), int(n[~now & ~before].sum())


def _change_pair(
    axis: str, group: str, metric: str, sizes: Sequence[tuple[int, int, int, int]], spec: GapSpec, policy: FairnessPolicy
) -> PairGap:
    def between(confidence: float) -> Interval:
        return combined_difference(paired_difference(*sizes[0], confidence), paired_difference(*sizes[1], confidence))

    def ends(z: float) -> tuple[float, float]:
        return _ends(between(min(1.0 - 1e-15, max(1e-12, 2.0 * float(ndtr(z)) - 1.0))))

    found = between(1.0 - 2.0 * policy.alpha)
    low, high = _ends(found)
    return PairGap(
        axis=axis,
        one=group,
        other="all others",
        metric=f"change of {WORDS[metric]}",
        value=found.value,
        low=low,
        high=high,
        p_outside=p_beyond(ends, spec.max_gap),
    )


def _ends(found: Interval) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def _small(axis: str, metric: str, sizes: Mapping[str, int], least: int) -> dict[str, int]:
    what = "" if metric == "selection_rate" else f", {WORDS[metric]}"
    return {f"{axis}: {group}{what}": n for group, n in sizes.items() if n < least}


def _sentence(pair: PairGap, max_gap: float, what: str, alpha: float) -> str:
    interval = f"{100 * (1 - 2 * alpha):.4g} % interval {pair.low:+.3f} to {pair.high:+.3f}"
    return f"{pair.axis}: {pair.one} against {pair.other}, {pair.metric} {pair.value:+.3f} ({interval}) {what} gap of {max_gap:.3g}"
