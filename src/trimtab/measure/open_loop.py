"""Open-loop load: requests come when they are due, whatever is still in flight, and latency counts from that moment.

A closed loop waits for answers before it asks again, so a stall delays the questions too and is seen by few of them ("coordinated
omission", Tene 2013). Here a request that is sent late, because the machine was busy, has waited since it was due. Load that cannot be
sustained is recognised while it runs: the number in flight and the time to first token both go on growing with time.
"""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.core.errors import EngineCrashed, EngineHung, InputError, TrimtabError
from trimtab.core.workload import SloTerm, Workload, WorkloadRequest
from trimtab.engines.base import GenerateRequest
from trimtab.measure.load import LoadClient
from trimtab.stats.trend import slope_interval

LATENCIES = ("ttft", "tpot", "itl", "e2e")
MIN_FOR_TREND = 40
"""First tokens to be seen before a trend is believed."""
TREND_CONFIDENCE = 0.999
"""Neighbours in a queue are alike, and the look is repeated: an interval at 95 % would cry wolf."""
LEAST_GROWTH = 0.15
"""Share of the arrivals that the queue must grow by, and seconds that the wait must grow by in each second."""
WATCH_S = 0.1

_request_ids = itertools.count(1 << 32)


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """due_s: after the start of the load. output_tokens are generated past any end of text."""

    due_s: float
    prompt_ids: tuple[int, ...]
    output_tokens: int


@dataclass(frozen=True, kw_only=True)
class OpenTrace:
    """One request; times of `time.monotonic_ns()`. Latencies count from `due_ns`. `failed`: why it has none, empty if it finished."""

    due_ns: int
    sent_ns: int
    prompt_tokens: int
    token_ns: tuple[int, ...]
    failed: str = ""

    def latency_ms(self, metric: str) -> float:
        """ttft (due to first token), tpot (mean gap), itl (longest gap), e2e (due to last token); infinite for one that failed."""
        if self.failed or not self.token_ns:
            return math.inf
        first, last = self.token_ns[0], self.token_ns[-1]
        gaps = [(after - before) / 1e6 for before, after in itertools.pairwise(self.token_ns)]
        return {
            "ttft": (first - self.due_ns) / 1e6,
            "tpot": (last - first) / 1e6 / max(1, len(gaps)),
            "itl": max(gaps, default=0.0),
            "e2e": (last - self.due_ns) / 1e6,
        }[metric]

    def meets(self, terms: Sequence[SloTerm]) -> bool:
        """Whether this one request keeps every latency limit among the terms."""
        return all(self.latency_ms(term.metric) <= term.limit for term in terms if term.metric in LATENCIES)


@dataclass(frozen=True, kw_only=True)
class OpenResult:
    """What came of one open loop, requests in the order they were due.

    offered_per_s: requests over the time in which they were due
    n_unsent: due after the load was stopped, sent never, and in no figure
    saturated: why more came in than could be answered, empty if it could
    latest_send_s: how late the latest request was sent; the load generator's own fault, and in its latency
    """

    traces: tuple[OpenTrace, ...]
    offered_per_s: float
    wall_s: float
    n_unsent: int = 0
    saturated: str = ""
    latest_send_s: float = 0.0

    def goodput_per_s(self, terms: Sequence[SloTerm]) -> float:
        """Requests per second that met every latency limit: DistServe's goodput (Zhong et al., OSDI 2024)."""
        return sum(trace.meets(terms) for trace in self.traces) / self.wall_s


def poisson_arrivals(rate_per_s: float, n: int, seed: int) -> list[float]:
    """Due times of n requests that come independently at `rate_per_s` on average: seconds from the first, which is due at 0."""
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise InputError(f"Requests must come at a rate above zero a second, not {rate_per_s!r}.")
    draw = random.Random(seed)
    return [0.0, *itertools.accumulate(draw.expovariate(rate_per_s) for _ in range(n - 1))][:n]


def trace_arrivals(requests: Sequence[WorkloadRequest], speed: float = 1.0) -> list[float]:
    """Due times of a trace, played `speed` times as fast: seconds from its first request, in order.

    Raises InputError for requests without a time, or a speed that is not above zero.
    """
    if not (math.isfinite(speed) and speed > 0):
        raise InputError(f"A trace is played at a speed above zero, not {speed!r}.")
    missing = sum(request.arrival_s is None for request in requests)
    if missing or not requests:
        raise InputError(f"{missing} of {len(requests)} requests have no time of arrival; an open loop needs one for each.")
    times = sorted(request.arrival_s for request in requests if request.arrival_s is not None)
    return [(moment - times[0]) / speed for moment in times]


def arrivals_of(workload: Workload, rate_per_s: float, n: int, seed: int) -> list[float]:
    """Due times of n requests at a rate: in the pattern of the workload's trace, played faster or slower and over again, else Poisson."""
    requests = workload.requests
    if len(requests) < 2 or any(request.arrival_s is None for request in requests):
        return poisson_arrivals(rate_per_s, n, seed)
    once = trace_arrivals(requests)
    mean_gap_s = once[-1] / (len(once) - 1)
    if mean_gap_s <= 0.0:
        return poisson_arrivals(rate_per_s, n, seed)
    length_s = once[-1] + mean_gap_s
    return [(once[index % len(once)] + length_s * (index // len(once))) / mean_gap_s / rate_per_s for index in range(n)]


async def run_open(
    client: LoadClient, requests: Sequence[OpenRequest], *, drain_s: float = 60.0, stop_when_saturated: bool = True
) -> OpenResult:
    """Send every request when it is due, and wait for the answers.

    drain_s: after the last one was sent, answers get so much longer; what is then unanswered has failed
    Raises InputError for no requests or fewer than two output tokens, EngineCrashed or EngineHung when the worker is lost. Any other
    error of one request is that request's failure.
    """
    if not requests or any(request.output_tokens < 2 for request in requests):
        raise InputError("An open loop needs at least one request, and time per token at least 2 output tokens of each.")
    load = _OpenLoad(client, sorted(requests, key=lambda request: request.due_s))
    await load.run(drain_s, stop_when_saturated)
    return load.result()


class _Flight:
    """One request under way. Mutable: its tokens come in while others are sent."""

    def __init__(self, request: OpenRequest, due_ns: int) -> None:
        self.request = request
        self.due_ns = due_ns
        self.sent_ns = 0
        self.token_ns: list[int] = []
        self.failed = ""
        self.done = False


class _OpenLoad:
    def __init__(self, client: LoadClient, requests: Sequence[OpenRequest]) -> None:
        self.client = client
        self.requests = requests
        self.start_ns = time.monotonic_ns()
        self.flights: list[_Flight] = []
        self.in_flight: list[tuple[float, float]] = []  # (seconds since the start, requests in flight)
        self.saturated = ""

    async def run(self, drain_s: float, stop_when_saturated: bool) -> None:
        tasks: set[asyncio.Task[None]] = set()
        watch = asyncio.create_task(self._watch()) if stop_when_saturated else None
        try:
            for request in self.requests:
                await asyncio.sleep(max(0.0, self.start_ns / 1e9 + request.due_s - time.monotonic()))
                for task in [task for task in tasks if task.done()]:
                    tasks.remove(task)
                    task.result()  # a lost worker ends the load
                if self.saturated:
                    break
                flight = _Flight(request, self.start_ns + int(request.due_s * 1e9))
                self.flights.append(flight)
                tasks.add(asyncio.create_task(self._ask(flight)))
            if not self.saturated:
                await self._drain(tasks, drain_s)
        finally:
            for task in (*tasks, *([watch] if watch else [])):
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, (EngineCrashed, EngineHung)):
                raise error

    async def _drain(self, tasks: set[asyncio.Task[None]], drain_s: float) -> None:
        """Wait for what is in flight, until it is answered, is hopeless or has had its time."""
        end_s = time.monotonic() + drain_s
        while (waiting := {task for task in tasks if not task.done()}) and time.monotonic() < end_s and not self.saturated:
            await asyncio.wait(waiting, timeout=min(WATCH_S, max(0.0, end_s - time.monotonic())))

    async def _ask(self, flight: _Flight) -> None:
        request = GenerateRequest(
            request_id=next(_request_ids), prompt_ids=flight.request.prompt_ids, max_tokens=flight.request.output_tokens, ignore_end=True
        )
        flight.sent_ns = time.monotonic_ns()
        try:
            async for event in self.client.generate(request):
                if event.token_id is not None:
                    flight.token_ns.append(event.time_ns)
                if event.done in ("error", "cancelled"):
                    flight.failed = event.error or event.done
        except (EngineCrashed, EngineHung):
            raise
        except TrimtabError as error:
            flight.failed = str(error)
        finally:
            flight.done = True
            if not flight.failed and len(flight.token_ns) != flight.request.output_tokens:
                flight.failed = f"gave {len(flight.token_ns)} of {flight.request.output_tokens} tokens"

    async def _watch(self) -> None:
        """Look for growth while requests are still coming; afterwards the queue can only shrink."""
        while not self.saturated and len(self.flights) < len(self.requests):
            await asyncio.sleep(WATCH_S)
            now_ns = time.monotonic_ns()
            self.in_flight.append(((now_ns - self.start_ns) / 1e9, float(sum(not flight.done for flight in self.flights))))
            self.saturated = why_saturated(self.in_flight, list(self._waits()))

    def _waits(self) -> Iterator[tuple[float, float]]:
        """(due, time to first token) in seconds, of those that have theirs: who came just now has waited little so far."""
        for flight in self.flights:
            if flight.token_ns:
                yield (flight.due_ns - self.start_ns) / 1e9, (flight.token_ns[0] - flight.due_ns) / 1e9

    def result(self) -> OpenResult:
        traces = tuple(
            OpenTrace(
                due_ns=flight.due_ns,
                sent_ns=flight.sent_ns or flight.due_ns,
                prompt_tokens=len(flight.request.prompt_ids),
                token_ns=tuple(flight.token_ns),
                failed=flight.failed,
            )
            for flight in self.flights
        )
        span_s = self.flights[-1].request.due_s - self.flights[0].request.due_s
        end_ns = max(max(trace.token_ns, default=trace.due_ns) for trace in traces)
        return OpenResult(
            traces=traces,
            offered_per_s=(len(traces) - 1) / span_s if span_s > 0 else math.inf,
            wall_s=max((end_ns - self.start_ns) / 1e9, 1e-9),
            n_unsent=len(self.requests) - len(traces),
            saturated=self.saturated,
            latest_send_s=max((trace.sent_ns - trace.due_ns) / 1e9 for trace in traces),
        )


def why_saturated(in_flight: Sequence[tuple[float, float]], waits_s: Sequence[tuple[float, float]]) -> str:
    """Why more comes in than is answered, in a sentence; empty while that is not sure.

    in_flight: (second, requests in flight); waits_s: (second a request was due, its time to first token) of those that have one. Both
    must grow surely and by a share that matters; the number in flight too, because one slow answer delays many first tokens once.
    """
    if len(waits_s) < MIN_FOR_TREND or len(in_flight) < MIN_FOR_TREND:
        return ""
    wait, flight = slope_interval(waits_s, TREND_CONFIDENCE), slope_interval(in_flight, TREND_CONFIDENCE)
    if wait.low is None or flight.low is None:
        return ""
    first_s, last_s = waits_s[0][0], waits_s[-1][0]
    rate = (len(waits_s) - 1) / (last_s - first_s) if last_s > first_s else math.inf
    if wait.low < LEAST_GROWTH or flight.low < LEAST_GROWTH * rate:
        return ""
    return (
        f"of {rate:.2g} requests a second about {min(rate, flight.value):.2g} go unanswered, "
        f"and the wait for a first token grows by {wait.value:.2g} s each second"
    )
