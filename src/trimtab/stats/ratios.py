"""Timings: distributions, and ratios over rounds in which baseline and candidate took turns.

Ratios are averaged by their geometric mean (Fleming and Wallace, Commun. ACM 29(3), 1986), whose answer does not depend on which
side is the denominator. Its interval is the paired t interval (Student, Biometrika 6(1), 1908) of the logarithms.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from trimtab.core.errors import InputError
from trimtab.core.measurement import Percentiles, Ratio

MIN_FOR_P95 = 20
MIN_FOR_P99 = 100


def log_ratio_interval(baseline_rounds: Sequence[float], candidate_rounds: Sequence[float], confidence: float = 0.95) -> Ratio:
    """How many times the candidate is better: geometric mean over rounds of baseline / candidate, with a t interval on the logs.

    Rounds are paired by position; smaller is better (milliseconds). For rates (tokens per second) pass the candidate first.
    One round gives low = 0 and high = infinity. Raises InputError for unequal lengths or values not above zero.
    """
    first, second = np.asarray(baseline_rounds, dtype=float), np.asarray(candidate_rounds, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise InputError(f"Ratios need as many baseline as candidate rounds, at least one, not {first.size} and {second.size}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all() and (first > 0).all() and (second > 0).all()):
        raise InputError("Every timed round must be a number above zero; leave failed rounds out and count them.")
    logs = np.log(first) - np.log(second)
    n = logs.size
    mean = float(logs.mean())
    if n == 1:
        return Ratio(ratio=float(np.exp(mean)), low=0.0, high=float("inf"), n_rounds=1)
    reach = float(stdtrit(n - 1, (1.0 + confidence) / 2.0)) * float(logs.std(ddof=1)) / float(np.sqrt(n))
    return Ratio(ratio=float(np.exp(mean)), low=float(np.exp(mean - reach)), high=float(np.exp(mean + reach)), n_rounds=n)


def percentiles(values: ArrayLike, unit: str) -> Percentiles:
    """Distribution of observed values in `unit`; p95 is None below 20 values and p99 below 100. Raises InputError for none."""
    sample = _finite(values)
    p50, p95, p99 = (float(value) for value in np.quantile(sample, (0.50, 0.95, 0.99)))
    return Percentiles(
        unit=unit,
        n=sample.size,
        mean=float(sample.mean()),
        p50=p50,
        p95=p95 if sample.size >= MIN_FOR_P95 else None,
        p99=p99 if sample.size >= MIN_FOR_P99 else None,
        min=float(sample.min()),
        max=float(sample.max()),
    )


def _finite(values: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    sample = np.asarray(values, dtype=float).ravel()
    if sample.size == 0 or not np.isfinite(sample).all():
        raise InputError("A distribution needs at least one value, all finite; leave failed requests out and count them.")
    return sample
