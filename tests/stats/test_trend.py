"""Slopes with their interval: exact on a line, covering the truth in noise, and unknown where there is nothing to go by."""

import math

import numpy as np
import pytest

from trimtab.stats.trend import slope_interval


def test_a_straight_line_is_known_exactly():
    found = slope_interval([(x, 3.0 + 0.5 * x) for x in range(10)], 0.95)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(1000):
        points = [(x, 2.0 - 0.1 * x + rng.normal()) for x in range(30)]
        found = slope_interval(points, 0.95)
        covered += found.low <= -0.1 <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


@pytest.mark.parametrize("points", [[], [(0.0, 1.0)], [(0.0, 1.0), (1.0, 5.0)], [(2.0, 1.0), (2.0, 3.0), (2.0, 9.0)]])
def test_nothing_to_go_by(points):
    found = slope_interval(points, 0.95)
    assert (found.value, found.low, found.high) == (0.0, -math.inf, math.inf)
