"""Corrections for searching among several tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p_values: "Sequence[float] | NDArray[np.float64]") -> list[float]:
    """Adjusted p-values in the order given (Holm, Scand. J. Stat. 6(2), 1979).

    Any below alpha are findings with family-wise error at most alpha.
    """
    given = np.asarray(p_values, dtype=float)
    order = np.argsort(given, kind="stable")
    adjusted = np.empty(given.size)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, given[order] * np.arange(given.size, 0, -1)))
    found: list[float] = adjusted.tolist()
    return found


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given (Benjamini & Hochberg, J. R. Stat. Soc. B 57(1), 1995).

    Of those below q, false ones are expected to be at most a share q, for independent or positively dependent tests (Benjamini &
    Yekutieli 2001). For long lists that are looked through, such as languages or tags; what blocks a release is corrected by `holm`.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i], reverse=True)
    adjusted = [0.0] * len(p_values)
    lowest = 1.0
    for passed, i in enumerate(order):
        lowest = min(lowest, p_values[i] * len(p_values) / (len(p_values) - passed))
        adjusted[i] = lowest
    return adjusted
