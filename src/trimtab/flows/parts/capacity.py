"""How many requests a second the chosen deployment answers within the demands, and the baseline; measured with open-loop load."""

import itertools
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InfeasibleError
from trimtab.core.files import digest_of
from trimtab.core.workload import SloTerm, Workload, WorkloadRequest
from trimtab.decide.slo import judge_latency, verdict_of
from trimtab.engines.client import WorkerClient
from trimtab.flows.parts.search import Row, Search
from trimtab.flows.parts.timing import served
from trimtab.measure.capacity import Capacity, RatePoint, find_capacity
from trimtab.measure.open_loop import OpenRequest, OpenResult, arrivals_of, run_open
from trimtab.measure.session import FreshPrompts, MakePrompts
from trimtab.stats.binomial import more_needed, share_bounds

SETTLE = 8
"""First requests of a load that are not judged: they find an empty machine."""
START_SHARE = 0.5
"""The search begins at this share of what the closed loop answered."""
LATE_S = 5.0
FIRST_SEED = 7_000_000
"""Prompts of the timing come from smaller seeds."""
DRAIN_LATENCIES = 4.0


async def measure_capacity(search: Search, chosen: Row | None, make_prompts: MakePrompts) -> dict[str, Any] | None:
    """Requests a second within the latency demands: of the chosen one, then of the baseline, as far as time allows. None without any."""
    terms = [term for term in search.aim.slo if term.percentile is not None]
    if not terms or chosen is None:
        return None
    roles = {"chosen": chosen} if chosen is search.baseline else {"chosen": chosen, "baseline": search.baseline}
    found: dict[str, Any] = {"unit": "requests/s", "terms": [term.text for term in terms]}
    for role, row in roles.items():
        if not row.timed or not row.timed.measurement or row.candidate is None:
            found[role] = {"id": row.plan.id, "why": "It was not timed."}
            continue
        first_per_s = START_SHARE * closed_rate(row.timed.measurement, search.workload)
        if search.session.seconds_left < point_s(terms, first_per_s) + LATE_S:
            found[role] = {"id": row.plan.id, "why": "Not measured: the time limit left no room for it; give a longer --time-limit."}
            continue
        key = digest_of([row.candidate.deployment.digest, search.machine.digest, search.workload, terms, search.session.limit_s])
        work = partial(_measure, search, row.candidate, terms, first_per_s, make_prompts)
        try:
            found[role] = {"id": row.plan.id, **await search.session.once("capacity", key, work)}
        except InfeasibleError as error:
            found[role] = {"id": row.plan.id, "why": str(error)}
    return found


def closed_rate(measurement: Any, workload: Workload) -> float:
    """Requests a second of the closed loop at the highest concurrency."""
    fullest = max(measurement["points"], key=lambda point: point["concurrency"])
    return float(fullest["output_tok_s"]) / workload.output_tokens


def requests_of_a_point(terms: list[SloTerm]) -> int:
    """Requests that show every percentile although one is beyond the limit, and those that are not judged."""
    return SETTLE + 1 + more_needed(0, 1, max((term.percentile or 0.0) / 100 for term in terms))


def point_s(terms: list[SloTerm], rate_per_s: float) -> float:
    """Seconds that one rate takes."""
    return requests_of_a_point(terms) / rate_per_s


async def _measure(search: Search, candidate: Candidate, terms: list[SloTerm], first_per_s: float, make_prompts: MakePrompts) -> Capacity:
    async with served(candidate) as client:
        return await find_capacity(
            point_measurer(
                client, search.workload, terms, make_prompts, seed=search.session.seed, tell=partial(_tell, search, candidate.id)
            ),
            first_per_s=first_per_s,
            has_time=lambda rate: search.session.seconds_left > point_s(terms, rate) + LATE_S,
        )


def _tell(search: Search, name: str, rate_per_s: float) -> None:
    search.session.say("capacity", f"{name}: {rate_per_s:.3g} requests a second")


def point_measurer(
    client: WorkerClient, workload: Workload, terms: list[SloTerm], make_prompts: MakePrompts, *, seed: int, tell: Callable[[float], None]
) -> Callable[[float], Awaitable[RatePoint]]:
    """A function that loads the client at a rate and judges the demands there. Requests are the workload's own, over again."""
    numbers = itertools.count(1)
    fresh = FreshPrompts(make_prompts, FIRST_SEED + seed)
    longest_s = max((term.limit for term in terms), default=1000.0) / 1000

    async def measure(rate_per_s: float) -> RatePoint:
        tell(rate_per_s)
        number, n = next(numbers), requests_of_a_point(terms)
        due_s = arrivals_of(workload, rate_per_s, n, seed * 1000 + number)
        own = sorted(workload.requests, key=lambda request: request.arrival_s or 0.0)
        own = own or [WorkloadRequest(prompt_tokens=workload.prompt_tokens, output_tokens=workload.output_tokens)]
        asked = [own[index % len(own)] for index in range(n)]
        prompts = fresh.take(asked)
        requests = [
            OpenRequest(due_s=due, prompt_ids=tuple(prompt), output_tokens=max(2, request.output_tokens))
            for due, prompt, request in zip(due_s, prompts, asked, strict=True)
        ]
        result = await run_open(client, requests, drain_s=max(LATE_S, DRAIN_LATENCIES * longest_s))
        return judge_point(rate_per_s, result, terms)

    return measure


def judge_point(rate_per_s: float, result: OpenResult, terms: list[SloTerm]) -> RatePoint:
    """What came of one rate: every demand by its own percentile, and the share of requests that kept all limits."""
    counted = result.traces[SETTLE:] or result.traces
    rows = []
    for term in terms:
        values = [trace.latency_ms(term.metric) for trace in counted]
        known = [value for value in values if math.isfinite(value)]
        rows.append(judge_latency(term, known, len(values) - len(known)))
    within = sum(trace.meets(terms) for trace in counted)
    low, high = share_bounds(within, len(counted))
    failing = [row.reason for row in rows if row.verdict != "pass"]
    return RatePoint(
        rate_per_s=rate_per_s,
        n=len(counted),
        share=within / len(counted),
        low=low,
        high=high,
        goodput_per_s=result.goodput_per_s(terms),
        verdict="fail" if result.saturated else verdict_of(rows),
        why=f"Stopped early: {result.saturated}." if result.saturated else failing[0] if failing else "",
    )
