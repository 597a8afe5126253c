"""`trimtab train heal`: a compressed candidate of a finished run is trained back towards the reference, and judged again."""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.compress.base import make
from trimtab.core.deployment import Recipe, Settings
from trimtab.core.errors import InfeasibleError, InputError, MissingError
from trimtab.core.files import canonical_json, digest_of, sha256_file, to_plain, write_atomic
from trimtab.core.policy import Policy
from trimtab.core.training import (
    TrainCheckpoints,
    TrainConfig,
    TrainData,
    TrainLayout,
    TrainModel,
    TrainObjective,
    TrainOptimizer,
    TrainResult,
    TrainRun,
)
from trimtab.decide.policies import policy_sha256
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.flows.parts.document import versions
from trimtab.flows.parts.exam import load_suites, policy_for, suite_names
from trimtab.flows.parts.heal_judged import judge_healed
from trimtab.flows.parts.heal_precise import precise
from trimtab.flows.parts.heal_student import Student, is_exact, student_of, write_healed
from trimtab.flows.parts.heal_text import AT_ONCE, CONTEXT_TOKENS, user_files, written_text
from trimtab.flows.parts.lock_checks import read_beside
from trimtab.flows.parts.locked import build_locked, policy_of, source_of, suites_of
from trimtab.flows.parts.opening import Opened, build_candidate, recipe_named
from trimtab.flows.parts.row_lock import lock_of_row
from trimtab.flows.parts.session import Session, open_session, run_sync
from trimtab.flows.parts.train_launch import Follow, launch
from trimtab.record.deploy import DeployLock
from trimtab.record.disk import sentences
from trimtab.train.heal.codes_file import NAME as CODES
from trimtab.train.heal.codes_file import read_codes

SCHEMA = "trimtab.heal/1"
DOCUMENT = "heal.json"
DEFAULT_LIMIT_S = 4 * 3600.0
SEQ_TOKENS = 512
BATCH_SEQS = 2
LEVELS_A_STEP = 0.005
"""Learning rate of the latent weights, in levels of the grid: see docs/heal.md."""
START_SEQUENCES = 16
LOOKED_AT_SEQUENCES = 2
WARMUP_STEPS = 4
CHECKPOINT_STEPS = 50
WRITTEN_SHARE = 0.5
"""Of the tokens to train on that are written: text costs as much as training on it, and a second pass teaches nearly as much."""
FLOATS = Recipe(name="huggingface-fp32", family="huggingface", engine="transformers", parameters={"dtype": "float32"}, bits_per_weight=32.0)
WRITERS = (("openvino", "openvino-int8-asym"), ("llamacpp", "llamacpp-q8_0"))
"""Who writes text fastest, at a divergence from the reference that does not matter here."""


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
    tokens: int
    data: tuple[str, ...]
    lr: float
    processes: int
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
    if tokens < SEQ_TOKENS * BATCH_SEQS:
        raise InputError(f"--tokens {tokens} is less than one step's {SEQ_TOKENS * BATCH_SEQS}; give more.")
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
        tokens=tokens,
        data=user_files(data),
        lr=lr or LEVELS_A_STEP,
        processes=processes,
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

    prepared = run_sync(_prepare(opened(fresh), asked, out, seed))
    result = launch(
        prepared.config,
        out / "train",
        processes=processes,
        time_limit_s=max(1.0, limit_s - (time.monotonic() - began)),
        follow=_teller(on_event),
    )
    return run_sync(_finish(opened(False), asked, prepared, result, out))


def _digests(asked: Asked) -> dict[str, str]:
    """What a run is bound to, beside its model."""
    return {
        "lock": asked.lock.deployment.digest,
        "policy": policy_sha256(asked.policy),
        "suite": digest_of([suite.digest for suite in asked.suites]),
        "training": digest_of([asked.tokens, [sha256_file(Path(name)) for name in asked.data], asked.lr, asked.processes]),
    }


def _teller(on_event: OnEvent) -> Callable[[Follow], None]:
    def follow(news: Follow) -> None:
        for step in news.steps:
            speed = step.tokens / max(step.step_s, 1e-9)
            on_event(Event(phase="train", message=f"step {step.step}: divergence {step.loss:.4f} nats, {speed:.0f} tok/s"))
        for event in news.events:
            on_event(Event(phase="train", message=str(event.get("text", ""))))

    return follow


async def _prepare(opening: Opening, asked: Asked, out: Path, seed: int) -> Prepared:
    """Text, and the directory that the training begins at."""
    from trimtab.train.heal.start import first_sequences, write_start

    async with opening as (session, opened):
        cpu_s = _cpu_s()
        student, reference = await _student(session, opened, asked)
        files = asked.data or (str(await _written(session, opened, asked, out)),)
        await session.workers.end_all()
        start = out / "start"
        if not (start / CODES).exists():
            session.say("start", "rounding that makes its own error good")
            write_start(
                reference,
                start,
                grids=student.grids,
                kept=student.kept,
                sequences=first_sequences(reference, files, SEQ_TOKENS, START_SEQUENCES),
                progress=lambda share: session.say("start", "rounding that makes its own error good", share, 1.0),
            )
        return Prepared(config=config_for(asked, student, reference, start, files, seed), cpu_s=_cpu_s() - cpu_s)


async def _student(session: Session, opened: Opened, asked: Asked) -> tuple[Student, Path]:
    """The candidate's weights and the reference in float32."""
    lock = asked.lock
    reference = make(FLOATS, opened.snapshot, session.products_dir)
    session.say("build", lock.id)
    built = await build_locked(opened, lock, asked.lock_path, caches=session.caches, offline=session.offline)
    return student_of(built.snapshot, reference.root), reference.root


async def _written(session: Session, opened: Opened, asked: Asked, out: Path) -> Path:
    """Text by the fastest engine at hand that is close enough to the reference."""
    reasons = []
    for engine, recipe in WRITERS:
        try:
            writer = await build_candidate(
                opened,
                engine,
                recipe_named(recipe, engine),
                Settings(slots=AT_ONCE, context_tokens=CONTEXT_TOKENS),
                products_dir=session.products_dir,
            )
            return await written_text(session, writer, round(asked.tokens * WRITTEN_SHARE), out)
        except (InfeasibleError, MissingError) as error:
            reasons.append(str(error))
    raise InfeasibleError(f"No engine here can write text to train on ({'; '.join(reasons)}); give text of yours with --data.")


def config_for(asked: Asked, student: Student, reference: Path, start: Path, files: Sequence[str], seed: int) -> TrainConfig:
    """How a student is distilled."""
    from trimtab.train.heal.start import fast_precision

    batch = BATCH_SEQS * asked.processes
    others = {f"^{re.escape(name)}$": grid for name, grid in student.grids.items() if grid != student.grid}
    return TrainConfig(
        model=TrainModel(source=str(start.resolve()), grid=student.grid, tensors=others),
        data=TrainData(files=tuple(files), mask_documents=False),
        train=TrainRun(
            seq_tokens=SEQ_TOKENS,
            global_batch_seqs=batch,
            micro_batch_seqs=BATCH_SEQS,
            tokens=asked.tokens,
            precision=fast_precision(),
            seed=seed,
        ),
        optimizer=TrainOptimizer(lr=asked.lr, beta2=0.95, clip_norm=0.0, warmup_steps=WARMUP_STEPS, end_lr_share=0.02),
        layout=TrainLayout(dp=asked.processes, zero_stage=0),
        objective=TrainObjective(kind="distil", teacher=str(reference.resolve())),
        checkpoint=TrainCheckpoints(every_steps=CHECKPOINT_STEPS, keep=2),
    )


async def _finish(opening: Opening, asked: Asked, prepared: Prepared, result: TrainResult, out: Path) -> dict[str, Any]:
    """The trained codes in the candidate's form, judged where that is wanted, and the document."""
    from trimtab.train.heal.start import first_sequences

    async with opening as (session, opened):
        session.say("convert", "the trained weights in the form of the candidate")
        cpu_s = _cpu_s()
        student, reference = await _student(session, opened, asked)
        model = out / "train" / result.model
        healed = write_healed(student, read_codes(model), out / "healed")
        exact = is_exact(student, healed, model)
        if not exact:
            raise InfeasibleError(f"{healed} does not hold the weights that were trained; it is not to be used.")
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "verdict": "inconclusive",
            "reasons": ["It was not judged, as asked."],
            "candidate": asked.lock.id,
            "source": opened.snapshot.source,
            "model": str(healed),
            "grid": student.grid,
            "n_weights": len(student.grids),
            "exact": exact,
            "tokens_seen": result.tokens_seen,
            "cpu_s": prepared.cpu_s + result.cpu_s + _cpu_s() - cpu_s,
            "training": to_plain(result),
            "config": to_plain(prepared.config),
            "text": "the user's" if asked.data else "written by the reference",
            "decision": None,
        }
        files = prepared.config.data.files
        told["sensitivity"] = await precise(
            session, student, asked.lock.recipe, reference, model, first_sequences(reference, files, SEQ_TOKENS, LOOKED_AT_SEQUENCES), out
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
