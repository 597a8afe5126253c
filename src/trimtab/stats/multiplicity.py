"""Corrections for searching among several tests."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given (Holm, Scand. J. Stat. 6(2), 1979).

    Any below alpha are findings with family-wise error at most alpha.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return adjusted


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
