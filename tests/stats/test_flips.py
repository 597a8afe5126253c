"""Flips against printed examples, against the textbook formulas, and with clusters."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtr

from trimtab.core.errors import InputError
from trimtab.stats.flips import clustered_change, exchange_test, mcnemar, tango_change
from trimtab.stats.proportions import paired_difference

counts = st.tuples(st.integers(0, 60), st.integers(0, 30), st.integers(0, 30), st.integers(0, 60)).filter(lambda c: sum(c) > 0)


def test_mcnemar_on_the_published_example() -> None:
    """Airway hyper-responsiveness of 21 children before and after (Bentur 2009), in Fagerland, Lydersen & Laake 2013: 0.070 and 0.039."""
    found = mcnemar(1, 7)
    assert (found.p_exact, found.p_mid) == (pytest.approx(0.0703, abs=5e-5), pytest.approx(0.0391, abs=5e-5))


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((1, 7, 1, 12), -0.507, -0.026),  # Fagerland, Lydersen & Laake 2014, the same children
        ((36, 2, 12, 0), 0.0569, 0.3404),  # Newcombe 1998, table II, method 10
        ((14, 0, 5, 22), 0.011, 0.226),  # Altman, Machin, Bryant & Gardner, Statistics with Confidence, 2000, table 6.2
    ],
)
def test_newcombe_on_published_examples(cells: tuple[int, int, int, int], low: float, high: float) -> None:
    both, lost, gained, neither = cells
    found = paired_difference(both, gained, lost, neither, 0.95)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


def test_tango_on_published_examples() -> None:
    """The same children (-0.517 to -0.026), and what R's PropCIs::scoreci.mp(25, 28, 618) gives at 90 %."""
    found = tango_change(lost=7, gained=1, n=21, confidence=0.95)
    assert (found.low, found.high) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))
    found = tango_change(lost=25, gained=28, n=618, confidence=0.90)
    assert (found.low, found.high) == (pytest.approx(-0.0148, abs=5e-5), pytest.approx(0.0247, abs=5e-5))


def test_tango_without_flips_is_the_score_bound() -> None:
    z2 = 1.959964**2
    assert tango_change(lost=0, gained=0, n=50, confidence=0.95).high == pytest.approx(z2 / (50 + z2), abs=1e-6)


@given(st.integers(0, 40), st.integers(0, 40))
def test_exchange_of_single_items_is_the_binomial_test(lost: int, gained: int) -> None:
    found = mcnemar(lost, gained)
    n, fewer = lost + gained, min(lost, gained)
    tail, point = float(bdtr(fewer, n, 0.5)), math.comb(n, fewer) / 2**n
    assert found.p_exact == pytest.approx(min(1.0, 2 * tail))
    assert found.p_mid == pytest.approx(1 - point / 2 if lost == gained else 2 * tail - point)


@given(st.lists(st.integers(-4, 4), max_size=11))
def test_exchange_of_clusters_counts_every_pattern(nets: list[int]) -> None:
    sizes = [abs(net) for net in nets if net]
    sums = [sum(size if pattern >> i & 1 else -size for i, size in enumerate(sizes)) for pattern in range(2 ** len(sizes))]
    expected = sum(abs(total) >= abs(sum(nets)) for total in sums) / len(sums)
    assert exchange_test(nets).p_exact == pytest.approx(expected)


@given(counts, st.floats(0.5, 0.999))
def test_intervals_mirror_contain_and_stay_possible(cells: tuple[int, int, int, int], confidence: float) -> None:
    both, lost, gained, neither = cells
    n = sum(cells)
    pairs = [
        (paired_difference(both, gained, lost, neither, confidence), paired_difference(both, lost, gained, neither, confidence)),
        (
            tango_change(lost=lost, gained=gained, n=n, confidence=confidence),
            tango_change(lost=gained, gained=lost, n=n, confidence=confidence),
        ),
    ]
    for forth, back in pairs:
        assert forth.low is not None
        assert forth.high is not None
        assert -1.0 <= forth.low <= forth.value + 1e-12
        assert forth.value - 1e-12 <= forth.high <= 1.0
        assert (forth.low, forth.high) == (pytest.approx(-(back.high or 0.0), abs=1e-9), pytest.approx(-(back.low or 0.0), abs=1e-9))


def test_single_items_need_no_design_effect() -> None:
    before = [True] * 43 + [False] * 17
    after = [True] * 38 + [False] * 5 + [True] * 2 + [False] * 15
    found = clustered_change(before, after, range(60), confidence=0.95)
    plain = tango_change(lost=5, gained=2, n=60, confidence=0.95)
    assert found.design_effect == pytest.approx(1.0)
    assert (found.change.low, found.change.high) == (pytest.approx(plain.low), pytest.approx(plain.high))
    assert found.test == mcnemar(5, 2)


def test_items_that_flip_together_count_once() -> None:
    """Twenty templates of six items that change as one: no more is known than from twenty items, and less than from 120 of their own."""
    one_before, one_after = [True] * 14 + [False] * 6, [True] * 9 + [False] * 5 + [True] * 1 + [False] * 5
    before, after = [x for x in one_before for _ in range(6)], [x for x in one_after for _ in range(6)]
    clustered = clustered_change(before, after, [i // 6 for i in range(120)], confidence=0.95)
    alone = clustered_change(one_before, one_after, range(20), confidence=0.95)
    naive = clustered_change(before, after, range(120), confidence=0.95)
    assert clustered.test.p_exact == pytest.approx(alone.test.p_exact)
    assert clustered.design_effect == pytest.approx(6.0, rel=0.05)
    assert clustered.change.low < alone.change.low < naive.change.low
    assert naive.test.p_exact < 0.001 < alone.test.p_exact


def test_no_flips_in_few_clusters_claims_no_more_than_the_clusters() -> None:
    many = clustered_change([True] * 100, [True] * 100, [i // 20 for i in range(100)], confidence=0.95)
    assert many.design_effect == 20.0
    assert many.change.low < tango_change(lost=0, gained=0, n=5, confidence=0.95).low


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(InputError):
        tango_change(lost=-1, gained=0, n=4, confidence=0.95)
    with pytest.raises(InputError):
        tango_change(lost=5, gained=6, n=10, confidence=0.95)
    with pytest.raises(InputError):
        clustered_change([True], [True, False], "ab", confidence=0.95)


def test_exact_test_keeps_its_level_and_mid_p_comes_closer() -> None:
    """All tables of 40 items of which a tenth flips, by enumeration: both runs alike."""
    levels = {"p_exact": 0.0, "p_mid": 0.0}
    for flips in range(41):
        chance = math.comb(40, flips) * 0.1**flips * 0.9 ** (40 - flips)
        for lost in range(flips + 1):
            found = mcnemar(lost, flips - lost)
            for name in levels:
                levels[name] += chance * math.comb(flips, lost) / 2**flips * (getattr(found, name) <= 0.05)
    assert levels["p_exact"] < levels["p_mid"] <= 0.05


def test_large_counts_are_computed_whole() -> None:
    assert 0.0 < mcnemar(1400, 1600).p_exact < 0.001
    assert np.isfinite(exchange_test([3] * 700 + [-3] * 690).p_mid)
