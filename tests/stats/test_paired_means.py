import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.stats.equivalence import tost
from trimtab.stats.multiplicity import holm
from trimtab.stats.paired import clustered_mean

samples = st.integers(2, 12).flatmap(
    lambda groups: st.lists(
        st.tuples(st.floats(-5, 5, allow_subnormal=False), st.integers(0, groups - 1), st.floats(0.1, 50)), min_size=3, max_size=40
    ).filter(lambda rows: len({cluster for _, cluster, _ in rows}) > 1)
)


def test_equal_singletons_give_the_plain_t_interval() -> None:
    values = [0.3, -0.3, 0.4, -0.4, 0.25, -0.25]  # symmetric: no skewness to correct
    mean = clustered_mean(values, range(6))
    assert mean.estimate == pytest.approx(np.mean(values))
    assert mean.se == pytest.approx(np.std(values, ddof=1) / math.sqrt(6))
    assert mean.df == pytest.approx(5)
    # t(0.975, 5) = 2.5706, from printed tables
    assert mean.interval(0.95).high == pytest.approx(mean.estimate + 2.5706 * mean.se, rel=1e-4)


def test_standard_error_is_unbiased_under_its_working_model() -> None:
    """Mean of se^2 over many draws equals the true variance of a very unequally weighted mean."""
    rng = np.random.default_rng(0)
    sizes = np.array([1, 1, 1, 2, 2, 3, 5, 20])
    clusters = np.repeat(np.arange(sizes.size), sizes).tolist()
    draws = [clustered_mean(np.repeat(rng.standard_normal(sizes.size), sizes), clusters) for _ in range(3000)]
    truth = float(((sizes / sizes.sum()) ** 2).sum())
    assert np.mean([d.se**2 for d in draws]) == pytest.approx(truth, rel=0.06)
    assert np.var([d.estimate for d in draws]) == pytest.approx(truth, rel=0.08)
    assert draws[0].df < 4  # one cluster carries most of the weight


@given(samples, st.floats(-3, 3), st.floats(0.1, 10))
def test_shift_scale_and_order(rows: list[tuple[float, int, float]], shift: float, scale: float) -> None:
    values, clusters, weights = (list(column) for column in zip(*rows, strict=True))
    mean = clustered_mean(values, clusters, weights)
    moved = clustered_mean([scale * v + shift for v in values], clusters, weights)
    assert moved.estimate == pytest.approx(scale * mean.estimate + shift, abs=1e-6)
    assert moved.se == pytest.approx(scale * mean.se, rel=1e-4, abs=1e-6)
    turned = clustered_mean(values[::-1], clusters[::-1], weights[::-1])
    assert (turned.estimate, turned.se) == (pytest.approx(mean.estimate, abs=1e-9), pytest.approx(mean.se, abs=1e-9))
    heavier = clustered_mean(values, clusters, [7.0 * w for w in weights])
    assert heavier.se == pytest.approx(mean.se, rel=1e-9, abs=1e-12)


@pytest.mark.slow
@given(samples, st.floats(0.001, 0.4))
def test_bounds_and_p_values_agree(rows: list[tuple[float, int, float]], alpha: float) -> None:
    values, clusters, weights = (list(column) for column in zip(*rows, strict=True))
    mean = clustered_mean(values, clusters, weights)
    assert 0 < mean.df <= mean.n_clusters - 1
    assert mean.lower(alpha) <= mean.estimate <= mean.upper(alpha)
    if mean.se > 1e-9:
        assert mean.p_above(mean.lower(alpha)) == pytest.approx(alpha, rel=1e-6)
        assert mean.p_below(mean.upper(alpha)) == pytest.approx(alpha, rel=1e-6)
        margin = mean.upper(alpha) - mean.lower(alpha) + abs(mean.estimate)
        assert tost(mean, margin).p_inside < alpha  # the interval lies within such a margin


def test_duplicating_items_within_clusters_gains_nothing() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal(20)
    once = clustered_mean(values, range(20))
    many = clustered_mean(np.repeat(values, 9), np.repeat(np.arange(20), 9).tolist())
    assert many.se == pytest.approx(once.se)
    assert many.df == pytest.approx(once.df)
    assert (many.n, many.n_clusters) == (180, 20)


def test_one_cluster_knows_nothing_of_the_spread() -> None:
    mean = clustered_mean([0.1, 0.2, 0.3], ["a", "a", "a"])
    assert mean.se == math.inf
    assert mean.lower(0.05) == -math.inf
    assert mean.p_above(-100.0) > 0.05


def test_a_long_tail_moves_only_its_own_side_out() -> None:
    losses = [0.1] * 18 + [-0.5, -1.3]
    mean = clustered_mean(losses, range(20))
    plain = dataclasses.replace(mean, skew=0.0)
    # sample skewness g over sqrt(n), with the n - 1 of the variance in se: third / (n^2 se^3)
    centred = np.array(losses) - np.mean(losses)
    assert mean.skew == pytest.approx(float((centred**3).sum()) / 20**3 / mean.se**3)
    assert mean.skew < 0
    assert mean.upper(0.025) == plain.upper(0.025)
    t = (plain.estimate - plain.lower(0.025)) / plain.se
    assert mean.lower(0.025) == pytest.approx(mean.estimate - (t - mean.skew * (1 + 2 * t**2) / 6) * mean.se)
    assert mean.p_above(-0.4) > plain.p_above(-0.4)
    assert mean.p_above(10.0) > 0.99  # the wrong side is not corrected


def test_no_spread_is_certain() -> None:
    mean = clustered_mean([0.0] * 8, range(8))
    assert (mean.se, mean.lower(0.001), mean.p_above(-0.01), mean.p_below(-0.01)) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "clusters", "weights"),
    [
        ([], [], None),
        ([1.0], ["a", "b"], None),
        ([1.0, math.nan], "ab", None),
        ([1.0, 2.0], "ab", [0.0, 0.0]),
        ([1.0, 2.0], "ab", [1.0, -1.0]),
    ],
)
def test_bad_input_is_refused(values: list[float], clusters: str, weights: list[float] | None) -> None:
    with pytest.raises(InputError):
        clustered_mean(values, clusters, weights)


def test_tost_names_inside_and_outside() -> None:
    near = clustered_mean([0.01, -0.01, 0.02, -0.02, 0.0, 0.01], range(6))
    assert tost(near, 0.1).p_inside < 0.001 < tost(near, 0.1).p_outside
    far = clustered_mean([0.31, 0.29, 0.32, 0.28, 0.3, 0.31], range(6))
    assert tost(far, 0.1).p_outside < 0.001 < tost(far, 0.1).p_inside


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_order_and_starts_at_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(a >= p for p, a in zip(p_values, adjusted, strict=True))
    assert min(adjusted) == pytest.approx(min(1.0, min(p_values) * len(p_values)))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


@pytest.mark.slow
@pytest.mark.parametrize(("n_clusters", "limit"), [(20, 0.05), (75, 0.035)])
def test_rare_large_losses_pass_less_often_than_with_plain_t(n_clusters: int, limit: float) -> None:
    """Candidates as bad as the margin, with exponential losses, at one-sided 0.0167: the correction helps and its rest is bounded."""
    rng = np.random.default_rng(n_clusters)
    means = [clustered_mean(1.0 - rng.exponential(size=n_clusters), range(n_clusters)) for _ in range(4000)]
    passed = np.mean([mean.lower(0.05 / 3) > 0.0 for mean in means])
    plain = np.mean([dataclasses.replace(mean, skew=0.0).lower(0.05 / 3) > 0.0 for mean in means])
    assert passed < min(limit, 0.85 * plain)


@pytest.mark.slow
@pytest.mark.parametrize("n_clusters", [10, 20, 75])
def test_interval_covers_with_few_unequal_clusters(n_clusters: int) -> None:
    """95 % intervals of token-weighted means over clusters of 1 to 11 items, intra-cluster correlation 0.3."""
    rng = np.random.default_rng(n_clusters)
    hits, runs = 0, 3000
    for _ in range(runs):
        clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 12, n_clusters))
        values = 0.3**0.5 * rng.standard_normal(n_clusters)[clusters] + 0.7**0.5 * rng.standard_normal(clusters.size)
        ends = clustered_mean(values, clusters.tolist(), rng.integers(5, 60, clusters.size)).interval(0.95)
        hits += (ends.low or 0.0) <= 0.0 <= (ends.high or 0.0)
    assert hits / runs >= 0.935
