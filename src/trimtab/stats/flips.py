"""Answers that changed between two runs on the same items: chance or not, and how far the share of right answers moved.

Test: McNemar's (Psychometrika 12, 1947), exact and mid-p (Fagerland, Lydersen & Laake, BMC Med. Res. Methodol. 13:91, 2013), here for
clusters: if both runs are alike, they may be exchanged in any cluster, so the net change of each keeps its size and takes either sign with
chance one half. The distribution of the sum is computed whole. Clusters of one item give McNemar's test itself.

Interval: Tango's score interval (Stat. Med. 17, 891-908, 1998); with Newcombe's, which is `proportions.paired_difference`, recommended by
Fagerland, Lydersen & Laake (Stat. Med. 33, 2850-2875, 2014). For clusters, its counts are divided by the design effect (Rao & Scott,
Biometrics 48, 577-585, 1992), what clusters add to it times (t / z)^2 (after Korn & Graubard, Survey Methodology 24, 193-201, 1998, who
take the whole times that: with ten clusters and few flips it then covers 99 % instead of 95).
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np
from scipy.special import ndtri, stdtrit

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval
from trimtab.stats.paired import ClusteredMean, clustered_mean

_BISECTIONS = 60


@dataclass(frozen=True, kw_only=True)
class FlipTest:
    """Two-sided p-values of "both runs are alike".

    p_exact: never wrong more often than it says; p_mid: wrong about as often as it says, hence with more power
    """

    lost: int
    gained: int
    p_exact: float
    p_mid: float


@dataclass(frozen=True, kw_only=True)
class RateChange:
    """Change of a share over clustered items, second run minus first.

    change: Tango's interval, its counts divided by the design effect; test: with whole clusters exchanged
    design_effect: how many clustered items are worth one independent item, at least 1
    """

    change: Interval
    test: FlipTest
    design_effect: float
    n_clusters: int


def mcnemar(lost: int, gained: int) -> FlipTest:
    """McNemar's test for independent items: `lost` are right only in the first run, `gained` only in the second."""
    return exchange_test([-1] * lost + [1] * gained)


def exchange_test(net_changes: Sequence[int]) -> FlipTest:
    """Test from each cluster's gained minus lost answers; lost and gained of the result count net answers of clusters."""
    sizes = [abs(net) for net in net_changes if net]
    observed = abs(sum(net_changes))
    most = sum(sizes)
    chances = np.zeros(2 * most + 1)  # of each sum from -most to most
    chances[most] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2.0  # what is rolled round the end has no chance yet
    sums = np.abs(np.arange(-most, most + 1))
    exact = float(min(1.0, chances[sums >= observed].sum()))
    return FlipTest(
        lost=sum(-net for net in net_changes if net < 0),
        gained=sum(net for net in net_changes if net > 0),
        p_exact=exact,
        p_mid=exact - float(chances[sums == observed].sum()) / 2.0,
    )


def tango_change(*, lost: float, gained: float, n: float, confidence: float) -> Interval:
    """Change of a share, (gained - lost) / n, by inverting Tango's score test. Raises InputError for impossible counts."""
    _checked(n - lost - gained, lost, gained, 0.0)
    z = float(ndtri((1.0 + confidence) / 2.0))
    value = (gained - lost) / n
    low, high = (_where_score(target, lost, gained, n) for target in (z, -z))
    return Interval(value=value, low=min(low, value), high=max(high, value), n=round(n))


def clustered_change(before: Sequence[bool], after: Sequence[bool], clusters: Sequence[Hashable], *, confidence: float) -> RateChange:
    """Change of the share of right answers between two runs on the same clustered items. Raises InputError for none, or unequal lengths."""
    if len(before) != len(after):
        raise InputError(f"{len(before)} answers before and {len(after)} after cannot be paired.")
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    net = second.astype(int) - first.astype(int)
    mean = clustered_mean(net, clusters)
    effect = design_effect(mean, net)
    t = float(stdtrit(mean.df, (1.0 + confidence) / 2.0) / ndtri((1.0 + confidence) / 2.0))
    share = 1.0 / (1.0 + (effect - 1.0) * t * t)
    lost, gained = int((net < 0).sum()), int((net > 0).sum())
    interval = tango_change(lost=share * lost, gained=share * gained, n=share * mean.n, confidence=confidence)
    totals: dict[Hashable, int] = {}
    for cluster, change in zip(clusters, net.tolist(), strict=True):
        totals[cluster] = totals.get(cluster, 0) + change
    return RateChange(
        change=Interval(value=interval.value, low=interval.low, high=interval.high, n=mean.n),
        test=exchange_test(list(totals.values())),
        design_effect=effect,
        n_clusters=mean.n_clusters,
    )


def design_effect(mean: ClusteredMean, values: Iterable[float]) -> float:
    """Variance of a clustered mean over that of as many independent values, at least 1; items per cluster where nothing varies."""
    variance = float(np.var(np.fromiter(values, dtype=float), ddof=1)) / mean.n if mean.n > 1 else 0.0
    if variance == 0.0 or not isfinite(mean.se):
        return mean.n / mean.n_clusters
    return max(1.0, mean.se**2 / variance)


def _checked(*counts: float) -> float:
    n = sum(counts)
    if min(counts) < 0.0 or n <= 0.0:
        raise InputError(f"Counts of paired answers must be at least zero and not all zero, not {counts}.")
    return n


def _where_score(target: float, lost: float, gained: float, n: float) -> float:
    """The change at which Tango's score, which falls with it, is `target`."""
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _score(middle, lost, gained, n) > target else (low, middle)
    return (low + high) / 2.0


def _score(change: float, lost: float, gained: float, n: float) -> float:
    """Tango's equation 3.4 for the hypothesis of this change: its share of lost answers is a root of a quadratic."""
    linear = -gained - lost + (2.0 * n - gained + lost) * change
    share = (sqrt(max(0.0, linear**2 + 8.0 * n * lost * change * (1.0 - change))) - linear) / (4.0 * n)
    variance = n * (2.0 * share + change * (1.0 - change))
    gap = gained - lost - n * change
    if variance <= 0.0:
        return 0.0 if gap == 0.0 else inf if gap > 0.0 else -inf
    return gap / sqrt(variance)
