"""Does a quantity grow with time?

The t interval of a least-squares slope: Draper and Smith, Applied Regression Analysis (3rd edition, 1998), chapter 1.
"""

from collections.abc import Sequence
from math import inf, sqrt

from scipy.special import stdtrit

from trimtab.core.measurement import Interval


def slope_interval(points: Sequence[tuple[float, float]], confidence: float) -> Interval:
    """Least-squares slope of y over x with its two-sided t interval (independent errors); ends at infinity where nothing is known.

    points: (x, y). Fewer than three, or all at one x, give 0 with infinite ends.
    """
    n = len(points)
    mean_x, mean_y = (sum(point[axis] for point in points) / max(1, n) for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if n < 3 or spread == 0.0:
        return Interval(value=0.0, low=-inf, high=inf, n=n)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    residual = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    reach = float(stdtrit(n - 2, (1 + confidence) / 2)) * sqrt(residual / (n - 2) / spread)
    return Interval(value=slope, low=slope - reach, high=slope + reach, n=n)
