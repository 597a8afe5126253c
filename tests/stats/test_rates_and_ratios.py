import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtr

from trimtab.core.errors import InputError
from trimtab.stats.rates import exact_rate, paired_rate_change
from trimtab.stats.ratios import log_ratio_interval, percentiles


def test_exact_rate_against_printed_values() -> None:
    found = exact_rate(2, 20, 0.95)  # Clopper-Pearson 95 %: 0.0123 to 0.3170
    assert (found.low, found.high) == (pytest.approx(0.0123, abs=1e-4), pytest.approx(0.3170, abs=1e-4))
    assert exact_rate(0, 46, 0.95).low == 0.0
    assert exact_rate(46, 46, 0.95).high == 1.0
    assert exact_rate(0, 100, 0.90).high == pytest.approx(1 - 0.05 ** (1 / 100))  # the rule of three, exactly


@given(st.integers(1, 60), st.floats(0.01, 0.99))
def test_exact_rate_covers(n: int, rate: float) -> None:
    ends = [exact_rate(count, n, 0.9) for count in range(n + 1)]
    chances = np.diff([0.0, *(float(bdtr(count, n, rate)) for count in range(n + 1))])
    covered = sum(chance for chance, end in zip(chances, ends, strict=True) if (end.low or 0.0) <= rate <= (end.high or 0.0))
    assert covered >= 0.9 - 1e-9


@given(st.integers(0, 20), st.integers(0, 20), st.integers(40, 80))
def test_paired_change_mirrors_and_contains_its_value(gained: int, lost: int, n: int) -> None:
    forth, back = paired_rate_change(gained, lost, n, 0.95), paired_rate_change(lost, gained, n, 0.95)
    assert forth.value == -back.value
    assert (forth.low, forth.high) == (pytest.approx(-(back.high or 0.0)), pytest.approx(-(back.low or 0.0)))
    assert (forth.low or 0.0) <= forth.value <= (forth.high or 0.0)


@pytest.mark.parametrize(("count", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts(count: int, n: int) -> None:
    with pytest.raises(InputError):
        exact_rate(count, n, 0.95)
    with pytest.raises(InputError):
        paired_rate_change(3, 3, 5, 0.95)


def test_ratio_on_a_worked_example() -> None:
    found = log_ratio_interval([200.0, 400.0, 100.0], [100.0, 200.0, 50.0])
    assert (found.ratio, found.low, found.high) == (pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0))
    spread = log_ratio_interval([2.0, 4.0], [1.0, 1.0])
    assert spread.ratio == pytest.approx(math.sqrt(8))
    # logs 0.6931 and 1.3863: sd 0.4901, se 0.3466, t(0.975, 1) = 12.706
    assert spread.low == pytest.approx(math.exp(1.03972 - 12.7062 * 0.34657), rel=1e-3)


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=2, max_size=12))
def test_ratio_turned_around_is_the_reciprocal(rounds: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in rounds], [b for _, b in rounds]
    forth, back = log_ratio_interval(first, second), log_ratio_interval(second, first)
    assert forth.ratio * back.ratio == pytest.approx(1.0)
    assert forth.low * back.high == pytest.approx(1.0)


def test_one_round_claims_nothing() -> None:
    found = log_ratio_interval([3.0], [1.0])
    assert (found.ratio, found.low, found.high) == (pytest.approx(3.0), 0.0, math.inf)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, 0.0], [1.0, 1.0]), ([1.0, math.nan], [1.0, 1.0])])
def test_rounds_that_cannot_be_compared(first: list[float], second: list[float]) -> None:
    with pytest.raises(InputError):
        log_ratio_interval(first, second)


def test_percentiles_are_unknown_when_there_are_too_few() -> None:
    assert percentiles(range(19), "ms").p95 is None
    assert percentiles(range(20), "ms").p95 == pytest.approx(18.05)
    assert percentiles(range(99), "ms").p99 is None
    found = percentiles(range(1, 101), "ms")
    assert (found.n, found.min, found.max, found.mean, found.p50) == (100, 1.0, 100.0, 50.5, 50.5)
    assert found.p99 == pytest.approx(99.01)
    with pytest.raises(InputError):
        percentiles([], "ms")
    with pytest.raises(InputError):
        percentiles([1.0, math.inf], "ms")
