"""What a gate can show at a given n, before and after the run.

A gate passes when the one-sided lower bound of a mean lies above -margin (non-inferiority), or both bounds lie within +-margin
(equivalence). With t = (estimate - truth) / se, its power is a noncentral t probability (Julious, Stat. Med. 23(12), 2004). For equivalence
both sides' misses are added, which is below the exact power (Owen, Biometrika 52, 1965; Phillips, J. Pharmacokinet. Biopharm. 18, 1990).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtr, ndtr, stdtrit

from trimtab.stats.paired import bound_reach

_NORMAL_FROM = 30.0  # noncentrality beyond which the noncentral t routine loses accuracy and the answer is 0 or 1 anyway


def power_non_inferiority(*, margin: float, se: float, df: float, alpha: float, change: float = 0.0, skew: float = 0.0) -> float:
    """Chance that the lower bound at one-sided `alpha` clears -margin when the true change is `change` (same unit as margin).

    skew: that of the estimate (`ClusteredMean.skew`); a long tail of losses moves the bound out and costs power.
    """
    return _above(bound_reach(df, alpha, max(0.0, -skew)), df, (change + margin) / se) if se > 0.0 else float(change > -margin)


def power_equivalence(*, margin: float, se: float, df: float, alpha: float, change: float = 0.0) -> float:
    """Chance that both bounds at one-sided `alpha` fall within +-margin; a lower bound of it (both sides' misses added)."""
    if se == 0.0:
        return float(abs(change) < margin)
    critical = bound_reach(df, alpha)
    return max(0.0, _above(critical, df, (margin + change) / se) + _above(critical, df, (margin - change) / se) - 1.0)


def detectable_change(*, se: float, df: float, alpha: float, power: float, skew: float = 0.0) -> float:
    """Smallest true loss that is told from zero at one-sided `alpha` with chance `power`: (reach of the bound + t(power)) se.

    Read the other way: the smallest margin at which a candidate exactly as good as the reference passes with chance `power`.
    """
    return (bound_reach(df, alpha, max(0.0, -skew)) + float(stdtrit(df, power))) * se if np.isfinite(se) else float("inf")


def power_all_groups(contrasts: ArrayLike, *, margin: float, alpha: float, draws: int = 4000, seed: int = 0) -> float:
    """Chance that every group of an equal candidate is shown within +-margin, by simulation.

    contrasts (templates, groups): each group's change against its template's mean. Group means are drawn together from a normal
    distribution with mean zero and the observed covariance, spreads are taken as known. Deterministic for a seed.
    """
    sample = np.asarray(contrasts, dtype=float)
    templates = sample.shape[0]
    if templates < 2:
        return 0.0
    covariance = np.atleast_2d(np.cov(sample, rowvar=False)) / templates
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    means = np.random.default_rng(seed).standard_normal((draws, root.shape[1])) @ root.T
    room = margin - bound_reach(templates - 1.0, alpha) * np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    return float((np.abs(means) < room).all(axis=1).mean())


def joint_power(powers: Sequence[float]) -> float:
    """Chance that all gates pass together: the product.

    Assumption: gates read disjoint items, so given the candidate their errors are independent.
    """
    return float(np.prod(np.asarray(powers, dtype=float))) if powers else 0.0


def _above(critical: float, df: float, noncentrality: float) -> float:
    """P(T > critical) for a noncentral t."""
    if not np.isfinite(noncentrality) or abs(noncentrality) > _NORMAL_FROM:
        return float(ndtr(noncentrality - critical))
    return 1.0 - float(nctdtr(df, noncentrality, critical))
