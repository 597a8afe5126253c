"""`trimtab evaluate`: how a model does on suites of items, by itself and beside a reference. Levels with intervals; no verdict."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Candidate, CandidateSpec, Settings, parse_spec
from trimtab.core.errors import InputError
from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of
from trimtab.core.policy import Policy
from trimtab.describe.card import model_card
from trimtab.engines.registry import engine_names
from trimtab.evaluate.requests import PreparedSuite
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.events import OnEvent, ignore
from trimtab.flows.parts.answer_evaluate import evaluate_answers
from trimtab.flows.parts.answering import LocalSide
from trimtab.flows.parts.cluster_join import Cluster, cluster_of
from trimtab.flows.parts.document import subject, versions, write_items
from trimtab.flows.parts.embeddings import are_embeddings, evaluate_embeddings
from trimtab.flows.parts.evaluated import suite_row, write_evaluated
from trimtab.flows.parts.evidence import outcomes_on
from trimtab.flows.parts.exam import OWN_MARGINS, Exam, check_vocabulary, load_suites, prepare_exam
from trimtab.flows.parts.opening import (
    Opened,
    build_typed,
    default_engine,
    open_model,
    with_draft,
)
from trimtab.flows.parts.outside import OutsideSuite, check_names, load_outside, outside_outcomes, split_names
from trimtab.flows.parts.refusing import refusals_in_answers, requests_to_answer
from trimtab.flows.parts.session import Session, open_session, run_sync, together
from trimtab.sources.endpoint import is_endpoint

DEFAULT_LIMIT_S = 3600.0
CONTEXT_TOKENS = 1024
GUARD_PARITY = "guard-parity"
EVERYTHING = Policy(name="none", version="1", gates=())


def evaluate(
    model: str,
    *,
    suites: Sequence[str] = ("core",),
    reference: str = "",
    out: Path,
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    cluster: str = "",
    cluster_store: str = "",
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Score a model (and a reference) on all items of the suites, write `out`, and return evaluation.json as JSON types.

    model, reference: specs, `[engine:]source[?recipe=NAME&setting=value]`, or servers, `openai:URL#model`
    suites: names and files, several with commas; `lm-eval:arc_easy,bbq` are tasks of that tool; `guard-parity`, alone, asks the guards of
        the site.toml that `model` names, and its document is another one (flows/parts/guard_parity.py)
        An embedding model is judged by what it finds, whatever the suites (flows/parts/embeddings.py; embedding.json)
    cluster, cluster_store: as typed, see flows/parts/cluster_join.py; models are scored there, all else is done here
    Raises InputError, MissingError; InfeasibleError if one of them cannot run, ExchangeFailed if a server answers no chat request.
    """
    if are_embeddings([spec for spec in (model, reference) if spec], offline=offline):
        return evaluate_embeddings(model, reference=reference, out=out, offline=offline, on_event=on_event)
    own, others = split_names(suites)
    limit_s = DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s
    joined = cluster_of(cluster, cluster_store)
    if joined is not None and (GUARD_PARITY in own or others or is_endpoint(model) or is_endpoint(reference)):
        raise InputError("--cluster scores models on suites of items; it takes no servers, no lm-eval tasks and no guards.")
    if GUARD_PARITY in own:
        if reference or len(own) + len(others) > 1:
            raise InputError(f"{GUARD_PARITY} asks guards, not a model; run it alone, without other suites and without a reference.")
        from trimtab.flows.parts.guard_parity import guard_parity

        return guard_parity(model, out=out, limit_s=limit_s, on_event=on_event)
    if is_endpoint(model) or is_endpoint(reference):
        if others:
            raise InputError(
                f"{others[0]} asks by token ids, which a server does not take; run it with lm-eval's own models for servers, and hold "
                "its logs against each other with `trimtab compare A.jsonl B.jsonl --logs`."
            )
        return run_sync(
            evaluate_answers(
                model,
                reference,
                suites=load_suites(own),
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
        _evaluate(
            parse_spec(model, names),
            parse_spec(reference, names) if reference else None,
            load_suites(own),
            [load_outside(name, offline=offline) for name in others],
            specs=(model, reference),
            out=out,
            fresh=fresh,
            offline=offline,
            limit_s=limit_s,
            seed=seed,
            on_event=on_event,
            cluster=joined,
        )
    )


async def _evaluate(
    model: CandidateSpec,
    reference: CandidateSpec | None,
    suites: Sequence[Suite],
    outside: Sequence[OutsideSuite],
    *,
    specs: tuple[str, str],
    out: Path,
    fresh: bool,
    offline: bool,
    limit_s: float,
    seed: int,
    on_event: OnEvent,
    cluster: Cluster | None,
) -> dict[str, Any]:
    async with open_session(
        model.source,
        out=out,
        digests={"models": digest_of(list(specs)), "suite": digest_of([one.digest for one in suites] + [one.digest for one in outside])},
        inputs={"model": specs[0], "reference": specs[1], "suites": [one.name for one in suites] + [one.name for one in outside]},
        versions=versions(),
        fresh=fresh,
        offline=offline,
        limit_s=limit_s,
        seed=seed,
        on_event=on_event,
        cluster=cluster,
    ) as (session, opened):
        candidate = await _built(session, opened, model)
        held_against: Candidate | None = None
        if reference is not None:
            held_against = await _built(session, open_model(reference.source, cache_dir=session.caches, offline=offline), reference)
            held_against = dataclasses.replace(held_against, id=f"reference: {held_against.id}")
        session.say("prepare", "items as tokens")
        asker = held_against or candidate  # as in compare: what is held against one reference is asked in that one's tokens
        exam = await prepare_exam(await session.workers.ready(asker, None), asker, suites, EVERYTHING, share_search=0.0)
        check_names(outside, exam)
        if held_against is not None and exam.items:
            await check_vocabulary(await session.workers.ready(candidate, None), exam, candidate)
        sides = [candidate, *([held_against] if held_against is not None else [])]
        found = await together(session, [partial(_outcomes, session, side, exam, outside) for side in sides])
        (outcomes, units), before = found[0], found[1][0] if held_against is not None else None
        own = LocalSide(session, candidate, candidate.snapshot.source)
        other = LocalSide(session, held_against, held_against.snapshot.source) if held_against is not None else None
        refusals = await refusals_in_answers(session, own, other, requests_to_answer(exam.items.values()))
        digest = digest_of([exam.digest, *(suite.digest for suite in outside)]) if outside else exam.digest
        items = {**exam.items, **{key: item for suite in outside for key, item in suite.items.items()}}
        spoken = (item.language for item in exam.items.values())
        return write_evaluated(
            session,
            model=subject(candidate, source=opened.snapshot.source),
            reference=subject(held_against) if held_against is not None else None,
            outcomes=outcomes,
            before=before,
            units=units,
            items=items,
            kinds={key: kind for suite in suites for key, kind in suite.kinds.items()},
            suite=suite_row((*suites, *outside), digest, items, spoken) | {"longest_tokens": exam.longest_tokens},
            refusals=refusals,
        )


async def _outcomes(
    session: Session, candidate: Candidate, exam: Exam, outside: Sequence[OutsideSuite]
) -> tuple[tuple[Outcome, ...], dict[str, str]]:
    """Outcomes of one side on everything, kept in the run's folder, and units by sub-suite."""
    asked = PreparedSuite(requests=tuple(one for part in exam.parts for one in part.requests))
    own = await outcomes_on(session, candidate, asked, phase="evaluate", what=candidate.id)
    others, units = await outside_outcomes(session, candidate, outside, what=candidate.id)
    write_items(session, candidate, (*own, *others))
    return (*own, *others), _units(exam) | units


def _units(exam: Exam) -> dict[str, str]:
    """Sub-suite -> unit of its values."""
    return {item.suite: OWN_MARGINS[item.scorer][0] for item in exam.items.values()}


async def _built(session: Session, opened: Opened, spec: CandidateSpec) -> Candidate:
    opened = with_draft(opened, spec.settings.draft, cache_dir=session.caches, offline=session.offline)
    limit = model_card(opened.header, opened.snapshot).context_tokens or CONTEXT_TOKENS
    common = Settings(slots=1, context_tokens=min(CONTEXT_TOKENS, limit))
    session.say("build", f"{opened.snapshot.source} in {spec.engine or default_engine(opened)}")
    return await build_typed(opened, spec, common, products_dir=session.products_dir)
