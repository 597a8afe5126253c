"""Gate: the mean paired change must be shown to lie above -margin."""

from collections.abc import Sequence

from trimtab.core.decision import Verdict
from trimtab.core.evidence import Outcome
from trimtab.core.policy import GateSpec
from trimtab.decide.judgement import MISSING_MARGINS, Judgement, Level, count, number
from trimtab.decide.pairs import Pairs, pair_outcomes
from trimtab.stats.paired import ClusteredMean, clustered_mean
from trimtab.stats.power import detectable_change, power_non_inferiority


def judge_non_inferiority(
    spec: GateSpec, reference: Sequence[Outcome], candidate: Sequence[Outcome], level: Level, *, sample: bool = False
) -> Judgement:
    """Pass if the lower bound lies above -margin, fail if the upper bound lies below it, else inconclusive.

    An item without a value on either side counts as the worst loss seen or MISSING_MARGINS margins, whichever is worse, for a pass; a fail
    must be shown by the observed items alone, because a crash is no evidence about quality.
    """
    pairs = pair_outcomes(spec.suite, reference, candidate, weight=spec.weight, sample=sample)
    n, n_missing = len(pairs.observed), len(pairs.missing)
    if n == 0:
        return Judgement(
            verdict="inconclusive", reasons=(f"no item of suite {spec.suite} has both values",), n=0, n_clusters=0, n_missing=n_missing
        )
    seen = clustered_mean(pairs.changes, pairs.clusters, pairs.weights)
    worst = _with_losses(pairs, spec.margin) if n_missing and not sample else seen
    verdict, reasons = _verdict(spec, seen, worst, level)
    if n_missing and not sample:
        loss = f"{MISSING_MARGINS * spec.margin:.3g} {spec.unit}"
        reasons.append(f"{count(n_missing, 'item')} without a value, each counted as a loss of at least {loss}")
    few = seen.n_clusters < spec.min_clusters
    if few:
        verdict, reasons = "inconclusive", [f"{count(seen.n_clusters, 'cluster')}, {spec.min_clusters} are needed: cannot tell"]
    before, after = pairs.levels()
    return Judgement(
        verdict=verdict,
        reasons=tuple(reasons),
        n=n,
        n_clusters=seen.n_clusters,
        n_missing=n_missing,
        delta=worst.estimate,
        low=worst.lower(level.alpha),
        high=worst.upper(level.alpha),
        level=before,
        level_candidate=after,
        power=0.0 if few else power_non_inferiority(margin=spec.margin, se=seen.se, df=seen.df, alpha=level.alpha, skew=seen.skew),
        detectable=detectable_change(se=seen.se, df=seen.df, alpha=level.alpha, power=level.power, skew=seen.skew),
    )


def _with_losses(pairs: Pairs, margin: float) -> ClusteredMean:
    """The mean if every item without a value had done badly."""
    loss = min(float(pairs.changes.min()), -MISSING_MARGINS * margin)
    return pairs.filled(loss)


def _verdict(spec: GateSpec, seen: ClusteredMean, worst: ClusteredMean, level: Level) -> tuple[Verdict, list[str]]:
    low, high = worst.lower(level.alpha), worst.upper(level.alpha)
    figures = f"change {number(worst.estimate)} {spec.unit} ({level.words} {number(low)} to {number(high)})"
    if low > -spec.margin:
        return "pass", [f"{figures} is within the margin of {spec.margin:.3g}"]
    if seen.upper(level.alpha) < -spec.margin:
        return "fail", [f"{figures} is a loss of more than the margin of {spec.margin:.3g}"]
    return "inconclusive", [f"{figures} reaches beyond the margin of {spec.margin:.3g}: a loss is neither shown nor excluded"]
