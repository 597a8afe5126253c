"""Gate: the mean paired change must be shown to lie within +-margin, for what may be wrong in either direction.

A lean towards stereotypes is not better for being reversed. Items may name a kind (the bias a stereotype is about): each kind's own change
is reported, and one that is shown outside fails the gate, so that two kinds cannot hide each other.
"""

from collections.abc import Sequence

import numpy as np

from trimtab.core.decision import GroupResult, Verdict
from trimtab.core.evidence import Outcome
from trimtab.core.policy import GateSpec
from trimtab.decide.judgement import MISSING_MARGINS, Judgement, Level, count, number
from trimtab.decide.pairs import Pairs, pair_outcomes
from trimtab.stats.equivalence import tost
from trimtab.stats.multiplicity import holm
from trimtab.stats.paired import ClusteredMean, clustered_mean
from trimtab.stats.power import detectable_change, power_equivalence

LEAST_KIND_CLUSTERS = 2


def judge_equivalence(
    spec: GateSpec, reference: Sequence[Outcome], candidate: Sequence[Outcome], level: Level, *, sample: bool = False
) -> Judgement:
    """Pass if the interval lies within +-margin and no kind is shown outside (Holm over kinds); fail if either is shown outside.

    An item without a value on either side counts as MISSING_MARGINS margins, in the direction that is worse for a pass; a fail must be
    shown by the observed items alone.
    """
    pairs = pair_outcomes(spec.suite, reference, candidate, weight=spec.weight, sample=sample)
    n, n_missing = len(pairs.observed), len(pairs.missing)
    if n == 0:
        return Judgement(
            verdict="inconclusive", reasons=(f"no item of suite {spec.suite} has both values",), n=0, n_clusters=0, n_missing=n_missing
        )
    seen = clustered_mean(pairs.changes, pairs.clusters, pairs.weights)
    filled = [pairs.filled(sign * MISSING_MARGINS * spec.margin) for sign in (-1, 1)] if n_missing and not sample else [seen]
    low = min(mean.lower(level.alpha) for mean in filled)
    high = max(mean.upper(level.alpha) for mean in filled)
    kinds = _kinds(pairs)
    outside = holm([tost(mean, spec.margin).p_outside for mean in kinds.values()]) if kinds else []
    harmed = [name for name, p in zip(kinds, outside, strict=True) if p < level.alpha]
    few = seen.n_clusters < spec.min_clusters
    verdict, reasons = _verdict(spec, seen, low, high, harmed, kinds, level)
    if n_missing and not sample:
        off = f"{MISSING_MARGINS * spec.margin:.3g} {spec.unit}"
        reasons.append(f"{count(n_missing, 'item')} without a value, each taken as {off} off either way")
    if few:
        verdict, reasons = "inconclusive", [f"{count(seen.n_clusters, 'cluster')}, {spec.min_clusters} are needed: cannot tell"]
    before, after = pairs.levels()
    return Judgement(
        verdict=verdict,
        reasons=tuple(reasons),
        n=n,
        n_clusters=seen.n_clusters,
        n_missing=n_missing,
        delta=seen.estimate,
        low=low,
        high=high,
        level=before,
        level_candidate=after,
        groups=_results(kinds, level),
        power=0.0 if few else power_equivalence(margin=spec.margin, se=seen.se, df=seen.df, alpha=level.alpha),
        detectable=detectable_change(se=seen.se, df=seen.df, alpha=level.alpha, power=level.power),
    )


def _kinds(pairs: Pairs) -> dict[str, ClusteredMean]:
    """The mean change of each kind that items name, where it has two clusters or more."""
    found = {}
    for name in sorted({pair.group for pair in pairs.observed if pair.group}):
        own = [pair for pair in pairs.observed if pair.group == name]
        if len({pair.cluster for pair in own}) >= LEAST_KIND_CLUSTERS:
            changes = np.array([pair.change for pair in own], dtype=float)
            found[name] = clustered_mean(changes, [pair.cluster for pair in own], np.array([pair.weight for pair in own]))
    return found


def _results(kinds: dict[str, ClusteredMean], level: Level) -> tuple[GroupResult, ...]:
    adjusted = holm([mean.p_two_sided() for mean in kinds.values()]) if kinds else []
    return tuple(
        GroupResult(group=name, delta=mean.estimate, low=mean.lower(level.alpha), high=mean.upper(level.alpha), p_holm=p, n=mean.n_clusters)
        for (name, mean), p in zip(kinds.items(), adjusted, strict=True)
    )


def _verdict(
    spec: GateSpec, seen: ClusteredMean, low: float, high: float, harmed: Sequence[str], kinds: dict[str, ClusteredMean], level: Level
) -> tuple[Verdict, list[str]]:
    figures = f"change {number(seen.estimate)} {spec.unit} ({level.words} {number(low)} to {number(high)})"
    margin = f"the margin of {spec.margin:.3g} either way"
    if seen.upper(level.alpha) < -spec.margin or seen.lower(level.alpha) > spec.margin:
        return "fail", [f"{figures} is more than {margin}"]
    if harmed:
        return "fail", [f"{name}: change {number(kinds[name].estimate)} {spec.unit} is more than {margin}" for name in harmed]
    if -spec.margin < low and high < spec.margin:
        return "pass", [f"{figures} is within {margin}"]
    return "inconclusive", [f"{figures} reaches beyond {margin}: a change is neither shown nor excluded"]
