"""The search for capacity: its steps on any threshold, and on a simulated queue whose capacity is known from theory."""

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.measure.capacity import PRECISION, Capacity, RatePoint, bracket, find_capacity, next_rate
from trimtab.measure.open_loop import poisson_arrivals


def point(rate, verdict="pass"):
    return RatePoint(rate_per_s=rate, n=100, share=1.0, low=0.97, high=1.0, goodput_per_s=rate, verdict=verdict)


def searched(true_per_s, first_per_s, budget=99) -> Capacity:
    tried = []

    async def measure(rate):
        tried.append(rate)
        return point(rate, "pass" if rate <= true_per_s else "fail")

    return asyncio.run(find_capacity(measure, first_per_s=first_per_s, has_time=lambda rate: len(tried) < budget))


@given(st.floats(0.02, 50.0), st.floats(-5.5, 5.5))
def test_a_sharp_threshold_is_bracketed_wherever_the_search_begins(true_per_s, octaves):
    found = searched(true_per_s, true_per_s * 2**octaves)
    assert found.stopped == "narrow"
    assert found.low <= true_per_s < found.high <= found.low * PRECISION
    assert len(found.points) <= 2 + abs(octaves) + 4, "doubling, then as many halvings of an octave as the precision takes"


def test_it_says_when_the_capacity_lies_outside_or_time_is_up():
    assert searched(1e6, 1.0).stopped == "beyond"
    assert searched(1e6, 1.0).high is None
    assert searched(1e-6, 1.0).stopped == "below"
    assert searched(1e-6, 1.0).low == 0.0
    short = searched(3.0, 1.0, budget=3)
    assert (short.low, short.high, short.stopped) == (2.0, 4.0, "time")
    none = searched(3.0, 1.0, budget=0)
    assert (none.low, none.high, none.points, none.stopped) == (0.0, None, (), "time")


def test_what_is_not_shown_to_hold_bounds_from_above_and_a_lucky_point_beyond_it_does_not_count():
    assert bracket([point(1.0), point(2.0, "inconclusive"), point(4.0)]) == (1.0, 2.0)
    assert next_rate([point(1.0), point(2.0, "inconclusive")], 1.0) == pytest.approx(math.sqrt(2.0))
    for first, precision in ((0.0, 1.1), (math.nan, 1.1), (1.0, 1.0)):
        with pytest.raises(InputError, match="first rate"):
            next_rate([], first, precision)


def sojourn_share(rate, limit):
    """P(time in an M/D/1 queue with one second of service <= limit): Erlang 1909, Crommelin 1932."""
    wait = limit - 1.0
    return (1 - rate) * sum(
        (rate * (k - wait)) ** k / math.factorial(k) * math.exp(-rate * (k - wait)) for k in range(math.floor(wait) + 1)
    )


def test_the_capacity_of_a_queue_is_what_theory_says():
    """p95 of the time in the system within four seconds, at 4000 requests a point."""
    limit, share = 4.0, 0.95
    low, high = 0.01, 0.99
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sojourn_share(middle, limit) >= share else (low, middle)

    async def measure(rate):
        due = poisson_arrivals(rate, 4000, seed=int(rate * 1e6))
        free, inside = 0.0, []
        for moment in due:
            free = max(free, moment) + 1.0
            inside.append(free - moment <= limit + 1e-9)
        return point(rate, "pass" if np.mean(inside) >= share else "fail")

    found = asyncio.run(find_capacity(measure, first_per_s=0.1, precision=1.05))
    assert found.stopped == "narrow"
    assert found.low == pytest.approx(low, rel=0.10)
