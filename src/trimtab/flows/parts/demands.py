"""More requests for the deployment that is to be chosen, where those of the interleaved timing are too few to judge the demands."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InfeasibleError
from trimtab.core.files import to_plain
from trimtab.core.workload import Workload
from trimtab.engines.client import WorkerClient
from trimtab.flows.parts.choice import choose
from trimtab.flows.parts.search import Search, judge_row
from trimtab.flows.parts.timing import TURN_LIMIT_S, Timed, served
from trimtab.measure.cold import cold_start
from trimtab.measure.session import MakePrompts, of_turn, timed_session, turns_per_round
from trimtab.stats.binomial import more_needed

ALONE_S = 60.0
LEAST_ROUNDS = 3
STARTING_S = 5.0
"""Opening a worker and warming it up."""
COLD_PROMPT_TOKENS = 64


async def time_alone(search: Search, make_prompts: MakePrompts) -> None:
    """Time the baseline by itself, where demands are to be judged and nothing was left to time it against."""
    base = search.baseline
    if not search.aim.slo or base.timed is not None:
        return
    assert base.candidate is not None
    candidate = base.candidate
    search.session.say("time", f"{candidate.id}, alone")

    async def compute() -> Any:
        cold = await cold_start(
            lambda: _serving(candidate),
            make_prompts(1, min(COLD_PROMPT_TOKENS, search.workload.prompt_tokens), search.session.seed)[0],
            repeats=1,
        )
        async with served(candidate) as client:
            result = await timed_session(
                {candidate.id: client},
                search.workload,
                make_prompts,
                time_budget_s=max(1.0, min(ALONE_S, search.session.seconds_left / 2)),
                min_rounds=LEAST_ROUNDS,
                turn_limit_s=TURN_LIMIT_S,
                seed=search.session.seed + 1,
            )
        return result.measurement(candidate.id, load_s=cold.load_s, cold_ttft_ms=cold.cold_ttft_ms)

    key = [candidate.deployment.digest, search.machine.digest, search.workload]
    base.timed = Timed(measurement=await search.session.once("alone", key, compute), ratios={})
    judge_row(search, base)
    search.note(base, "timed")


async def _serving(candidate: Candidate) -> WorkerClient:
    return await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="serve")


async def settle(search: Search, make_prompts: MakePrompts) -> None:
    """Send the chosen deployment as many requests as its percentiles need, if there is time; and the next, if it then misses a demand.

    How many is fixed beforehand, from the percentile alone: whoever goes on until a demand is met will meet it.
    """
    seen: set[str] = set()
    while (row := choose(search)[0]) is not None and row.plan.id not in seen and row.timed and row.timed.measurement:
        seen.add(row.plan.id)
        assert row.candidate is not None
        n_rounds = rounds_needed(search, row.timed.measurement)
        cost_s = n_rounds * round_s(search.workload, row.timed.measurement) + STARTING_S
        if not n_rounds:
            return
        if cost_s > search.session.seconds_left:
            search.session.say("demands", f"{row.plan.id}: no time for the {cost_s:.0f} s that its percentiles need")
            return
        search.session.say("demands", f"{row.plan.id}: {n_rounds} more rounds, about {cost_s:.0f} s")
        try:
            more = await _more(search, row.candidate, n_rounds, make_prompts)
        except InfeasibleError as error:
            search.note(row, row.status, f"It broke under more requests: {error}")
            return
        row.timed = Timed(measurement=with_more(row.timed.measurement, more), ratios=row.timed.ratios)
        judge_row(search, row)
        search.note(row, row.status)


async def _more(search: Search, candidate: Candidate, n_rounds: int, make_prompts: MakePrompts) -> Sequence[Mapping[str, Any]]:
    """Load points of so many further rounds, alone on the machine."""

    async def compute() -> Any:
        async with served(candidate) as client:
            result = await timed_session(
                {candidate.id: client},
                search.workload,
                make_prompts,
                time_budget_s=max(1.0, search.session.seconds_left),
                min_rounds=n_rounds,
                max_rounds=n_rounds,
                turn_limit_s=TURN_LIMIT_S,
                seed=search.session.seed + 2,
            )
        return result.measurement(candidate.id).points

    found: Sequence[Mapping[str, Any]] = await search.session.once(
        "more", [candidate.deployment.digest, search.machine.digest, search.workload, n_rounds], compute
    )
    return found


def rounds_needed(search: Search, measurement: Mapping[str, Any]) -> int:
    """Further rounds until every percentile has as many requests as show it although one of them is beyond the limit."""
    shares = [term.percentile / 100 for term in search.aim.slo if term.percentile is not None]
    if not shares:
        return 0
    wanted = 1 + more_needed(0, 1, max(shares))
    have = {point["concurrency"]: point["n_requests"] if point.get("latencies_ms") else 0 for point in measurement["points"]}
    return max(
        math.ceil(max(0, wanted - have.get(level, 0)) / requests_per_round(search.workload, level)) for level in search.workload.concurrency
    )


def requests_per_round(workload: Workload, level: int) -> int:
    """How many requests a round of the session sends at one concurrency."""
    return len(of_turn(workload, level, 0)) * turns_per_round(level, workload.concurrency)


def round_s(workload: Workload, measurement: Mapping[str, Any]) -> float:
    """Seconds of a round of one deployment, from the median request at each level."""
    median_s = {int(point["concurrency"]): float(point["e2e_ms"]["p50"]) / 1000 for point in measurement["points"]}
    return sum(requests_per_round(workload, level) / level * each_s for level, each_s in median_s.items())


def with_more(measurement: Mapping[str, Any], more: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A measurement whose single latencies and counts include those of later points; its distributions stay those of the timing."""
    later = {point["concurrency"]: point for point in more}
    points = []
    for point in measurement["points"]:
        other = later.get(point["concurrency"])
        if other is not None:
            kept, added = point.get("latencies_ms") or {}, other["latencies_ms"]
            point = {
                **point,
                "latencies_ms": {name: [*kept.get(name, ()), *values] for name, values in added.items()},
                "n_requests": point["n_requests"] + other["n_requests"],
                "failed": point["failed"] + other["failed"],
            }
        points.append(point)
    return {**to_plain(measurement), "points": points}
