"""Closed-loop load: exact numbers from scripted token times, what counts as failed, how many requests are in flight."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import EngineCrashed, EngineRefused, InfeasibleError, InputError
from trimtab.engines.base import TokenEvent
from trimtab.measure import load
from trimtab.measure.load import RequestTrace, RoundTrace, run_round, summarise

MS = 1_000_000


class Clock:
    """Stands in for the `time` module."""

    def __init__(self, now_ns=0):
        self.now_ns = now_ns

    def monotonic_ns(self):
        return self.now_ns


class ScriptedClient:
    """Answers the k-th request with the k-th list of token times; an error in a list is raised there, `done` words end it."""

    pid = 0

    def __init__(self, scripts):
        self.scripts = list(scripts)
        self.requests = []
        self.in_flight = 0
        self.seen_in_flight = []

    async def generate(self, request):
        script = self.scripts[len(self.requests)]
        self.requests.append(request)
        self.in_flight += 1
        try:
            for step in script:
                await asyncio.sleep(0)
                self.seen_in_flight.append(self.in_flight)
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, str):
                    yield TokenEvent(request_id=request.request_id, token_id=None, logprob=None, time_ns=0, done="error", error=step)
                else:
                    yield TokenEvent(request_id=request.request_id, token_id=7, logprob=-1.0, time_ns=step)
        finally:
            self.in_flight -= 1


def run(client, n_prompts, output_tokens, concurrency, monkeypatch, now_ns=0):
    monkeypatch.setattr(load, "time", Clock(now_ns))
    prompts = [[index, 5, 6, 7] for index in range(n_prompts)]
    return asyncio.run(run_round(client, prompts, output_tokens, concurrency))


def test_numbers_by_hand(monkeypatch):
    """Tokens at 100, 110, 130, 160 ms: TTFT 100, gaps 10 20 30, TPOT 60/3, end-to-end 160."""
    client = ScriptedClient([[100 * MS, 110 * MS, 130 * MS, 160 * MS]])
    trace = run(client, 1, 4, 1, monkeypatch)
    point = summarise([trace], 1, energy_j=8.0)
    assert (point.ttft_ms.p50, point.tpot_ms.p50, point.e2e_ms.p50) == (100, 20, 160)
    assert (point.itl_ms.n, point.itl_ms.min, point.itl_ms.p50, point.itl_ms.max) == (3, 10, 20, 30)
    assert point.prefill_tok_s == pytest.approx(4 / 0.100)
    assert point.decode_tok_s == pytest.approx(50)
    assert point.output_tok_s == pytest.approx(4 / 0.160)
    assert point.energy_j_per_token == 2.0
    assert (point.n_requests, point.failed) == (1, 0)
    assert point.ttft_ms.p95 is None
    assert point.ttft_ms.p99 is None


def test_request_asks_for_a_fixed_greedy_length(monkeypatch):
    client = ScriptedClient([[1, 2], [3, 4]])
    run(client, 2, 2, 1, monkeypatch)
    assert all(request.ignore_end and request.temperature == 0 and request.max_tokens == 2 for request in client.requests)
    assert client.requests[0].request_id != client.requests[1].request_id
    assert [request.prompt_ids[0] for request in client.requests] == [0, 1]


def test_wall_time_covers_all_requests(monkeypatch):
    """Two in flight from 0, the last token at 50 ms: 4 tokens in 50 ms, although each request alone had 2 in 40 or 50."""
    client = ScriptedClient([[10 * MS, 40 * MS], [20 * MS, 50 * MS]])
    trace = run(client, 2, 2, 2, monkeypatch)
    assert summarise([trace], 2).output_tok_s == pytest.approx(4 / 0.050)


@pytest.mark.parametrize("concurrency", [1, 3, 4])
def test_exactly_so_many_in_flight(monkeypatch, concurrency):
    client = ScriptedClient([[1, 2, 3]] * 12)
    run(client, 12, 3, concurrency, monkeypatch)
    assert max(client.seen_in_flight) == concurrency
    # Every request has three steps; only the first ramp and the last may see fewer in flight.
    assert client.seen_in_flight.count(concurrency) >= 36 - 3 * concurrency


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ([10, 20], "gave 2 of 3 tokens"),
        ([], "gave 0 of 3 tokens"),
        ([10, 20, "out of slots"], "out of slots"),
        ([10, EngineRefused("It cannot.")], "It cannot."),
        ([-5, 20, 30], "before its submission"),
        ([0, 20, 30], "before its submission"),
        ([10, 30, 20], "out of order"),
        ([10, 10, 10], "does not stream"),
    ],
)
def test_a_request_that_cannot_be_used_has_failed(monkeypatch, script, why):
    client = ScriptedClient([script, [10 * MS, 20 * MS, 30 * MS]])
    trace = run(client, 2, 3, 1, monkeypatch)
    point = summarise([trace], 1)
    assert why in trace.requests[0].failed
    assert (point.n_requests, point.failed) == (2, 1)
    for distribution in (point.ttft_ms, point.tpot_ms, point.e2e_ms):
        assert distribution.n == 1
        assert distribution.min > 0


def test_no_finished_request_is_an_answer_not_a_number(monkeypatch):
    trace = run(ScriptedClient([["no memory."], ["no memory."]]), 2, 3, 1, monkeypatch)
    with pytest.raises(InfeasibleError, match="None of 2 requests finished at concurrency 1: no memory"):
        summarise([trace], 1)
    with pytest.raises(InfeasibleError, match="None of 0 requests"):
        summarise([trace], 4)


def test_a_lost_worker_ends_the_round(monkeypatch):
    client = ScriptedClient([[1, EngineCrashed("It crashed.")], [1] * 50, [1] * 50])
    with pytest.raises(EngineCrashed, match="It crashed"):
        run(client, 3, 50, 2, monkeypatch)
    assert client.in_flight == 0


@pytest.mark.parametrize(("n_prompts", "output_tokens", "concurrency"), [(1, 4, 2), (0, 4, 1), (1, 4, 0), (1, 1, 1)])
def test_shapes_that_cannot_be_timed(monkeypatch, n_prompts, output_tokens, concurrency):
    with pytest.raises(InputError):
        run(ScriptedClient([]), n_prompts, output_tokens, concurrency, monkeypatch)


@st.composite
def traces(draw):
    """Rounds at concurrency 2 in which some requests failed."""
    rounds = []
    for _ in range(draw(st.integers(1, 4))):
        requests = []
        for _ in range(draw(st.integers(1, 8))):
            submit = draw(st.integers(0, 10**9))
            steps = draw(st.lists(st.integers(1, 10**9), min_size=2, max_size=6))
            failed = draw(st.sampled_from(["", "", "", "lost"]))
            times = tuple(submit + total for total in itertools.accumulate(steps))
            requests.append(RequestTrace(prompt_tokens=draw(st.integers(1, 999)), submit_ns=submit, token_ns=times, failed=failed))
        rounds.append(RoundTrace(concurrency=2, requests=tuple(requests)))
    return rounds


@given(traces())
def test_summary_holds_together(rounds):
    requests = [request for trace in rounds for request in trace.requests]
    finished = [request for request in requests if not request.failed]
    if not finished:
        with pytest.raises(InfeasibleError):
            summarise(rounds, 2)
        return
    point = summarise(rounds, 2)
    assert point.n_requests == len(requests)
    assert point.failed == len(requests) - len(finished)
    assert point.ttft_ms.n == point.tpot_ms.n == point.e2e_ms.n == len(finished)
    assert point.itl_ms.n == sum(len(request.token_ns) - 1 for request in finished)
    for one in (point.ttft_ms, point.tpot_ms, point.itl_ms, point.e2e_ms):
        assert 0 < one.min <= one.p50 <= one.max
        assert (one.p95 is None) == (one.n < 20)
        assert (one.p99 is None) == (one.n < 100)
    for request in finished:
        assert request.ttft_ms + sum(request.itl_ms) == pytest.approx(request.e2e_ms)
        assert request.tpot_ms == pytest.approx(sum(request.itl_ms) / len(request.itl_ms))
    assert min(point.prefill_tok_s, point.decode_tok_s, point.output_tok_s) > 0
    assert point.energy_j_per_token is None
