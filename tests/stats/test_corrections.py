"""Benjamini-Hochberg, and rates corrected for a judge's errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from trimtab.core.errors import InputError
from trimtab.stats.multiplicity import benjamini_hochberg, holm
from trimtab.stats.prevalence import JudgeRecord, corrected_change, corrected_rate

GOOD = JudgeRecord(positives=100, found=92, negatives=200, cleared=176)


def test_benjamini_hochberg_on_the_example_of_its_authors() -> None:
    """Fifteen p-values of the 1995 paper, section 3.2: at q = 0.05 the first four are found, with Bonferroni and Holm three."""
    values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000]
    assert sum(p <= 0.05 for p in benjamini_hochberg(values)) == 4
    assert sum(p <= 0.05 for p in holm(values)) == 3


@given(st.lists(st.floats(0, 1), max_size=25))
def test_holm_is_that_of_its_definition_in_the_order_given(values: list[float]) -> None:
    def adjusted(p: float) -> float:
        return max(min(1.0, q * sum(other >= q for other in values)) for q in values if q <= p)

    assert holm(values) == pytest.approx([adjusted(p) for p in values])


@given(st.lists(st.floats(0, 1), max_size=25))
def test_benjamini_hochberg_is_scipys(values: list[float]) -> None:
    expected = false_discovery_control(values).tolist() if values else []
    assert benjamini_hochberg(values) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25))
def test_benjamini_hochberg_never_asks_more_than_holm(values: list[float]) -> None:
    assert all(a <= b + 1e-12 for a, b in zip(benjamini_hochberg(values), holm(values), strict=True))


def test_a_rate_is_corrected_as_by_rogan_and_gladen() -> None:
    found = corrected_rate(300, 1000, GOOD, 0.95)
    assert found.value == pytest.approx((0.30 + 0.88 - 1) / (0.92 + 0.88 - 1))
    assert found.low < found.value < found.high


def test_a_rate_against_an_independent_implementation() -> None:
    """Formulas of Lang & Reiczigel 2014 written out from the paper: equations 6, 7, 15 to 17 for 70 of 200, 45 of 50 and 76 of 80."""
    z = 1.959964
    n, p = 200 + z**2, (70 + z**2 / 2) / (200 + z**2)
    se, sp = 46 / 52, 77 / 82
    rate = (p + sp - 1) / (se + sp - 1)
    shift = 2 * z**2 * (rate * se * (1 - se) / 52 - (1 - rate) * sp * (1 - sp) / 82)
    spread = (p * (1 - p) / n + rate**2 * se * (1 - se) / 52 + (1 - rate) ** 2 * sp * (1 - sp) / 82) ** 0.5 / (se + sp - 1)
    found = corrected_rate(70, 200, JudgeRecord(positives=50, found=45, negatives=80, cleared=76), 0.95)
    assert (found.low, found.high) == (pytest.approx(rate + shift - z * spread), pytest.approx(rate + shift + z * spread))


def test_a_perfect_and_well_known_judge_changes_nothing() -> None:
    perfect = JudgeRecord(positives=10**9, found=10**9, negatives=10**9, cleared=10**9)
    found = corrected_rate(30, 100, perfect, 0.95)
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == (pytest.approx(0.2189, abs=5e-4), pytest.approx(0.3959, abs=5e-4))  # Agresti & Coull, 30 of 100
    assert corrected_change(12, 5, 100, perfect, 0.95).value == pytest.approx(0.07)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(100, 300))
def test_a_change_mirrors_and_grows_when_corrected(gained: int, lost: int, n: int) -> None:
    forth, back = corrected_change(gained, lost, n, GOOD, 0.9), corrected_change(lost, gained, n, GOOD, 0.9)
    assert abs(forth.value) >= abs(gained - lost) / n
    assert (forth.value, forth.low, forth.high) == (pytest.approx(-back.value), pytest.approx(-back.high), pytest.approx(-back.low))


def test_a_judge_known_from_few_cases_widens_the_interval() -> None:
    few = JudgeRecord(positives=25, found=23, negatives=50, cleared=44)
    narrow, wide = corrected_rate(300, 1000, GOOD, 0.95), corrected_rate(300, 1000, few, 0.95)
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [0.03, 0.3, 0.9])
def test_corrected_rate_covers_the_truth(truth: float) -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(3000):
        judge = JudgeRecord(positives=60, found=int(rng.binomial(60, 0.9)), negatives=80, cleared=int(rng.binomial(80, 0.85)))
        found = corrected_rate(int(rng.binomial(300, truth * 0.9 + (1 - truth) * 0.15)), 300, judge, 0.95)
        covered += found.low <= truth <= found.high
    assert 0.935 <= covered / 3000 <= 0.985


@pytest.mark.parametrize(
    "judge",
    [
        JudgeRecord(positives=0, found=0, negatives=5, cleared=5),
        JudgeRecord(positives=5, found=6, negatives=5, cleared=5),
        JudgeRecord(positives=50, found=20, negatives=50, cleared=25),
    ],
)
def test_judges_that_correct_nothing_are_refused(judge: JudgeRecord) -> None:
    with pytest.raises(InputError):
        corrected_rate(3, 10, judge, 0.95)
    with pytest.raises(InputError):
        corrected_change(1, 2, 10, judge, 0.95)


def test_impossible_judged_counts_are_refused() -> None:
    with pytest.raises(InputError):
        corrected_rate(11, 10, GOOD, 0.95)
    with pytest.raises(InputError):
        corrected_change(6, 5, 10, GOOD, 0.95)
