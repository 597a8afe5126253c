"""Rates from counts, with exact intervals: Clopper and Pearson (Biometrika 26(4), 1934)."""

from scipy.special import betaincinv

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval


def exact_rate(count: int, n: int, confidence: float) -> Interval:
    """Clopper-Pearson interval of a rate: covers at least `confidence` at any n. Raises InputError for impossible counts."""
    if n < 1 or not 0 <= count <= n:
        raise InputError(f"A rate needs 0 <= count <= n and n >= 1, not {count} of {n}.")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(betaincinv(count, n - count + 1, tail))
    high = 1.0 if count == n else float(betaincinv(count + 1, n - count, 1.0 - tail))
    return Interval(value=count / n, low=low, high=high, n=n)


def paired_rate_change(gained: int, lost: int, n: int, confidence: float) -> Interval:
    """Change of a rate between two runs on the same n cases, (gained - lost) / n, with a guaranteed interval.

    gained: cases true only in the second run; lost: true only in the first. Each rate gets an exact interval at half the error
    (Bonferroni), so the difference of their ends covers at least `confidence`; it is wider than needed, and honest at n = 16.
    """
    if gained + lost > n:
        raise InputError(f"{gained} gained and {lost} lost cases do not fit into {n}.")
    half = 1.0 - (1.0 - confidence) / 2.0
    up, down = exact_rate(gained, n, half), exact_rate(lost, n, half)
    low, high = (up.low or 0.0) - (down.high or 0.0), (up.high or 0.0) - (down.low or 0.0)
    return Interval(value=(gained - lost) / n, low=low, high=high, n=n)
