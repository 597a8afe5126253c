"""Is a share at least what was asked? Exact one-sided bounds from a count, and how many more observations would be needed to tell.

The method of MLPerf's load generator (early stopping for percentile latencies, MLPerf Inference rules, appendix): of n independent
requests k lie within the limit; the percentile is shown to be met if the lower bound on the share within is at least the percentile. The
bounds are those of Clopper and Pearson (Biometrika 26(4), 1934), which err with at most the stated chance at any n and any share.
"""

from typing import NamedTuple

from scipy.special import betaincinv

from trimtab.core.errors import InputError

MOST_NEEDED = 10_000_000


class ShareBounds(NamedTuple):
    """Lower and upper bound on a share, 0..1; each is wrong with chance `alpha` at most."""

    low: float
    high: float


def share_bounds(within: int, n: int, alpha: float = 0.05) -> ShareBounds:
    """One-sided Clopper-Pearson bounds on the share of which `within` of `n` were seen; 0 and 1 where nothing was seen.

    Raises InputError for impossible counts or an alpha that is not between 0 and 1.
    """
    if not 0 <= within <= n:
        raise InputError(f"A share needs 0 <= within <= n, not {within} of {n}.")
    if not 0.0 < alpha < 1.0:
        raise InputError(f"The chance of error must lie between 0 and 1, not {alpha!r}.")
    low = 0.0 if within == 0 else float(betaincinv(within, n - within + 1, alpha))
    high = 1.0 if within == n else float(betaincinv(within + 1, n - within, 1.0 - alpha))
    return ShareBounds(low, high)


def more_needed(within: int, n: int, share: float, alpha: float = 0.05) -> int:
    """How many further observations, all of them within, would show that the share is at least `share` (0 < share < 1).

    The least that can be hoped for; 0 = it is shown already. Raises InputError as `share_bounds` does, and for other shares.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"A share to be shown lies between 0 and 1, not {share!r}.")

    def shown(more: int) -> bool:
        return share_bounds(within + more, n + more, alpha).low >= share

    if shown(0):
        return 0
    high = 1
    while not shown(high):
        if high > MOST_NEEDED:
            return high
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high
