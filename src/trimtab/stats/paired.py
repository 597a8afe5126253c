"""Mean of paired differences whose units of chance are clusters (templates, passages, answers).

Estimator: weighted mean, a ratio estimator over clusters. Standard error: bias-reduced linearisation, CR2 (Bell & McCaffrey 2002;
Pustejovsky & Tipton 2018, J. Bus. Econ. Stat. 36(4)), with Satterthwaite degrees of freedom. Its working model is compound symmetry with
the intra-cluster correlation estimated from the data (Imbens & Kolesar 2016, Rev. Econ. Stat. 98(4)). Why: the usual cluster-robust z
interval covers too little with few or unequal clusters (Cameron & Miller 2015, J. Hum. Resour. 50(2)); for language model evaluations
see arXiv 2411.00640.

Skewness: with rare large losses the sample often holds too few of them, and looks both better and steadier than the truth; a t bound then
lets through two to three times what it says. The bound on the long-tailed side is therefore moved out by the first Edgeworth term
(Johnson 1978, J. Am. Stat. Assoc. 73(363); Hall 1992, J. R. Stat. Soc. B 54(1)); the other side is left at t, never moved in.
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
    skew: third central moment of the estimate over se cubed (a sample's skewness over the root of its size); below 0 = long tail of losses
    """

    estimate: float
    se: float
    df: float
    n: int
    n_clusters: int
    skew: float = 0.0

    def lower(self, alpha: float) -> float:
        """One-sided lower bound: the truth lies below it with chance `alpha`."""
        return self.estimate - self._reach(alpha, max(0.0, -self.skew))

    def upper(self, alpha: float) -> float:
        """One-sided upper bound: the truth lies above it with chance `alpha`."""
        return self.estimate + self._reach(alpha, max(0.0, self.skew))

    def interval(self, confidence: float) -> Interval:
        """Two-sided interval at `confidence` (0..1): both one-sided bounds at (1 - confidence) / 2."""
        alpha = (1.0 - confidence) / 2.0
        return Interval(value=self.estimate, low=self.lower(alpha), high=self.upper(alpha), n=self.n)

    def p_above(self, bound: float) -> float:
        """One-sided p-value of "the mean is at most `bound`"; small = the mean is shown to lie above it."""
        if self.se == 0.0:
            return 0.0 if self.estimate > bound else 1.0
        return self._tail((self.estimate - bound) / self.se, max(0.0, -self.skew))

    def p_below(self, bound: float) -> float:
        """One-sided p-value of "the mean is at least `bound`"; small = the mean is shown to lie below it."""
        if self.se == 0.0:
            return 0.0 if self.estimate < bound else 1.0
        return self._tail((bound - self.estimate) / self.se, max(0.0, self.skew))

    def p_two_sided(self, bound: float = 0.0) -> float:
        """Two-sided p-value of "the mean equals `bound`"."""
        return min(1.0, 2.0 * min(self.p_above(bound), self.p_below(bound)))

    def _reach(self, alpha: float, long_tail: float) -> float:
        return 0.0 if self.se == 0.0 else bound_reach(self.df, alpha, long_tail) * self.se

    def _tail(self, distance: float, long_tail: float) -> float:
        """The alpha whose bound lies `distance` standard errors away: `bound_reach` solved for alpha."""
        if long_tail > 0.0 and distance > 0.0:
            c = long_tail / 6.0
            distance = 0.0 if distance <= c else 2.0 * (distance - c) / (1.0 + float(np.sqrt(1.0 + 8.0 * c * (distance - c))))
        return float(stdtr(self.df, -distance))


def bound_reach(df: float, alpha: float, long_tail: float = 0.0) -> float:
    """Standard errors from an estimate to its one-sided bound at `alpha`, with `long_tail` (at least 0) the skewness towards that side.

    t + long_tail (1 + 2 t^2) / 6; bounds at alpha above one half are not corrected. Raises InputError unless 0 < alpha < 1.
    """
    if not 0.0 < alpha < 1.0:
        raise InputError(f"The chance of error must lie between 0 and 1, not {alpha!r}.")
    t = float(stdtrit(df, 1.0 - alpha))
    return t + long_tail * (1.0 + 2.0 * t**2) / 6.0 if t > 0.0 else t


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
    se = float(np.sqrt(variance))
    third = float((share**3) @ (means - estimate) ** 3)
    skew = third / se**3 if se**3 > 0.0 else 0.0
    return ClusteredMean(estimate=estimate, se=se, df=df, n=values.size, n_clusters=n_kept, skew=skew)


def cluster_sums(differences: ArrayLike, clusters: Sequence[Hashable], weights: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """Weighted sum and weight of each cluster that has any, in order of first appearance; input and errors as of `clustered_mean`."""
    values = np.asarray(differences, dtype=float)
    weight = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    _check(values, clusters, weight)
    index = _index(clusters)
    sums, masses = (np.asarray(np.bincount(index, per_item), dtype=float) for per_item in (weight * values, weight))
    return sums[masses > 0.0], masses[masses > 0.0]


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
