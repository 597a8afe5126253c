"""Do stated probabilities fit what turns out? Brier's score of single answers, and the expected calibration error of many.

Brier, Mon. Weather Rev. 78(1), 1950, in its form for several classes: 0 is best, 2 is worst. Expected calibration error over bins of equal
width: Naeini, Cooper and Hauskrecht, AAAI 2015. Even perfectly calibrated probabilities have an error above zero in a sample, so what
chance alone reaches is simulated beside it (Bröcker and Smith, Weather Forecast. 22(3), 2007).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_BINS = 10
_DRAWS = 1000
_BY_CHANCE = 0.95

Floats = NDArray[np.float64]


def brier_score(probabilities: Sequence[float]) -> float:
    """Of one answer. probabilities: of all options, the right one first."""
    return (1.0 - probabilities[0]) ** 2 + sum(p * p for p in probabilities[1:])


def calibration_error(confidence: ArrayLike, right: ArrayLike) -> float:
    """Mean over ten bins, weighted by cases, of |mean confidence - share right|. confidence (n,): in 0..1; right (n,): true or false."""
    stated, hits = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    return float(_errors(stated, hits[None, :])[0])


def error_by_chance(confidence: ArrayLike, seed: int = 0) -> float:
    """What the calibration error of perfectly calibrated answers with these confidences stays below in 95 % of samples."""
    stated = np.asarray(confidence, dtype=float)
    random = np.random.default_rng(seed)
    rows = max(1, min(_DRAWS, 2_000_000 // stated.size))  # drawn a block at a time: memory does not grow with the number of cases
    blocks = [_errors(stated, random.random((rows, stated.size)) < stated) for _ in range(-(-_DRAWS // rows))]
    return float(np.quantile(np.concatenate(blocks)[:_DRAWS], _BY_CHANCE))


def _errors(stated: Floats, hits: NDArray[np.float64] | NDArray[np.bool_]) -> Floats:
    """Calibration error of each row of hits (draws, n)."""
    place = np.minimum((stated * N_BINS).astype(int), N_BINS - 1)
    members = (place[:, None] == np.arange(N_BINS)).astype(float)
    return np.asarray(np.abs((hits - stated) @ members).sum(axis=1) / stated.size)
