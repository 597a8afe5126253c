"""The Pareto front: what no other point beats in everything. All objectives are minimised here."""

import numpy as np
from numpy.typing import NDArray


def front(objectives: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows that no other row dominates, in the order of the rows. Of equal rows the first one stands for all.

    objectives: (n, k), smaller is better; rows with an infinite or missing number are never on the front, but a column that is
    missing in all rows is left out
    """
    known = objectives[:, ~np.isnan(objectives).all(axis=0)] if len(objectives) else objectives
    finite = np.flatnonzero(np.isfinite(known).all(axis=1))
    if len(finite) == 0 or known.shape[1] == 0:
        return np.zeros(0, dtype=np.intp)
    values = known[finite]
    # Sorted by the first column and by the others where it ties, no row is dominated by a later one.
    order = np.lexsort((finite, *values.T[::-1]))
    values, finite = values[order], finite[order]
    kept: list[int] = []
    alive = np.ones(len(values), dtype=bool)
    for row in range(len(values)):
        if alive[row]:
            kept.append(row)
            alive[row + 1 :] &= ~(values[row + 1 :] >= values[row]).all(axis=1)
    return np.sort(finite[kept])
