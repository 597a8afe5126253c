import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from trimtab.core.errors import InputError
from trimtab.stats.sequential import nominal_alphas, spent


@pytest.mark.parametrize(
    ("fractions", "published"),
    [
        ([1.0], [1.960]),
        ([0.5, 1.0], [2.963, 1.969]),
        ([1 / 3, 2 / 3, 1.0], [3.710, 2.511, 1.993]),
        ([0.2, 0.4, 0.6, 0.8, 1.0], [4.877, 3.357, 2.680, 2.290, 2.031]),
    ],
)
def test_published_boundaries(fractions: list[float], published: list[float]) -> None:
    """One-sided 0.025, O'Brien-Fleming-type spending: the tables of Lan & DeMets' program and Jennison & Turnbull 2000."""
    found = [-float(ndtri(alpha)) for alpha in nominal_alphas(fractions, 0.025)]
    assert found == pytest.approx(published, abs=0.0011)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.05, 0.95), max_size=4, unique_by=lambda share: round(share, 1)), st.floats(0.005, 0.1))
def test_levels_add_up(shares: list[float], alpha: float) -> None:
    fractions = [*sorted(shares), 1.0]
    levels = nominal_alphas(fractions, alpha)
    assert levels[0] == pytest.approx(spent(fractions[0], alpha), rel=1e-9)
    assert max(levels) <= alpha + 1e-9  # crossing at one look is part of crossing at any
    assert sum(levels) >= alpha - 1e-9  # union bound


def test_one_look_spends_everything() -> None:
    assert nominal_alphas([1.0], 0.05) == pytest.approx([0.05])
    assert spent(1.0, 0.05) == pytest.approx(0.05)


def test_crossing_chance_by_simulation() -> None:
    fractions = [0.3, 0.5, 0.75, 1.0]
    bounds = -ndtri(np.array(nominal_alphas(fractions, 0.05)))
    steps = np.sqrt(np.diff([0.0, *fractions]))
    scores = np.cumsum(np.random.default_rng(3).standard_normal((400_000, 4)) * steps, axis=1) / np.sqrt(fractions)
    assert (scores > bounds).any(axis=1).mean() == pytest.approx(0.05, abs=0.0012)


@pytest.mark.parametrize("fractions", [[], [0.5], [0.5, 0.5, 1.0], [0.0, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5, 1.0], [0.6, 0.4, 1.0], [0.5, 1.2]])
def test_plans_that_are_none(fractions: list[float]) -> None:
    with pytest.raises(InputError):
        nominal_alphas(fractions, 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_impossible_alpha(alpha: float) -> None:
    with pytest.raises(InputError):
        nominal_alphas([1.0], alpha)
