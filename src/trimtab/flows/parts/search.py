"""A search in progress: what is tried, what is known of it, and the steps from prediction to timing."""

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.decision import CandidateResult, SloResult, Verdict
from trimtab.core.deployment import Candidate, Machine, Settings
from trimtab.core.errors import InfeasibleError, MissingError
from trimtab.core.files import digest_of, to_plain
from trimtab.core.measurement import Estimate
from trimtab.core.model import ModelCard
from trimtab.core.policy import Policy
from trimtab.core.workload import Workload
from trimtab.decide.slo import judge_slo, verdict_of
from trimtab.engines.base import Engine
from trimtab.evaluate.screen import ScreenResult
from trimtab.flows.parts.certify import Certified
from trimtab.flows.parts.document import subject
from trimtab.flows.parts.evidence import Bench
from trimtab.flows.parts.exam import Exam
from trimtab.flows.parts.objective import Aim, as_finalist, beyond_reach, gain_of, gain_range, too_many_requests
from trimtab.flows.parts.opening import Opened, build_candidate, open_model, with_draft
from trimtab.flows.parts.reference import PromptMaker, Reference
from trimtab.flows.parts.screening import Screening, pick_finalists, screen_evidence, why_screened_out
from trimtab.flows.parts.session import Session
from trimtab.flows.parts.space import Plan
from trimtab.flows.parts.timing import Probe, Timed, time_finalists
from trimtab.measure.session import turns_per_round
from trimtab.plan.tuning.budget import DEFAULT_LIMIT_S, Budget, plan_budget
from trimtab.plan.tuning.prior import nominal_bits, predict
from trimtab.plan.tuning.shortlist import Shortlist, drop_hopeless, kind_of, spread

ASSUMED_SCORE_TOK_S = 500.0
N_FINALISTS = 3
TIMING_S = 100.0
"""Seconds of the interleaved session; its interval is as narrow as they allow."""
NEEDED_TIMING_S = 60.0
"""What tells two deployments apart, where their least rounds do not take longer."""
TIMING_SHARE = 0.5
"""Of the time there is for timing, where it is more than that or percentiles are demanded: the chosen one is timed again afterwards."""
LEAST_TIMING_S = 15.0
BUILDS_AT_ONCE = 2
ONE_CERTIFY, TWO_CERTIFY = 1.2, 1.8
"""Certifying one candidate, or two, takes so many times what the plan says of one: workers start, and the second needs no reference."""
LEAST_ROUNDS = 2
OVERRUN = 2.0
"""A session runs its least rounds even if that takes so many times its budget."""
NOT_TRIED = "Not tried"
OUT_OF_TIME = f"{NOT_TRIED}: the time limit left no room for it; give a longer --time-limit."


@dataclass(kw_only=True)
class Row:
    """What is known so far of one thing to try."""

    plan: Plan
    status: str = "dropped"
    verdict: Verdict | None = None
    reasons: list[str] = field(default_factory=list)
    candidate: Candidate | None = None
    estimate: dict[str, Any] | None = None
    screen: ScreenResult | None = None
    probe: Probe | None = None
    look_s: float = 0.0
    timed: Timed | None = None
    slo: tuple[SloResult, ...] = ()
    certified: Certified | None = None

    @property
    def slo_verdict(self) -> Verdict:
        """Whether it meets all demands; of no demands, that it does."""
        return verdict_of(self.slo)

    def result(self) -> CandidateResult:
        evidence: dict[str, Any] = {"screen": screen_evidence(self.screen), "probe": to_plain(self.probe)}
        if self.certified is not None:
            decision = to_plain(self.certified.decision)
            evidence |= {"gates": decision.pop("gates"), "decision": decision}
        return CandidateResult(
            id=self.plan.id,
            engine=self.plan.engine,
            recipe=self.plan.recipe.name,
            settings=self.candidate.settings.given() if self.candidate else self.plan.extra.given(),
            status=self.status,  # type: ignore[arg-type]
            verdict=self.verdict,
            reasons=tuple(self.reasons),
            measurement=self.timed.measurement if self.timed else None,
            evidence=evidence if self.screen or self.probe or self.certified else None,
            estimate=self.estimate,
            details=subject(self.candidate, speed_over_baseline=self.timed.ratios if self.timed else None) if self.candidate else {},
        )


@dataclass(kw_only=True)
class Search:
    """One run of `optimize`."""

    session: Session
    opened: Opened
    card: ModelCard
    machine: Machine
    workload: Workload
    policy: Policy
    settings: Settings
    engines: dict[str, type[Engine]]
    reference: Reference
    exam: Exam
    bench: Bench
    baseline: Row
    rows: dict[str, Row]
    skipped: list[dict[str, str]]
    budget: Budget
    aim: Aim
    power: Any = None
    retimed: dict[str, Any] | None = None

    def note(self, row: Row, status: str, *reasons: str) -> None:
        """Keep a row's state, now and on disk."""
        row.status = status
        row.reasons += [reason for reason in reasons if reason]
        self.session.run.put_candidate(row.result())

    @property
    def passing(self) -> list[str]:
        """Ids that were looked at and may pass."""
        return [name for name, row in self.rows.items() if row.probe is not None and row.status != "infeasible" and not row.reasons]


def predict_all(search: Search) -> None:
    """Estimates from the header; what cannot win or cannot fit is dropped with its figures."""
    estimates: dict[str, dict[int, dict[str, Estimate]]] = {}
    for name, row in search.rows.items():
        estimates[name] = {
            level: predict(search.card, row.plan.recipe, row.plan.engine, search.workload, search.machine, level)
            for level in search.workload.concurrency
        }
        row.estimate = to_plain(estimates[name])
    base = search.baseline.plan.id
    own = [name for name, row in search.rows.items() if row.plan.source]
    impossible, unlikely = beyond_reach(search.aim.slo, estimates, search.workload)
    if impossible:
        raise InfeasibleError(" ".join(impossible))
    for sentence in (*unlikely, *too_many_requests(search.aim.slo, estimates, search.session.limit_s)):
        search.session.say("plan", sentence)
    shortlist = _shortlist(search, estimates, [base, *own])
    for name, why in shortlist.dropped.items():
        search.note(search.rows[name], "dropped", why)
    kinds = {name: kind_of(row.plan.engine, nominal_bits(search.card, row.plan.recipe)) for name, row in search.rows.items()}
    others = [name for name in shortlist.kept if name != base and name not in own]
    order = [base, *own, *spread(others, kinds, len(others))]
    search.rows = {name: search.rows[name] for name in (*order, *shortlist.dropped)}


def _shortlist(search: Search, estimates: dict[str, dict[int, dict[str, Estimate]]], keep: list[str]) -> Shortlist:
    """What may win by the objective, and what cannot."""
    memory_bytes = search.machine.memory_bytes
    if any(term.percentile is None for term in search.aim.slo):
        # A slow candidate may be the only one that is small enough: speed alone drops nothing.
        return drop_hopeless(estimates, memory_bytes=memory_bytes, keep=keep, n_rivals=len(estimates) + 1)
    if search.aim.objective == "memory":
        return drop_hopeless(estimates, memory_bytes=memory_bytes, baseline=keep[0], keep=keep, metric="memory_bytes")
    if search.aim.objective in ("throughput", "cost"):
        fullest = max(search.workload.concurrency)
        estimates = {name: {fullest: by_level[fullest]} for name, by_level in estimates.items()}
    return drop_hopeless(estimates, memory_bytes=memory_bytes, baseline=keep[0], keep=keep)


def screening_of(search: Search, make_prompts: PromptMaker, stack: AsyncExitStack) -> Screening:
    """Looks at candidates beside the baseline, whose weights are built; its worker ends with the stack."""
    assert search.baseline.candidate is not None
    return Screening(
        session=search.session,
        reference=search.reference.candidate,
        baseline=search.baseline.candidate,
        exam=search.exam,
        workload=search.workload,
        machine=search.machine,
        make_prompts=make_prompts,
        stack=stack,
    )


async def screen_all(search: Search, make_prompts: PromptMaker) -> None:
    """Build, look at and keep or leave out every candidate that may win, while there is time for what comes after."""
    session = search.session
    base = search.baseline
    base.candidate = await build_plan(search, base.plan)
    async with AsyncExitStack() as stack:
        screening = screening_of(search, make_prompts, stack)
        rate = await screening.score_reference()
        search.budget = plan_budget(
            session.limit_s, score_tok_s=rate or ASSUMED_SCORE_TOK_S, n_candidates=len(search.rows), n_finalists=N_FINALISTS
        )
        for line in search.budget.lines():
            session.say("plan", line)
        tried_key = key_of_tried(search)
        tried: list[str] | None = session.cache.get_json("tried", tried_key)
        for row in search.rows.values():
            if tried is not None and row.plan.id not in tried and not row.reasons:
                search.note(row, "dropped", OUT_OF_TIME)
        await build_all(search)
        todo = [row for row in search.rows.values() if row.candidate is not None]
        await screening.ahead([row.candidate for row in todo if row.candidate is not None])
        for number, row in enumerate(todo):
            session.say("screen", row.plan.id, number, len(todo))
            tried_one = any(other.probe for other in todo if other is not base)
            if row is not base and tried_one and session.seconds_left < keep_s(search):
                search.note(row, "dropped", OUT_OF_TIME)
                continue
            try:
                await look(search, screening, row, number)
            except (InfeasibleError, MissingError) as error:
                if row is base:
                    raise
                search.note(row, "infeasible", str(error))
                continue
            search.note(row, "screened", why_screened_out(row.screen, search.policy) if row is not base else "")
        session.say("screen", "", len(todo), len(todo))
        if tried is None:
            session.cache.put_json("tried", tried_key, [row.plan.id for row in search.rows.values() if OUT_OF_TIME not in row.reasons])


async def look(search: Search, screening: Screening, row: Row, number: int) -> Probe:
    """Screen and probe what a row has built. Raises InfeasibleError, MissingError."""
    assert row.candidate is not None
    left_s = search.session.seconds_left
    row.screen, probe = await screening.look_at(row.candidate, number)
    row.probe, row.look_s = probe, left_s - search.session.seconds_left
    return probe


def key_of_tried(search: Search) -> str:
    """Names this search among others: one that ended before tried so many within its limit; the same question gets the same answer.

    Call it before rows are added.
    """
    assert search.baseline.candidate is not None
    plans = [*search.rows, *(kind.build().digest for kind in search.engines.values())]
    base = search.baseline.candidate.deployment
    return digest_of([base, search.machine.digest, search.workload, search.session.limit_s, search.session.seed, plans])


async def build_all(search: Search) -> None:
    """Make the weights of everything that may win, two at a time: most of a build runs on one core."""
    todo = [row for row in search.rows.values() if not row.reasons and row.candidate is None]
    gate = asyncio.Semaphore(BUILDS_AT_ONCE)
    done = 0

    async def build(row: Row) -> None:
        nonlocal done
        async with gate:
            try:
                row.candidate = await build_plan(search, row.plan)
            except (InfeasibleError, MissingError) as error:
                search.note(row, "infeasible", str(error))
        done += 1
        search.session.say("build", row.plan.id, done, len(todo))

    await asyncio.gather(*(build(row) for row in todo))


def keep_s(search: Search) -> float:
    """Seconds to keep for one more look and for what comes after screening; while nothing is there to certify, the least that is of use."""
    fastest = fastest_probe(search)
    if fastest is not None and fastest.ratio > 1.0:
        longest_look_s = max(row.look_s for row in search.rows.values())
        return longest_look_s + needed_timing_s(search) + certify_s(search, ONE_CERTIFY)
    return certify_s(search, 1.0) + LEAST_TIMING_S


def certify_s(search: Search, passes: float) -> float:
    """Seconds to keep for certifying: the winner, or also the best of the baseline's engine after it."""
    return passes * (search.budget.certify_s + search.budget.generate_s)


def open_typed_plan(session: Session, opened: Opened, plan: Plan) -> Opened:
    """What a plan begins with: the model's file or one of the user's, with the draft of its settings. Raises InputError, MissingError."""
    if plan.source:
        opened = open_model(plan.source, cache_dir=session.caches, offline=session.offline)
    return with_draft(opened, plan.extra.draft, cache_dir=session.caches, offline=session.offline)


async def build_plan(search: Search, plan: Plan) -> Candidate:
    """The candidate of a plan, from the user's own file if it names one."""
    return await build_candidate(
        open_typed_plan(search.session, search.opened, plan),
        plan.engine,
        plan.recipe,
        dataclasses.replace(search.settings, **plan.extra.given()),
        products_dir=search.session.products_dir,
        candidate_id=plan.id,
    )


async def time_all(search: Search, make_prompts: PromptMaker) -> None:
    """The interleaved session of baseline and finalists."""
    base = search.baseline
    assert base.candidate is not None
    probes = {
        name: as_finalist(search.aim, row.probe, row.candidate.snapshot.size_bytes, base.candidate.snapshot.size_bytes)
        for name, row in search.rows.items()
        if row.probe is not None and row.candidate is not None
    }
    same_file = [name for name, row in search.rows.items() if row.candidate and reads_shipped_file(search, row) and row is not base]
    finalists = pick_finalists(
        probes,
        {name: row.screen.kl_nats for name, row in search.rows.items() if row.screen is not None},
        search.passing,
        {name: row.plan.engine for name, row in search.rows.items()},
        baseline=base.plan.id,
        same_file=same_file,
        n_rivals=search.budget.n_entrants - 1 + (search.session.limit_s > DEFAULT_LIMIT_S),
        weights={name: row.plan.recipe.name for name, row in search.rows.items()},
    )
    finalists = affordable(
        finalists, {name: row.probe for name, row in search.rows.items()}, base.plan.id, search.workload, timing_s(search)
    )
    for name in search.passing:
        row = search.rows[name]
        if name not in finalists and row is not base and row.probe:
            search.note(
                row, "screened", f"Not among the finalists: short turns were {row.probe.ratio:.2f} times as fast as the baseline's."
            )
    await search.session.workers.end_all()
    timed = await time_finalists(
        search.session,
        base.candidate,
        [candidate for name in finalists if (candidate := search.rows[name].candidate) is not None],
        search.workload,
        make_prompts,
        machine=search.machine,
        time_budget_s=timing_s(search),
    )
    for name, found in timed.items():
        row = search.rows[name]
        row.timed = found
        if found.left and row is base:
            raise InfeasibleError(f"The baseline could not be timed: {found.left}")
        if found.left:
            search.note(row, "infeasible", f"It left the timing: {found.left}")
        else:
            judge_row(search, row)
            search.note(row, "timed" if row.status == "screened" else row.status)


def affordable(finalists: list[str], probes: Mapping[str, Probe | None], baseline: str, workload: Workload, budget_s: float) -> list[str]:
    """As many of the finalists, the first always, as leave time for two rounds beside the baseline: one round gives no interval."""
    kept = finalists[:1]
    for name in finalists[1:]:
        if rounds_s([probes.get(one) for one in (baseline, *kept, name)], workload, LEAST_ROUNDS) <= OVERRUN * budget_s:
            kept.append(name)
    return kept


def rounds_s(probes: Iterable[Probe | None], workload: Workload, n_rounds: int) -> float:
    """Seconds that so many rounds of these take, and one to warm up.

    A probe is of the lowest concurrency; so many times as many requests are taken to need so many times as long, which is the worst case.
    """
    levels = workload.concurrency
    n_requests = sum(turns_per_round(level, levels) * level for level in levels) / min(levels)
    return (1 + n_rounds) * n_requests * sum(probe.e2e_ms / 1000 for probe in probes if probe is not None)


def fastest_probe(search: Search) -> Probe | None:
    """Short turns of the fastest that may win, the baseline left out."""
    usable = [row.probe for row in search.rows.values() if row.probe and not row.reasons and row is not search.baseline]
    return max(usable, key=lambda probe: probe.ratio, default=None)


def needed_timing_s(search: Search) -> float:
    """Seconds that tell the baseline and the fastest so far apart, at most what the plan has for timing."""
    needed_s = rounds_s([search.baseline.probe, fastest_probe(search)], search.workload, LEAST_ROUNDS)
    planned_s = search.budget.timing_s_per_entrant * search.budget.n_entrants
    return max(NEEDED_TIMING_S, min(needed_s, planned_s))


def timing_s(search: Search) -> float:
    """Seconds of the session that finalists are chosen by.

    What is needed to tell two deployments apart goes before a second certification. A longer limit keeps room for one certification, and
    half of the rest for a second one and for timing again what was chosen.
    """
    is_longer = search.session.limit_s > DEFAULT_LIMIT_S
    after_one_s = search.session.seconds_left - certify_s(search, ONE_CERTIFY)
    left_s = after_one_s if is_longer else search.session.seconds_left - certify_s(search, TWO_CERTIFY)
    usual_s = max(min(TIMING_S, left_s), min(needed_timing_s(search), after_one_s))
    if any(term.percentile is not None for term in search.aim.slo):
        usual_s *= TIMING_SHARE
    return max(LEAST_TIMING_S, usual_s, TIMING_SHARE * left_s if is_longer else 0.0)


def judge_row(search: Search, row: Row) -> None:
    """Hold what was timed of a row against the demands; what surely misses one is out, with the reason."""
    row.slo = judge_slo(search.aim.slo, row.timed.measurement if row.timed else None)
    row.reasons += [result.reason for result in row.slo if result.verdict == "fail" and result.reason not in row.reasons]


def reads_shipped_file(search: Search, row: Row) -> bool:
    """Whether an engine reads the user's own GGUF file in this row, whatever it makes of it."""
    return row.plan.engine != search.baseline.plan.engine and row.plan.recipe.parameters.get("mode") == "gguf"


def gain(search: Search, row: Row) -> float:
    """Log of how many times better than the baseline by the objective; minus infinity where it was not timed."""
    return gain_of(search.aim, row.timed, search.baseline.timed, search.baseline.plan.id)


def gain_ends(search: Search, row: Row) -> tuple[float, float]:
    """The interval of `gain`: minus and plus infinity where too few rounds were timed for one."""
    return gain_range(search.aim, row.timed, search.baseline.timed, search.baseline.plan.id)
