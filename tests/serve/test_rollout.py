"""Shares are as asked for, users stay where they are, and growing a canary moves nobody back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.site import Rollout
from trimtab.serve.rollout import pick

N = 4000


@pytest.mark.parametrize("percent", [0.0, 1.0, 10.0, 50.0, 100.0])
def test_the_share_is_as_asked_for(percent: float) -> None:
    rollout = Rollout(stable="old", canary="new", canary_pct=percent)
    share = sum(pick(rollout, f"r{number}", f"user {number}")[0] == "new" for number in range(N)) / N
    assert abs(share - percent / 100) <= 4 * (percent / 100 * (1 - percent / 100) / N) ** 0.5


def test_a_user_stays_and_a_growing_canary_moves_nobody_back() -> None:
    users = [f"user {number}" for number in range(300)]
    before: set[str] = set()
    for percent in (1.0, 5.0, 20.0, 60.0, 100.0):
        rollout = Rollout(stable="old", canary="new", canary_pct=percent)
        now = {user for user in users if pick(rollout, "r1", user)[0] == "new"}
        assert now == {user for user in users if pick(rollout, "r2", user)[0] == "new"}
        assert before <= now
        before = now
    assert len(before) == len(users)


def test_without_a_user_or_stickiness_requests_are_drawn_one_by_one() -> None:
    by_request = Rollout(stable="old", canary="new", canary_pct=50.0, sticky="none")
    assert len({pick(by_request, f"r{number}", "user")[0] for number in range(50)}) == 2
    sticky = Rollout(stable="old", canary="new", canary_pct=50.0)
    assert len({pick(sticky, f"r{number}", "")[0] for number in range(50)}) == 2


def test_other_canaries_are_tried_by_other_users() -> None:
    first, second = (Rollout(stable="old", canary=name, canary_pct=10.0) for name in ("new", "newer"))
    chosen = [{number for number in range(N) if pick(rollout, "r", f"u{number}")[0] != "old"} for rollout in (first, second)]
    assert len(chosen[0] & chosen[1]) < 0.3 * min(map(len, chosen))


def test_a_shadow_gets_a_share_of_the_copies_and_never_its_own_requests() -> None:
    rollout = Rollout(stable="old", shadow="next", shadow_pct=25.0)
    copies = sum(pick(rollout, f"r{number}", "one user") == ("old", "next") for number in range(N)) / N
    assert abs(copies - 0.25) < 0.03
    assert pick(Rollout(stable="old", shadow="old", shadow_pct=100.0), "r", "u") == ("old", "")


@given(request=st.text(), user=st.text(), percent=st.floats(0, 100))
def test_any_text_is_an_id(request: str, user: str, percent: float) -> None:
    rollout = Rollout(stable="old", canary="new", canary_pct=percent, shadow="next", shadow_pct=percent)
    assert pick(rollout, request, user) == pick(rollout, request, user)
