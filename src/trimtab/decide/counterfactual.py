"""The same case with another identity: what a decision or score changes when nothing else does.

Rows that share a pair's name are one case. A group's contrast in a case is its mean outcome minus that of the other groups there, so what
the case is worth cancels. The unit of chance is the cluster: cases that share a template; by default each case is its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.stats.multiplicity import holm
from trimtab.stats.paired import ClusteredMean, clustered_mean

MOST_CLUSTERS = 1000
"""CR2 works with a matrix of clusters by clusters. With more, whole clusters are put together at random, which keeps it valid."""

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PairedRows:
    """Rows of cases, arrays (rows,): code of the case, of its cluster, and of the group on each axis; outcome: decision 0/1 or score."""

    case: Codes
    cluster: Codes
    groups: Mapping[str, Codes]
    values: Mapping[str, tuple[str, ...]]
    outcomes: Mapping[str, Floats]


@dataclass(frozen=True, kw_only=True)
class CounterfactualGap:
    """One group of one axis: mean contrast over cases, 95 % interval, p_holm over all groups; n cases in n_clusters.

    mean: kept for the gate; is_bounded: outcomes lie in 0..1
    """

    axis: str
    group: str
    outcome: str
    value: float
    low: float
    high: float
    p_holm: float
    n: int
    n_clusters: int
    mean: ClusteredMean
    is_bounded: bool


def counterfactual_gaps(rows: PairedRows, outcome: str) -> list[CounterfactualGap]:
    """The gaps of every axis and group that stands beside another group in at least one case."""
    y = rows.outcomes[outcome]
    is_bounded = bool(((y >= 0) & (y <= 1)).all())
    found: list[tuple[str, str, ClusteredMean]] = []
    for axis, codes in rows.groups.items():
        names = rows.values[axis]
        for code in range(len(names)):
            contrasts, clusters = _contrasts(rows, codes, code, y)
            if contrasts.size:
                found.append((axis, names[code], clustered_mean(contrasts, clusters.tolist())))
    p_values = [mean.p_two_sided() if np.isfinite(mean.se) else 1.0 for _, _, mean in found]
    mirrored = [k for k in range(1, len(found)) if len(rows.values[found[k][0]]) == 2 and found[k - 1][0] == found[k][0]]
    kept = iter(holm([p for k, p in enumerate(p_values) if k not in mirrored]))  # of two groups each is the other's contrast: one test
    adjusted: list[float] = []
    for k in range(len(found)):
        adjusted.append(adjusted[-1] if k in mirrored else next(kept))
    result = []
    for (axis, group, mean), p in zip(found, adjusted, strict=True):
        low, high = bounds(mean, 0.025, is_bounded)
        result.append(
            CounterfactualGap(
                axis=axis,
                group=group,
                outcome=outcome,
                value=mean.estimate,
                low=low,
                high=high,
                p_holm=p,
                n=mean.n,
                n_clusters=mean.n_clusters,
                mean=mean,
                is_bounded=is_bounded,
            )
        )
    return result


def bounds(mean: ClusteredMean, alpha: float, is_bounded: bool) -> tuple[float, float]:
    """One-sided bounds at alpha. Where no case differs from another, what may have stayed unseen counts: a share of at most
    1 - alpha^(1/clusters) of them, each worth at most 1."""
    low, high = mean.lower(alpha), mean.upper(alpha)
    if is_bounded:
        unseen = 1.0 - alpha ** (1.0 / mean.n_clusters) if mean.se == 0.0 else 0.0
        low, high = max(-1.0, low - unseen), min(1.0, high + unseen)
    return low, high


def _contrasts(rows: PairedRows, codes: Codes, code: int, y: Floats) -> tuple[Floats, Codes]:
    """Contrast of one group in each case that holds it and another one (cases,), and the cluster of each."""
    own = codes == code
    n_cases = int(rows.case.max()) + 1
    n_own, n_other = np.bincount(rows.case[own], minlength=n_cases), np.bincount(rows.case[~own], minlength=n_cases)
    usable = (n_own > 0) & (n_other > 0)
    sum_own = np.bincount(rows.case[own], y[own], n_cases)
    sum_other = np.bincount(rows.case[~own], y[~own], n_cases)
    cluster = np.zeros(n_cases, dtype=np.int64)
    cluster[rows.case] = rows.cluster
    contrasts = sum_own[usable] / n_own[usable] - sum_other[usable] / n_other[usable]
    return contrasts, _few(cluster[usable])


def _few(clusters: Codes) -> Codes:
    """At most MOST_CLUSTERS of them; which go together depends on their order alone."""
    distinct, index = np.unique(clusters, return_inverse=True)
    if distinct.size <= MOST_CLUSTERS:
        return np.asarray(index, dtype=np.int64)
    together = np.random.default_rng(0).permutation(distinct.size) % MOST_CLUSTERS
    return np.asarray(together[index], dtype=np.int64)
