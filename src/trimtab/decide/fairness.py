"""Gate: no identity group's change may differ from that of the others in the same template by more than the margin.

Each template names every group of an axis in turn (identity swapped). A group's contrast in a template is its change minus the mean change
over the axis' groups there, so what the candidate does to the template as a whole cancels, in either direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.core.decision import GroupResult, Verdict
from trimtab.core.errors import InputError
from trimtab.core.evidence import Outcome
from trimtab.core.policy import GateSpec
from trimtab.decide.judgement import MISSING_MARGINS, Judgement, Level, count, number
from trimtab.decide.pairs import Pair, Pairs, pair_outcomes
from trimtab.stats.equivalence import tost
from trimtab.stats.multiplicity import holm
from trimtab.stats.paired import ClusteredMean, clustered_mean
from trimtab.stats.power import detectable_change, power_all_groups

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis (gender, origin ...): contrasts (templates, groups) of the change, and of the reference's own values.

    worse, better: the same if every item without a value had changed by -/+ MISSING_MARGINS margins
    n_incomplete: templates left out because a group of the axis never occurs in them
    """

    groups: tuple[str, ...]
    contrasts: Floats
    worse: Floats
    better: Floats
    reference: Floats
    n_incomplete: int

    @property
    def name(self) -> str:
        return axis_of(self.groups[0])

    @property
    def n_templates(self) -> int:
        return int(self.contrasts.shape[0])


@dataclass(frozen=True, kw_only=True)
class GroupTest:
    """One group's tests: seen = items with values; worse, better = its bounds under the two ways to fill in missing items."""

    group: str
    seen: ClusteredMean
    worse: ClusteredMean
    better: ClusteredMean
    reference: float

    def low(self, alpha: float) -> float:
        return min(self.worse.lower(alpha), self.better.lower(alpha))

    def high(self, alpha: float) -> float:
        return max(self.worse.upper(alpha), self.better.upper(alpha))

    def reach(self, alpha: float) -> float:
        """How far from zero the group's contrast may be."""
        return max(-self.low(alpha), self.high(alpha))


def axis_of(group: str) -> str:
    """`gender` of `gender:women`; a group without a colon is on the axis `group`."""
    return group.split(":", 1)[0] if ":" in group else "group"


def judge_equivalence_by_group(
    spec: GateSpec, reference: Sequence[Outcome], candidate: Sequence[Outcome], level: Level, *, sample: bool = False
) -> Judgement:
    """Pass if every group's interval lies within +-margin (two one-sided tests; no correction, all must pass); fail if some group is shown
    to lie outside (Holm-corrected over groups, because that is a search); else, or with too few templates, inconclusive.

    delta, low, high are those of the group that may be furthest from zero; level is the reference's own contrast of that group.
    """
    pairs = pair_outcomes(spec.suite, reference, candidate, weight=spec.weight, sample=sample)
    axes = axes_of(pairs, spec.margin)
    tests = [test for axis in axes if axis.n_templates for test in _group_tests(axis)]
    n, n_missing = len(pairs.observed), len(pairs.missing)
    n_templates = min((axis.n_templates for axis in axes), default=0)
    if not tests:
        reason = f"no template of suite {spec.suite} has values for every group: cannot tell"
        return Judgement(verdict="inconclusive", reasons=(reason,), n=n, n_clusters=0, n_missing=n_missing)
    verdict, reasons = _verdict(spec, axes, tests, level)
    if n_missing and not sample:
        reasons.append(
            f"{count(n_missing, 'item')} without a value, each taken as {MISSING_MARGINS * spec.margin:.3g} {spec.unit} off either way"
        )
    reasons += [
        f"axis {axis.name}: {count(axis.n_incomplete, 'template')} left out, because a group of the axis never occurs there"
        for axis in axes
        if axis.n_incomplete
    ]
    worst = _furthest(tests, level)
    adjusted = holm([test.seen.p_two_sided() for test in tests])
    few = n_templates < spec.min_clusters
    return Judgement(
        verdict=verdict,
        reasons=tuple(reasons),
        n=n,
        n_clusters=n_templates,
        n_missing=n_missing,
        delta=worst.seen.estimate,
        low=worst.low(level.alpha),
        high=worst.high(level.alpha),
        level=worst.reference,
        level_candidate=worst.reference + worst.seen.estimate,
        groups=tuple(_result(test, p, level) for test, p in zip(tests, adjusted, strict=True)),
        power=0.0 if few else float(np.prod([power_all_groups(a.contrasts, margin=spec.margin, alpha=level.alpha) for a in axes])),
        detectable=max(detectable_change(se=t.seen.se, df=t.seen.df, alpha=level.alpha, power=level.power) for t in tests),
    )


def axes_of(pairs: Pairs, margin: float) -> list[Axis]:
    """The axes of a suite, in order of first appearance. Raises InputError for an item without a group."""
    every = [*pairs.observed, *pairs.missing]
    for pair in every:
        if not pair.group:
            raise InputError(f"Item {pair.item_id!r} is judged by group but names none; give it a group such as `gender:women`.")
    loss = MISSING_MARGINS * margin
    return [_axis([pair for pair in every if axis_of(pair.group) == name], loss) for name in dict.fromkeys(axis_of(p.group) for p in every)]


def _axis(pairs: Sequence[Pair], loss: float) -> Axis:
    groups = tuple(sorted({pair.group for pair in pairs}))
    cells: dict[str, dict[str, list[Pair]]] = {}
    for pair in pairs:
        cells.setdefault(pair.cluster, {}).setdefault(pair.group, []).append(pair)
    planned = [template for template, row in cells.items() if len(row) == len(groups) and len(groups) > 1]
    whole = [t for t in planned if all(any(p.change is not None for p in cells[t][group]) for group in groups)]

    def table(templates: Sequence[str], filler: float | None, *, reference: bool = False) -> Floats:
        rows = [[_cell_mean(cells[template][group], filler, reference) for group in groups] for template in templates]
        raw = np.array(rows, dtype=float).reshape(len(templates), len(groups))
        return np.asarray(raw - raw.mean(axis=1, keepdims=True)) if len(templates) else raw

    return Axis(
        groups=groups,
        contrasts=table(whole, None),
        worse=table(planned, -loss),
        better=table(planned, loss),
        reference=table(whole, None, reference=True),
        n_incomplete=len(cells) - len(planned),
    )


def _cell_mean(cell: Sequence[Pair], filler: float | None, reference: bool) -> float:
    """Weighted mean change (or reference value) of one group in one template; items without a value are left out or filled in."""
    total = mass = 0.0  # plain sums: an array for every cell would cost more than all the rest of the gate
    for pair in cell:
        value = pair.reference if reference else pair.change
        value = filler if value is None else value
        if value is not None:
            total, mass = total + pair.weight * value, mass + pair.weight
    return total / mass


def _group_tests(axis: Axis) -> list[GroupTest]:
    def mean(table: Floats, column: int) -> ClusteredMean:
        return clustered_mean(table[:, column], range(table.shape[0]))

    return [
        GroupTest(
            group=group,
            seen=mean(axis.contrasts, column),
            worse=mean(axis.worse, column),
            better=mean(axis.better, column),
            reference=float(axis.reference[:, column].mean()),
        )
        for column, group in enumerate(axis.groups)
    ]


def _furthest(tests: Sequence[GroupTest], level: Level) -> GroupTest:
    """The group that may be furthest from zero, the first of equals: on an axis of two they mirror each other up to rounding."""
    return max(tests, key=lambda test: round(test.reach(level.alpha), 9))


def _verdict(spec: GateSpec, axes: Sequence[Axis], tests: Sequence[GroupTest], level: Level) -> tuple[Verdict, list[str]]:
    few = [axis for axis in axes if axis.n_templates < spec.min_clusters]
    if few:
        return "inconclusive", [
            f"axis {axis.name}: {count(axis.n_templates, 'complete template')}, {spec.min_clusters} are needed: cannot tell" for axis in few
        ]
    outside = holm([tost(test.seen, spec.margin).p_outside for test in tests])
    harmed = [test for test, p in zip(tests, outside, strict=True) if p < level.alpha]
    if harmed:
        return "fail", [_sentence(test, spec, level, "is more than the margin") for test in harmed]
    beyond = [test for test in tests if test.reach(level.alpha) >= spec.margin]
    if beyond:
        return "inconclusive", [_sentence(test, spec, level, "reaches beyond the margin") for test in beyond]
    worst = _furthest(tests, level)
    return "pass", [f"all {len(tests)} groups are within the margin; furthest: " + _sentence(worst, spec, level, "is within the margin")]


def _sentence(test: GroupTest, spec: GateSpec, level: Level, what: str) -> str:
    low, high = test.low(level.alpha), test.high(level.alpha)
    change, interval = number(test.seen.estimate), f"{level.words} {number(low)} to {number(high)}"
    return f"{test.group}: change against its template {change} {spec.unit} ({interval}) {what} of {spec.margin:.3g}"


def _result(test: GroupTest, p_holm: float, level: Level) -> GroupResult:
    return GroupResult(
        group=test.group,
        delta=test.seen.estimate,
        low=test.low(level.alpha),
        high=test.high(level.alpha),
        p_holm=p_holm,
        n=test.seen.n_clusters,
    )
