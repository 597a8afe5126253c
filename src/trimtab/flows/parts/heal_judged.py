"""A healed model before the run's own gate: the same reference, items and margins, one attempt more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.policy import Policy
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.parts.certify import Certified, certify
from trimtab.flows.parts.document import certified_row, decision_document, lock_of, noise_row, subject, write_files, write_judged
from trimtab.flows.parts.exam import check_vocabulary
from trimtab.flows.parts.locked import bench_of_lock, workload_of
from trimtab.flows.parts.opening import AS_SHIPPED, Opened, build_candidate, open_model, recipe_named
from trimtab.flows.parts.session import Session
from trimtab.measure.machine import machine as this_machine
from trimtab.record.deploy import DeployLock
from trimtab.record.run import read_step_keys


async def judge_healed(
    session: Session, opened: Opened, lock: DeployLock, lock_path: Path, policy: Policy, suites: Sequence[Suite], healed: Path
) -> dict[str, Any]:
    """decision.json of the healed model in the place of the candidate of `lock`, written with the other files of a run.

    opened: the source that the candidate was made of. Raises InputError, MissingError; InfeasibleError if the reference cannot run.
    """
    bench, named = await bench_of_lock(session, opened, lock, policy, suites, lock_path=lock_path)
    own = open_model(str(healed), cache_dir=session.caches, offline=True)
    engine = lock.build.engine
    recipe = recipe_named(AS_SHIPPED if own.snapshot.format == "gguf" else "gguf", engine)
    candidate = await build_candidate(
        own, engine, recipe, lock.settings, products_dir=session.products_dir, candidate_id=f"{lock.id}, healed"
    )
    certified: Certified | None = None
    try:
        await check_vocabulary(await session.workers.ready(candidate, None), bench.exam, candidate)
        certified = await certify(
            session,
            bench,
            candidate,
            attempt=len(_tried(lock_path, lock.deployment.digest)) + 1,
            concurrency=lock.settings.slots or 1,
            swapped=bench.swapped_for(candidate),
        )
        reasons = list(certified.decision.reasons)
        write_judged(session, candidate, bench.reference, certified)
    except InfeasibleError as error:
        reasons = [f"The healed model cannot run here: {error}"]
    verdict = certified.decision.verdict if certified else "fail"
    row = certified_row(candidate, certified, reasons)
    session.run.put_candidate(row)
    workload, machine = workload_of(lock, lock_path.parent), this_machine()
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
        candidates=[row],
        workload=workload,
        policy=policy,
        exam=bench.exam,
        machine=machine,
        noise=noise_row(None),
        skipped=[],
    )
    again = None
    if verdict == "pass":
        again = lock_of(own, candidate, recipe, document, workload=workload, exam=bench.exam, machine=machine)
    write_files(session, document, again, bench.exam.items)
    return document


def _tried(lock_path: Path, digest: str) -> set[str]:
    """Deployments of the run that were tried on the certify items; the candidate among them."""
    try:
        keys = read_step_keys(lock_path.parent)
    except InputError:
        keys = []
    return {key.partition("/")[2] for key in keys if key.startswith("attempt/")} | {digest}
