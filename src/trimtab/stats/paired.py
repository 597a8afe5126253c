"""Mean of paired differences whose units of chance are clusters (templates, passages, answers).

Estimator: weighted mean, a ratio estimator over clusters. Standard error: bias-reduced linearisation, CR2 (Bell & McCaffrey 2002;
Pustejovsky & Tipton 2018, J. Bus. Econ. Stat. 36(4)), with Satterthwaite degrees of freedom. Its working model is compound symmetry with
the intra-cluster correlation estimated from the data (Imbens & Kolesar 2016, Rev. Econ. Stat. 98(4)). Why: the usual cluster-robust z
interval covers too little with few or unequal clusters (Cameron & Miller 2015, J. Hum. Resour. 50(2)); for language model evaluations
see arXiv 2411.00640.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ClusteredMean:
    """A mean with its cluster-robust standard error, all in the unit of the differences.

    se: infinite with fewer than two clusters: nothing is known of the spread
    df: degrees of freedom of the t distribution that (estimate - truth) / se is held against
    n, n_clusters: observations and independent units
    """

    estimate: float
    se: float
    df: float
    n: int
    n_clusters: int

    def lower(self, alpha: float) -> float:
        """One-sided lower bound: the truth lies below it with chance `alpha`."""
        return self.estimate - self._reach(alpha)

    def upper(self, alpha: float) -> float:
        """One-sided upper bound: the truth lies above it with chance `alpha`."""
        return self.estimate + self._reach(alpha)

    def interval(self, confidence: float) -> Interval:
        """Two-sided interval at `confidence` (0..1): both one-sided bounds at (1 - confidence) / 2."""
        alpha = (1.0 - confidence) / 2.0
        return Interval(value=self.estimate, low=self.lower(alpha), high=self.upper(alpha), n=self.n)

    def p_above(self, bound: float) -> float:
        """One-sided p-value of "the mean is at most `bound`"; small = the mean is shown to lie above it."""
        if self.se == 0.0:
            return 0.0 if self.estimate > bound else 1.0
        return float(stdtr(self.df, -(self.estimate - bound) / self.se))

    def p_below(self, bound: float) -> float:
        """One-sided p-value of "the mean is at least `bound`"; small = the mean is shown to lie below it."""
        if self.se == 0.0:
            return 0.0 if self.estimate < bound else 1.0
        return float(stdtr(self.df, (self.estimate - bound) / self.se))

    def p_two_sided(self, bound: float = 0.0) -> float:
        """Two-sided p-value of "the mean equals `bound`"."""
        return min(1.0, 2.0 * min(self.p_above(bound), self.p_below(bound)))

    def _reach(self, alpha: float) -> float:
        if not 0.0 < alpha < 1.0:
            raise InputError(f"The chance of error must lie between 0 and 1, not {alpha!r}.")
        return 0.0 if self.se == 0.0 else float(stdtrit(self.df, 1.0 - alpha)) * self.se


def clustered_mean(differences: ArrayLike, clusters: Sequence[Hashable], weights: ArrayLike | None = None) -> ClusteredMean:
    """Weighted mean of `differences` (n,) with a standard error that takes `clusters` (n,) as the independent units.

    weights (n,): at least zero, e.g. tokens of each item; None = every observation counts the same.
    Raises InputError for no observations, unequal lengths, a value that is not finite, or weights that sum to nothing.
    """
    values = np.asarray(differences, dtype=float)
    weight = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    _check(values, clusters, weight)
    index = _index(clusters)
    n_clusters = int(index.max()) + 1
    mass = np.bincount(index, weight, n_clusters)
    kept = mass > 0.0
    share = mass[kept] / mass.sum()
    means = np.bincount(index, weight * values, n_clusters)[kept] / mass[kept]
    estimate = float(share @ means)
    n_kept = int(kept.sum())
    if n_kept < 2:
        return ClusteredMean(estimate=estimate, se=float("inf"), df=1.0, n=values.size, n_clusters=n_kept)
    own = np.bincount(index, weight**2, n_clusters)[kept] / mass[kept] ** 2
    correlation = _intra_cluster_correlation(values, index)
    working = correlation + (1.0 - correlation) * own
    variance, df = _bias_reduced(means - estimate, share, working)
    return ClusteredMean(estimate=estimate, se=float(np.sqrt(variance)), df=df, n=values.size, n_clusters=n_kept)


def _check(values: Floats, clusters: Sequence[Hashable], weight: Floats) -> None:
    if values.ndim != 1 or values.size == 0:
        raise InputError("A clustered mean needs at least one difference in one dimension.")
    if len(clusters) != values.size or weight.shape != values.shape:
        raise InputError(f"{values.size} differences need as many clusters and weights, not {len(clusters)} and {weight.size}.")
    if not np.isfinite(values).all() or not np.isfinite(weight).all():
        raise InputError("A difference or weight is not a finite number; leave missing items out and count them.")
    if (weight < 0.0).any() or weight.sum() <= 0.0:
        raise InputError("Weights must be at least zero and not all zero.")


def _index(clusters: Sequence[Hashable]) -> NDArray[np.intp]:
    """Cluster number of each observation, numbered in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.intp)


def _intra_cluster_correlation(values: Floats, index: NDArray[np.intp]) -> float:
    """One-way analysis-of-variance estimate, kept within 0..1; 1 where no cluster has two observations.

    It only shapes the working model, that is the small-sample correction; the standard error stays valid when it is wrong.
    """
    sizes = np.bincount(index).astype(float)
    n, groups = values.size, sizes.size
    if n == groups:
        return 1.0
    means = np.bincount(index, values) / sizes
    within = float(((values - means[index]) ** 2).sum()) / (n - groups)
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (groups - 1)
    typical = (n - float((sizes**2).sum()) / n) / (groups - 1)
    excess = max(0.0, (between - within) / typical)
    return 1.0 if excess + within == 0.0 else excess / (excess + within)


def _bias_reduced(residuals: Floats, share: Floats, working: Floats) -> tuple[float, float]:
    """CR2 variance of the mean and its Satterthwaite degrees of freedom, for cluster means with variances in ratio `working`.

    A residual m_g - sum_h p_h m_h has variance working_g (1 - 2 p_g) + sum_h p_h^2 working_h; dividing by it, times working_g, makes each
    squared residual unbiased. The variance estimate is a quadratic form Q in the cluster means; its degrees of freedom are
    tr(Q V)^2 / tr((Q V)^2) with V the working variances. With equal clusters this is s^2 / G with G - 1.
    """
    pooled = float((share**2) @ working)
    spread = working * (1.0 - 2.0 * share) + pooled
    factor = share**2 * working / spread
    variance = float(factor @ residuals**2)
    weighted = share * working
    form = np.diag(working) - weighted[:, None] - weighted[None, :] + pooled
    root = np.sqrt(factor)
    kernel = root[:, None] * form * root[None, :]
    df = float(np.trace(kernel)) ** 2 / float((kernel**2).sum())
    return variance, min(df, share.size - 1.0)
