"""Exact bounds on a share: known values, their error rate by simulation, and how many more observations are needed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from trimtab.core.errors import InputError
from trimtab.stats.binomial import more_needed, share_bounds


def test_59_of_59_show_95_percent_and_58_do_not():
    assert share_bounds(59, 59).low >= 0.95 > share_bounds(58, 58).low
    assert more_needed(0, 0, 0.95) == 59
    assert more_needed(0, 0, 0.99) == 299
    assert more_needed(59, 59, 0.95) == 0
    assert more_needed(58, 59, 0.95) == 93 - 59, "one beyond the limit takes 93 requests"


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_bounds_are_those_of_clopper_and_pearson(counts):
    within, n = counts
    low, high = share_bounds(within, n)
    assert 0.0 <= low <= within / n <= high <= 1.0
    if within:
        assert low == pytest.approx(beta.ppf(0.05, within, n - within + 1))
        assert binom.sf(within - 1, n, low) == pytest.approx(0.05), "at the bound, so many or more are seen in 5 % of cases"
    if within < n:
        assert binom.cdf(within, n, high) == pytest.approx(0.05)


@given(st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_what_is_needed_is_just_enough(counts, share):
    within, n = counts
    more = more_needed(within, n, share)
    assert share_bounds(within + more, n + more).low >= share
    if more:
        assert share_bounds(within + more - 1, n + more - 1).low < share


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_a_share_just_too_small_is_called_enough_in_at_most_5_percent_of_runs(share):
    rng = np.random.default_rng(1)
    for n in (60, 150, 400):
        seen, times = np.unique(rng.binomial(n, share - 1e-9, 4000), return_counts=True)
        wrong = sum(count for within, count in zip(seen, times, strict=True) if share_bounds(int(within), n).low >= share)
        assert wrong / 4000 <= 0.05 + 0.012, "three standard errors of the simulation"


def test_impossible_counts_are_refused():
    for within, n in ((5, 4), (-1, 3)):
        with pytest.raises(InputError, match="within"):
            share_bounds(within, n)
    with pytest.raises(InputError, match="between 0 and 1"):
        more_needed(1, 1, 1.0)
    with pytest.raises(InputError, match="chance of error"):
        share_bounds(1, 1, alpha=0.0)
