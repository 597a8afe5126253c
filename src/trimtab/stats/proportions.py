"""Rates, their differences and ratios, from counts: score intervals that keep their level with few cases and with rates of 0 and 1.

Wilson (J. Am. Stat. Assoc. 22(158), 1927) for one rate; Newcombe's hybrid score intervals for a difference, of independent rates (Stat.
Med. 17(8):873, 1998, method 10) and of paired ones (Stat. Med. 17(22):2635, 1998, method 10); Donner and Zou (Stat. Methods Med. Res.
21(4), 2012) for a ratio. P-values are the same intervals read backwards, so that a test and its interval never disagree.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval

Floats = NDArray[np.float64]

_FURTHEST_Z = 37.0  # beyond it a two-sided normal tail is no double precision number
_HALVINGS = 50


def wilson(count: int, n: int, confidence: float) -> Interval:
    """Wilson's score interval of a rate. Raises InputError for impossible counts."""
    low, high = _wilson(count, n, _z(confidence))
    return Interval(value=count / n, low=low, high=high, n=n)


def rate_difference(count: int, n: int, other_count: int, other_n: int, confidence: float) -> Interval:
    """First rate minus second, of independent cases (Newcombe's method 10). `n` of the result: all cases."""
    low, high = _difference(count, n, other_count, other_n, _z(confidence))
    return Interval(value=count / n - other_count / other_n, low=low, high=high, n=n + other_n)


def paired_difference(both: int, first_only: int, second_only: int, neither: int, confidence: float) -> Interval:
    """First rate minus second, of the same cases (Newcombe's method 10 for paired data)."""
    n = both + first_only + second_only + neither
    low, high = _paired(both, first_only, second_only, neither, _z(confidence))
    return Interval(value=(first_only - second_only) / n, low=low, high=high, n=n)


def rate_ratio(count: int, n: int, other_count: int, other_n: int, confidence: float) -> Interval:
    """First rate over second, of independent cases (Donner and Zou's MOVER on Wilson limits); `high` None = no upper limit.

    Raises InputError where the second count is 0: there is no ratio.
    """
    if other_count == 0:
        raise InputError("A ratio of rates needs a second rate above zero.")
    z = _z(confidence)
    p, q = count / n, other_count / other_n
    (l1, u1), (l2, u2) = _wilson(count, n, z), _wilson(other_count, other_n, z)
    low_root = math.sqrt(max(0.0, (p * q) ** 2 - l1 * u2 * (2 * p - l1) * (2 * q - u2)))
    high_root = math.sqrt(max(0.0, (p * q) ** 2 - u1 * l2 * (2 * p - u1) * (2 * q - l2)))
    low_scale, high_scale = u2 * (2 * q - u2), l2 * (2 * q - l2)
    low = (p * q - low_root) / low_scale if low_scale > 0.0 else l1 / u2
    high = (p * q + high_root) / high_scale if high_scale > 0.0 else None
    return Interval(value=p / q, low=max(0.0, low), high=high, n=n + other_n)


def p_difference_outside(count: int, n: int, other_count: int, other_n: int, margin: float = 0.0) -> float:
    """Two-sided p-value of "the rates differ by at most `margin`": 1 - the confidence at which the interval of the difference just
    touches -margin..margin. Holm over several such p-values finds which groups differ."""
    return p_beyond(lambda z: _difference(count, n, other_count, other_n, z), margin)


def p_beyond(ends: Callable[[float], tuple[float, float]], margin: float) -> float:
    """The same for any interval whose `ends` at a normal quantile z widen as z grows; 1 where even the estimate lies within the margin."""

    def outside(z: float) -> bool:
        low, high = ends(z)
        return low > margin or high < -margin

    if not outside(0.0):
        return 1.0
    near, far = 0.0, 1.0
    while outside(far):
        if far > _FURTHEST_Z:
            return 0.0
        near, far = far, 2.0 * far
    for _ in range(_HALVINGS):
        middle = (near + far) / 2.0
        near, far = (middle, far) if outside(middle) else (near, middle)
    return min(1.0, 2.0 * float(ndtr(-near)))


def rate_differences(cells: ArrayLike, confidence: float) -> tuple[Floats, Floats, Floats]:
    """`rate_difference` of many pairs at once: values, lower and upper ends, each (pairs,).

    cells: (pairs, 4) count, n, other count and other n, with 0 <= count <= n and n >= 1
    """
    sizes = _columns(cells)
    low, high = _differences(sizes, _z(confidence))
    return sizes[0] / sizes[1] - sizes[2] / sizes[3], low, high


def p_differences_outside(cells: ArrayLike, margin: float = 0.0) -> Floats:
    """`p_difference_outside` of many pairs at once, (pairs,). cells: as of `rate_differences`."""
    sizes = _columns(cells)

    def outside(z: "float | Floats", chosen: NDArray[np.intp]) -> NDArray[np.bool_]:
        low, high = _differences([size[chosen] for size in sizes], z)
        return np.asarray((low > margin) | (high < -margin))

    p_values = np.ones(sizes[0].size)
    chosen = np.arange(p_values.size)
    chosen = chosen[outside(0.0, chosen)]
    near, active, reach = np.zeros(p_values.size), chosen, 1.0
    while active.size:
        active = active[outside(reach, active)]
        near[active] = reach
        if reach > _FURTHEST_Z:
            break
        reach *= 2.0
    p_values[active] = 0.0
    between = np.setdiff1d(chosen, active, assume_unique=True)
    low_z, high_z = near[between], np.where(near[between] > 0.0, 2.0 * near[between], 1.0)
    for _ in range(_HALVINGS):
        middle = (low_z + high_z) / 2.0
        is_outside = outside(middle, between)
        low_z, high_z = np.where(is_outside, middle, low_z), np.where(is_outside, high_z, middle)
    p_values[between] = np.minimum(1.0, 2.0 * ndtr(-low_z))
    return p_values


def combined_difference(first: Interval, second: Interval) -> Interval:
    """First value minus second, independent of each other, each with its interval at one confidence (Zou and Donner's MOVER, 2008).

    Raises InputError where an end is not known.
    """
    if first.low is None or first.high is None or second.low is None or second.high is None:
        raise InputError("A difference of two values needs the ends of both intervals.")
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value=value, low=low, high=high, n=first.n + second.n)


def _z(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise InputError(f"A confidence lies between 0 and 1, not {confidence!r}.")
    return float(ndtri((1.0 + confidence) / 2.0))


def _wilson(count: int, n: int, z: float) -> tuple[float, float]:
    if n < 1 or not 0 <= count <= n:
        raise InputError(f"A rate needs 0 <= count <= n and n >= 1, not {count} of {n}.")
    p, z2 = count / n, z * z
    centre, reach = p + z2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low = 0.0 if count == 0 else (centre - reach) / (1 + z2 / n)
    high = 1.0 if count == n else (centre + reach) / (1 + z2 / n)
    return low, high


def _columns(cells: ArrayLike) -> list[Floats]:
    return list(np.asarray(cells, dtype=float).reshape(-1, 4).T)


def _wilsons(counts: Floats, ns: Floats, z: "float | Floats") -> tuple[Floats, Floats]:
    p, z2 = counts / ns, z * z
    centre, reach = p + z2 / (2 * ns), z * np.sqrt(p * (1 - p) / ns + z2 / (4 * ns * ns))
    low = np.where(counts == 0, 0.0, (centre - reach) / (1 + z2 / ns))
    high = np.where(counts == ns, 1.0, (centre + reach) / (1 + z2 / ns))
    return low, high


def _differences(sizes: Sequence[Floats], z: "float | Floats") -> tuple[Floats, Floats]:
    counts, ns, other_counts, other_ns = sizes
    p, q = counts / ns, other_counts / other_ns
    (l1, u1), (l2, u2) = _wilsons(counts, ns, z), _wilsons(other_counts, other_ns, z)
    return p - q - np.hypot(p - l1, u2 - q), p - q + np.hypot(u1 - p, q - l2)


def _difference(count: int, n: int, other_count: int, other_n: int, z: float) -> tuple[float, float]:
    p, q = count / n, other_count / other_n
    (l1, u1), (l2, u2) = _wilson(count, n, z), _wilson(other_count, other_n, z)
    return p - q - math.hypot(p - l1, u2 - q), p - q + math.hypot(u1 - p, q - l2)


def _paired(both: int, first_only: int, second_only: int, neither: int, z: float) -> tuple[float, float]:
    n = both + first_only + second_only + neither
    first, second = both + first_only, both + second_only
    p, q = first / n, second / n
    (l1, u1), (l2, u2) = _wilson(first, n, z), _wilson(second, n, z)
    product = first * (n - first) * second * (n - second)
    lean = float(both * neither - first_only * second_only)
    if lean > 0.0:
        lean = max(lean - n / 2, 0.0)  # the paper's continuity correction
    phi = lean / math.sqrt(product) if product else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return p - q - reach(p - l1, u2 - q), p - q + reach(u1 - p, q - l2)
