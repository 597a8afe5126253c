"""Timing: quick probes beside the baseline while screening, and the interleaved session of the finalists."""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from math import log, sqrt
from typing import Any

from trimtab.core.deployment import Candidate, Machine
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import digest_of, to_plain
from trimtab.core.measurement import LoadPoint, Measurement
from trimtab.core.model import ModelCard
from trimtab.core.workload import Workload
from trimtab.describe.card import model_card
from trimtab.engines.client import WorkerClient
from trimtab.flows.parts.session import Session
from trimtab.measure.cold import ColdStart, cold_start
from trimtab.measure.load import run_round, summarise
from trimtab.measure.machine import roofline_share
from trimtab.measure.session import MakePrompts, Metric, SessionProgress, SessionResult, timed_session
from trimtab.record.cache import TimingPair, timing_key
from trimtab.sources.open import read_header

METRICS: tuple[Metric, ...] = ("e2e_ms_p50", "ttft_ms_p50", "tpot_ms_p50")
TURN_LIMIT_S = 600.0
"""A deployment that needs longer for one turn leaves the session; a busy machine can make a turn ten times as long as a quiet one."""
PROBE_SHARE = 4
"""A probe's prompt and answer are this many times shorter than the workload's."""
MOST_PROBE_TOKENS = 32
"""Of an answer: the pace of a longer one is the same."""


@asynccontextmanager
async def served(candidate: Candidate) -> AsyncIterator[WorkerClient]:
    """A worker of the candidate, ready to serve. Raises InfeasibleError."""
    client = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="serve")
    try:
        yield client
    finally:
        await client.close()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A short turn at the workload's lowest concurrency, scaled to the workload's lengths.

    ratio: the baseline's time, taken next to it, over this one; geometric mean of the lowest concurrency and the highest, because that is
        what finalists are ranked by, and engines differ most when they are full
    """

    e2e_ms: float
    ttft_ms: float
    tpot_ms: float
    ratio: float


async def probe(client: WorkerClient, beside: WorkerClient, workload: Workload, make_prompts: MakePrompts, seed: int) -> Probe:
    """Time short turns on `client` and on the baseline's worker `beside`, on text of the workload's median lengths.

    After one that does not count: two of each in turns at the lowest concurrency, and one of each at the highest if that is another.
    """
    prompt_tokens = max(16, workload.prompt_tokens // PROBE_SHARE)
    output_tokens = min(MOST_PROBE_TOKENS, max(8, workload.output_tokens // PROBE_SHARE))
    lowest, highest = min(workload.concurrency), max(workload.concurrency)
    seeds = count(seed * 1000)

    async def turn(worker: WorkerClient, level: int, answer: int = output_tokens) -> LoadPoint:
        trace = await run_round(worker, make_prompts(level, prompt_tokens, next(seeds)), answer, level)
        return summarise([trace], level)

    def whole_turn_ms(point: LoadPoint) -> float:
        return point.ttft_ms.p50 * workload.prompt_tokens / prompt_tokens + point.tpot_ms.p50 * (workload.output_tokens - 1)

    await turn(client, lowest, 4)
    rounds = [(await turn(client, lowest), await turn(beside, lowest)) for _ in range(2)]
    own = min((point for point, _ in rounds), key=whole_turn_ms)
    ratio = min(whole_turn_ms(point) for _, point in rounds) / whole_turn_ms(own)
    if highest != lowest:
        full = whole_turn_ms(await turn(client, highest))
        ratio = sqrt(ratio * whole_turn_ms(await turn(beside, highest)) / full)
    return Probe(
        e2e_ms=whole_turn_ms(own),
        ttft_ms=own.ttft_ms.p50 * workload.prompt_tokens / prompt_tokens,
        tpot_ms=own.tpot_ms.p50,
        ratio=ratio,
    )


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What a session says of one entrant, as JSON types. ratios: other entrant -> concurrency -> metric -> Ratio over that one."""

    measurement: Mapping[str, Any] | None
    ratios: Mapping[str, Mapping[str, Mapping[str, Any]]]
    left: str = ""


async def time_finalists(
    session: Session,
    baseline: Candidate,
    rivals: Sequence[Candidate],
    workload: Workload,
    make_prompts: MakePrompts,
    *,
    machine: Machine,
    time_budget_s: float,
) -> dict[str, Timed]:
    """Baseline and rivals by id, timed in one interleaved session; from the cache if these were timed together before.

    Empty without rivals: a time is of use beside another. An entrant that cannot start or leaves has a reason in `left`.
    Raises InfeasibleError if the baseline itself cannot be timed.
    """
    keys = {
        rival.id: timing_key(
            machine_sha256=machine.digest,
            workload_sha256=digest_of(workload),
            candidate_sha256=rival.deployment.digest,
            baseline_sha256=baseline.deployment.digest,
        )
        for rival in rivals
    }
    known = {name: session.cache.get_timing(key) for name, key in keys.items()}
    sittings = {pair.session for pair in known.values() if pair is not None}
    if not rivals:
        return {}
    if all(known.values()) and len(sittings) == 1:
        session.n_known += 1
        session.say("time", "timings of these deployments on this machine are known", 1, 1)
        return _from_pairs(baseline, {name: pair for name, pair in known.items() if pair is not None})
    session.n_computed += 1
    async with AsyncExitStack() as stack:
        clients: dict[str, WorkerClient] = {}
        cold: dict[str, ColdStart] = {}
        left: dict[str, str] = {}
        for candidate in (baseline, *rivals):
            session.say("time", f"starting {candidate.id}")
            try:
                cold[candidate.id] = await _cold(candidate, make_prompts(1, min(64, workload.prompt_tokens), session.seed)[0])
                clients[candidate.id] = await stack.enter_async_context(served(candidate))
            except InfeasibleError as error:
                if candidate is baseline:
                    raise
                left[candidate.id] = str(error)
        result = await timed_session(
            clients,
            workload,
            make_prompts,
            time_budget_s=time_budget_s,
            turn_limit_s=TURN_LIMIT_S,
            baseline=baseline.id,
            seed=session.seed,
            on_progress=lambda progress: _tell(session, progress),
        )
    session.say("time", f"{result.n_rounds} rounds", 1, 1)
    found = {
        candidate.id: timed_of(
            result, candidate, workload, machine, load_s=cold[candidate.id].load_s, cold_ttft_ms=cold[candidate.id].cold_ttft_ms
        )
        for candidate in (baseline, *rivals)
        if candidate.id in clients
    }
    sitting = digest_of([time.time_ns(), baseline.deployment.digest])
    for rival in rivals:
        timed = found.get(rival.id)
        if timed is not None and timed.measurement is not None and not timed.left:
            pair = TimingPair(
                session=sitting, candidate=timed.measurement, baseline=found[baseline.id].measurement or {}, ratios=timed.ratios
            )
            session.cache.put_timing(keys[rival.id], pair)
    return found | {name: Timed(measurement=None, ratios={}, left=reason) for name, reason in left.items()}


async def _cold(candidate: Candidate, prompt: Sequence[int]) -> ColdStart:
    async def start() -> WorkerClient:
        return await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="serve")

    return await cold_start(start, prompt, repeats=1)


def _tell(session: Session, progress: SessionProgress) -> None:
    known = f"; ratios known to ±{100 * progress.half_width:.0f} %" if progress.half_width is not None and progress.half_width < 1.0 else ""
    session.say(
        "time",
        f"round {progress.round + 1}: {progress.entrant} at concurrency {progress.concurrency}{known}",
        min(progress.elapsed_s, 0.99 * progress.time_budget_s),
        progress.time_budget_s,
    )


def _card_of(candidate: Candidate) -> ModelCard | None:
    """The card of the weights that run, which are not those the recipe started from; None where their header cannot be read."""
    try:
        return model_card(read_header(candidate.snapshot), candidate.snapshot)
    except InputError:
        return None


def timed_of(
    result: SessionResult,
    candidate: Candidate,
    workload: Workload,
    machine: Machine,
    *,
    load_s: float | None,
    cold_ttft_ms: float | None,
) -> Timed:
    """One entrant's numbers, with its share of what the machine's read bandwidth allows."""
    name, card = candidate.id, _card_of(candidate)
    measurement: Measurement | None = None
    with contextlib.suppress(InfeasibleError):
        first = next((point for point in result.points.get(name, ()) if point.concurrency == 1), None)
        share = None
        if first is not None and card is not None and machine.read_gb_s:
            share = roofline_share(card, first.decode_tok_s, machine.read_gb_s, workload.prompt_tokens + workload.output_tokens / 2)
        measurement = result.measurement(name, load_s=load_s, cold_ttft_ms=cold_ttft_ms, roofline_share=share)
    ratios: dict[str, dict[str, dict[str, Any]]] = {}
    for other in result.points:
        for concurrency in workload.concurrency:
            for metric in METRICS:
                ratio = result.ratios(other, metric, concurrency).get(name)
                if ratio is not None:
                    ratios.setdefault(other, {}).setdefault(str(concurrency), {})[metric] = to_plain(ratio)
    return Timed(measurement=to_plain(measurement), ratios=ratios, left=result.left.get(name, ""))


def _from_pairs(baseline: Candidate, pairs: Mapping[str, TimingPair]) -> dict[str, Timed]:
    found = {name: Timed(measurement=pair.candidate, ratios=pair.ratios) for name, pair in pairs.items()}
    first = next(iter(pairs.values()))
    return {baseline.id: Timed(measurement=first.baseline, ratios={}), **found}


def log_gain(ratios: Mapping[str, Mapping[str, Any]]) -> float:
    """Mean over concurrencies of the log of the end-to-end ratio: what finalists are ranked by. 0 where nothing was timed."""
    known = [by_metric["e2e_ms_p50"]["ratio"] for by_metric in ratios.values() if "e2e_ms_p50" in by_metric]
    return sum(map(log, known)) / len(known) if known else 0.0
