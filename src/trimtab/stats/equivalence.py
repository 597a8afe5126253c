"""Is a mean within a margin, outside it, or can we not tell?

Two one-sided tests (Schuirmann, J. Pharmacokinet. Biopharm. 15(6), 1987), on the cluster-robust t of `paired`.
"""

from dataclasses import dataclass

from trimtab.stats.paired import ClusteredMean


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """p_inside: "the mean lies at or outside +-margin" (two one-sided tests); p_outside: "it lies within"."""

    p_inside: float
    p_outside: float


def tost(mean: ClusteredMean, margin: float) -> Equivalence:
    """Two one-sided tests of a mean against +-margin, and the test of the opposite claim.

    p_outside doubles the better of the two sides, because either side would count.
    """
    inside = max(mean.p_above(-margin), mean.p_below(margin))
    outside = min(1.0, 2.0 * min(mean.p_below(-margin), mean.p_above(margin)))
    return Equivalence(p_inside=inside, p_outside=outside)
