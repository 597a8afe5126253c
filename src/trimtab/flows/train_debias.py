"""`trimtab train debias`: a model trained to treat groups alike, then judged for bias and for everything else."""

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Candidate, parse_spec
from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, digest_of, sha256_file, to_plain, write_atomic
from trimtab.core.training import TrainConfig, TrainResult
from trimtab.core.workload import Workload
from trimtab.decide.policies import load_policy, policy_sha256
from trimtab.describe.card import model_card
from trimtab.engines.registry import engine_names
from trimtab.flows.events import OnEvent, ignore
from trimtab.flows.parts.certify import Certified, certify
from trimtab.flows.parts.debias_config import WAYS, Asked, check_ways, config_for
from trimtab.flows.parts.debias_forms import brought_back, check_form, directory_of, judged_spec
from trimtab.flows.parts.debias_judged import bias_gates, debias_policy, levels_of, table_of, verdict_of
from trimtab.flows.parts.debias_texts import Texts, texts_for
from trimtab.flows.parts.document import certified_row, decision_document, noise_row, subject, versions, write_files, write_judged
from trimtab.flows.parts.evidence import Bench, outcomes_on
from trimtab.flows.parts.exam import Exam, check_vocabulary, load_suites, policy_for, prepare_exam
from trimtab.flows.parts.locked import SHARE_SEARCH
from trimtab.flows.parts.opening import Opened, build_typed
from trimtab.flows.parts.reference import Reference, bench_of, common_settings, make_reference
from trimtab.flows.parts.session import Session, open_session, run_sync
from trimtab.flows.parts.train_launch import launch
from trimtab.flows.parts.train_told import told_by
from trimtab.measure.machine import machine as this_machine
from trimtab.plan.workloads import load_workload
from trimtab.record.disk import sentences
from trimtab.sources.open import open_source, read_header
from trimtab.train.debias.methods import Method

SCHEMA = "trimtab.debias/1"
DOCUMENT = "debias.json"
WORKLOAD = "chat"
DEFAULT_LIMIT_S = 7200.0
Opening = AbstractAsyncContextManager[tuple[Session, Opened]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is there before the first step. before: the model's own gaps on the search part; searched: templates they rest on"""

    config: TrainConfig
    texts: Texts
    before: list[dict[str, Any]]


def train_debias(
    model: str,
    *,
    suites: Sequence[str] = ("bias",),
    method: Method = "counterfactual",
    data: Sequence[str] = (),
    tokens: int = 0,
    strength: float = 0.0,
    lora_rank: int = 8,
    lr: float = 0.0,
    policy: str = "standard",
    against: Sequence[str] = ("core",),
    processes: int = 1,
    judge: bool = True,
    out: Path,
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Train `model` by `method`, judge what comes out against it, write the run directory `out`, and return debias.json as JSON types.

    model: a source, a GGUF file or a Hugging Face directory
    suites: whose bias is to fall, names and files; against: suites that must not lose by it
    data: .jsonl files of the user's (`text`, for `reweigh` with `group` and `attribute`); () = texts that the model itself ends
    tokens: to train on, about, 0 = as the method has it; strength: of the pair penalty of `balanced`, 0 = as the method has it
    lora_rank: 0 = all weights are trained; lr: 0 = as the method has it
    judge: off = train and export only, the verdict is then `inconclusive`
    The document has `verdict` (pass, fail, inconclusive), `reasons`, `model` (path of what was trained), and `table`: one row a measure
    with `name`, `before`, `after`, `change`, `low`, `high`, `verdict`.
    Raises InputError, MissingError; StoppedError where the training was stopped; InfeasibleError if the model cannot run.
    """
    began = time.monotonic()
    limit_s = DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s
    found = load_suites(list(dict.fromkeys((*suites, *against))))
    chosen, notes = policy_for(load_policy(policy), found)
    own = load_suites(list(suites))
    gates = bias_gates(chosen)
    targets = tuple(dict.fromkeys(item.suite for suite in own for item in suite.items if item.suite in gates))
    if not targets:
        raise InputError(
            f"Nothing in {', '.join(suites)} is asked about several groups or sets a stereotype against another; give --suite bias, or a "
            "suite of that kind."
        )
    asked = Asked(
        model=model,
        method=check_ways(method, lora_rank=lora_rank, strength=strength, tokens=tokens, lr=lr),
        suites=found,
        targets=targets,
        policy=debias_policy(chosen),
        notes=notes,
        files=tuple(data),
        tokens=tokens,
        strength=strength,
        lora_rank=lora_rank,
        lr=lr,
        processes=processes,
        seed=seed,
    )

    def opened(fresh: bool) -> Opening:
        return open_session(
            parse_spec(model, engine_names()).source,
            out=out,
            digests=_digests(asked),
            inputs={"model": model, "method": method, "suites": [suite.name for suite in found], "policy": asked.policy.name},
            versions=versions(),
            fresh=fresh,
            offline=offline,
            limit_s=max(1.0, limit_s - (time.monotonic() - began)),
            seed=seed,
            on_event=on_event,
        )

    prepared = run_sync(_prepare(opened(fresh), asked, out))
    result = launch(
        prepared.config,
        out / "train",
        processes=processes,
        time_limit_s=max(1.0, limit_s - (time.monotonic() - began)),
        follow=told_by(on_event, "loss {:.4f}"),
    )
    return run_sync(_judged(opened(False), asked, prepared, result, out, judge=judge))


def _digests(asked: Asked) -> dict[str, str]:
    """What a run is bound to, beside its model."""
    files = [sha256_file(Path(name).expanduser()) for name in asked.files if Path(name).expanduser().is_file()]
    return {
        "policy": policy_sha256(asked.policy),
        "suite": digest_of([suite.digest for suite in asked.suites]),
        "training": digest_of(
            [asked.method, asked.targets, files, asked.tokens, asked.strength, asked.lora_rank, asked.lr, asked.processes]
        ),
    }


@dataclass(frozen=True, kw_only=True)
class Stand:
    """The reference as it is asked, and what it is asked."""

    reference: Reference
    exam: Exam
    bench: Bench
    workload: Workload


async def _stand(session: Session, opened: Opened, asked: Asked) -> Stand:
    check_form(opened)
    card = model_card(opened.header, opened.snapshot)
    workload = load_workload(WORKLOAD)
    settings = common_settings(workload.context_tokens, workload.concurrency, card.context_tokens or workload.context_tokens)
    reference = await make_reference(session, opened, settings, 8 * card.size_bytes / max(card.n_params, 1))
    session.say("prepare", "items as tokens")
    client = await session.workers.ready(reference.candidate, None)
    exam = await prepare_exam(client, reference.candidate, asked.suites, asked.policy, share_search=SHARE_SEARCH)
    bench = bench_of(reference, asked.policy, exam, this_machine().n_cores)
    return Stand(reference=reference, exam=exam, bench=bench, workload=workload)


async def _prepare(opening: Opening, asked: Asked, out: Path) -> Prepared:
    """The model's own level of bias, the texts, and the directory to train."""
    async with opening as (session, opened):
        stand = await _stand(session, opened, asked)
        model = stand.reference.candidate
        search = stand.exam.search.only(bias_gates(asked.policy))
        outcomes = await outcomes_on(session, model, search, phase="level", what="the model's own bias, on the search part")
        before = levels_of(outcomes, asked.policy)
        for row in before:
            session.say("level", f"{row['suite']}: mean gap {row['gap']:.3f} nats over {row['n_clusters']} templates")
        tokens = asked.tokens or WAYS[asked.method].tokens
        texts = await texts_for(session, model, asked.method, files=asked.files, tokens=tokens, items=stand.exam.items, folder=out / "data")
        folder = await directory_of(session, opened)
        return Prepared(config=config_for(asked, folder, texts.path, texts.longest_tokens), texts=texts, before=before)


async def _judged(opening: Opening, asked: Asked, prepared: Prepared, result: TrainResult, out: Path, *, judge: bool) -> dict[str, Any]:
    """The trained model in the source's form, judged where that is wanted, and the document."""
    async with opening as (session, opened):
        session.say("convert", "the trained model in the form of its source")
        trained = brought_back(out / "train" / result.model, opened, out, cache_dir=session.caches)
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "verdict": "inconclusive",
            "reasons": ["It was not judged, as asked."],
            "method": asked.method,
            "source": opened.snapshot.source,
            "model": str(trained),
            "targets": list(asked.targets),
            "texts": dict(prepared.texts.told),
            "before": prepared.before,
            "config": to_plain(prepared.config),
            "training": to_plain(result),
            "table": [],
        }
        if judge:
            told |= await _verdict(session, opened, asked, trained)
        with sentences(out, "write"):
            write_atomic(out / DOCUMENT, canonical_json(told) + "\n")
        return told


async def _verdict(session: Session, opened: Opened, asked: Asked, trained: Path) -> dict[str, Any]:
    """Verdict, reasons and table; decision.json and report.html beside debias.json, as `compare` writes them."""
    stand = await _stand(session, opened, asked)
    spec = judged_spec(trained, opened)
    snapshot = open_source(spec.source, cache_dir=session.caches, offline=True)
    own = Opened(snapshot=snapshot, header=read_header(snapshot))
    candidate = await build_typed(own, spec, stand.reference.candidate.settings, products_dir=session.products_dir, side="trained")
    await check_vocabulary(await session.workers.ready(candidate, None), stand.exam, candidate)
    certified = await certify(
        session,
        stand.bench,
        candidate,
        attempt=1,
        concurrency=max(stand.workload.concurrency),
        swapped=stand.bench.swapped_for(candidate),
    )
    found = verdict_of(asked.policy, certified, asked.targets)
    table = table_of(found, certified.decision.gates)
    session.say("judge", f"{found.verdict}: {found.fall.reason}", 1, 1)
    write_judged(session, candidate, stand.reference.candidate, certified)
    _write_decision(session, opened, asked, stand, candidate, certified)
    return {
        "verdict": found.verdict,
        "reasons": list(found.reasons),
        "targets": list(found.targets),
        "table": table,
        "fall": to_plain(found.fall),
        "gaps": to_plain(found.gaps),
        "policy": {"name": asked.policy.name, "sha256": policy_sha256(asked.policy)},
    }


def _write_decision(session: Session, opened: Opened, asked: Asked, stand: Stand, candidate: Candidate, certified: Certified) -> None:
    """The gates as `compare` tells them, with the trained model as B. What the gaps say stands in debias.json alone."""
    reference, decision = stand.reference.candidate, certified.decision
    row = certified_row(candidate, certified, decision.reasons)
    session.run.put_candidate(row)
    document = decision_document(
        session,
        kind="compare",
        verdict=decision.verdict,
        reasons=decision.reasons,
        reference=subject(reference, source=opened.snapshot.source, provenance=stand.reference.provenance),
        baseline={**subject(reference), "measurement": None},
        chosen=None,
        speedup={"over_baseline": {}},
        certified=certified,
        candidates=[row],
        workload=stand.workload,
        policy=asked.policy,
        exam=stand.exam,
        machine=this_machine(),
        noise=noise_row(None),
        skipped=[{"what": "gates", "why": note} for note in asked.notes],
    )
    write_files(session, document, None, stand.exam.items)
