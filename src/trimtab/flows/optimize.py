"""`trimtab optimize`: find the best deployment for a workload on this machine that is shown to be no worse than the reference.

Predict from the header and drop what cannot win; screen on few items beside a short timing; time the finalists interleaved; certify the
fastest on items that the search never saw, at most as many as the policy allows.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InfeasibleError, InputError, MissingError, TrimtabError
from trimtab.core.files import digest_of
from trimtab.core.policy import Policy
from trimtab.core.workload import Workload
from trimtab.decide.policies import load_policy, policy_sha256
from trimtab.describe.card import model_card
from trimtab.engines.base import Engine
from trimtab.flows.events import OnEvent, ignore
from trimtab.flows.parts.afterwards import retime, time_at_worst, worst_sentences
from trimtab.flows.parts.capacity import measure_capacity
from trimtab.flows.parts.certify import certify, power_ahead, power_lines
from trimtab.flows.parts.choice import choose, note_not_shown, passed, reasons_for, slo_rows, to_certify
from trimtab.flows.parts.cluster_join import Cluster, cluster_of
from trimtab.flows.parts.cluster_pools import from_anywhere, on_pools
from trimtab.flows.parts.demands import settle, time_alone
from trimtab.flows.parts.document import decision_document, lock_of, noise_row, subject, versions, write_files, write_judged
from trimtab.flows.parts.exam import load_suites, policy_for, prepare_exam
from trimtab.flows.parts.healing import heal_fastest
from trimtab.flows.parts.mixed import mix_types
from trimtab.flows.parts.objective import BETTER, Aim, make_aim, objective_row
from trimtab.flows.parts.opening import Opened, engines_at_hand, own_recipes_digest
from trimtab.flows.parts.plan_feedback import remember_timings
from trimtab.flows.parts.reference import PromptMaker, bench_of, common_settings, machine_with_rates, make_reference
from trimtab.flows.parts.requests import ready_workload
from trimtab.flows.parts.screening import why_screened_out
from trimtab.flows.parts.search import (
    ASSUMED_SCORE_TOK_S,
    N_FINALISTS,
    Row,
    Search,
    open_typed_plan,
    predict_all,
    screen_all,
    time_all,
)
from trimtab.flows.parts.session import Session, open_session, run_sync
from trimtab.flows.parts.space import Plan, baseline_plan, shelf_plans, user_plans
from trimtab.flows.parts.tuning import tune_settings
from trimtab.plan.requests import OverLong
from trimtab.plan.tuning.budget import DEFAULT_LIMIT_S, plan_budget
from trimtab.plan.workloads import load_workload

SHARE_SEARCH = 0.25
SECOND_SHARE = 0.65
"""Certifying another candidate takes this much of the time of the first, as reference, controls and noise are known."""


def optimize(
    model: str,
    *,
    workload: str = "chat",
    out: Path,
    candidates: Sequence[str] = (),
    policy: str = "standard",
    engines: Sequence[str] = (),
    suites: Sequence[str] = ("core",),
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    objective: str | None = None,
    slo: str | None = None,
    price_per_hour: float | None = None,
    over_long: OverLong = "refuse",
    mixed: bool = False,
    heal: bool = False,
    cluster: str = "",
    cluster_store: str = "",
    pool: str = "",
    busy_node: str = "",
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Search, decide, write the run directory `out`, and return decision.json as JSON types.

    model: a source; candidates: further specs to try; engines: names, () = all at hand; suites: names or files
    time_limit_s: the search ends after it (default six minutes), and what leads is still certified; a stopped run goes on where it was
    objective: what is to be best (core.workload.Objective), default latency; slo: what must hold, see plan.slo.parse_slo
    price_per_hour: of this machine, for costs
    over_long: what is done with requests of a prompt file or a trace that do not fit the model's context
    mixed: also measure what groups of weights lose in fewer bits, and try mixes of types
    heal: also train the fastest candidate that only its loss ruled out back towards the reference, if policy and time allow
    cluster, cluster_store: as typed, see flows/parts/cluster_join.py; scoring is done there (in the hardware pool `pool`, if one is named,
        but not on its node `busy_node`, which is this one), and what is timed is timed here
    Raises InputError, MissingError; InfeasibleError only if the baseline or the reference itself cannot run, or no candidate can meet a
    demand even at its predicted best.
    """
    aim = make_aim(objective, slo, price_per_hour)
    limit_s = DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s
    plan_budget(limit_s, score_tok_s=ASSUMED_SCORE_TOK_S, n_candidates=1)  # refuses a limit that cannot do before anything is made
    return run_sync(
        _optimize(
            model,
            load_workload(workload),
            load_policy(policy),
            out=out,
            specs=candidates,
            wanted=engines,
            suites=suites,
            fresh=fresh,
            offline=offline,
            limit_s=limit_s,
            seed=seed,
            aim=aim,
            over_long=over_long,
            mixed=mixed,
            heal=heal,
            inputs={  # as typed, so that `runs show` can say how the run goes on
                "model": model,
                "workload": workload,
                "policy": policy,
                "suites": list(suites),
                "engines": list(engines),
                "candidates": list(candidates),
                "objective": aim.objective,
                "slo": [term.text for term in aim.slo],
                "price_per_hour": price_per_hour,
                "over_long": over_long,
                "mixed": mixed,
                "heal": heal,
                "time_limit_s": time_limit_s,
            },
            on_event=on_event,
            cluster=cluster_of(cluster, cluster_store, pool, busy_node),
        )
    )


def optimize_on_pools(
    pools: Sequence[str], *, out: Path, cluster: str, cluster_store: str = "", on_event: OnEvent = ignore, **asked: Any
) -> dict[str, Any]:
    """`optimize` once for each hardware pool of a Ray cluster, on a node of it; a run folder each below `out`, and one row each.

    asked: the other arguments of `optimize`. Returns pools.json as JSON types. Raises InputError, MissingError.
    """
    joined = cluster_of(cluster, cluster_store)
    if joined is None or joined.address.startswith("local"):
        raise InputError("--hardware-pools are pools of a Ray cluster; give its address with --cluster.")
    make_aim(asked.get("objective"), asked.get("slo"), asked.get("price_per_hour"))
    plain = {key: from_anywhere(key, value) for key, value in asked.items()}
    return run_sync(on_pools(joined, pools, out=out, asked=plain, on_event=on_event))


async def _optimize(
    model: str,
    workload: Workload,
    policy: Policy,
    *,
    out: Path,
    specs: Sequence[str],
    wanted: Sequence[str],
    suites: Sequence[str],
    fresh: bool,
    offline: bool,
    limit_s: float,
    seed: int,
    aim: Aim,
    over_long: OverLong,
    mixed: bool,
    heal: bool,
    inputs: dict[str, Any],
    on_event: OnEvent,
    cluster: Cluster | None,
) -> dict[str, Any]:
    loaded = load_suites(suites)
    policy, notes = policy_for(policy, loaded)
    plans = user_plans(specs)
    engines, absent = engines_at_hand(wanted)
    if not engines:
        raise MissingError(f"No engine can run here: {'; '.join(absent.values())}", "run `trimtab doctor`")
    async with (
        open_session(
            model,
            out=out,
            digests={
                "policy": policy_sha256(policy),
                "workload": digest_of(workload),
                "suite": digest_of([suite.digest for suite in loaded]),
                "candidates": digest_of(list(specs)),
                **({"objective and demands": digest_of(aim)} if aim != Aim() else {}),
                **({"rule for over-long requests": over_long} if over_long != "refuse" else {}),
                **({"mixes of types": "tried"} if mixed else {}),
                **({"healing": "tried"} if heal else {}),
                **own_recipes_digest(specs),
            },
            inputs=inputs,
            versions=versions(),
            fresh=fresh,
            offline=offline,
            limit_s=limit_s,
            seed=seed,
            on_event=on_event,
            cluster=cluster,
        ) as (session, opened),
        AsyncExitStack() as stack,
    ):
        search = await _prepare(session, opened, workload, policy, loaded, plans, engines, aim, over_long)
        search.skipped += [{"what": name, "why": why} for name, why in absent.items()] + [{"what": "gates", "why": note} for note in notes]
        make_prompts = stack.enter_context(PromptMaker(search.reference.candidate, search.workload))
        await screen_all(search, make_prompts)
        await tune_settings(search, make_prompts)
        if mixed:
            await mix_types(search, make_prompts)
        if heal:
            await heal_fastest(search, make_prompts)
        await time_all(search, make_prompts)
        await time_alone(search, make_prompts)
        await _certify(search)
        await retime(search, make_prompts)
        await settle(search, make_prompts)
        capacity = await measure_capacity(search, choose(search)[0], make_prompts)
        worst = await time_at_worst(search)
        return _finish(search, capacity, worst)


async def _prepare(
    session: Session,
    opened: Opened,
    workload: Workload,
    policy: Policy,
    suites: Any,
    plans: list[Plan],
    engines: dict[str, type[Engine]],
    aim: Aim,
    over_long: OverLong,
) -> Search:
    """Machine, reference, items, what to try, and the plan of the run."""
    session.say("describe", opened.snapshot.source)
    for plan in plans:  # a wrong path ends the run here, and not after everything else was scored
        open_typed_plan(session, opened, plan)
    card = model_card(opened.header, opened.snapshot)
    workload, changed = await ready_workload(opened, workload, card.context_tokens or workload.context_tokens, over_long)
    if changed:
        session.say("describe", changed)
    machine = await machine_with_rates(session)
    settings = common_settings(workload.context_tokens, workload.concurrency, card.context_tokens or workload.context_tokens)
    reference = await make_reference(session, opened, settings, 8 * card.size_bytes / max(card.n_params, 1))
    session.say("prepare", "items as tokens")
    exam = await prepare_exam(
        await session.workers.ready(reference.candidate, None), reference.candidate, suites, policy, share_search=SHARE_SEARCH
    )
    base = Row(plan=baseline_plan(opened, engines))
    shelf, skipped = shelf_plans(opened, engines)
    skipped += [{"what": "requests", "why": changed}] if changed else []
    listed = [plan for plan in (*plans, *shelf) if plan.id != base.plan.id]
    rows = {base.plan.id: base} | {plan.id: Row(plan=plan) for plan in listed}
    search = Search(
        session=session,
        opened=opened,
        card=card,
        machine=machine,
        workload=workload,
        policy=policy,
        settings=settings,
        engines=engines,
        reference=reference,
        exam=exam,
        bench=bench_of(reference, policy, exam, machine.n_cores),
        baseline=base,
        rows=rows,
        skipped=skipped,
        budget=plan_budget(session.limit_s, score_tok_s=ASSUMED_SCORE_TOK_S, n_candidates=len(rows), n_finalists=N_FINALISTS),
        aim=aim,
    )
    predict_all(search)
    return search


async def _certify(search: Search) -> None:
    """Certify the best that may pass, then the next, within the policy's attempts; then the best of the baseline's own engine."""
    better = to_certify(search)
    if better:
        assert better[0].candidate is not None
        search.power = await power_ahead(search.session, search.bench, better[0].candidate)
        for line in power_lines(search.power, search.policy):
            search.session.say("power", line)
    spent_s = 0.0
    chosen: Row | None = None
    for row in better:
        if chosen is not None and row.plan.engine != search.baseline.plan.engine:
            search.note(row, row.status, f"Not certified: {chosen.plan.id}, which is {BETTER[search.aim.objective]}, passed.")
            continue
        assert row.candidate is not None
        # Written before the candidate is looked at: an attempt of a run that was killed, or resumed with another order, still counts.
        key = f"attempt/{row.candidate.deployment.digest}"
        used = search.session.run.steps("attempt/")
        if key not in used and len(used) >= search.policy.max_attempts:
            search.note(row, row.status, f"Not certified: the policy allows {len(used)} attempts on these items.")
            continue
        if chosen is not None and search.session.seconds_left < SECOND_SHARE * spent_s:
            search.note(row, row.status, "Not certified: the time limit left no room for it.")
            continue
        attempt = search.session.run.step(key, partial(int, len(used) + 1))
        before_s = search.session.seconds
        is_good = await _attempt(search, row, attempt)
        spent_s = search.session.seconds - before_s
        if is_good:
            if chosen is not None or row.plan.engine == search.baseline.plan.engine:
                break
            chosen = row


async def _attempt(search: Search, row: Row, attempt: int) -> bool:
    """Certify one row; whether it passed."""
    assert row.candidate is not None
    swapped = next(
        (
            other.candidate
            for other in search.rows.values()
            if other.candidate and other.plan.engine == row.plan.engine and other.screen and why_screened_out(other.screen, search.policy)
        ),
        search.bench.weak if search.bench.weak and search.bench.weak.engine == row.plan.engine else None,
    )
    try:
        row.certified = await certify(
            search.session,
            search.bench,
            row.candidate,
            attempt=attempt,
            concurrency=max(search.workload.concurrency),
            swapped=swapped,
        )
    except InfeasibleError as error:
        search.note(row, "infeasible", f"It broke while being certified: {error}")
        return False
    decision = row.certified.decision
    row.verdict = decision.verdict
    write_judged(search.session, row.candidate, search.reference.candidate, row.certified)
    search.note(row, "certified", *decision.reasons)
    return decision.verdict == "pass"


def _finish(search: Search, capacity: Any, worst: dict[str, Any] | None) -> dict[str, Any]:
    """Choose, write every file, and return the decision."""
    base = search.baseline
    chosen, verdict = choose(search)
    own = next((row for row in passed(search) if row.plan.engine == base.plan.engine), None)
    note_not_shown(search, chosen)
    reasons = [*reasons_for(search, chosen, own), *worst_sentences(worst)]
    certified = (chosen.certified if chosen else None) or next((row.certified for row in search.rows.values() if row.certified), None)
    over = chosen.timed.ratios if chosen and chosen.timed else {}
    document = decision_document(
        search.session,
        kind="optimize",
        verdict=verdict,
        reasons=reasons,
        reference=subject(search.reference.candidate, source=search.opened.snapshot.source, provenance=search.reference.provenance),
        baseline={**subject(_candidate_of(base)), "measurement": base.timed.measurement if base.timed else None},
        chosen={**subject(_candidate_of(chosen)), "why": reasons[0] if reasons else ""} if chosen else None,
        speedup={
            "over_baseline": over.get(base.plan.id, {}),
            "over_best_of_baseline_engine": {"id": own.plan.id, **over.get(own.plan.id, {})} if own and own is not chosen else {},
            "best_of_baseline_engine_over_baseline": {"id": own.plan.id, **(own.timed.ratios.get(base.plan.id, {}) if own.timed else {})}
            if own
            else {},
        },
        certified=certified,
        candidates=[row.result() for row in search.rows.values()],
        workload=search.workload,
        policy=search.policy,
        exam=search.exam,
        machine=search.machine,
        noise=noise_row(base.timed),
        skipped=search.skipped,
        budget={"seconds": search.session.limit_s, "plan": search.budget},
        power=search.power,
        objective=objective_row(search.aim, chosen.timed if chosen else None, base.timed),
        slo=slo_rows(search),
        capacity=capacity,
        retimed=search.retimed,
        worst_case=worst,
    )
    lock = None
    if verdict == "pass" and chosen is not None:
        lock = lock_of(
            search.opened,
            _candidate_of(chosen),
            chosen.plan.recipe,
            document,
            workload=search.workload,
            exam=search.exam,
            machine=search.machine,
        )
    write_files(search.session, document, lock, search.exam.items)
    remember_timings(search)
    return document


def _candidate_of(row: Row) -> Candidate:
    if row.candidate is None:
        raise TrimtabError(f"{row.plan.id} was chosen without having been built.")
    return row.candidate
