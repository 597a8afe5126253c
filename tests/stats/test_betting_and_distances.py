"""Confidence sequences, bootstrap and distances between distributions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, wasserstein_distance

from trimtab.core.errors import InputError
from trimtab.stats.betting import anytime_p, confidence_sequence, log_capital
from trimtab.stats.bootstrap import bca_interval
from trimtab.stats.distances import paired_distance, sample_distance
from trimtab.stats.paired import clustered_mean


def test_bets_against_a_worked_example() -> None:
    """First bets by hand: sqrt(2 log(2 / 0.05) / (1/4 log 2)) = 6.53 is cut to 1/2 / m; the second knows one value of 1."""
    capital = np.exp(log_capital([1.0, 0.0], 0.5, "above", alpha=0.05))
    # mean (1/2 + 1) / 2 = 0.75, variance (1/4 + 1/16) / 2; bet sqrt(2 log 40 / (0.15625 * 2 * log 3)) = 4.64, cut to 1
    assert capital == pytest.approx([1 + 1.0 * 0.5, 1.5 * (1 - 1.0 * 0.5)])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-2, 3), min_size=1, max_size=60), st.floats(0.01, 0.2))
def test_sequences_only_narrow_within_their_bounds(values: list[float], alpha: float) -> None:
    found = confidence_sequence(values, low=-2.0, high=3.0, alpha=alpha)
    assert list(found.lows) == sorted(found.lows)
    assert list(found.highs) == sorted(found.highs, reverse=True)
    assert found.lows[0] >= -2.0
    assert found.highs[0] <= 3.0
    mirrored = confidence_sequence([-value for value in values], low=-3.0, high=2.0, alpha=alpha)
    assert mirrored.highs == pytest.approx([-low for low in found.lows], abs=1e-6)


def test_a_whole_suite_is_known_without_error() -> None:
    values = np.random.default_rng(1).beta(2, 3, 200)
    found = confidence_sequence(values, low=0.0, high=1.0, alpha=0.05, size=200)
    assert found.lows[-1] <= values.mean() <= found.highs[-1]
    assert found.highs[-1] - found.lows[-1] < 0.02
    stream = confidence_sequence(values, low=0.0, high=1.0, alpha=0.05)
    assert found.highs[-1] - found.lows[-1] < 0.3 * (stream.highs[-1] - stream.lows[-1])


def test_what_is_seen_of_a_finite_suite_excludes_means_by_itself() -> None:
    """Nine ones of ten items: the mean is 0.9 or 1, whatever was bet."""
    found = confidence_sequence([1.0] * 9, low=0.0, high=1.0, alpha=1e-6, size=10)
    assert found.lows[-1] == pytest.approx(0.9, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 400])
def test_capital_against_the_truth_rarely_grows_whenever_one_looks(size: int | None) -> None:
    rng = np.random.default_rng(4)
    values = (
        (rng.random((3000, 400)) < 0.1).astype(float) if size is None else rng.permuted(np.tile(np.arange(400) < 40, (3000, 1)), axis=1)
    )
    runs = [log_capital(values, 0.1, side, alpha=0.05, size=size).max(axis=1) >= np.log(40) for side in ("above", "below")]
    assert np.mean(runs[0] | runs[1]) <= 0.05


def test_a_mean_that_moves_empties_the_interval() -> None:
    found = confidence_sequence([0.1] * 300 + [0.9] * 2000, low=0.0, high=1.0, alpha=0.05)
    assert found.lows[-1] > found.highs[-1]


def test_anytime_p_shrinks_on_the_side_of_the_truth_only() -> None:
    values = np.random.default_rng(2).beta(6, 4, 500)
    assert anytime_p(values, 0.5, "above", low=0.0, high=1.0, alpha=0.05) < 1e-4
    assert anytime_p(values, 0.5, "below", low=0.0, high=1.0, alpha=0.05) > 0.2


@pytest.mark.parametrize(("values", "size"), [([], None), ([1.2], None), ([float("nan")], None), ([0.5, 0.5], 1), ([[0.5]], None)])
def test_values_that_cannot_be_bet_on(values: list[float], size: int | None) -> None:
    with pytest.raises(InputError):
        confidence_sequence(values, low=0.0, high=1.0, alpha=0.05, size=size)
    with pytest.raises(InputError):
        confidence_sequence([0.5], low=1.0, high=1.0, alpha=0.05)


def test_bootstrap_agrees_with_the_t_interval_on_many_clusters() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(150), 4)
    values = rng.standard_normal(150)[clusters] + rng.standard_normal(600)
    weights = rng.integers(5, 60, 600)
    mean = clustered_mean(values, clusters.tolist(), weights)
    found, again = (bca_interval(values, clusters.tolist(), weights, seed=1) for _ in range(2))
    assert found == again
    assert found.value == pytest.approx(mean.estimate)
    assert (found.low, found.high) == (pytest.approx(mean.lower(0.025), abs=0.03), pytest.approx(mean.upper(0.025), abs=0.03))


def test_bootstrap_follows_a_long_tail() -> None:
    losses = 1.0 - np.random.default_rng(5).exponential(size=40)
    found = bca_interval(losses, range(40))
    assert found.value - found.low > found.high - found.value


def test_bootstrap_without_spread_or_clusters() -> None:
    assert bca_interval([0.2] * 9, range(9)).low == 0.2
    assert bca_interval([0.2, 0.3], "aa").low is None
    with pytest.raises(InputError):
        bca_interval([0.2, 0.3], "ab", draws=10)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # of SciPy's, about single values
@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_distances_are_scipys(first: list[int], second: list[int]) -> None:
    found = sample_distance(first, second, [f"a{i}" for i in range(len(first))], [f"b{i}" for i in range(len(second))], draws=9)
    assert found.wasserstein == pytest.approx(wasserstein_distance(first, second), abs=1e-9)
    assert found.ks == pytest.approx(ks_2samp(first, second, method="asymp").statistic)


def test_a_wider_distribution_with_the_same_mean_is_found() -> None:
    rng = np.random.default_rng(6)
    before = rng.standard_normal(300)
    after = 2.0 * rng.permuted(before)
    found = paired_distance(before, after, range(300))
    assert found.p_wasserstein < 0.01
    assert found.p_ks < 0.01
    assert abs(clustered_mean(after - before, range(300)).estimate) < 0.2
    same = paired_distance(before, before, range(300), draws=99)
    assert (same.wasserstein, same.ks, same.p_wasserstein, same.p_ks) == (0.0, 0.0, 1.0, 1.0)


def test_clusters_are_exchanged_whole() -> None:
    """Two clusters of many items that moved together: with two clusters there are two distinct exchanges, so nothing can be shown."""
    before = np.repeat([0.0, 1.0], 50)
    found = paired_distance(before, before + 5.0, [0] * 50 + [1] * 50, draws=199)
    assert found.p_ks > 0.3
    assert found.n_clusters == 2


@pytest.mark.slow
def test_permutation_keeps_its_level_with_clusters() -> None:
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(20), 5)
    rejected = 0
    for seed in range(1000):
        values = rng.standard_normal((2, 20))[:, clusters] + 0.3 * rng.standard_normal((2, 100))
        rejected += paired_distance(values[0], values[1], clusters.tolist(), draws=99, seed=seed).p_wasserstein <= 0.05
    assert 0.03 <= rejected / 1000 <= 0.07


def test_samples_that_cannot_be_compared() -> None:
    with pytest.raises(InputError):
        paired_distance([1.0], [1.0, 2.0], "a")
    with pytest.raises(InputError):
        sample_distance([1.0], [2.0], "a", "a")
    with pytest.raises(InputError):
        sample_distance([], [2.0], "", "a")
