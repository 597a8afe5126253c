"""Gate: what is served must be what was scored.

For tokens drawn from the served distribution, d = served minus re-scored log-probability has mean KL(served || scored), but with a few
hundred tokens that mean is lost in its own spread: for a small change the mean is about half of the variance. The term exp(-d) - 1 has mean
zero under the same sampling and almost cancels the spread, so d + exp(-d) - 1 estimates the same divergence, is never negative and needs
some hundred times fewer tokens (control variate; J. Schulman, "Approximating KL divergence", 2020). The mean of 1 - exp(-d) is then free
to show whether the tokens were drawn from the distribution that the served log-probabilities describe.
"""

import numpy as np
from scipy.special import stdtrit

from trimtab.core.decision import Verdict
from trimtab.core.evidence import ParityProbe
from trimtab.core.policy import GateSpec
from trimtab.decide.judgement import Judgement, Level, count, number
from trimtab.stats.paired import ClusteredMean, clustered_mean
from trimtab.stats.power import detectable_change, power_non_inferiority

MIN_TOKENS = 256


def judge_parity(spec: GateSpec, probe: ParityProbe | None, level: Level) -> Judgement:
    """Pass if the divergence is shown to be below the margin, fail if above it, or if the served log-probabilities are shown to be off by
    more than the margin on average; inconclusive below MIN_TOKENS tokens, below the gate's number of answers, or if an answer failed.

    delta, low, high: estimated KL(served || scored) in nats per token; n: tokens; n_clusters: answers; n_missing: answers that failed.
    """
    if probe is None or not probe.differences:
        return Judgement(
            verdict="inconclusive", reasons=("no parity probe was run",), n=0, n_clusters=0, n_missing=probe.n_failed if probe else 0
        )
    differences = np.asarray(probe.differences, dtype=float)
    if not np.isfinite(differences).all():
        reason = (
            f"{int((~np.isfinite(differences)).sum())} of {count(differences.size, 'token')} have no finite log-probability on both paths"
        )
        return Judgement(
            verdict="fail", reasons=(reason,), n=differences.size, n_clusters=len(set(probe.answers)), n_missing=probe.n_failed
        )
    divergence = divergence_of(probe)
    drift = clustered_mean(-np.expm1(-differences), probe.answers)
    low, high = divergence_bounds(divergence, level.alpha)
    verdict, reasons = _verdict(spec, divergence, drift, level)
    short = too_little(spec, probe, divergence)
    if short:
        verdict, reasons = ("inconclusive" if verdict == "pass" else verdict), [*short, *reasons]
    return Judgement(
        verdict=verdict,
        reasons=tuple(reasons),
        n=divergence.n,
        n_clusters=divergence.n_clusters,
        n_missing=probe.n_failed,
        delta=divergence.estimate,
        low=low,
        high=high,
        power=0.0 if short else power_non_inferiority(margin=spec.margin, se=divergence.se, df=divergence.df, alpha=level.alpha),
        detectable=detectable_change(se=divergence.se, df=divergence.df, alpha=level.alpha, power=level.power),
    )


def divergence_of(probe: ParityProbe) -> ClusteredMean:
    """KL(served || scored) in nats per token, from sampled tokens, clustered by answer."""
    d = np.asarray(probe.differences, dtype=float)
    return clustered_mean(np.expm1(-d) + d, probe.answers)


def divergence_bounds(divergence: ClusteredMean, alpha: float) -> tuple[float, float]:
    """One-sided bounds at `alpha`, each, on the log scale: the estimate is positive and skewed, its spread proportional to its size."""
    if divergence.estimate <= 0.0 or divergence.se == 0.0:
        return divergence.estimate, divergence.estimate
    reach = float(stdtrit(divergence.df, 1.0 - alpha)) * divergence.se / divergence.estimate
    with np.errstate(over="ignore"):
        return float(divergence.estimate * np.exp(-reach)), float(divergence.estimate * np.exp(reach))


def _verdict(spec: GateSpec, divergence: ClusteredMean, drift: ClusteredMean, level: Level) -> tuple[Verdict, list[str]]:
    low, high = divergence_bounds(divergence, level.alpha)
    figures = f"served and scored differ by {divergence.estimate:.3g} {spec.unit} ({level.words} {low:.3g} to {high:.3g})"
    if low > spec.margin:
        return "fail", [f"{figures}, more than {spec.margin:.3g}: what is served is not what was scored"]
    if drift.lower(level.alpha) > spec.margin or drift.upper(level.alpha) < -spec.margin:
        bounds = f"{number(drift.lower(level.alpha))} to {number(drift.upper(level.alpha))}"
        return "fail", [
            f"the served log-probabilities are off by {number(drift.estimate)} on average ({bounds}): tokens were not drawn from them"
        ]
    if high < spec.margin:
        return "pass", [f"{figures}, less than {spec.margin:.3g}"]
    return "inconclusive", [f"{figures}; the limit of {spec.margin:.3g} lies within"]


def too_little(spec: GateSpec, probe: ParityProbe, divergence: ClusteredMean) -> list[str]:
    """Why a probe is no ground for a pass, as clauses."""
    reasons = []
    if divergence.n < MIN_TOKENS:
        reasons.append(f"{count(divergence.n, 'token')}, {MIN_TOKENS} are needed: cannot tell")
    if divergence.n_clusters < spec.min_clusters:
        reasons.append(f"{count(divergence.n_clusters, 'answer')}, {spec.min_clusters} are needed: cannot tell")
    if probe.n_failed:
        reasons.append(f"{count(probe.n_failed, 'served answer')} did not finish")
    return reasons
