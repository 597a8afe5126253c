"""Gate: free generation through the served path may not break more often than the reference's does.

A secondary check: broken answers (looping, gibberish, empty) are counted on the same prompts in both runs.
"""

from trimtab.core.decision import Verdict
from trimtab.core.errors import InputError
from trimtab.core.evidence import GenerationCheck
from trimtab.core.policy import GateSpec
from trimtab.decide.judgement import Judgement, Level, count, number
from trimtab.stats.rates import paired_rate_change


def judge_generation(spec: GateSpec, reference: GenerationCheck | None, candidate: GenerationCheck | None, level: Level) -> Judgement:
    """Pass if the rise in broken answers is shown to be below the margin, fail if above. Exact at any number of prompts.

    delta = share of sound answers, candidate minus reference (higher is better). Raises InputError if the prompts differ.
    detectable: the smallest margin that this number of prompts could pass, with no answer newly broken.
    """
    if reference is None or candidate is None or not candidate.prompts:
        return Judgement(verdict="inconclusive", reasons=("no answers were generated on both sides",), n=0, n_clusters=0)
    if reference.prompts != candidate.prompts or len(reference.broken) != len(candidate.broken):
        raise InputError("The generation check of candidate and reference used different prompts; run both on the same ones.")
    n = len(candidate.prompts)
    newly = sum(after and not before for before, after in zip(reference.broken, candidate.broken, strict=True))
    mended = sum(before and not after for before, after in zip(reference.broken, candidate.broken, strict=True))
    rise = paired_rate_change(newly, mended, n, level.confidence)
    best = paired_rate_change(0, 0, n, level.confidence).high or 0.0
    low, high = -(rise.high or 0.0), -(rise.low or 0.0)
    counts = f"{newly} newly broken and {mended} mended of {count(n, 'answer')}"
    figures = f"{counts} (sound answers {number((mended - newly) / n)}, {level.words} {low:+.3f} to {high:+.3f})"
    if n < spec.min_clusters:
        return Judgement(verdict="inconclusive", reasons=(f"{count(n, 'answer')}, {spec.min_clusters} are needed",), n=n, n_clusters=n)
    verdict: Verdict
    if low > -spec.margin:
        verdict, reason = "pass", f"{figures}: a rise of more than {spec.margin:.3g} is excluded"
    elif high < -spec.margin:
        verdict, reason = "fail", f"{figures}: a rise of more than {spec.margin:.3g} is shown"
    else:
        verdict, reason = "inconclusive", f"{figures}: {n} answers cannot exclude a rise below {max(best, rise.high or 0.0):.3f}"
    return Judgement(
        verdict=verdict,
        reasons=(reason,),
        n=n,
        n_clusters=n,
        delta=(mended - newly) / n,
        low=low,
        high=high,
        level=1.0 - sum(reference.broken) / n,
        level_candidate=1.0 - sum(candidate.broken) / n,
        power=float(best < spec.margin),
        detectable=best,
    )
