"""Gate: of things that are so or not (an answer is sound, is JSON), the share may not fall by more than the margin. Exact at any n.

A mean with a t interval cannot be used here: where nothing changed in forty answers it would claim to know that nothing ever does.
"""

from collections.abc import Sequence

from trimtab.core.decision import Verdict
from trimtab.core.evidence import Outcome
from trimtab.core.policy import GateSpec
from trimtab.decide.judgement import Judgement, Level, count, number
from trimtab.decide.pairs import pair_outcomes
from trimtab.stats.rates import paired_rate_change


def judge_rate(
    spec: GateSpec, reference: Sequence[Outcome], candidate: Sequence[Outcome], level: Level, *, sample: bool = False
) -> Judgement:
    """Pass if a fall by more than the margin is excluded, fail if it is shown. Values are 1 (so) or 0; items count once, not by weight.

    For a pass an item without a value on either side counts as lost; a fail must be shown by the observed items alone.
    detectable: the smallest margin that this number of items could pass, with none lost.
    """
    pairs = pair_outcomes(spec.suite, reference, candidate, weight="items", sample=sample)
    n, n_missing = len(pairs.observed), 0 if sample else len(pairs.missing)
    if n == 0:
        return Judgement(
            verdict="inconclusive", reasons=(f"no item of suite {spec.suite} has both values",), n=0, n_clusters=0, n_missing=n_missing
        )
    lost = sum(change < 0 for change in pairs.changes)
    gained = sum(change > 0 for change in pairs.changes)
    seen = paired_rate_change(gained, lost, n, level.confidence)
    worst = paired_rate_change(gained, lost + n_missing, n + n_missing, level.confidence)
    best = -(paired_rate_change(0, 0, n + n_missing, level.confidence).low or 0.0)
    low, high = worst.low or 0.0, worst.high or 0.0
    figures = f"{lost} lost and {gained} gained of {count(n, 'item')} ({number(worst.value)}, {level.words} {low:+.3f} to {high:+.3f})"
    verdict: Verdict = "inconclusive"
    if n < spec.min_clusters:
        reasons = [f"{count(n, 'item')}, {spec.min_clusters} are needed: cannot tell"]
    elif low > -spec.margin:
        verdict, reasons = "pass", [f"{figures}: a fall of more than {spec.margin:.3g} is excluded"]
    elif (seen.high or 0.0) < -spec.margin:
        verdict, reasons = "fail", [f"{figures}: a fall of more than {spec.margin:.3g} is shown"]
    else:
        reasons = [f"{figures}: {count(n, 'item')} cannot exclude a fall of more than {spec.margin:.3g}"]
    if n_missing:
        reasons.append(f"{count(n_missing, 'item')} without a value, each counted as lost")
    before, after = pairs.levels()
    return Judgement(
        verdict=verdict,
        reasons=tuple(reasons),
        n=n,
        n_clusters=n,
        n_missing=n_missing,
        delta=worst.value,
        low=low,
        high=high,
        level=before,
        level_candidate=after,
        power=float(n >= spec.min_clusters and best < spec.margin),
        detectable=best,
    )
