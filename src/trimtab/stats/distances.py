"""How far two distributions are apart where their means may agree: Wasserstein-1 (in the unit of the values) and Kolmogorov-Smirnov.

p-values by permutation of whole clusters (Lehmann & Romano 2005, section 15.2; never zero: Phipson & Smyth, Stat. Appl. Genet. Mol. Biol.
9(1), 2010). SciPy has both distances and, for independent values only, a p-value of the second.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import InputError

Floats = NDArray[np.float64]
DRAWS = 999


@dataclass(frozen=True, kw_only=True)
class Distance:
    """wasserstein: mean distance that values must be moved; ks: largest gap of the distribution functions, 0..1; p_...: of "both alike"."""

    wasserstein: float
    ks: float
    p_wasserstein: float
    p_ks: float
    n_clusters: int


def paired_distance(before: ArrayLike, after: ArrayLike, clusters: Sequence[Hashable], *, draws: int = DRAWS, seed: int = 0) -> Distance:
    """Distance between two runs on the same items (n,): in each draw, the runs of every cluster are exchanged or not, with equal chance.

    Raises InputError for unequal lengths, none, or values that are not finite.
    """
    first, second = _finite(before), _finite(after)
    if first.size != second.size or first.size != len(clusters):
        raise InputError(f"{first.size} values before, {second.size} after and {len(clusters)} clusters do not belong together.")
    index = _index(clusters)
    signs = np.random.default_rng(seed).integers(0, 2, (draws, int(index.max()) + 1)) * 2.0 - 1.0
    shares = np.concatenate([-np.ones(first.size), np.ones(first.size)]) / first.size
    return _tested(np.concatenate([first, second]), shares, signs[:, np.tile(index, 2)] * shares, int(index.max()) + 1)


def sample_distance(
    first: ArrayLike,
    second: ArrayLike,
    first_clusters: Sequence[Hashable],
    second_clusters: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Distance:
    """Distance between two samples of different items: in each draw, whole clusters are dealt to the two anew, as many to each as before.

    Raises InputError for none, values that are not finite, or a cluster that is in both (those are paired).
    """
    one, two = _finite(first), _finite(second)
    if one.size != len(first_clusters) or two.size != len(second_clusters):
        raise InputError(f"{one.size} and {two.size} values need as many clusters, not {len(first_clusters)} and {len(second_clusters)}.")
    if set(first_clusters) & set(second_clusters):
        raise InputError("A cluster has items in both samples; compare them in pairs.")
    index = _index([*first_clusters, *second_clusters])
    n_clusters, n_first = int(index.max()) + 1, len(set(first_clusters))
    rng = np.random.default_rng(seed)
    dealt = rng.permuted(np.tile(np.arange(n_clusters) >= n_first, (draws, 1)), axis=1)[:, index]
    shares = np.concatenate([-np.ones(one.size) / one.size, np.ones(two.size) / two.size])
    return _tested(np.concatenate([one, two]), shares, _shares(dealt), n_clusters)


def _shares(in_second: NDArray[np.bool_]) -> Floats:
    """Weight of each value: minus one over the size of the first sample, or one over that of the second."""
    size = in_second.sum(axis=1, keepdims=True)
    return np.asarray(np.where(in_second, 1.0 / size, -1.0 / (in_second.shape[1] - size)))


def _tested(values: Floats, shares: Floats, drawn: Floats, n_clusters: int) -> Distance:
    order = np.argsort(values, kind="stable")
    steps = np.diff(values[order])
    (wasserstein,), (ks,) = _distances(steps, shares[None, order])
    other_wasserstein, other_ks = _distances(steps, drawn[:, order])
    slack = 1e-12  # sums in another order: equal distances may differ by rounding

    def p(observed: float, others: Floats) -> float:
        return float((1 + (others >= observed * (1.0 - slack) - slack).sum()) / (others.size + 1))

    return Distance(
        wasserstein=float(wasserstein),
        ks=float(ks),
        p_wasserstein=p(float(wasserstein), other_wasserstein),
        p_ks=p(float(ks), other_ks),
        n_clusters=n_clusters,
    )


def _distances(steps: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """Area under, and largest of, the gap between the distribution functions; shares (draws, n) in order of the values."""
    gaps = np.abs(np.cumsum(shares, axis=1)[:, :-1])
    return gaps @ steps, np.where(steps > 0.0, gaps, 0.0).max(axis=1, initial=0.0)


def _index(clusters: Sequence[Hashable]) -> NDArray[np.intp]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.intp)


def _finite(values: ArrayLike) -> Floats:
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise InputError("A distribution needs at least one value, all finite; leave missing items out and count them.")
    return sample
