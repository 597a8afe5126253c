"""`trimtab compare`: is B no worse than A, and how much faster? Two deployments, one decision, no search."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimtab.core.decision import CandidateResult
from trimtab.core.deployment import Candidate, CandidateSpec, Settings, parse_spec
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import digest_of
from trimtab.core.policy import Policy
from trimtab.core.workload import Workload
from trimtab.decide.policies import load_policy, policy_sha256
from trimtab.describe.card import model_card
from trimtab.engines.registry import engine_names
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.events import OnEvent, ignore
from trimtab.flows.parts.answer_compare import compare_answers
from trimtab.flows.parts.certify import Certified, certify, power_ahead, power_lines
from trimtab.flows.parts.cluster_join import Cluster, cluster_of
from trimtab.flows.parts.document import certified_row, decision_document, lock_of, noise_row, subject, versions, write_files, write_judged
from trimtab.flows.parts.embeddings import are_embeddings, compare_embeddings
from trimtab.flows.parts.exam import check_vocabulary, load_suites, policy_for, prepare_exam
from trimtab.flows.parts.opening import (
    Opened,
    build_typed,
    check_settings,
    default_engine,
    open_typed,
    own_recipe,
    own_recipes_digest,
    recipe_named,
    with_draft,
)
from trimtab.flows.parts.reference import PromptMaker, bench_against, common_settings, machine_with_rates
from trimtab.flows.parts.requests import ready_workload
from trimtab.flows.parts.session import Session, open_session, run_sync
from trimtab.flows.parts.timing import Timed, time_finalists
from trimtab.plan.workloads import load_workload
from trimtab.sources.endpoint import is_endpoint

SHARE_PILOT = 0.1
"""Share of the clusters that is used to say beforehand what the rest can show."""
TIMING_S = 90.0
DEFAULT_LIMIT_S = 3600.0


def compare(
    a: str,
    b: str,
    *,
    policy: str = "standard",
    suites: Sequence[str] = ("core",),
    workload: str = "chat",
    prompts: str | None = None,
    timing: bool = True,
    out: Path,
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    cluster: str = "",
    cluster_store: str = "",
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Judge B against A, write the run directory `out`, and return decision.json as JSON types.

    a, b: specs, `[engine:]source[?recipe=NAME&setting=value]` or `openai:URL#model`. A is the reference and the baseline of the timing.
    prompts: a JSONL file. With it, or where a side is a server, the sides are judged by their answers (`workload` is then not used)
    cluster, cluster_store: as typed, see flows/parts/cluster_join.py; both are scored there, and timed and served here
    Two embedding models are judged by what they find (flows/parts/embeddings.py); suites, workload and timing are then not used.
    Raises InputError, MissingError; InfeasibleError if A cannot run (B that cannot run is a decision: fail).
    """
    if prompts is None and are_embeddings((a, b), offline=offline):
        return compare_embeddings(a, b, policy=policy, out=out, offline=offline, on_event=on_event)
    joined = cluster_of(cluster, cluster_store)
    if prompts is not None or is_endpoint(a) or is_endpoint(b):
        if joined is not None:
            raise InputError("--cluster scores models on suites of items; it takes no servers and no --prompts.")
        limit_s = DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s
        return run_sync(
            compare_answers(
                a,
                b,
                policy=policy,
                suites=suites,
                prompts=prompts,
                timing=timing,
                out=out,
                fresh=fresh,
                offline=offline,
                limit_s=limit_s,
                seed=seed,
                on_event=on_event,
            )
        )
    names = engine_names()
    return run_sync(
        _compare(
            parse_spec(a, names),
            parse_spec(b, names),
            load_policy(policy),
            load_workload(workload),
            load_suites(suites),
            specs=(a, b),
            timing=timing,
            out=out,
            fresh=fresh,
            offline=offline,
            limit_s=DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s,
            seed=seed,
            on_event=on_event,
            cluster=joined,
        )
    )


async def _compare(
    a: CandidateSpec,
    b: CandidateSpec,
    policy: Policy,
    workload: Workload,
    suites: Sequence[Suite],
    *,
    specs: tuple[str, str],
    timing: bool,
    out: Path,
    fresh: bool,
    offline: bool,
    limit_s: float,
    seed: int,
    on_event: OnEvent,
    cluster: Cluster | None,
) -> dict[str, Any]:
    policy, notes = policy_for(policy, suites)
    digests = {
        "candidates": digest_of(list(specs)),
        "policy": policy_sha256(policy),
        "workload": digest_of(workload),
        "suite": digest_of([suite.digest for suite in suites]),
        **own_recipes_digest(specs),
    }
    async with open_session(
        a.source,
        out=out,
        digests=digests,
        inputs={"a": specs[0], "b": specs[1], "policy": policy.name, "workload": workload.name},
        versions=versions(),
        fresh=fresh,
        offline=offline,
        limit_s=limit_s,
        seed=seed,
        on_event=on_event,
        cluster=cluster,
    ) as (session, opened_a):
        card = model_card(opened_a.header, opened_a.snapshot)
        opened_a = with_draft(opened_a, a.settings.draft, cache_dir=session.caches, offline=offline)
        opened_b = open_typed(b, cache_dir=session.caches, offline=offline)
        for spec, opened in ((a, opened_a), (b, opened_b)):
            engine = spec.engine or default_engine(opened)
            recipe_named(spec.recipe, engine)
            check_settings(opened, engine, Settings(), spec.settings)
        if timing:
            workload, _ = await ready_workload(opened_a, workload, card.context_tokens or workload.context_tokens, "refuse")
        common = common_settings(workload.context_tokens, workload.concurrency, card.context_tokens or workload.context_tokens)
        own_a = own_recipe(a.recipe, recipe_named(a.recipe, a.engine or default_engine(opened_a)))
        reference = await _side(session, opened_a, a, common, "A")
        machine = await machine_with_rates(session)
        session.say("prepare", "items as tokens")
        exam = await prepare_exam(await session.workers.ready(reference, None), reference, suites, policy, share_search=SHARE_PILOT)
        bench = await bench_against(session, opened_a, reference, common, policy, exam, machine.n_cores)
        candidate: Candidate | None = None
        certified: Certified | None = None
        power: Any = None
        timed: dict[str, Timed] = {}
        reasons: list[str] = []
        try:
            candidate = await _side(session, opened_b, b, common, "B")
            await check_vocabulary(await session.workers.ready(candidate, None), exam, candidate)
            power = await power_ahead(session, bench, candidate)
            for line in power_lines(power, policy):
                session.say("power", line)
            if timing:
                with PromptMaker(reference, workload) as make_prompts:
                    timed = await time_finalists(
                        session, reference, [candidate], workload, make_prompts, machine=machine, time_budget_s=TIMING_S
                    )
            certified = await certify(
                session, bench, candidate, attempt=1, concurrency=max(workload.concurrency), swapped=bench.swapped_for(candidate)
            )
            reasons = list(certified.decision.reasons)
            write_judged(session, candidate, reference, certified)
        except InfeasibleError as error:
            reasons = [f"B cannot run here: {error}"]
        verdict = certified.decision.verdict if certified else "fail"
        row = _row(b, candidate, certified, timed, reasons)
        session.run.put_candidate(row)
        if opened_a.header.chat_template != opened_b.header.chat_template:
            notes = (*notes, "the chat templates differ; both sides were given A's rendering (see `trimtab describe B --base A`)")
        document = decision_document(
            session,
            kind="compare",
            verdict=verdict,
            reasons=reasons,
            reference=subject(reference, source=opened_a.snapshot.source, provenance=f"{specs[0]}, as given", **own_a),
            baseline={**subject(reference), "measurement": timed[reference.id].measurement if timed else None},
            chosen=None,
            speedup={"over_baseline": timed[row.id].ratios.get(reference.id, {}) if row.id in timed else {}},
            certified=certified,
            candidates=[row],
            workload=workload,
            policy=policy,
            exam=exam,
            machine=machine,
            noise=noise_row(timed.get(reference.id)),
            skipped=[{"what": "gates", "why": note} for note in notes],
            power=power,
        )
        lock = None
        if certified is not None and candidate is not None and verdict == "pass":
            recipe = recipe_named(b.recipe, candidate.engine)
            lock = lock_of(opened_b, candidate, recipe, document, workload=workload, exam=exam, machine=machine)
        write_files(session, document, lock, exam.items)
        return document


async def _side(session: Session, opened: Opened, spec: CandidateSpec, common: Settings, side: str) -> Candidate:
    session.say("build", f"{side}: {opened.snapshot.source} in {spec.engine or default_engine(opened)}")
    return await build_typed(opened, spec, common, products_dir=session.products_dir, side=side)


def _row(
    spec: CandidateSpec, candidate: Candidate | None, certified: Certified | None, timed: dict[str, Timed], reasons: list[str]
) -> CandidateResult:
    if candidate is None:
        return CandidateResult(
            id=f"B: {spec.source}",
            engine=spec.engine,
            recipe=spec.recipe,
            settings=spec.settings.given(),
            status="infeasible",
            verdict="fail",
            reasons=tuple(reasons),
        )
    found = timed.get(candidate.id)
    return replace(certified_row(candidate, certified, reasons), measurement=found.measurement if found else None)
