"""`trimtab train heal`: a compressed candidate of a finished run is trained back towards the reference, and judged again."""

import os
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.files import canonical_json, digest_of, sha256_file, to_plain, write_atomic
from trimtab.core.model import Snapshot
from trimtab.core.policy import Policy
from trimtab.core.training import TrainConfig, TrainResult
from trimtab.decide.policies import policy_sha256
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.events import OnEvent, ignore
from trimtab.flows.parts.document import versions
from trimtab.flows.parts.exam import load_suites, policy_for, suite_names
from trimtab.flows.parts.heal_judged import judge_healed
from trimtab.flows.parts.heal_precise import precise
from trimtab.flows.parts.heal_student import student_of
from trimtab.flows.parts.heal_text import user_files
from trimtab.flows.parts.heal_training import LOSS, Lessons, check_lessons, export, prepare, reference_of
from trimtab.flows.parts.lock_checks import read_beside
from trimtab.flows.parts.locked import build_locked, policy_of, source_of, suites_of
from trimtab.flows.parts.opening import Opened
from trimtab.flows.parts.row_lock import lock_of_row
from trimtab.flows.parts.session import Session, open_session, run_sync
from trimtab.flows.parts.train_launch import launch
from trimtab.flows.parts.train_told import told_by
from trimtab.record.deploy import DeployLock
from trimtab.record.disk import sentences

SCHEMA = "trimtab.heal/1"
DOCUMENT = "heal.json"
DEFAULT_LIMIT_S = 4 * 3600.0
LOOKED_AT_SEQUENCES = 2

Opening = AbstractAsyncContextManager[tuple[Session, Opened]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is there before the first step. cpu_s: of processors, spent on it"""

    config: TrainConfig
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be healed and how it is to be judged."""

    lock: DeployLock
    lock_path: Path
    policy: Policy
    suites: Sequence[Suite]
    lessons: Lessons
    judge: bool


def train_heal(
    run: str | Path,
    *,
    candidate: str = "",
    tokens: int = 200_000,
    data: Sequence[str] = (),
    lr: float = 0.0,
    policy: str = "",
    suites: Sequence[str] = (),
    processes: int = 1,
    judge: bool = True,
    out: Path,
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Distil the reference of a finished run into one of its compressed candidates, at the same format and bits, and judge what comes out.

    run: folder of a finished `optimize` or `compare`; candidate: id of one of its candidates, empty = the first that was judged and failed
    tokens: to train on, at most; data: .txt, .jsonl files of the user's, () = text that the reference itself is made to write
    lr: levels a step at its highest, 0 = what the grid has as its own; policy, suites: of the judgement, default those of the run
    judge: off = train and export only, the verdict is then `inconclusive`
    Gives heal.json as JSON types: `verdict`, `reasons`, `model` (path of the healed model), `grid`, `tokens_seen`, `cpu_s` (up to the
    exported file), `exact` (the exported weights are the trained ones), `training` (`first_loss` and `last_loss` are KL divergences in nats
    a token), `sensitivity` (see flows/parts/heal_precise.py), `decision` (decision.json of the judgement, or None).
    Raises InputError (no such candidate, one that is no grid of weights), MissingError; InfeasibleError if the reference cannot run.
    """
    lessons = Lessons(tokens=tokens, data=user_files(data), lr=lr, processes=processes)
    check_lessons(lessons)
    folder = Path(run)
    lock_path = folder / "deploy.toml"
    chosen = lock_of_row(folder, candidate, offline=offline)
    beside, _ = read_beside(folder, chosen)
    loaded = load_suites(suite_names(suites) or suites_of(chosen))
    asked_policy, _ = policy_for(policy_of(policy, chosen, beside), loaded)
    began = time.monotonic()
    limit_s = DEFAULT_LIMIT_S if time_limit_s is None else time_limit_s
    asked = Asked(
        lock=chosen,
        lock_path=lock_path,
        policy=asked_policy,
        suites=loaded,
        lessons=lessons,
        judge=judge,
    )

    def opened(fresh: bool) -> Opening:
        return open_session(
            source_of(chosen, lock_path),
            out=out,
            digests=_digests(asked),
            inputs={"lock": str(lock_path), "candidate": chosen.id, "policy": asked.policy.name},
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
        follow=told_by(on_event, LOSS),
    )
    return run_sync(_finish(opened(False), asked, prepared, result, out))


def _digests(asked: Asked) -> dict[str, str]:
    """What a run is bound to, beside its model."""
    lessons = asked.lessons
    return {
        "lock": asked.lock.deployment.digest,
        "policy": policy_sha256(asked.policy),
        "suite": digest_of([suite.digest for suite in asked.suites]),
        "training": digest_of([lessons.tokens, [sha256_file(Path(name)) for name in lessons.data], lessons.lr, lessons.processes]),
    }


async def _prepare(opening: Opening, asked: Asked, out: Path) -> Prepared:
    """All that comes before the first step."""
    async with opening as (session, opened):
        cpu_s = _cpu_s()
        _, config = await prepare(session, opened, await _candidate(session, opened, asked), asked.lessons, out)
        return Prepared(config=config, cpu_s=_cpu_s() - cpu_s)


async def _candidate(session: Session, opened: Opened, asked: Asked) -> Snapshot:
    """The weights that are healed, as the candidate has them."""
    session.say("build", asked.lock.id)
    built = await build_locked(opened, asked.lock, asked.lock_path, caches=session.caches, offline=session.offline)
    return built.snapshot


async def _finish(opening: Opening, asked: Asked, prepared: Prepared, result: TrainResult, out: Path) -> dict[str, Any]:
    """The trained codes in the candidate's form, judged where that is wanted, and the document."""
    from trimtab.train.heal.start import first_sequences

    async with opening as (session, opened):
        session.say("convert", "the trained weights in the form of the candidate")
        cpu_s = _cpu_s()
        reference = reference_of(session, opened)
        student = student_of(await _candidate(session, opened, asked), reference)
        model = out / "train" / result.model
        healed = export(student, result, out)
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "verdict": "inconclusive",
            "reasons": ["It was not judged, as asked."],
            "candidate": asked.lock.id,
            "source": opened.snapshot.source,
            "model": str(healed),
            "grid": student.grid,
            "n_weights": len(student.grids),
            "exact": True,
            "tokens_seen": result.tokens_seen,
            "cpu_s": prepared.cpu_s + result.cpu_s + _cpu_s() - cpu_s,
            "training": to_plain(result),
            "config": to_plain(prepared.config),
            "text": "the user's" if asked.lessons.data else "written by the reference",
            "decision": None,
        }
        files = prepared.config.data.files
        told["sensitivity"] = await precise(
            session,
            student,
            asked.lock.recipe,
            reference,
            model,
            first_sequences(reference, files, prepared.config.train.seq_tokens, LOOKED_AT_SEQUENCES),
            out,
        )
        if asked.judge:
            decision = await judge_healed(session, opened, asked.lock, asked.lock_path, asked.policy, asked.suites, healed)
            told |= {"verdict": decision["verdict"], "reasons": decision["reasons"], "decision": decision}
        with sentences(out, "write"):
            write_atomic(out / DOCUMENT, canonical_json(told) + "\n")
        return told


def _cpu_s() -> float:
    """Of this process and of those it has ended."""
    return sum(os.times()[:4])
