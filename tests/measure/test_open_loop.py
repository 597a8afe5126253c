"""Open-loop load on fake clients: latency counts from the due time, a stall is seen by everybody, and overload is recognised."""

import asyncio
import dataclasses
import os
import time

import numpy as np
import pytest

from trimtab.core.errors import EngineCrashed, EngineRefused, InputError
from trimtab.core.workload import SloTerm, Workload, WorkloadRequest
from trimtab.engines.base import TokenEvent
from trimtab.measure.open_loop import OpenRequest, OpenTrace, arrivals_of, poisson_arrivals, run_open, trace_arrivals, why_saturated

TTFT = SloTerm(metric="ttft", percentile=95.0, limit=100.0, upper=True, text="ttft<100ms")


class OneAtATime:
    """Answers in order of arrival, each in `service_s`; nothing before `opens_s` after its first request."""

    pid = os.getpid()

    def __init__(self, service_s: float, opens_s: float = 0.0, error: Exception | None = None) -> None:
        self.service_s, self.opens_s, self.error = service_s, opens_s, error
        self.lock = asyncio.Lock()
        self.opened = 0.0
        self.most = 0
        self.now = 0

    async def generate(self, request):
        self.now += 1
        self.most = max(self.most, self.now)
        self.opened = self.opened or time.monotonic() + self.opens_s
        try:
            async with self.lock:
                await asyncio.sleep(max(0.0, self.opened - time.monotonic()))
                if self.error is not None:
                    raise self.error
                for position in range(request.max_tokens):
                    await asyncio.sleep(self.service_s / request.max_tokens)
                    done = "length" if position == request.max_tokens - 1 else ""
                    yield TokenEvent(request_id=request.request_id, token_id=5, logprob=-1.0, time_ns=time.monotonic_ns(), done=done)
        finally:
            self.now -= 1


def load(due_s, output_tokens=2):
    return [OpenRequest(due_s=due, prompt_ids=(1, 2), output_tokens=output_tokens) for due in due_s]


def test_a_stall_is_seen_by_every_request_that_was_due_in_it():
    """A closed loop with one user would have asked once during the stall, and reported one slow request of forty."""
    due = [0.02 * n for n in range(40)]
    client = OneAtATime(0.001, opens_s=0.5)
    result = asyncio.run(run_open(client, load(due), stop_when_saturated=False))
    ttft = [trace.latency_ms("ttft") for trace in result.traces]
    assert ttft[0] >= 490
    for index in range(20):
        assert ttft[index] >= 1000 * (0.5 - due[index]) - 1, "it waited from the moment it was due"
    assert sum(value > 100 for value in ttft) >= 18
    assert client.most >= 15, "requests were sent while others were in flight"
    assert result.latest_send_s < 0.4
    assert not any(trace.failed for trace in result.traces)


def test_latency_counts_from_the_due_time_although_the_loop_was_blocked():
    async def blocked():
        async def hog():
            await asyncio.sleep(0.05)
            time.sleep(0.2)  # the event loop itself stands still

        task = asyncio.create_task(hog())
        result = await run_open(OneAtATime(0.001), load([0.0, 0.1, 0.15]), stop_when_saturated=False)
        await task
        return result

    result = asyncio.run(blocked())
    assert result.traces[1].latency_ms("ttft") >= 140
    assert result.latest_send_s >= 0.14


def test_goodput_and_failures():
    result = asyncio.run(run_open(OneAtATime(0.002), load([0.0, 0.05, 0.1]), stop_when_saturated=False))
    assert all(trace.meets([TTFT]) for trace in result.traces)
    assert result.goodput_per_s([TTFT]) == pytest.approx(3 / result.wall_s)
    refused = asyncio.run(run_open(OneAtATime(0.002, error=EngineRefused("No.")), load([0.0, 0.01])))
    assert [trace.failed for trace in refused.traces] == ["No.", "No."]
    assert refused.goodput_per_s([TTFT]) == 0.0
    assert not refused.traces[0].meets([TTFT])
    with pytest.raises(EngineCrashed, match="gone"):
        asyncio.run(run_open(OneAtATime(0.002, error=EngineCrashed("gone")), load([0.0, 0.01, 0.02])))


def test_what_is_unanswered_after_the_drain_has_failed():
    result = asyncio.run(run_open(OneAtATime(0.01, opens_s=5.0), load([0.0, 0.01]), drain_s=0.1))
    assert [trace.failed for trace in result.traces] == ["gave 0 of 2 tokens"] * 2


def test_latencies_of_one_request():
    trace = OpenTrace(due_ns=0, sent_ns=int(5e6), prompt_tokens=4, token_ns=(int(20e6), int(30e6), int(70e6)))
    assert [trace.latency_ms(name) for name in ("ttft", "tpot", "itl", "e2e")] == [20.0, 25.0, 40.0, 70.0]


@pytest.mark.slow
def test_overload_is_stopped_early():
    due = poisson_arrivals(100.0, 600, seed=1)
    result = asyncio.run(run_open(OneAtATime(0.02), load(due)))
    assert "go unanswered" in result.saturated
    assert result.n_unsent > 60
    assert result.wall_s < due[-1]


def queue(load_share: float, n: int, seed: int):
    """An M/D/1 queue with one second of service, looked at 60 times: whether overload is called at any look."""
    due = np.array(poisson_arrivals(load_share, n, seed))
    start = np.zeros(n)
    free = 0.0
    for index, moment in enumerate(due):
        start[index] = free = max(free, moment)
        free += 1.0
    for look in np.linspace(due[-1] / 20, due[-1], 60):
        waits = [(d, s - d) for d, s in zip(due, start, strict=True) if s <= look]
        moments = np.linspace(0, look, 120)
        flying = [(t, float(((due <= t) & (start + 1.0 > t)).sum())) for t in moments]
        if why_saturated(flying, waits):
            return True
    return False


@pytest.mark.slow
def test_overload_is_called_where_it_is_and_nowhere_else():
    """As many requests as a point of a search for capacity has."""
    assert sum(queue(2.0, 100, seed) for seed in range(20)) >= 19
    assert sum(queue(0.8, 100, seed) for seed in range(20)) <= 1


def test_arrivals():
    due = poisson_arrivals(5.0, 4000, seed=3)
    gaps = np.diff(due)
    assert due[0] == 0.0
    assert gaps.mean() == pytest.approx(0.2, rel=0.06)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.08), "exponential gaps"
    assert poisson_arrivals(5.0, 4000, seed=3) == due
    assert poisson_arrivals(5.0, 0, seed=3) == []
    requests = [WorkloadRequest(prompt_tokens=8, output_tokens=4, arrival_s=moment) for moment in (7.0, 5.0, 9.0)]
    assert trace_arrivals(requests, speed=2.0) == [0.0, 1.0, 2.0]
    bursty = Workload(name="t", prompt_tokens=8, output_tokens=4, concurrency=(1,), requests=tuple(requests))
    assert arrivals_of(bursty, 1.0, 5, seed=0) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert arrivals_of(bursty, 4.0, 3, seed=0) == [0.0, 0.25, 0.5]
    plain = dataclasses.replace(bursty, requests=())
    assert arrivals_of(plain, 5.0, 4000, seed=3) == due
    with pytest.raises(InputError, match="1 of 1 requests have no time"):
        trace_arrivals([WorkloadRequest(prompt_tokens=8, output_tokens=4)])
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="above zero"):
            poisson_arrivals(bad, 3, seed=0)
        with pytest.raises(InputError, match="above zero"):
            trace_arrivals(requests, speed=bad)
    with pytest.raises(InputError, match="at least one request"):
        asyncio.run(run_open(OneAtATime(0.001), []))
