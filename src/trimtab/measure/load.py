"""Closed-loop load on one client, and the distributions that come out of it.

A request that did not finish as asked is in no distribution: it is counted as failed, with its reason. No time is clipped, and a
missing one is never zero: a request whose clock readings make no sense has failed.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trimtab.core.errors import EngineCrashed, EngineHung, InfeasibleError, InputError, TrimtabError
from trimtab.core.measurement import LoadPoint
from trimtab.engines.base import GenerateRequest, TokenEvent
from trimtab.stats.ratios import percentiles

MOST_LATENCIES = 6000
GOLDEN = (5**0.5 - 1) / 2

_request_ids = itertools.count(1)


class LoadClient(Protocol):
    """What a load needs of a worker's client. `pid`: the process whose memory and CPU time count as the entrant's."""

    @property
    def pid(self) -> int: ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """Token events of one request as they come; several may run at once."""


@dataclass(frozen=True, kw_only=True)
class RequestTrace:
    """One request. Times are of `time.monotonic_ns()`. `failed`: why it is in no distribution, empty if it finished as asked."""

    prompt_tokens: int
    submit_ns: int
    token_ns: tuple[int, ...]
    failed: str = ""

    @property
    def ttft_ms(self) -> float:
        """Submission to first token."""
        return (self.token_ns[0] - self.submit_ns) / 1e6

    @property
    def tpot_ms(self) -> float:
        """Mean time per token after the first: (last - first) / (n - 1)."""
        return (self.token_ns[-1] - self.token_ns[0]) / (len(self.token_ns) - 1) / 1e6

    @property
    def itl_ms(self) -> list[float]:
        """Every gap between tokens, n - 1 of them."""
        return [(after - before) / 1e6 for before, after in itertools.pairwise(self.token_ns)]

    @property
    def e2e_ms(self) -> float:
        """Submission to last token."""
        return (self.token_ns[-1] - self.submit_ns) / 1e6


@dataclass(frozen=True, kw_only=True)
class RoundTrace:
    """All requests of one closed loop, in order of submission."""

    concurrency: int
    requests: tuple[RequestTrace, ...]

    @property
    def wall_s(self) -> float:
        """First submission to last token of any request, failed ones included. Needs one finished request."""
        start = min(request.submit_ns for request in self.requests)
        return (max(max(request.token_ns, default=start) for request in self.requests) - start) / 1e9


async def run_round(
    client: LoadClient, prompts: Sequence[Sequence[int]], output_tokens: int | Sequence[int], concurrency: int
) -> RoundTrace:
    """Send every prompt once, exactly `concurrency` in flight until the prompts run out; greedy, past end-of-text.

    output_tokens: of each answer, or one number for all

    Raises InputError for shapes that cannot be timed, EngineCrashed or EngineHung when the worker is lost (its other requests are
    then abandoned). Any other error of one request is that request's failure.
    """
    if concurrency < 1 or len(prompts) < concurrency:
        raise InputError(f"{len(prompts)} prompts cannot keep {concurrency} requests in flight; give at least as many.")
    wanted = [output_tokens] * len(prompts) if isinstance(output_tokens, int) else list(output_tokens)
    if min(wanted) < 2:
        raise InputError(f"Time per token needs at least 2 output tokens, not {min(wanted)}.")
    waiting = iter(list(zip(prompts, wanted, strict=True)))
    done: list[RequestTrace] = []
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(_user(client, waiting, done))
    except BaseExceptionGroup as group_error:
        # One lost worker fails all its requests; the first says why.
        raise group_error.exceptions[0] from None
    return RoundTrace(concurrency=concurrency, requests=tuple(sorted(done, key=lambda trace: trace.submit_ns)))


async def _user(client: LoadClient, waiting: Iterator[tuple[Sequence[int], int]], done: list[RequestTrace]) -> None:
    """One user of the closed loop: asks, waits for the whole answer, asks again."""
    for prompt, output_tokens in waiting:
        done.append(await _one_request(client, prompt, output_tokens))


async def _one_request(client: LoadClient, prompt: Sequence[int], output_tokens: int) -> RequestTrace:
    request = GenerateRequest(request_id=next(_request_ids), prompt_ids=tuple(prompt), max_tokens=output_tokens, ignore_end=True)
    token_ns: list[int] = []
    failed = ""
    submit_ns = time.monotonic_ns()
    try:
        async for event in client.generate(request):
            if event.token_id is not None:
                token_ns.append(event.time_ns)
            if event.done in ("error", "cancelled"):
                failed = event.error or event.done
    except (EngineCrashed, EngineHung):
        raise
    except TrimtabError as error:
        failed = str(error)
    return RequestTrace(
        prompt_tokens=len(prompt),
        submit_ns=submit_ns,
        token_ns=tuple(token_ns),
        failed=failed or _what_is_wrong(submit_ns, token_ns, output_tokens),
    )


def _what_is_wrong(submit_ns: int, token_ns: Sequence[int], output_tokens: int) -> str:
    """Why these times cannot be used, empty if they can."""
    if len(token_ns) != output_tokens:
        return f"gave {len(token_ns)} of {output_tokens} tokens"
    if token_ns[0] <= submit_ns:
        return "its first token is dated before its submission: the clocks of the two processes differ"
    if any(after < before for before, after in itertools.pairwise(token_ns)):
        return "its tokens are dated out of order"
    if token_ns[-1] == token_ns[0]:
        return "all its tokens carry one time: the engine does not stream"
    return ""


def summarise(traces: Sequence[RoundTrace], concurrency: int, *, energy_j: float | None = None) -> LoadPoint:
    """Distributions over the finished requests of all rounds at one concurrency. `energy_j`: joules of all these rounds.

    prefill_tok_s: prompt tokens over TTFT, median over requests. At concurrency 1 that is the engine's prefill rate; above 1 the TTFT
        holds the wait for other requests, so it is the rate that one user sees, a lower bound of the engine's
    decode_tok_s: 1000 / median TPOT, the rate of one request
    output_tok_s: tokens of finished requests over the wall time of the rounds

    Raises InfeasibleError if no request finished.
    """
    chosen = [trace for trace in traces if trace.concurrency == concurrency]
    finished = finished_requests(chosen, concurrency)
    n_requests = sum(len(trace.requests) for trace in chosen)
    tpot_ms = percentiles([request.tpot_ms for request in finished], "ms")
    n_tokens = sum(len(request.token_ns) for request in finished)
    return LoadPoint(
        concurrency=concurrency,
        n_requests=n_requests,
        failed=n_requests - len(finished),
        ttft_ms=percentiles([request.ttft_ms for request in finished], "ms"),
        tpot_ms=tpot_ms,
        itl_ms=percentiles([gap for request in finished for gap in request.itl_ms], "ms"),
        e2e_ms=percentiles([request.e2e_ms for request in finished], "ms"),
        prefill_tok_s=float(np.median([1000 * request.prompt_tokens / request.ttft_ms for request in finished])),
        decode_tok_s=1000 / tpot_ms.p50,
        output_tok_s=n_tokens / sum(trace.wall_s for trace in chosen),
        energy_j_per_token=None if energy_j is None else energy_j / n_tokens,
        latencies_ms=single_latencies(finished),
        round_tok_s=tuple(_tok_s(trace) for trace in chosen if trace.wall_s > 0),
    )


def _tok_s(trace: RoundTrace) -> float:
    return sum(len(request.token_ns) for request in trace.requests if not request.failed) / trace.wall_s


def single_latencies(finished: Sequence[RequestTrace]) -> dict[str, tuple[float, ...]]:
    """What LoadPoint.latencies_ms holds, in microseconds' precision; of many requests every so many-th, so that none is favoured.

    The gap taken of a request moves through the answer from request to request (golden ratio), so that all positions are seen.
    """
    kept = finished[:: -(-len(finished) // MOST_LATENCIES)]
    gaps = [request.itl_ms for request in kept]
    return {
        "ttft": tuple(round(request.ttft_ms, 3) for request in kept),
        "tpot": tuple(round(request.tpot_ms, 3) for request in kept),
        "itl": tuple(round(gap[int(len(gap) * (index * GOLDEN % 1))], 3) for index, gap in enumerate(gaps)),
        "e2e": tuple(round(request.e2e_ms, 3) for request in kept),
    }


def finished_requests(traces: Sequence[RoundTrace], concurrency: int) -> list[RequestTrace]:
    """Requests that finished as asked. Raises InfeasibleError, with the most common reason, if none did."""
    requests = [request for trace in traces for request in trace.requests]
    finished = [request for request in requests if not request.failed]
    if not finished:
        reasons = Counter(request.failed.rstrip(".") for request in requests).most_common(1)
        why = f": {reasons[0][0]}" if reasons else ""
        raise InfeasibleError(f"None of {len(requests)} requests finished at concurrency {concurrency}{why}.")
    return finished
