"""`trimtab certify`: the full gate, by a policy of your choice, on what a run chose, and what helps where it does not pass."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import digest_of
from trimtab.core.policy import Policy
from trimtab.core.workload import Workload
from trimtab.decide.policies import policy_sha256
from trimtab.decide.remedies import gates_to_mend
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.events import OnEvent, ignore
from trimtab.flows.parts.certify import Certified, certify, power_ahead, power_lines
from trimtab.flows.parts.cluster_join import Cluster, cluster_of
from trimtab.flows.parts.document import certified_row, decision_document, lock_of, noise_row, subject, versions, write_files, write_judged
from trimtab.flows.parts.evidence import Bench
from trimtab.flows.parts.exam import check_vocabulary, load_suites, policy_for, suite_names
from trimtab.flows.parts.lock_checks import SHOWN_DIGITS, read_beside
from trimtab.flows.parts.locked import bench_of_lock, build_locked, policy_of, read_lock, source_of, suites_of, workload_of
from trimtab.flows.parts.mitigate import Mitigation, mitigate
from trimtab.flows.parts.opening import Opened
from trimtab.flows.parts.remedies import Mending
from trimtab.flows.parts.row_lock import lock_of_row
from trimtab.flows.parts.session import Session, open_session, run_sync
from trimtab.measure.machine import machine as this_machine
from trimtab.record.deploy import DeployLock
from trimtab.record.run import read_decision, read_step_keys

DEFAULT_LIMIT_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be judged. lock_path: where its lock lies, or would lie; suite_names: as typed, or as the lock has them"""

    lock: DeployLock
    lock_path: Path
    policy: Policy
    suites: Sequence[Suite]
    suite_names: Sequence[str]
    notes: Sequence[str]
    workload: Workload
    reference: str
    is_mending: bool


def certify_run(
    run: str | Path,
    *,
    policy: str = "",
    suites: Sequence[str] = (),
    reference: str = "",
    source: str = "",
    candidate: str = "",
    mitigate: bool = False,
    out: Path,
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    cluster: str = "",
    cluster_store: str = "",
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Judge the deployment of a run (its folder, or a deploy.toml) by all gates, write `out`, and return decision.json as JSON types.

    policy, suites, reference, source: default those of the lock
    candidate: id of another candidate of the run, whatever became of it there
    mitigate: where it does not pass, try the remedies of flows/parts/remedies.py; one that passes is chosen. Of a run that chose nothing
        it is the first candidate that did not pass which is judged
    cluster, cluster_store: as typed, see flows/parts/cluster_join.py; all is scored there, and served here
    What the run measured on the same items is found in the cache; more items, or stricter margins, are judged by the same rules.
    Raises InputError, MissingError; InfeasibleError if the reference cannot run (a deployment that cannot run fails).
    """
    path = Path(run)
    path = path / "deploy.toml" if path.is_dir() else path
    if candidate or (mitigate and not path.exists()):
        lock = lock_of_row(path.parent, candidate, source=source, offline=offline)
    elif path.exists():
        lock = read_lock(path)
    else:
        raise InputError(
            f"{path} does not exist: the run chose nothing that could be certified; give a finished run, its deploy.toml, or one of its "
            "candidates with --candidate."
        )
    beside, _ = read_beside(path.parent, lock)
    names = suite_names(suites) or suites_of(lock)
    loaded = load_suites(names)
    asked, notes = policy_for(policy_of(policy, lock, beside), loaded)
    return run_sync(
        _certify_run(
            Asked(
                lock=lock,
                lock_path=path,
                policy=asked,
                suites=loaded,
                suite_names=names,
                notes=(*notes, *suite_notes(lock, loaded)),
                workload=workload_of(lock, path.parent),
                reference=reference,
                is_mending=mitigate,
            ),
            source=source or source_of(lock, path),
            out=out,
            fresh=fresh,
            offline=offline,
            limit_s=DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s,
            seed=seed,
            on_event=on_event,
            cluster=cluster_of(cluster, cluster_store),
        )
    )


def suite_notes(lock: DeployLock, suites: Sequence[Suite]) -> tuple[str, ...]:
    """A sentence where the suites of the lock, by their names, hold other items now."""
    names, digest = "+".join(suite.name for suite in suites), digest_of([suite.digest for suite in suites])
    if names != lock.suite or digest == lock.suite_sha256:
        return ()
    shown = f"sha256 {lock.suite_sha256[:SHOWN_DIGITS]} then, {digest[:SHOWN_DIGITS]} now"
    return (f"suite {names} has other items than those the lock was certified on ({shown}); judged on its present items",)


async def _certify_run(
    asked: Asked,
    *,
    source: str,
    out: Path,
    fresh: bool,
    offline: bool,
    limit_s: float,
    seed: int,
    on_event: OnEvent,
    cluster: Cluster | None,
) -> dict[str, Any]:
    lock = asked.lock
    digests = {
        "lock": lock.deployment.digest,
        "policy": policy_sha256(asked.policy),
        "suite": digest_of([suite.digest for suite in asked.suites]),
        "reference": asked.reference,
        **({"remedies": "tried"} if asked.is_mending else {}),
    }
    async with open_session(
        source,
        out=out,
        digests=digests,
        inputs={"lock": str(asked.lock_path), "policy": asked.policy.name, "suites": [suite.name for suite in asked.suites]},
        versions=versions(),
        fresh=fresh,
        offline=offline,
        limit_s=limit_s,
        seed=seed,
        on_event=on_event,
        cluster=cluster,
    ) as (session, opened):
        candidate = await _locked_candidate(session, opened, lock, asked.lock_path)
        bench, named = await bench_of_lock(
            session, opened, lock, asked.policy, asked.suites, lock_path=asked.lock_path, reference=asked.reference
        )
        tried = _tried(lock, asked.lock_path)
        certified: Certified | None = None
        power: Any = None
        try:
            await check_vocabulary(await session.workers.ready(candidate, None), bench.exam, candidate)
            power = await power_ahead(session, bench, candidate)
            for line in power_lines(power, asked.policy):
                session.say("power", line)
            certified = await certify(
                session,
                bench,
                candidate,
                attempt=tried.index(lock.deployment.digest) + 1,
                concurrency=lock.settings.slots or 1,
                swapped=bench.swapped_for(candidate),
            )
            reasons = list(certified.decision.reasons)
            write_judged(session, candidate, bench.reference, certified)
        except InfeasibleError as error:
            reasons = [f"The deployment cannot run here: {error}"]
        mended = None
        if asked.is_mending and certified is not None and certified.decision.verdict != "pass":
            mended = await _mend(session, opened, asked, bench, candidate, certified, tried)
        return _finish(session, opened, asked, bench, candidate, certified, mended, reasons=reasons, named=named, power=power)


async def _mend(
    session: Session, opened: Opened, asked: Asked, bench: Bench, candidate: Candidate, certified: Certified, tried: Sequence[str]
) -> Mitigation:
    """Remedies for a deployment that did not pass, each one more attempt on these items."""
    lock = asked.lock
    mending = Mending(
        session=session,
        opened=dataclasses.replace(opened, draft=candidate.snapshot.draft),
        lock=lock,
        bench=bench,
        candidate=candidate,
        gates=gates_to_mend(asked.policy, certified.decision),
        suites=asked.suite_names,
        decision=_decision_of(lock, asked.lock_path.parent),
    )
    return await mitigate(mending, certified.decision, asked.workload, attempts=tried, concurrency=lock.settings.slots or 1)


def _finish(
    session: Session,
    opened: Opened,
    asked: Asked,
    bench: Bench,
    candidate: Candidate,
    certified: Certified | None,
    mended: Mitigation | None,
    *,
    reasons: Sequence[str],
    named: Mapping[str, Any],
    power: Any,
) -> dict[str, Any]:
    """Write every file, and return the decision: on the deployment itself, or on the remedy that passed in its place.

    named: what the document says of the reference beside `subject`
    """
    lock, own = asked.lock, certified
    row = certified_row(candidate, own, reasons)
    rows, chosen, recipe, policy = [row, *(mended.rows() if mended else ())], candidate, lock.recipe, asked.policy
    best = mended.best if mended else None
    if best is not None and best.remedy.candidate and best.remedy.recipe and best.policy:
        chosen, recipe, policy, certified = best.remedy.candidate, best.remedy.recipe, best.policy, best.certified
        rows.sort(key=lambda one: one.id != chosen.id)
        reasons = [f"{candidate.id} did not pass; {best.remedy.name} helped: {best.remedy.what}.", *_reasons_of(best.certified)]
    verdict = certified.decision.verdict if certified else "fail"
    for one in rows:
        session.run.put_candidate(one)
    machine = this_machine()
    document = decision_document(
        session,
        kind="certify",
        verdict=verdict,
        reasons=reasons,
        reference=subject(bench.reference, **named),
        baseline=subject(bench.reference),
        chosen=None,
        speedup={},
        certified=certified,
        candidates=rows,
        workload=asked.workload,
        policy=policy,
        exam=bench.exam,
        machine=machine,
        noise=noise_row(None),
        skipped=[{"what": "gates", "why": note} for note in asked.notes],
        power=power,
    )
    if mended is not None:
        document["mitigation"] = mended.document
    again: DeployLock | None = None
    if verdict == "pass":
        again = lock_of(opened, chosen, recipe, document, workload=asked.workload, exam=bench.exam, machine=machine)
        again = dataclasses.replace(again, workload_sha256=lock.workload_sha256)
    write_files(session, document, again, bench.exam.items)
    return document


def _reasons_of(certified: Certified | None) -> tuple[str, ...]:
    return certified.decision.reasons if certified else ()


def _decision_of(lock: DeployLock, folder: Path) -> dict[str, Any] | None:
    """The decision that the lock rests on, where it lies beside it."""
    try:
        decision = read_decision(folder)
    except InputError:
        return None
    return decision if digest_of(decision) == lock.decision_sha256 else None


async def _locked_candidate(session: Session, opened: Opened, lock: DeployLock, lock_path: Path) -> Candidate:
    """The very deployment that the lock names. Raises InputError if the source gives other weights, InfeasibleError, MissingError."""
    session.say("build", lock.id)
    candidate = await build_locked(opened, lock, lock_path, caches=session.caches, offline=session.offline)
    if candidate.snapshot.digest != lock.weights_sha256:
        raise InputError(
            f"{lock.source} gives other weights than {lock_path} names, so it is another deployment; `trimtab check` tells what changed."
        )
    return candidate


def _tried(lock: DeployLock, lock_path: Path) -> list[str]:
    """Deployments of the run that were tried on the certify items, in their order, this one among them.

    Judging the same one again, by another policy, is the same attempt.
    """
    try:
        tried = [key.partition("/")[2] for key in read_step_keys(lock_path.parent) if key.startswith("attempt/")]
    except InputError:
        tried = []
    return tried if lock.deployment.digest in tried else [*tried, lock.deployment.digest]
