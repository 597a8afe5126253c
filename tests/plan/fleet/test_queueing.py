"""With a batch of one and constant steps a replica is a queue that theory knows: waits must come out as formulas say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.plan.fleet.events import simulate
from trimtab.plan.fleet.results import latencies, result
from trimtab.plan.fleet.settings import Fleet
from trimtab.plan.fleet.steps import AffineSteps
from trimtab.plan.fleet.traces import Trace, made_trace

PLAIN = AffineSteps(fixed_s=0.01)
"""Every step takes 10 ms, so an answer of n tokens takes 10 n ms of a replica with one slot."""


def poisson(rate: float, outputs: np.ndarray, seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    n = len(outputs)
    none = np.full(n, -1)
    at = np.cumsum(rng.exponential(1 / rate, n))
    return Trace(name="t", arrival_s=at, prompt_tokens=none * 0 + 1, output_tokens=outputs, prefix=none, prefix_tokens=none * 0)


def mean_wait_s(trace: Trace, fleet: Fleet) -> float:
    return float(latencies(trace, fleet, simulate(trace, fleet)).wait_ms.mean()) / 1e3


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_constant_service_waits_as_pollaczek_and_khinchine_say(fleet: Callable[..., Fleet], load: float) -> None:
    service_s = 0.1
    waits = [mean_wait_s(poisson(load / service_s, np.full(20_000, 10), seed), fleet(slots=1, steps=PLAIN)) for seed in range(2)]
    meant_s = load * service_s / (2 * (1 - load))
    assert float(np.mean(waits)) == pytest.approx(meant_s, rel=0.08)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_geometric_service_waits_as_pollaczek_and_khinchine_say(fleet: Callable[..., Fleet], load: float) -> None:
    """Geometric lengths with a mean of 50 steps are all but exponential: M/M/1 with the second moment of a geometric number."""
    p, step_s = 1 / 50, 0.01
    rng = np.random.default_rng(5)
    waits = [mean_wait_s(poisson(load * p / step_s, rng.geometric(p, 30_000), seed), fleet(slots=1, steps=PLAIN)) for seed in range(2)]
    second = (2 - p) / p**2 * step_s**2
    meant_s = load * p / step_s * second / (2 * (1 - load))
    assert float(np.mean(waits)) == pytest.approx(meant_s, rel=0.1)


def test_two_servers_with_one_queue_wait_as_erlang_says(fleet: Callable[..., Fleet]) -> None:
    """M/M/2 at a load of 0.7: the wait is C(2, a) / (2 mu - lambda)."""
    p, step_s, load = 1 / 50, 0.01, 0.7
    rng = np.random.default_rng(6)
    rate, mu = 2 * load * p / step_s, p / step_s
    traces = [poisson(rate, rng.geometric(p, 30_000), seed) for seed in range(2)]
    waits = [mean_wait_s(trace, fleet(2, slots=1, steps=PLAIN, queue_at_gateway=True)) for trace in traces]
    a = rate / mu
    erlang_c = (a**2 / 2 / (1 - load)) / (1 + a + a**2 / 2 / (1 - load))
    assert float(np.mean(waits)) == pytest.approx(erlang_c / (2 * mu - rate), rel=0.1)


def test_more_replicas_never_wait_longer(fleet: Callable[..., Fleet]) -> None:
    rows = [WorkloadRequest(prompt_tokens=p, output_tokens=o) for p, o in ((20, 10), (60, 40), (30, 90), (200, 5))]
    workload = Workload(name="w", prompt_tokens=40, output_tokens=40, concurrency=(1,), requests=tuple(rows))
    trace = made_trace(workload, rate=20.0, seconds=100.0, seed=3)
    found: list[dict[str, Any]] = []
    for n in (1, 2, 3, 4, 8):
        played = fleet(n)
        found.append(result(trace, played, simulate(trace, played, seed=3)))
    for key in ("wait_ms", "ttft_ms", "e2e_ms"):
        medians = [one[key]["p50"] for one in found]
        assert medians == sorted(medians, reverse=True), key
    assert found[0]["wait_ms"]["p50"] > 10 * found[1]["wait_ms"]["p50"], "one alone is overloaded, or the order says nothing"


def test_littles_law(fleet: Callable[..., Fleet]) -> None:
    """Mean number in the system = rate x mean time in it, whatever the schedule."""
    trace = made_trace(Workload(name="w", prompt_tokens=40, output_tokens=30, concurrency=(1,)), rate=10.0, seconds=200.0, seed=1)
    played = fleet(2)
    course = simulate(trace, played)
    arrivals, ends = trace.arrival_s, np.sort(course.requests.end_s)
    moments = np.linspace(0, course.end_s, 200_001)
    in_system = np.searchsorted(arrivals, moments, side="right") - np.searchsorted(ends, moments, side="right")
    e2e_s = latencies(trace, played, course).e2e_ms.mean() / 1e3
    assert float(in_system.mean()) == pytest.approx(len(trace) / course.end_s * e2e_s, rel=1e-3)
