"""`trimtab check`: is what we deploy still what was certified, and still no worse? A lockfile in, an answer for a pipeline out."""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.core.decision import Decision, Verdict
from trimtab.core.deployment import Candidate
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of, to_plain
from trimtab.core.policy import Policy
from trimtab.decide.policies import policy_sha256
from trimtab.engines.registry import engine_class
from trimtab.evaluate.requests import PreparedSuite
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.events import OnEvent, ignore
from trimtab.flows.parts.certify import certify
from trimtab.flows.parts.document import versions
from trimtab.flows.parts.evidence import outcomes_on
from trimtab.flows.parts.exam import Exam, check_vocabulary, load_suites, policy_for
from trimtab.flows.parts.flip_risk import nearest_to_a_flip, requests_for, watch_rows
from trimtab.flows.parts.lock_checks import (
    Beside,
    LockCheck,
    build_check,
    certified_numeric_sha256,
    decision_check,
    digest_check,
    libraries_check,
    machine_check,
    read_beside,
    reference_check,
    settings_check,
    source_check,
)
from trimtab.flows.parts.locked import bench_of_lock, build_locked, policy_of, read_lock, source_of, suites_of
from trimtab.flows.parts.opening import Opened
from trimtab.flows.parts.resample import fresh_sample, reproduced
from trimtab.flows.parts.session import Session, open_session, run_sync
from trimtab.measure.machine import machine as this_machine
from trimtab.record.deploy import DeployLock
from trimtab.record.run import now

SCHEMA = "trimtab.check/1"
DEFAULT_LIMIT_S = 60.0
KNOWN_SHARE = 0.1
KNOWN_CLUSTERS = 4
N_WATCHED = 20
PASSES = 3.5
"""Times a sample is scored: reference, deployment, planted loss, and part of it under other numerics."""
ASSUMED_SCORE_TOK_S = 500.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for. sample: share of the clusters to certify on, None = as many as the time limit has room for."""

    lock_path: Path
    run_dir: Path
    reference: str
    sample: float | None
    digests_only: bool


@dataclass(kw_only=True)
class Findings:
    """What has been found so far; filled from top to bottom."""

    checks: list[LockCheck] = field(default_factory=list)
    mode: str = "digests only"
    against: str = ""
    share: float | None = None
    sample: PreparedSuite | None = None
    decision: Decision | None = None
    watch: list[dict[str, Any]] = field(default_factory=list)
    cannot_run: str = ""


def check(
    lock: str | Path,
    *,
    run_dir: str | Path | None = None,
    source: str = "",
    reference: str = "",
    policy: str = "",
    suites: Sequence[str] = (),
    sample: float | None = None,
    digests_only: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int | None = None,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Compare everything the lockfile names with what is here, measure again where it changed, and return check.json as JSON types.

    run_dir: of the certified run, default the lockfile's folder; source: where the model lies here, default what the lock names
    reference: spec of what to hold it against, policy, suites: default those of the lock
    sample: share of the certify clusters, default what time_limit_s (60 s) has room for, at least the policy's first look; seed: of the
        draw, default today's date
    Raises InputError, MissingError; InfeasibleError if the reference cannot run (a deployment that cannot run is a failed check).
    """
    path = Path(lock)
    locked = read_lock(path)
    if sample is not None and not 0.0 < sample <= 1.0:
        raise InputError(f"The share of the clusters to measure must lie above 0 and be at most 1, not {sample:g}.")
    folder = Path(run_dir) if run_dir is not None else path.absolute().parent
    beside, why_not = read_beside(folder, locked)
    loaded = load_suites(suites or suites_of(locked))
    asked, _ = policy_for(policy_of(policy, locked, beside), loaded)
    return run_sync(
        _check(
            locked,
            beside,
            why_not,
            asked,
            loaded,
            Request(lock_path=path, run_dir=folder, reference=reference, sample=sample, digests_only=digests_only),
            source=source or source_of(locked, path),
            offline=offline,
            limit_s=DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s,
            seed=int(datetime.now(UTC).strftime("%Y%m%d")) if seed is None else seed,
            on_event=on_event,
        )
    )


async def _check(
    lock: DeployLock,
    beside: Beside | None,
    why_not: str,
    policy: Policy,
    suites: Sequence[Suite],
    request: Request,
    *,
    source: str,
    offline: bool,
    limit_s: float,
    seed: int,
    on_event: OnEvent,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="trimtab-check-") as scratch:
        async with open_session(
            source,
            out=Path(scratch) / "run",
            digests={"lock": lock.deployment.digest},
            inputs={"lock": str(request.lock_path)},
            versions=versions(),
            fresh=True,  # what is known is what is in question
            offline=offline,
            limit_s=limit_s,
            seed=seed,
            on_event=on_event,
        ) as (session, opened):
            found = Findings(checks=[decision_check(lock, beside, why_not), source_check(lock, opened.snapshot)])
            try:
                await _compare_and_measure(session, opened, lock, beside, policy, suites, request, found)
            except InfeasibleError as error:
                if not found.cannot_run:
                    raise
                found.mode, found.cannot_run = "not measured: it cannot run here", f"The deployment cannot run here: {error}"
            return _document(session, lock, policy, request, found)


async def _compare_and_measure(
    session: Session,
    opened: Opened,
    lock: DeployLock,
    beside: Beside | None,
    policy: Policy,
    suites: Sequence[Suite],
    request: Request,
    found: Findings,
) -> None:
    """Fill `found`: the digests, then what was measured. `found.cannot_run` is set while the deployment itself is at work."""
    if found.checks[-1].fails:
        found.mode = "not measured: the source is another"
        return
    kind = engine_class(lock.build.engine)
    numeric = kind.numeric_settings
    found.cannot_run = lock.id
    session.say("build", lock.id)
    candidate = await build_locked(opened, lock, request.lock_path, caches=session.caches, offline=session.offline)
    found.cannot_run = ""
    found.checks += [
        digest_check(
            "weights",
            lock.weights_sha256,
            candidate.snapshot.digest,
            what=f"Weights after recipe {lock.recipe.name}",
            why="The same source gave other weights: the recipe or the library that applies it is another. A reason to measure again.",
            numeric=True,
        ),
        digest_check(
            "template",
            lock.template_sha256 or digest_of(""),
            candidate.template_sha256,
            what="Chat template",
            why="Conversations are put to the model in another form.",
            numeric=True,
            fails=True,
        ),
        build_check(lock.build, candidate.build),
        settings_check(lock, beside, numeric),
        digest_check(
            "policy",
            lock.policy_sha256,
            policy_sha256(policy),
            what=f"Policy {policy.name}",
            why="Judged by its present gates and margins.",
            numeric=False,
        ),
        digest_check(
            "suite",
            lock.suite_sha256,
            digest_of([suite.digest for suite in suites]),
            what=f"Suite {'+'.join(suite.name for suite in suites)}",
            why="Judged on its present items.",
            numeric=False,
        ),
        machine_check(lock, this_machine()),
    ]
    if beside is not None:
        found.checks.append(libraries_check(beside, versions()))
    if request.digests_only or any(one.fails and one.state == "changed" for one in found.checks):
        return
    is_same = candidate.numeric_sha256 == certified_numeric_sha256(lock, beside, numeric)
    await _measure(session, opened, lock, beside, policy, suites, request, found, candidate, is_same=is_same)


async def _measure(
    session: Session,
    opened: Opened,
    lock: DeployLock,
    beside: Beside | None,
    policy: Policy,
    suites: Sequence[Suite],
    request: Request,
    found: Findings,
    candidate: Candidate,
    *,
    is_same: bool,
) -> None:
    """The watch list and the known answers, where the certified outcomes are at hand; the gates, unless the answers are found again."""
    bench, named = await bench_of_lock(session, opened, lock, policy, suites, lock_path=request.lock_path, reference=request.reference)
    found.against = named["provenance"]
    found.checks.append(reference_check(lock, bench.reference, found.against))
    certify_items = PreparedSuite(requests=tuple(one for part in bench.exam.parts for one in part.requests))
    least = {gate.suite: gate.min_clusters for gate in policy.gates if gate.suite}
    rate = ASSUMED_SCORE_TOK_S
    found.cannot_run = lock.id
    await check_vocabulary(await session.workers.ready(candidate, "score"), bench.exam, candidate)
    stored = beside.candidate if beside is not None and beside.candidate else _answers_in(lock, bench.exam)
    if stored:
        started_s = time.monotonic()
        watched = nearest_to_a_flip(beside.candidate, N_WATCHED) if beside is not None else ()
        every = PreparedSuite(requests=(*certify_items.requests, *bench.exam.search.requests))  # `compare` splits otherwise
        near = requests_for(every, [one.item_id for one in watched])
        found.watch = watch_rows(watched, await outcomes_on(session, candidate, near, phase="watch", what="items nearest to a flip"))
        known = requests_for(every, {one.item_id for one in stored})
        if beside is not None:
            known = fresh_sample(known, KNOWN_SHARE, session.seed, dict.fromkeys(least, KNOWN_CLUSTERS))
        again = await outcomes_on(session, candidate, known, phase="known answers", what=f"{lock.id} on known items")
        rate = (near.n_tokens + known.n_tokens) / max(time.monotonic() - started_s, 0.001)
        found.checks.append(_known_check(policy, stored, again, is_same=is_same))
        if is_same and found.checks[-1].state == "same":
            found.mode, found.sample, found.share = "known answers", known, _share(known, every)
            found.cannot_run = ""
            return
    whole = _suites_by_group(policy)
    share = request.sample or max(policy.looks[0], _affordable(session, certify_items.n_tokens, rate))
    sample = fresh_sample(certify_items, share, session.seed, {name: 10**9 if name in whole else n for name, n in least.items()})
    found.mode, found.sample, found.share = "gates", sample, _share(sample, certify_items)
    session.say("certify", f"{_clusters(sample)} of {_clusters(certify_items)} clusters, drawn with seed {session.seed}")
    drawn = dataclasses.replace(bench, exam=_exam_on(bench.exam, sample, session.seed), policy=dataclasses.replace(policy, looks=(1.0,)))
    swapped = bench.swapped_for(candidate)
    concurrency = lock.settings.slots or 1
    found.decision = (await certify(session, drawn, candidate, attempt=1, concurrency=concurrency, swapped=swapped)).decision
    found.cannot_run = ""


def _answers_in(lock: DeployLock, exam: Exam) -> tuple[Outcome, ...]:
    """The lock's own known answers as outcomes. Items that the suite no longer has are left out; nothing is known of right and wrong."""
    return tuple(
        Outcome(item_id=item_id, suite=suite, cluster=item.cluster, value=value, n_tokens=1, group=item.group)
        for suite, values in lock.known_answers.items()
        for item_id, value in values.items()
        if (item := exam.items.get(item_id)) is not None and item.suite == suite
    )


def _known_check(policy: Policy, stored: Sequence[Outcome], again: Sequence[Outcome], *, is_same: bool) -> LockCheck:
    """Whether the certified outcomes are found again: expected where nothing that may change outputs changed, information elsewhere."""
    result = reproduced(policy, stored, again)
    sentence = result.sentence
    if not result.ok and is_same:
        sentence += " Nothing that the lock names changed, so the machine computes otherwise than the one before; measured again."
    return LockCheck(
        name="known answers", state="same" if result.ok else "changed", was="", now="", sentence=sentence, numeric=not result.ok
    )


def _suites_by_group(policy: Policy) -> set[str]:
    """Suites judged by group are measured whole: fewer templates than a gate needs would tell nothing."""
    return {gate.suite for gate in policy.gates if gate.kind == "equivalence_by_group"}


def _affordable(session: Session, n_tokens: int, tok_s: float) -> float:
    """The share of the certify items that the time left has room for. It depends on speed only, never on outcomes."""
    return min(1.0, session.seconds_left * tok_s / (PASSES * max(n_tokens, 1)))


def _exam_on(exam: Exam, sample: PreparedSuite, seed: int) -> Exam:
    """The exam with one part, the sample, and a noise floor measured on a part of it."""
    return dataclasses.replace(
        exam,
        parts=(sample,),
        sample=fresh_sample(sample, KNOWN_SHARE, seed + 1, dict.fromkeys((one.suite for one in sample.requests), KNOWN_CLUSTERS)),
    )


def _clusters(prepared: PreparedSuite) -> int:
    return len({(one.suite, one.cluster) for one in prepared.requests})


def _share(sample: PreparedSuite, whole: PreparedSuite) -> float:
    return _clusters(sample) / max(_clusters(whole), 1)


def _document(session: Session, lock: DeployLock, policy: Policy, request: Request, found: Findings) -> dict[str, Any]:
    """The answer with all it rests on, as JSON types (schema trimtab.check/1)."""
    verdict, reasons = _verdict(found)
    decision = to_plain(found.decision) if found.decision is not None else None
    gates = decision.pop("gates") if decision else []
    return {
        "schema": SCHEMA,
        "kind": "check",
        "verdict": verdict,
        "reasons": list(reasons),
        "lock": {"path": str(request.lock_path), "id": lock.id, "made": lock.made, "deployment_sha256": lock.deployment.digest},
        "checks": to_plain(found.checks),
        "measured": {
            "mode": found.mode,
            "against": found.against,
            "share": found.share,
            "n_items": len(found.sample.items) if found.sample is not None else 0,
            "n_clusters": _clusters(found.sample) if found.sample is not None else 0,
            "seed": session.seed,
        },
        "gates": gates,
        "decision": decision,
        "watch": to_plain(found.watch),
        "policy": {"name": policy.name, "sha256": policy_sha256(policy)},
        "machine": to_plain(this_machine()),
        "versions": versions(),
        "started": session.run.head["started"],
        "finished": now(),
        "seconds": round(session.seconds, 1),
    }


def _verdict(found: Findings) -> tuple[Verdict, list[str]]:
    """Fail for a change that fails by itself or a deployment that cannot run; else what the gates say; else what the digests say."""
    failed = [one.sentence for one in found.checks if one.fails and one.state == "changed"]
    if failed or found.cannot_run:
        return "fail", failed or [found.cannot_run]
    if found.decision is not None:
        return found.decision.verdict, list(found.decision.reasons)
    moved = [one.sentence for one in found.checks if one.numeric and one.state == "changed"]
    if moved:
        return "inconclusive", [*moved, "Nothing was measured, so it is not known whether it is still no worse."]
    if found.mode == "known answers":
        return "pass", ["Nothing that may change outputs changed, and a fresh sample gave the certified outcomes again."]
    return "pass", ["Nothing that may change outputs changed. Nothing was measured."]
