"""`trimtab certify`: the full gate, by a policy of your choice, on what a run chose."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.core.decision import CandidateResult
from trimtab.core.deployment import Candidate
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import digest_of, to_plain
from trimtab.core.policy import Policy
from trimtab.core.workload import Workload
from trimtab.decide.policies import policy_sha256
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.events import OnEvent, ignore
from trimtab.flows.parts.certify import Certified, certify, power_ahead, power_lines
from trimtab.flows.parts.document import decision_document, lock_of, noise_row, subject, versions, write_files, write_items
from trimtab.flows.parts.exam import check_vocabulary, load_suites, policy_for
from trimtab.flows.parts.lock_checks import read_beside
from trimtab.flows.parts.locked import bench_of_lock, build_locked, found_source, policy_of, read_lock, suites_of, workload_of
from trimtab.flows.parts.opening import Opened
from trimtab.flows.parts.session import Session, open_session, run_sync
from trimtab.measure.machine import machine as this_machine
from trimtab.record.deploy import DeployLock
from trimtab.record.run import read_step_keys

DEFAULT_LIMIT_S = 3600.0


def certify_run(
    run: str | Path,
    *,
    policy: str = "",
    suites: Sequence[str] = (),
    reference: str = "",
    source: str = "",
    out: Path,
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Judge the deployment of a run (its folder, or a deploy.toml) by all gates, write `out`, and return decision.json as JSON types.

    policy, suites, reference, source: default those of the lock
    What the run measured on the same items is found in the cache; more items, or stricter margins, are judged by the same rules.
    Raises InputError, MissingError; InfeasibleError if the reference cannot run (a deployment that cannot run fails).
    """
    path = Path(run)
    path = path / "deploy.toml" if path.is_dir() else path
    if not path.exists():
        raise InputError(f"{path} does not exist: the run chose nothing that could be certified; give a finished run, or its deploy.toml.")
    lock = read_lock(path)
    beside, _ = read_beside(path.parent, lock)
    loaded = load_suites(suites or suites_of(lock))
    asked, notes = policy_for(policy_of(policy, lock, beside), loaded)
    workload = workload_of(lock, path.parent)
    return run_sync(
        _certify_run(
            lock,
            path,
            asked,
            loaded,
            notes,
            workload,
            reference=reference,
            source=source or found_source(lock.source, path),
            out=out,
            fresh=fresh,
            offline=offline,
            limit_s=DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s,
            seed=seed,
            on_event=on_event,
        )
    )


async def _certify_run(
    lock: DeployLock,
    lock_path: Path,
    policy: Policy,
    suites: Sequence[Suite],
    notes: Sequence[str],
    workload: Workload,
    *,
    reference: str,
    source: str,
    out: Path,
    fresh: bool,
    offline: bool,
    limit_s: float,
    seed: int,
    on_event: OnEvent,
) -> dict[str, Any]:
    digests = {
        "lock": lock.deployment.digest,
        "policy": policy_sha256(policy),
        "suite": digest_of([suite.digest for suite in suites]),
        "reference": reference,
    }
    async with open_session(
        source,
        out=out,
        digests=digests,
        inputs={"lock": str(lock_path), "policy": policy.name, "suites": [suite.name for suite in suites]},
        versions=versions(),
        fresh=fresh,
        offline=offline,
        limit_s=limit_s,
        seed=seed,
        on_event=on_event,
    ) as (session, opened):
        candidate = await _locked_candidate(session, opened, lock, lock_path)
        bench, provenance = await bench_of_lock(session, opened, lock, policy, suites, lock_path=lock_path, reference=reference)
        certified: Certified | None = None
        power: Any = None
        try:
            await check_vocabulary(await session.workers.ready(candidate, None), bench.exam, candidate)
            power = await power_ahead(session, bench, candidate)
            for line in power_lines(power, policy):
                session.say("power", line)
            swapped = bench.swapped_for(candidate)
            concurrency = lock.settings.slots or 1
            certified = await certify(
                session, bench, candidate, attempt=_attempt(lock, lock_path), concurrency=concurrency, swapped=swapped
            )
            reasons = list(certified.decision.reasons)
            write_items(session, candidate, certified.candidate)
            write_items(session, bench.reference, certified.reference)
        except InfeasibleError as error:
            reasons = [f"The deployment cannot run here: {error}"]
        verdict = certified.decision.verdict if certified else "fail"
        machine = this_machine()
        row = CandidateResult(
            id=candidate.id,
            engine=candidate.engine,
            recipe=candidate.recipe,
            settings=candidate.settings.given(),
            status="certified" if certified else "infeasible",
            verdict=verdict,
            reasons=tuple(reasons),
            evidence={"gates": to_plain(certified.decision.gates)} if certified else None,
            details=subject(candidate),
        )
        session.run.put_candidate(row)
        document = decision_document(
            session,
            kind="certify",
            verdict=verdict,
            reasons=reasons,
            reference=subject(bench.reference, source=lock.source, provenance=provenance),
            baseline=subject(bench.reference),
            chosen=None,
            speedup={},
            certified=certified,
            candidates=[row],
            workload=workload,
            policy=policy,
            exam=bench.exam,
            machine=machine,
            noise=noise_row(None),
            skipped=[{"what": "gates", "why": note} for note in notes],
            power=power,
        )
        again: DeployLock | None = None
        if verdict == "pass":
            again = lock_of(opened, candidate, lock.recipe, document, workload=workload, exam=bench.exam, machine=machine)
            again = dataclasses.replace(again, workload_sha256=lock.workload_sha256)
        write_files(session, document, again, bench.exam.items)
        return document


async def _locked_candidate(session: Session, opened: Opened, lock: DeployLock, lock_path: Path) -> Candidate:
    """The very deployment that the lock names. Raises InputError if the source gives other weights, InfeasibleError, MissingError."""
    candidate = await build_locked(session, opened, lock, lock_path)
    if candidate.snapshot.digest != lock.weights_sha256:
        raise InputError(
            f"{lock.source} gives other weights than {lock_path} names, so it is another deployment; `trimtab check` tells what changed."
        )
    return candidate


def _attempt(lock: DeployLock, lock_path: Path) -> int:
    """Which candidate of the run this was on the certify items. Judging the same one again, by another policy, is the same attempt."""
    try:
        tried = [key.partition("/")[2] for key in read_step_keys(lock_path.parent) if key.startswith("attempt/")]
    except InputError:
        return 1
    return 1 + (tried.index(lock.deployment.digest) if lock.deployment.digest in tried else len(tried))
