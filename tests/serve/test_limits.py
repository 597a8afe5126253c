"""Limits: what may never be exceeded whatever the order of requests, and what survives a restart."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.record.identities import Key
from trimtab.serve import limits as limits_module
from trimtab.serve.base import Refusal
from trimtab.serve.errors import error_headers
from trimtab.serve.limits import DAY_S, Limits, SpendFile, Spent

NOON = 20_000 * DAY_S + DAY_S / 2


def key(id_: str = "k_1", *, rpm: int | None = None, tokens_per_day: int | None = None) -> Key:
    return Key(id=id_, name=id_, rpm=rpm, tokens_per_day=tokens_per_day, created_unix_s=0.0)


def admitted(limits: Limits, one: Key, now_s: float) -> bool:
    refusal = None
    try:
        limits.admit(one, now_s)
    except Refusal as error:
        refusal = error
    assert refusal is None or (refusal.status == 429 and (refusal.retry_after_s or 0) > 0)
    return refusal is None


@given(
    rpm=st.integers(1, 50),
    steps_s=st.lists(st.floats(0, 20), min_size=1, max_size=200),
    window_s=st.floats(1, 300),
)
def test_no_window_takes_more_than_the_bucket_and_its_refill(rpm: int, steps_s: list[float], window_s: float) -> None:
    limits, one, now_s = Limits(), key(rpm=rpm), NOON
    times = []
    for step_s in steps_s:
        now_s += step_s
        if admitted(limits, one, now_s):
            times.append(now_s)
    for begin_s in times:
        inside = sum(begin_s <= at < begin_s + window_s for at in times)
        assert inside <= rpm + rpm * window_s / 60 + 1e-6
    assert limits.spent(one.id, NOON).requests + limits.spent(one.id, NOON + DAY_S).requests >= len(times) - sum(
        at >= NOON + 1.5 * DAY_S for at in times
    )


@given(rpm=st.integers(1, 500), used=st.integers(0, 600))
def test_the_time_to_wait_is_what_is_said(rpm: int, used: int) -> None:
    limits, one = Limits(), key(rpm=rpm)
    let_in = sum(admitted(limits, one, NOON) for _ in range(used))
    assert let_in == min(used, rpm)
    if used <= rpm:
        return
    with pytest.raises(Refusal) as caught:
        limits.admit(one, NOON)
    wait_s = caught.value.retry_after_s
    assert wait_s is not None
    assert not admitted(limits, one, NOON + wait_s * 0.99)
    assert admitted(limits, one, NOON + wait_s + 1e-4)


@given(steps=st.lists(st.tuples(st.floats(-100_000, 100_000), st.integers(0, 500)), max_size=60), budget=st.integers(1, 2000))
def test_a_day_goes_over_its_budget_by_one_request_at_most(steps: list[tuple[float, int]], budget: int) -> None:
    """Whatever the clock does, backwards too, as long as the days are remembered."""
    limits, one, now_s = Limits(), key(tokens_per_day=budget), NOON
    largest = max((tokens for _, tokens in steps), default=0)
    for step_s, tokens in steps:
        now_s = max(NOON - DAY_S, min(NOON + DAY_S, now_s + step_s))
        may = limits.spent(one.id, now_s).tokens < budget
        assert admitted(limits, one, now_s) == may
        if may:
            limits.spend(one, tokens, now_s)
        assert limits.spent(one.id, now_s).tokens < budget + largest or largest == 0


def test_budgets_end_at_midnight() -> None:
    limits, one = Limits(), key(tokens_per_day=100)
    limits.admit(one, NOON)
    limits.spend(one, 150, NOON)
    with pytest.raises(Refusal) as caught:
        limits.admit(one, NOON + 3600)
    assert (caught.value.code, caught.value.retry_after_s) == ("insufficient_quota", DAY_S / 2 - 3600)
    headers = error_headers(caught.value)
    assert (headers["x-should-retry"], headers["retry-after"]) == ("false", "39600")  # no client should try again in seconds
    limits.admit(one, NOON + DAY_S / 2)
    assert limits.spent(one.id, NOON + DAY_S / 2) == Spent(requests=1)


def test_keys_do_not_share_and_no_key_has_no_limit() -> None:
    limits = Limits()
    assert admitted(limits, key("a", rpm=1), NOON)
    assert not admitted(limits, key("a", rpm=1), NOON)
    assert admitted(limits, key("b", rpm=1), NOON)
    for _ in range(100):
        limits.admit(None, NOON)
        limits.admit(key("c"), NOON)
    limits.spend(None, 5, NOON)
    assert limits.headers(None, NOON) == limits.headers(key("c"), NOON) == {}


def test_a_refused_request_is_not_counted() -> None:
    limits, one = Limits(), key(rpm=2)
    assert [admitted(limits, one, NOON) for _ in range(5)] == [True, True, False, False, False]
    assert limits.spent(one.id, NOON).requests == 2


def test_a_changed_limit_counts_at_once() -> None:
    limits = Limits()
    assert all(admitted(limits, key(rpm=100), NOON) for _ in range(50))
    assert [admitted(limits, key(rpm=2), NOON) for _ in range(3)] == [True, True, False]


def test_headers_say_what_is_left() -> None:
    limits, one = Limits(), key(rpm=60, tokens_per_day=1000)
    for _ in range(3):
        limits.admit(one, NOON)
    limits.spend(one, 400, NOON)
    assert limits.headers(one, NOON) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "57",
        "x-ratelimit-reset-requests": "3.000s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "600",
        "x-ratelimit-reset-tokens": "43200.000s",
    }


def test_days_that_are_over_are_forgotten() -> None:
    limits, one = Limits(), key(tokens_per_day=10)
    for day in range(50):
        limits.admit(one, NOON + day * DAY_S)
    assert len(limits.days) <= 4


# The file


def spend_and_write(home: Path, n: int, now_s: float) -> None:
    limits, file = Limits(), SpendFile(home)
    file.load(limits, now_s)
    for number in range(n):
        one = key(f"k_{number % 2}", tokens_per_day=10**6)
        limits.admit(one, now_s)
        limits.spend(one, 10, now_s)
    assert file.write(limits.take_pending()) == {}


def test_spending_survives_a_restart(tmp_path: Path) -> None:
    spend_and_write(tmp_path, 10, NOON)
    spend_and_write(tmp_path, 4, NOON)
    limits, file = Limits(), SpendFile(tmp_path)
    file.load(limits, NOON)
    assert limits.spent("k_0", NOON) == limits.spent("k_1", NOON) == Spent(requests=7, tokens=70)
    assert limits.pending == {}
    with pytest.raises(Refusal):
        limits.admit(key("k_0", tokens_per_day=70), NOON)
    assert [path.name for path in file.folder.iterdir()] == ["2024-10-04.jsonl"]


def test_a_day_that_is_over_becomes_one_line(tmp_path: Path) -> None:
    for _ in range(5):
        spend_and_write(tmp_path, 3, NOON)
    path = tmp_path / "access" / "spend" / "2024-10-04.jsonl"
    assert len(path.read_text().splitlines()) == 5
    spend_and_write(tmp_path, 1, NOON + DAY_S)
    assert len(path.read_text().splitlines()) == 1
    assert SpendFile(tmp_path).of_day(20_000) == {"k_0": Spent(requests=10, tokens=100), "k_1": Spent(requests=5, tokens=50)}
    before = path.stat().st_mtime_ns
    spend_and_write(tmp_path, 1, NOON + DAY_S)
    assert path.stat().st_mtime_ns == before


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    spend_and_write(tmp_path, 2, NOON)
    path = tmp_path / "access" / "spend" / "2024-10-04.jsonl"
    with path.open("a") as file:
        file.write('{"spent":{"k_0":[1')
    spend_and_write(tmp_path, 2, NOON)
    assert SpendFile(tmp_path).of_day(20_000)["k_0"] == Spent(requests=2, tokens=20)


def test_what_cannot_be_written_waits(tmp_path: Path) -> None:
    limits, file = Limits(), SpendFile(tmp_path)
    limits.admit(key(), NOON)
    (tmp_path / "access").write_text("in the way")
    limits.give_back(file.write(limits.take_pending()))
    assert file.problem
    limits.admit(key(), NOON)
    (tmp_path / "access").unlink()
    assert file.write(limits.take_pending()) == {}
    assert not file.problem
    assert file.of_day(20_000) == {"k_1": Spent(requests=2)}


def test_it_is_kept_in_the_background_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "FLUSH_S", 0.01)

    async def run() -> None:
        limits, file = Limits(), SpendFile(tmp_path)
        task = asyncio.create_task(file.keep(limits))
        limits.admit(key(), NOON)
        while limits.pending or not file.of_day(20_000):
            await asyncio.sleep(0.01)
        limits.spend(key(), 7, NOON)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert file.of_day(20_000) == {"k_1": Spent(requests=1, tokens=7)}

    asyncio.run(asyncio.wait_for(run(), 60))
