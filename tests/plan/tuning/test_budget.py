"""Sharing out a run's time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.plan.tuning.budget import NEEDED_TOKENS, plan_budget


def test_the_demo():
    """Six minutes at the reference's 530 tokens a second: about 30k reference-scored tokens, 4k generated, 40 s for each finalist."""
    budget = plan_budget(score_tok_s=530, n_candidates=8)
    assert budget.total_s == 360
    assert 25_000 <= budget.reference_tokens <= 32_000
    assert budget.generate_tokens == 4000
    assert budget.n_entrants == 4
    assert budget.timing_s_per_entrant == pytest.approx(40, abs=2)
    assert budget.warning == ""
    assert "time against the baseline       158 s   40 s for each of 4" in budget.lines()


def test_a_slow_reference_is_warned_of_with_the_limit_that_would_do():
    budget = plan_budget(score_tok_s=100, n_candidates=4)
    assert "may be inconclusive" in budget.warning
    assert budget.lines()[-1] == budget.warning
    # 15,000 tokens twice at 100 a second are 300 s, in 30 % of 1,000 s.
    assert "--time-limit 17m" in budget.warning
    assert plan_budget(17 * 60, score_tok_s=100, n_candidates=4).certify_tokens >= NEEDED_TOKENS


def test_too_many_candidates_are_cut():
    budget = plan_budget(60, score_tok_s=530, n_candidates=50)
    assert budget.n_candidates < 50
    assert budget.screen_s <= 15


@pytest.mark.parametrize(
    ("limit_s", "rate"), [(29, 500), (0, 500), (-5, 500), (float("nan"), 500), (360, 0), (360, -1), (360, float("nan"))]
)
def test_impossible_input(limit_s, rate):
    with pytest.raises(InputError):
        plan_budget(limit_s, score_tok_s=rate, n_candidates=5)


@given(
    limit_s=st.floats(30, 10**5),
    rate=st.floats(0.1, 10**6),
    n_candidates=st.integers(1, 200),
    n_finalists=st.integers(1, 10),
    passes=st.floats(1, 6),
)
def test_the_parts_fit_the_whole(limit_s, rate, n_candidates, n_finalists, passes):
    budget = plan_budget(limit_s, score_tok_s=rate, n_candidates=n_candidates, n_finalists=n_finalists, certify_passes=passes)
    timing_s = budget.timing_s_per_entrant * budget.n_entrants
    parts = [budget.build_s, budget.screen_s, timing_s, budget.certify_s, budget.generate_s, budget.reserve_s]
    assert min(parts) >= 0
    assert timing_s > 0
    assert sum(parts) <= limit_s * (1 + 1e-9)
    assert 1 <= budget.n_candidates <= n_candidates
    assert 2 <= budget.n_entrants <= max(2, min(n_finalists, n_candidates) + 1)
    assert budget.certify_tokens <= 30_000
    assert (budget.warning == "") == (budget.certify_tokens >= NEEDED_TOKENS)


@given(rate=st.floats(1, 10**5), shorter=st.floats(30, 5000), more=st.floats(0, 5000))
def test_more_time_never_certifies_on_less(rate, shorter, more):
    less, much = (plan_budget(limit, score_tok_s=rate, n_candidates=5) for limit in (shorter, shorter + more))
    assert less.certify_tokens <= much.certify_tokens
