"""Bias-corrected and accelerated bootstrap of a clustered mean: an interval without a distribution, as a second opinion.

Efron (J. Am. Stat. Assoc. 82(397), 1987) as in SciPy; whole clusters are drawn (Davison & Hinkley 1997, section 3.8), and the acceleration
comes from leaving one cluster out. With few clusters it covers less than it says, as it knows no t distribution; the gates use
`paired.clustered_mean`.
"""

import warnings
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval
from trimtab.stats.paired import cluster_sums

DRAWS = 1999


def bca_interval(
    differences: ArrayLike,
    clusters: Sequence[Hashable],
    weights: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Interval of the weighted mean of `differences` (n,) over `clusters` (n,). Deterministic for a seed.

    Ends are None with fewer than two clusters; a point where nothing varies. Raises InputError as `clustered_mean` does, and for fewer
    than 100 draws.
    """
    if draws < 100:
        raise InputError(f"A bootstrap interval needs at least 100 draws, not {draws}.")
    sums, masses = cluster_sums(differences, clusters, weights)
    n = int(np.size(differences))
    value = float(sums.sum() / masses.sum())
    if sums.size < 2:
        return Interval(value=value, n=n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = bootstrap(
            (sums, masses),
            _ratio,
            paired=True,
            vectorized=True,
            n_resamples=draws,
            confidence_level=confidence,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    if not (np.isfinite(found.low) and np.isfinite(found.high)):  # all clusters alike: SciPy gives no number
        return Interval(value=value, low=value, high=value, n=n)
    return Interval(value=value, low=float(found.low), high=float(found.high), n=n)


def _ratio(sums: NDArray[np.float64], masses: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(sums.sum(axis=axis) / masses.sum(axis=axis))
