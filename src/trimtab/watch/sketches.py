"""Quantiles and frequent labels of unbounded streams in bounded memory, to be kept in files: datasketches' KLL and frequent items."""

import base64
from collections.abc import Sequence
from typing import Any

KLL_K = 200
LG_LABELS = 8
"""2**8 places, of which three quarters are used: labels beyond are counted with a stated error."""


class Quantiles:
    """Quantiles of numbers. About 3 KB for ever; `rank_error`: with 99 % probability the rank of an answer is off by no more (1.3 %)."""

    def __init__(self, state: str = "") -> None:
        """state: of `state()`. Raises ValueError if it is none."""
        from datasketches import kll_doubles_sketch

        self._sketch: Any = kll_doubles_sketch.deserialize(_bytes(state)) if state else kll_doubles_sketch(KLL_K)

    @property
    def n(self) -> int:
        return int(self._sketch.n)

    @property
    def rank_error(self) -> float:
        return float(self._sketch.normalized_rank_error(False))

    def take(self, value: float) -> None:
        self._sketch.update(value)

    def merge(self, other: "Quantiles") -> None:
        """Take in all that another has seen."""
        self._sketch.merge(other._sketch)

    def at(self, shares: Sequence[float]) -> tuple[float, ...] | None:
        """The values below which these shares lie, e.g. (0.5, 0.95, 0.99); None before the first value."""
        return tuple(map(float, self._sketch.get_quantiles(list(shares)))) if self.n else None

    def state(self) -> str:
        """Text of it all."""
        return base64.b64encode(self._sketch.serialize()).decode()


class Labels:
    """Counts of labels, the commonest kept exactly as long as there are fewer than about 190 of them."""

    def __init__(self, state: str = "") -> None:
        """state: of `state()`. Raises ValueError if it is none."""
        from datasketches import frequent_strings_sketch

        self._sketch: Any = frequent_strings_sketch.deserialize(_bytes(state)) if state else frequent_strings_sketch(LG_LABELS)

    @property
    def n(self) -> int:
        return int(self._sketch.total_weight)

    def take(self, label: str) -> None:
        self._sketch.update(label)

    def merge(self, other: "Labels") -> None:
        """Take in all that another has counted."""
        self._sketch.merge(other._sketch)

    def count(self, label: str) -> tuple[int, int]:
        """At least and at most so often."""
        return int(self._sketch.get_lower_bound(label)), int(self._sketch.get_upper_bound(label))

    def top(self, n: int) -> tuple[tuple[str, float], ...]:
        """The commonest labels with their shares, commonest first. None that is commoner is left out."""
        from datasketches import frequent_items_error_type

        found = self._sketch.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
        ranked = sorted(((label, int(estimate)) for label, estimate, *_ in found), key=lambda one: (-one[1], one[0]))
        return tuple((label, count / self.n) for label, count in ranked[:n])

    def state(self) -> str:
        """Text of it all."""
        return base64.b64encode(self._sketch.serialize()).decode()


def _bytes(state: str) -> bytes:
    return base64.b64decode(state, validate=True)
