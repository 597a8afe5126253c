"""Group-sequential boundaries: how much of the chance of error each planned look may use.

Lan & DeMets 1983 (Biometrika 70(3)) with their O'Brien-Fleming-type spending function; boundaries by the recursive numerical integration
of Armitage, McPherson & Rowe 1969 (J. R. Stat. Soc. A 132(2)), as laid out in Jennison & Turnbull 2000, chapter 19.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from trimtab.core.errors import InputError

MAX_LOOKS = 5
_REACH = 9.0  # standard deviations integrated over; the rest holds less than 1e-18
_FARTHEST = 37.0  # standard deviations beyond which a normal tail underflows
_POINTS = 400  # Gauss-Legendre points of each integral


def spent(information_fraction: float, alpha: float) -> float:
    """One-sided alpha spent up to this share of the information: 2 - 2 Phi(z(1 - alpha/2) / sqrt(t))."""
    return float(2.0 * ndtr(-float(ndtri(1.0 - alpha / 2.0)) / np.sqrt(information_fraction)))


def nominal_alphas(information_fractions: Sequence[float], alpha: float) -> list[float]:
    """One-sided p-value thresholds, one a look, that together keep the chance of a false pass at `alpha`.

    information_fractions: cumulative, increasing, the last is 1; 1 to 5 looks.
    They are exact for normal scores with independent increments; using them as levels of t tests is the usual "significance level"
    approximation (Jennison & Turnbull 2000, section 3.8). Raises InputError for other input.
    """
    _check(information_fractions, alpha)
    points: NDArray[np.float64] = np.zeros(1)
    density: NDArray[np.float64] = np.ones(1)  # times the integration weight; all mass at zero before the first look
    before, used, levels = 0.0, 0.0, []
    for fraction in information_fractions:
        step = float(np.sqrt(fraction - before))
        budget = spent(fraction, alpha) - used
        bound = _bound(points, density, step, float(np.sqrt(fraction)), budget)
        levels.append(float(ndtr(-bound / np.sqrt(fraction))))
        points, density = _advance(points, density, step, float(np.sqrt(fraction)), bound)
        before, used = fraction, used + budget
    return levels


def _check(fractions: Sequence[float], alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise InputError(f"alpha must lie between 0 and 1, not {alpha!r}.")
    if not 1 <= len(fractions) <= MAX_LOOKS:
        raise InputError(f"A plan has 1 to {MAX_LOOKS} looks, not {len(fractions)}.")
    rising = all(a < b for a, b in zip((0.0, *fractions), fractions, strict=False))
    if not rising or abs(fractions[-1] - 1.0) > 1e-9:
        raise InputError(f"Looks must be rising shares above 0 that end at 1, not {list(fractions)}.")


def _bound(points: NDArray[np.float64], density: NDArray[np.float64], step: float, scale: float, budget: float) -> float:
    """Score above which exactly `budget` of the mass still in play lands at this look."""

    if budget <= 0.0:
        return float("inf")  # a look so early that its share underflows: nothing may be spent there
    low, high = -_REACH * scale, _FARTHEST * scale
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if float(density @ ndtr((points - middle) / step)) > budget else (low, middle)
    return high


@cache
def _rule() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre nodes and weights on -1..1."""
    return np.polynomial.legendre.leggauss(_POINTS)


def _advance(
    points: NDArray[np.float64], density: NDArray[np.float64], step: float, scale: float, bound: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Density of the score at this look among those that did not cross `bound`, on new integration points."""
    nodes, node_weights = _rule()
    low = -_REACH * scale
    half = (min(bound, _REACH * scale) - low) / 2.0
    new_points = low + half * (nodes + 1.0)
    kernel = np.exp(-0.5 * ((new_points[:, None] - points[None, :]) / step) ** 2) / (step * np.sqrt(2.0 * np.pi))
    return new_points, (kernel @ density) * node_weights * half
