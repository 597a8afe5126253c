"""Intervals of rates against published tables, against each other, and in simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval
from trimtab.stats.proportions import (
    combined_difference,
    p_difference_outside,
    p_differences_outside,
    paired_difference,
    rate_difference,
    rate_differences,
    rate_ratio,
    wilson,
)


# Newcombe, Stat. Med. 17(8):873, 1998, table II, method 10.
@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_differences_of_the_published_table(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    found = rate_difference(*counts, 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_a_paired_difference_of_the_published_table() -> None:
    found = paired_difference(36, 12, 2, 0, 0.95)  # Newcombe, Stat. Med. 17(22):2635, 1998, table II, method 10
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=6e-5)


def test_wilson_of_the_published_table() -> None:
    found = wilson(81, 263, 0.95)  # Newcombe, Stat. Med. 17(8):857, 1998, table I, method 3
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=6e-5)
    assert (wilson(0, 20, 0.95).low, wilson(20, 20, 0.95).high) == (0.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 400), m=st.integers(1, 400), data=st.data())
def test_a_p_value_is_the_interval_read_backwards(n: int, m: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    margin = data.draw(st.sampled_from([0.0, 0.05, 0.2]))
    p = p_difference_outside(a, n, b, m, margin)
    found = rate_difference(a, n, b, m, 0.95)
    assert found.low is not None
    assert found.high is not None
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (found.low > margin or found.high < -margin)
    mirrored = rate_difference(b, m, a, n, 0.95)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.floats(0, 1)), max_size=12),
    margin=st.sampled_from([0.0, 0.05, 0.2]),
)
def test_many_pairs_at_once_are_the_same_as_one_by_one(pairs: list[tuple[int, int, float, float]], margin: float) -> None:
    rows = [(round(p * n), n, round(q * m), m) for n, m, p, q in pairs]
    values, lows, highs = rate_differences(rows, 0.9)
    p_values = p_differences_outside(rows, margin)
    for row, value, low, high, p in zip(rows, values, lows, highs, p_values, strict=True):
        one = rate_difference(*row, 0.9)
        assert (value, low, high) == pytest.approx((one.value, one.low, one.high), abs=1e-14)
        assert p == pytest.approx(p_difference_outside(*row, margin), rel=1e-9, abs=1e-300)


def test_a_pair_that_is_as_far_apart_as_can_be_has_no_p_value_left() -> None:
    assert p_differences_outside([(10**6, 10**6, 0, 10**6), (5, 10, 5, 10)], 0.1).tolist() == [0.0, 1.0]
    assert p_difference_outside(10**6, 10**6, 0, 10**6, 0.1) == 0.0


def test_intervals_cover_and_a_test_keeps_its_level() -> None:
    random = np.random.default_rng(5)
    covered = paired_covered = ratio_covered = false = 0
    for _ in range(2000):
        a, b = int(random.binomial(60, 0.12)), int(random.binomial(150, 0.05))
        found = rate_difference(a, 60, b, 150, 0.95)
        covered += (found.low or -1) <= 0.07 <= (found.high or 1)
        if b:
            ratio = rate_ratio(a, 60, b, 150, 0.95)
            ratio_covered += (ratio.low or 0.0) <= 2.4 <= (ratio.high if ratio.high is not None else np.inf)
        else:
            ratio_covered += 1
        cells = random.multinomial(80, [0.2, 0.1, 0.05, 0.65])
        paired = paired_difference(*map(int, cells), 0.95)
        paired_covered += (paired.low or -1) <= 0.05 <= (paired.high or 1)
        c, d = int(random.binomial(60, 0.1)), int(random.binomial(150, 0.1))
        false += p_difference_outside(c, 60, d, 150) < 0.05
    assert 0.935 < covered / 2000 < 0.98
    assert 0.935 < paired_covered / 2000 < 0.98
    assert 0.93 < ratio_covered / 2000 < 0.985
    assert 0.025 < false / 2000 < 0.065


def test_a_ratio_is_the_inverse_of_the_ratio_the_other_way() -> None:
    one, other = rate_ratio(30, 80, 45, 90, 0.95), rate_ratio(45, 90, 30, 80, 0.95)
    assert one.value == pytest.approx(0.75)
    assert one.low is not None
    assert one.high is not None
    assert (1 / one.high, 1 / one.low) == pytest.approx((other.low, other.high))
    assert rate_ratio(0, 10, 5, 10, 0.95).low == 0.0
    assert rate_ratio(1, 4, 1, 4, 0.95).low is not None


def test_a_difference_of_values_with_intervals() -> None:
    one = Interval(value=0.3, low=0.2, high=0.5, n=10)
    two = Interval(value=0.1, low=0.07, high=0.14, n=20)
    found = combined_difference(one, two)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.2, 0.2 - np.hypot(0.1, 0.04), 0.2 + np.hypot(0.2, 0.03), 30))
    with pytest.raises(InputError, match="ends of both"):
        combined_difference(one, Interval(value=0.1))


@pytest.mark.parametrize("counts", [(1, 0), (3, 2), (-1, 5)])
def test_impossible_counts(counts: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="0 <= count <= n"):
        wilson(*counts, 0.95)


def test_no_ratio_over_nothing() -> None:
    with pytest.raises(InputError, match="second rate above zero"):
        rate_ratio(1, 5, 0, 5, 0.95)
    with pytest.raises(InputError, match="confidence"):
        wilson(1, 5, 95)
