"""The chosen deployment once more, after it was chosen: beside the baseline as before, and at its worst.

Whoever is chosen because it was fastest was a little lucky in that session; what is claimed comes from another one, where time allows.
"""

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from typing import Any

from trimtab.core.errors import InfeasibleError
from trimtab.core.workload import Workload
from trimtab.flows.parts.choice import choose, passed
from trimtab.flows.parts.demands import STARTING_S, round_s
from trimtab.flows.parts.objective import BETTER
from trimtab.flows.parts.reference import PromptMaker
from trimtab.flows.parts.search import Row, Search, gain, judge_row
from trimtab.flows.parts.timing import TURN_LIMIT_S, Timed, served, timed_of
from trimtab.measure.session import SessionResult, timed_session

NO_TIME = "the time limit left no room for it; give a longer --time-limit."
RETIME_SEED, WORST_SEED = 11, 12
"""Apart from the seeds of the sessions before: prompts must be fresh."""
RETIME_SHARE = 0.6
"""Of the time that is left; the rest is for the worst cases and for what percentiles need."""
RETIME_ROUNDS = 3
WORST_ROUNDS = 3
NEIGHBOUR_SLOWDOWN = 4.0
"""How much longer a turn is expected to take while somebody else keeps half of the cores busy."""


async def retime(search: Search, make_prompts: PromptMaker) -> None:
    """Time what passed again in turns with the baseline, in fresh workers on fresh prompts; these numbers replace those it was chosen by.

    What breaks, or is no better than the baseline this time, is out, with the reason.
    """
    rows = passed(search)
    if not rows:
        return
    entrants = [search.baseline, *rows]
    key = [[_digest(row) for row in entrants], search.machine.digest, search.workload, search.session.limit_s]
    found = await search.session.once("retimed", key, partial(_retime, search, entrants, make_prompts))
    search.retimed = {"why": found["why"], "ids": [row.plan.id for row in entrants]}
    if found["why"]:
        search.session.say("time", f"not timed again after the choice: {found['why']}")
        return
    for row in entrants:
        timed = Timed(**found["timed"][row.plan.id])
        if timed.left:
            search.note(row, "infeasible", f"It broke when it was timed again: {timed.left}")
            continue
        row.timed = timed
        judge_row(search, row)
        if row is not search.baseline and search.baseline.slo_verdict != "fail" and gain(search, row) <= 0.0:
            search.note(row, row.status, f"Not {BETTER[search.aim.objective]} than the baseline when it was timed again after the choice.")
        else:
            search.note(row, row.status)


async def _retime(search: Search, rows: Sequence[Row], make_prompts: PromptMaker) -> dict[str, Any]:
    """{"why": "", "timed": id -> Timed}, or why not."""
    budget_s = RETIME_SHARE * search.session.seconds_left
    if budget_s < len(rows) * STARTING_S + (RETIME_ROUNDS + 1) * sum(_round_s(search, row) for row in rows):
        return {"why": NO_TIME, "timed": {}}
    search.session.say("time", f"again, after the choice: {', '.join(row.plan.id for row in rows)}")
    try:
        result = await _session(rows, search.workload, make_prompts, budget_s, search.session.seed + RETIME_SEED, RETIME_ROUNDS, 100)
    except InfeasibleError as error:
        return {"why": str(error), "timed": {}}
    timed = {}
    for row in rows:
        before = row.timed.measurement if row.timed and row.timed.measurement else {}
        assert row.candidate is not None
        cold = {name: before.get(name) for name in ("load_s", "cold_ttft_ms")}
        timed[row.plan.id] = timed_of(result, row.candidate, search.workload, search.machine, **cold)
    return {"why": "", "timed": timed}


async def time_at_worst(search: Search) -> dict[str, Any] | None:
    """What the chosen deployment and the baseline do with every slot full to the last token, and beside somebody else's work.

    One that breaks there is not chosen. None where the baseline is kept.
    """
    while (chosen := choose(search)[0]) is not None and chosen is not search.baseline:
        rows = [search.baseline, chosen]
        key = [[_digest(row) for row in rows], search.machine.digest, search.workload, search.session.limit_s]
        worst: dict[str, Any] = await search.session.once("worst", key, partial(_worst, search, rows))
        broken = [case for case in worst["cases"] if case["left"].get(chosen.plan.id)]
        if not broken:
            return worst
        search.note(chosen, "infeasible", f"It broke at its worst, {broken[0]['what']}: {broken[0]['left'][chosen.plan.id]}")
    return None


def worst_sentences(worst: Mapping[str, Any] | None) -> list[str]:
    """What a person must know of the chosen deployment's worst cases: that it is slower there."""
    if worst is None:
        return []
    said = []
    for case in worst["cases"]:
        ratio = case["ratio"]
        if ratio and ratio["high"] < 1.0:
            said.append(f"{case['what'].capitalize()} it is slower than the baseline: {ratio['ratio']:.2f}x.")
    return said


async def _worst(search: Search, rows: Sequence[Row]) -> dict[str, Any]:
    """{"why": what was left out, "cases": [...]}"""
    plain = dataclasses.replace(
        search.workload, shared_prefix_tokens=0, requests=(), most_tokens=0, concurrency=(search.settings.slots or 1,)
    )
    full = dataclasses.replace(plain, prompt_tokens=(search.settings.context_tokens or plain.context_tokens) - plain.output_tokens)
    turn_s = sum(_fullest_s(row) for row in rows)
    longer = full.context_tokens / max(1, search.workload.context_tokens)
    n_busy = max(1, search.machine.n_cores // 2)
    cases = (
        ("with every slot full to the last token", full, longer * turn_s, 0),
        (f"beside a neighbour that keeps {n_busy} of {search.machine.n_cores} cores busy", plain, NEIGHBOUR_SLOWDOWN * turn_s, n_busy),
    )
    done: list[dict[str, Any]] = []
    with PromptMaker(search.reference.candidate, plain) as make_prompts:
        for number, (what, workload, expected_s, n_neighbours) in enumerate(cases):
            budget_s = search.session.seconds_left
            if budget_s < len(rows) * STARTING_S + 2 * expected_s:
                return {"why": NO_TIME, "cases": done}
            search.session.say("worst", what, number, len(cases))
            seed = search.session.seed + WORST_SEED + number
            with _neighbours(n_neighbours) if n_neighbours else nullcontext():
                try:
                    result = await _session(rows, workload, make_prompts, budget_s, seed, 1, WORST_ROUNDS)
                except InfeasibleError as error:
                    return {"why": f"{what.capitalize()}: {error}", "cases": done}
            done.append(_case(what, workload, rows, result))
    search.session.say("worst", "", len(cases), len(cases))
    return {"why": "", "cases": done}


def _case(what: str, workload: Workload, rows: Sequence[Row], result: SessionResult) -> dict[str, Any]:
    """One case as JSON types; `ratio` is the chosen one's over the baseline, None where fewer than two rounds tell."""
    base, chosen = (row.plan.id for row in rows)
    ids = {"baseline": base, "chosen": chosen}
    figures = {}
    for role, name in ids.items():
        point = result.points[name][0] if result.points.get(name) else None
        figures[role] = {
            "id": name,
            "ttft_ms": point.ttft_ms.p50 if point else None,
            "e2e_ms": point.e2e_ms.p50 if point else None,
            "failed": point.failed if point else None,
            "n_requests": point.n_requests if point else 0,
            "peak_memory_bytes": result.memory[name].bytes_used if name in result.memory else None,
        }
    return {
        "what": what,
        "prompt_tokens": workload.prompt_tokens,
        "output_tokens": workload.output_tokens,
        "concurrency": workload.concurrency[0],
        "n_rounds": result.n_rounds,
        "ratio": result.ratios(base, concurrency=workload.concurrency[0]).get(chosen),
        "left": dict(result.left),
        **figures,
    }


async def _session(
    rows: Sequence[Row], workload: Workload, make_prompts: PromptMaker, budget_s: float, seed: int, min_rounds: int, max_rounds: int
) -> SessionResult:
    """A session of fresh workers, the first row being the baseline. Raises InfeasibleError where one cannot start."""
    async with AsyncExitStack() as stack:
        clients = {}
        for row in rows:
            assert row.candidate is not None
            clients[row.plan.id] = await stack.enter_async_context(served(row.candidate))
        return await timed_session(
            clients,
            workload,
            make_prompts,
            time_budget_s=budget_s,
            min_rounds=min_rounds,
            max_rounds=max_rounds,
            turn_limit_s=TURN_LIMIT_S,
            seed=seed,
        )


@contextlib.contextmanager
def _neighbours(n: int) -> Iterator[None]:
    """So many processes that compute without end, as somebody else's work on this machine."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _digest(row: Row) -> str:
    assert row.candidate is not None
    return row.candidate.deployment.digest


def _round_s(search: Search, row: Row) -> float:
    return round_s(search.workload, row.timed.measurement) if row.timed and row.timed.measurement else 0.0


def _fullest_s(row: Row) -> float:
    """Seconds of a median request at the highest concurrency."""
    points = (row.timed.measurement or {}).get("points", ()) if row.timed else ()
    return max((point["e2e_ms"]["p50"] / 1000 for point in points), default=0.0)
