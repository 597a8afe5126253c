"""Capacity: the largest rate of requests at which the demands still hold, by doubling and then halving a bracket.

Pure: `next_rate` says what to try from what is known. `find_capacity` drives it with a measurement that takes time.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.core.decision import Verdict
from trimtab.core.errors import InputError

PRECISION = 1.15
"""The bracket is narrow enough when its high end is at most so many times its low end."""
MOST_DOUBLINGS = 6
"""Steps away from the first rate, up or down, before it is said that the capacity lies beyond."""

Stopped = Literal["narrow", "time", "beyond", "below"]


@dataclass(frozen=True, kw_only=True)
class RatePoint:
    """One rate that was tried. share: of requests that met every limit, with one-sided 95 % bounds; n: requests that count.

    verdict: `pass` = every demand is shown to hold; `inconclusive` counts as not shown
    """

    rate_per_s: float
    n: int
    share: float
    low: float
    high: float
    goodput_per_s: float
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """low: the largest rate at which the demands were shown to hold below any at which they were not (0 = none was found), per second.

    high: the smallest rate at which they were not shown to hold, None = none was tried
    stopped: `narrow` (as precise as asked), `time`, `beyond` (held at every rate tried), `below` (at none)
    """

    low: float
    high: float | None
    points: tuple[RatePoint, ...]
    stopped: Stopped


def bracket(points: Sequence[RatePoint]) -> tuple[float, float | None]:
    """(largest rate that held below every rate that did not, or 0; smallest rate that did not hold, or None)."""
    high = min((point.rate_per_s for point in points if point.verdict != "pass"), default=None)
    held = [point.rate_per_s for point in points if point.verdict == "pass" and (high is None or point.rate_per_s < high)]
    return max(held, default=0.0), high


def next_rate(points: Sequence[RatePoint], first_per_s: float, precision: float = PRECISION) -> float | Stopped:
    """The rate to try next, or why no further one is: double while it holds, halve while it does not, then the middle of the bracket.

    The middle is the geometric one: what is sought is a rate to within a share of itself. Raises InputError for a first rate or a
    precision that make no sense.
    """
    if not (math.isfinite(first_per_s) and first_per_s > 0 and precision > 1):
        raise InputError(
            f"A search for capacity needs a first rate above 0 and a precision above 1, not {first_per_s!r} and {precision!r}."
        )
    if not points:
        return first_per_s
    low, high = bracket(points)
    if high is None:
        return low * 2 if low < first_per_s * 2**MOST_DOUBLINGS else "beyond"
    if low == 0.0:
        return high / 2 if high > first_per_s / 2**MOST_DOUBLINGS else "below"
    return math.sqrt(low * high) if high / low > precision else "narrow"


async def find_capacity(
    measure: Callable[[float], Awaitable[RatePoint]],
    *,
    first_per_s: float,
    has_time: Callable[[float], bool] = lambda rate_per_s: True,
    precision: float = PRECISION,
) -> Capacity:
    """Try rates until the bracket is narrow. measure: one rate -> what came of it; has_time: whether a rate can still be tried.

    Raises InputError as `next_rate` does, and what `measure` raises.
    """
    points: list[RatePoint] = []
    while not isinstance(rate := next_rate(points, first_per_s, precision), str):
        if not has_time(rate):
            rate = "time"
            break
        points.append(await measure(rate))
    low, high = bracket(points)
    return Capacity(low=low, high=high, points=tuple(points), stopped=rate)
