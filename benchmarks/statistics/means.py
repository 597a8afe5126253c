"""Means of paired differences: coverage, false passes at one look, at planned looks and over three attempts, the bootstrap beside them."""

import numpy as np
from rows import ALPHA, CONFIDENCE, MARGIN, PER_ATTEMPT, Draw, Row, average, coverage, heavy, normal, rare_losses, rate, sample

from trimtab.stats.bootstrap import bca_interval
from trimtab.stats.equivalence import tost
from trimtab.stats.paired import ClusteredMean, clustered_mean
from trimtab.stats.sequential import nominal_alphas

SD = 0.1
"""Of an item's difference, where the margin is 0.05."""
LOOKS = {
    "looks at 0.6, 1 (standard policy)": (0.6, 1.0),
    "looks at 1/2, 3/4, 1": (0.5, 0.75, 1.0),
    "looks at 0.2, 0.4, 0.6, 0.8, 1": (0.2, 0.4, 0.6, 0.8, 1.0),
}
SAVING = 0.7
"""At most this share of the items in clear cases, promised where there are three looks or more."""
CLEAR = {"equal": 0.0, "twice the margin lost": -2 * MARGIN}


def rows(runs: int) -> list[Row]:
    """All figures of this file, each from its own seed."""
    found: list[Row] = []
    for shape in (normal, heavy, rare_losses):
        for n_clusters in (10, 20, 60):
            found += one_look(np.random.default_rng(n_clusters), 2 * runs, n_clusters, shape)
    found.append(attempts(np.random.default_rng(1), runs))
    for words, looks in LOOKS.items():
        found += planned(np.random.default_rng(2), runs, words, looks)
    for n_clusters in (10, 20, 60):
        found.append(bootstrap(np.random.default_rng(3), max(100, runs * 2 // 5), n_clusters))
    return found


def one_look(rng: np.random.Generator, runs: int, n_clusters: int, shape: Draw) -> list[Row]:
    """A candidate as bad as the margin is a zero-mean sample moved there: what is within the margin of zero would have passed."""
    means: list[ClusteredMean] = []
    z_hits = []
    for _ in range(runs):
        values, clusters, weights = sample(rng, n_clusters, shape)
        mean = clustered_mean(values, clusters.tolist(), weights)
        scores = np.bincount(clusters, weights * (values - mean.estimate))
        z_hits.append(abs(mean.estimate) <= 1.96 * float(np.sqrt((scores**2).sum())) / weights.sum())
        means.append(mean)
    what = f"{shape.__name__}, {n_clusters} clusters"
    tails = (1.0 - CONFIDENCE) / 2.0
    bad = shape is rare_losses  # a bad case on purpose: shown, promised only to cover
    return [
        coverage(f"interval covers: {what}", [mean.lower(tails) <= 0.0 <= mean.upper(tails) for mean in means]),
        rate(f"(cluster-robust z covers: {what})", z_hits),
        rate(f"as bad as the margin passes at 0.05: {what}", [mean.lower(ALPHA) > 0.0 for mean in means], most=None if bad else ALPHA),
        rate(
            f"as bad as the margin passes at 0.0167: {what}",
            [mean.lower(PER_ATTEMPT) > 0.0 for mean in means],
            most=None if bad else PER_ATTEMPT,
        ),
        rate(
            f"at the margin called equivalent at 0.05: {what}",
            [tost(_moved(mean, 10.0), 10.0).p_inside < ALPHA for mean in means],
            most=ALPHA,
        ),
    ]


def _moved(mean: ClusteredMean, by: float) -> ClusteredMean:
    return ClusteredMean(estimate=mean.estimate + by, se=mean.se, df=mean.df, n=mean.n, n_clusters=mean.n_clusters, skew=mean.skew)


def attempts(rng: np.random.Generator, runs: int, n_clusters: int = 60) -> Row:
    """Searches in which any of three candidates, each as bad as the margin and half alike, passes at a third of 0.05."""
    passed = []
    for _ in range(runs):
        common, clusters, weights = sample(rng, n_clusters, normal)
        tries = [(common + rng.standard_normal(common.size)) / 2**0.5 for _ in range(3)]
        passed.append(any(clustered_mean(one, clusters.tolist(), weights).lower(PER_ATTEMPT) > 0.0 for one in tries))
    return rate(f"any of 3 attempts, each as bad as the margin, passes at alpha / 3: {n_clusters} clusters", passed, most=ALPHA)


def planned(rng: np.random.Generator, runs: int, words: str, looks: tuple[float, ...], n_clusters: int = 60) -> list[Row]:
    """Alpha spending over looks at growing data against one look at all of it, at the level of one attempt, on the same draws."""
    levels = nominal_alphas(looks, PER_ATTEMPT)
    ends = [round(look * n_clusters) for look in looks]
    changes = {"as bad as the margin": -MARGIN, "half of the margin lost": -MARGIN / 2, **CLEAR}
    verdicts: dict[str, list[str]] = {name: [] for name in changes}
    fixed: dict[str, list[str]] = {name: [] for name in changes}
    shares: dict[str, list[float]] = {name: [] for name in changes}
    for _ in range(runs):
        values, clusters, weights = sample(rng, n_clusters, normal)
        seen = [clusters < end for end in ends]
        means = [clustered_mean(SD * values[part], clusters[part].tolist(), weights[part]) for part in seen]
        for name, change in changes.items():
            look, verdict = _stopped([_moved(mean, change) for mean in means], levels)
            verdicts[name].append(verdict)
            fixed[name].append(_verdict(_moved(means[-1], change), PER_ATTEMPT))
            shares[name].append(float(seen[look].mean()))
    found = [
        rate(f"{words}: as bad as the margin passes", [one == "pass" for one in verdicts["as bad as the margin"]], most=PER_ATTEMPT),
        rate(f"(one look: as bad as the margin passes, same draws as {words})", [one == "pass" for one in fixed["as bad as the margin"]]),
    ]
    for name in ("equal", "half of the margin lost"):
        gap = np.array([a == "pass" for a in verdicts[name]], float) - [b == "pass" for b in fixed[name]]
        found.append(average(f"{words}: passes gained over one look: {name}", gap, least=-0.02))
    found.append(rate(f"{words}: twice the margin lost fails", [one == "fail" for one in verdicts["twice the margin lost"]], least=0.95))
    most = SAVING if len(looks) > 2 else None
    found += [average(f"{words}: share of the items used: {name}", shares[name], most=most) for name in CLEAR]
    return found


def _stopped(means: list[ClusteredMean], levels: list[float]) -> tuple[int, str]:
    for look, (mean, level) in enumerate(zip(means, levels, strict=True)):
        if (verdict := _verdict(mean, level)) != "inconclusive":
            return look, verdict
    return len(means) - 1, "inconclusive"


def _verdict(mean: ClusteredMean, level: float) -> str:
    return "pass" if mean.lower(level) > -MARGIN else "fail" if mean.upper(level) < -MARGIN else "inconclusive"


def bootstrap(rng: np.random.Generator, runs: int, n_clusters: int) -> Row:
    """No gate rests on it: shown so that nobody takes it for better than t with few clusters."""
    hits = []
    for run in range(runs):
        values, clusters, weights = sample(rng, n_clusters, normal)
        found = bca_interval(values, clusters.tolist(), weights, draws=599, seed=run)
        hits.append((found.low or 0.0) <= 0.0 <= (found.high or 0.0))
    return rate(f"(BCa bootstrap covers: normal, {n_clusters} clusters)", hits)
