"""The Pareto front: what no other point beats in everything. All objectives are minimised here."""

import numpy as np
from numpy.typing import NDArray


def front(objectives: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows that no other row dominates, in the order of the rows. Of equal rows the first one stands for all.

    objectives: (n, k), smaller is better; a row with an infinite number is not on the front, a missing number (NaN) is worse
    than any that is known
    """
    runs = np.flatnonzero(~np.isinf(objectives).any(axis=1))
    values = np.nan_to_num(objectives[runs], nan=np.inf, posinf=np.inf)
    # Sorted by the first column and by the others where it ties, no row is dominated by a later one.
    order = np.lexsort((runs, *values.T[::-1]))
    values, runs = values[order], runs[order]
    kept: list[int] = []
    alive = np.ones(len(values), dtype=bool)
    for row in range(len(values)):
        if alive[row]:
            kept.append(row)
            alive[row + 1 :] &= ~(values[row + 1 :] >= values[row]).all(axis=1)
    return np.sort(runs[kept])
