"""decision.json and the other files of a run, from what was found."""

import dataclasses
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trimtab.core.decision import CandidateResult, Verdict
from trimtab.core.deployment import Candidate, Machine, Recipe
from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import digest_of, to_plain
from trimtab.core.policy import Policy
from trimtab.core.workload import Workload
from trimtab.decide.policies import policy_sha256
from trimtab.decide.scope import evidence_for
from trimtab.flows.parts.certify import Certified, flips_of
from trimtab.flows.parts.exam import Exam
from trimtab.flows.parts.known import known_answers, stored_outcomes
from trimtab.flows.parts.opening import Opened
from trimtab.flows.parts.session import Session
from trimtab.flows.parts.timing import Timed
from trimtab.record.deploy import DeployLock, LockedReference, write_deploy_toml
from trimtab.record.items import NAME as ITEMS_PAGE
from trimtab.record.items import Side, write_items_page
from trimtab.record.observed import write_observed
from trimtab.record.report import write_report
from trimtab.record.run import DECISION_SCHEMA, now

LIBRARIES = (
    "llama-cpp-python", "openvino", "openvino-genai", "nncf", "onnxruntime-genai", "onnxruntime", "ctranslate2",
    "torch", "transformers", "torchao", "gguf", "numpy", "scipy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """trimtab, Python and the libraries that matter to the result."""
    found = {"trimtab": version("trimtab"), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def subject(candidate: Candidate, **more: Any) -> dict[str, Any]:
    """A deployment as the documents name it."""
    return {
        "id": candidate.id,
        "engine": candidate.engine,
        "recipe": candidate.recipe,
        "settings": candidate.settings.given(),
        "build": to_plain(candidate.build),
        "size_bytes": candidate.snapshot.size_bytes,
        "weights_sha256": candidate.snapshot.digest,
        "deployment_sha256": candidate.deployment.digest,
        **more,
    }


def certified_row(candidate: Candidate, certified: Certified | None, reasons: Sequence[str]) -> CandidateResult:
    """A candidate that went through the full gate; None: it cannot run here."""
    return CandidateResult(
        id=candidate.id,
        engine=candidate.engine,
        recipe=candidate.recipe,
        settings=candidate.settings.given(),
        status="certified" if certified else "infeasible",
        verdict=certified.decision.verdict if certified else "fail",
        reasons=tuple(reasons),
        evidence={"gates": to_plain(certified.decision.gates)} if certified else None,
        details=subject(candidate),
    )


def decision_document(
    session: Session,
    *,
    kind: str,
    verdict: Verdict,
    reasons: Sequence[str],
    reference: Mapping[str, Any],
    baseline: Mapping[str, Any],
    chosen: Mapping[str, Any] | None,
    speedup: Mapping[str, Any],
    certified: Certified | None,
    candidates: Sequence[CandidateResult],
    workload: Workload,
    policy: Policy,
    exam: Exam,
    machine: Machine,
    noise: Mapping[str, Any],
    skipped: Sequence[Mapping[str, str]],
    budget: Any = None,
    power: Any = None,
    objective: Mapping[str, Any] | None = None,
    slo: Sequence[Mapping[str, Any]] = (),
    capacity: Any = None,
    retimed: Any = None,
    worst_case: Any = None,
) -> dict[str, Any]:
    """The answer with all it rests on, as JSON types (schema trimtab.decision/1)."""
    decision = to_plain(certified.decision) if certified else None
    gates = [{**gate, "evidence_for": evidence_for(gate)} for gate in decision.pop("gates")] if decision else []
    return {
        "schema": DECISION_SCHEMA,
        "kind": kind,
        "verdict": verdict,
        "reasons": list(reasons),
        "reference": to_plain(reference),
        "baseline": to_plain(baseline),
        "chosen": to_plain(chosen),
        "speedup": to_plain(speedup),
        "gates": gates,
        "decision": decision,
        "candidates": [to_plain(row) for row in candidates],
        "flips": flips_of(certified, dict(exam.items)) if certified else [],
        "workload": to_plain(workload),
        "policy": {**to_plain(policy), "sha256": policy_sha256(policy)},
        "suite": {
            "name": exam.name,
            "version": exam.version,
            "digest": exam.digest,
            "n_items": len(exam.items),
            "n_clusters": exam.n_clusters,
            "languages": sorted({item.language for item in exam.items.values()}),
            "longest_tokens": exam.longest_tokens,
        },
        "machine": to_plain(machine),
        "versions": versions(),
        "seed": session.seed,
        "started": session.run.head["started"],
        "finished": now(),
        "seconds": round(session.seconds, 1),
        "work": {"computed": session.n_computed, "known": session.n_known},
        "budget": to_plain(budget),
        "power": to_plain(power),
        "objective": to_plain(objective),
        "slo": to_plain(slo),
        "capacity": to_plain(capacity),
        "retimed": to_plain(retimed),
        "worst_case": to_plain(worst_case),
        "noise": to_plain(noise),
        "skipped": to_plain(skipped),
    }


def noise_row(baseline: Timed | None) -> dict[str, Any]:
    """Whether the machine was judged noisy while the baseline and the others were timed, and why."""
    measured = baseline.measurement if baseline else None
    return {"noisy": bool(measured and measured["noisy"]), "why": measured["noise"] if measured else ""}


def write_items(session: Session, candidate: Candidate, outcomes: Sequence[Outcome]) -> None:
    """One parquet file for each sub-suite."""
    for suite in dict.fromkeys(outcome.suite for outcome in outcomes):
        session.run.put_outcomes(candidate.deployment.digest, suite, [outcome for outcome in outcomes if outcome.suite == suite])


def write_judged(session: Session, candidate: Candidate, reference: Candidate, certified: Certified) -> None:
    """All that the decision on a candidate rests on, so that it can be computed again (flows/parts/recompute.py)."""
    write_items(session, candidate, certified.candidate)
    kept = {outcome.item_id: outcome for outcome in stored_outcomes(session.run.path, reference.deployment.digest)}
    if any(kept.get(outcome.item_id) != outcome for outcome in certified.reference):  # another candidate may have been looked at longer
        write_items(session, reference, certified.reference)
    write_observed(session.run.path, candidate.deployment.digest, certified.evidence)


def lock_of(
    opened: Opened, candidate: Candidate, recipe: Recipe, document: Mapping[str, Any], *, workload: Workload, exam: Exam, machine: Machine
) -> DeployLock:
    """The lockfile of the deployment that a decision chose."""
    return DeployLock(
        id=candidate.id,
        verdict=document["verdict"],
        decision_sha256=digest_of(document),
        source=opened.snapshot.source,
        revision=opened.snapshot.revision,
        format=opened.snapshot.format,
        source_files=opened.snapshot.files,
        source_sha256=opened.snapshot.digest,
        weights_sha256=candidate.snapshot.digest,
        recipe=recipe,
        template_sha256=candidate.template_sha256,
        build=candidate.build,
        settings=candidate.settings,
        policy=document["policy"]["name"],
        policy_sha256=document["policy"]["sha256"],
        suite=exam.name,
        suite_sha256=exam.digest,
        workload=workload.name,
        workload_sha256=digest_of(workload),
        reference_sha256=document["reference"]["deployment_sha256"],
        machine=machine.cpu,
        machine_sha256=machine.digest,
        made=document["finished"],
        trimtab=version("trimtab"),
        reference=LockedReference.of(document["reference"]),
    )


def write_files(session: Session, document: Mapping[str, Any], lock: DeployLock | None, items: Mapping[str, Item]) -> None:
    """decision.json, deploy.toml where something was chosen, items.html where items were scored, and report.html; then the run is finished.

    items: of the exam, by id
    """
    session.run.write_decision(document)
    if lock is not None:
        known = known_answers(stored_outcomes(session.run.path, lock.deployment.digest))
        write_deploy_toml(session.run.path / "deploy.toml", dataclasses.replace(lock, known_answers=known))
    beside = _write_items_page(session, document, items)
    write_report(session.run.path / "report.html", document, command=typed_command(), items=beside)
    session.run.finish()


def typed_command() -> str:
    """What was typed, to be run again; empty where this is not the command."""
    typed = Path(sys.argv[0]).name in ("trimtab", "__main__.py")
    return shlex.join(["trimtab", *sys.argv[1:]]) if typed else ""


def _write_items_page(session: Session, document: Mapping[str, Any], items: Mapping[str, Item]) -> str:
    """The page of single items of what was chosen, else of the first that was judged; its name, "" where no items were scored."""
    reference = document["reference"]
    before = stored_outcomes(session.run.path, reference["deployment_sha256"])
    judged = [document["chosen"], *(row["details"] for row in document["candidates"] if row["status"] == "certified")]
    for one in judged if before else ():
        own = stored_outcomes(session.run.path, one["deployment_sha256"]) if one and "deployment_sha256" in one else ()
        if own:
            units = {gate["suite"]: gate["unit"] for gate in document["gates"] if gate["suite"]}
            sides = Side(id=one["id"], outcomes=own), Side(id=reference["id"], outcomes=before)
            write_items_page(session.run.path / ITEMS_PAGE, *sides, items, units)
            return ITEMS_PAGE
    return ""
