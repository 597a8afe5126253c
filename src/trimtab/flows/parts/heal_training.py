"""How a compressed candidate is trained back towards its reference: text, where the training begins, its settings, and what comes out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.compress.base import make
from trimtab.core.deployment import Recipe, Settings
from trimtab.core.errors import InfeasibleError, InputError, MissingError
from trimtab.core.model import Snapshot
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
from trimtab.flows.parts.heal_student import Student, is_exact, student_of, write_healed
from trimtab.flows.parts.heal_text import AT_ONCE, CONTEXT_TOKENS, written_text
from trimtab.flows.parts.opening import Opened, build_candidate, recipe_named
from trimtab.flows.parts.session import Session
from trimtab.train.heal.codes_file import NAME as CODES
from trimtab.train.heal.codes_file import read_codes

SEQ_TOKENS = 512
BATCH_SEQS = 2
LEVELS_A_STEP = 0.005
"""Learning rate of the latent weights, in levels of the grid: see docs/heal.md."""
START_SEQUENCES = 16
LOSS = "divergence {:.4f} nats"
"""How the loss of a step is told."""
WARMUP_STEPS = 4
CHECKPOINT_STEPS = 50
WRITTEN_SHARE = 0.5
"""Of the tokens to train on that are written: text costs as much as training on it, and a second pass teaches nearly as much."""
FLOATS = Recipe(name="huggingface-fp32", family="huggingface", engine="transformers", parameters={"dtype": "float32"}, bits_per_weight=32.0)
WRITERS = (("openvino", "openvino-int8-asym"), ("llamacpp", "llamacpp-q8_0"))
"""Who writes text fastest, at a divergence from the reference that does not matter here."""


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a student is taught on.

    tokens: in all, at most; data: files of the user's, () = text that the reference is made to write
    lr: levels a step at its highest, 0 = the usual
    """

    tokens: int
    data: tuple[str, ...] = ()
    lr: float = 0.0
    processes: int = 1


def check_lessons(lessons: Lessons) -> None:
    """Raise InputError for fewer tokens than one step takes."""
    a_step = SEQ_TOKENS * BATCH_SEQS * lessons.processes
    if lessons.tokens < a_step:
        raise InputError(f"--tokens {lessons.tokens} is less than one step's {a_step}; give more.")


def reference_of(session: Session, opened: Opened) -> Path:
    """The Hugging Face directory, in 32-bit floats, that is the teacher."""
    return make(FLOATS, opened.snapshot, session.products_dir).root


async def prepare(session: Session, opened: Opened, candidate: Snapshot, lessons: Lessons, out: Path) -> tuple[Student, TrainConfig]:
    """Text, and in OUT/start the directory that the training begins at; then how it is trained.

    Raises InfeasibleError for a candidate without a grid that can be trained, and where nothing here can write text.
    """
    from trimtab.train.heal.start import first_sequences, write_start

    reference = reference_of(session, opened)
    student = student_of(candidate, reference)
    files = lessons.data or (str(await _written(session, opened, lessons.tokens, out)),)
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
    return student, config_for(lessons, student, reference, start, files, session.seed)


async def _written(session: Session, opened: Opened, tokens: int, out: Path) -> Path:
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
            return await written_text(session, writer, round(tokens * WRITTEN_SHARE), out)
        except (InfeasibleError, MissingError) as error:
            reasons.append(str(error))
    raise InfeasibleError(f"No engine here can write text to train on ({'; '.join(reasons)}); give text of yours with --data.")


def config_for(lessons: Lessons, student: Student, reference: Path, start: Path, files: Sequence[str], seed: int) -> TrainConfig:
    """How a student is distilled."""
    from trimtab.train.heal.start import fast_precision

    others = {f"^{re.escape(name)}$": grid for name, grid in student.grids.items() if grid != student.grid}
    return TrainConfig(
        model=TrainModel(source=str(start.resolve()), grid=student.grid, tensors=others),
        data=TrainData(files=tuple(files), mask_documents=False),
        train=TrainRun(
            seq_tokens=SEQ_TOKENS,
            global_batch_seqs=BATCH_SEQS * lessons.processes,
            micro_batch_seqs=BATCH_SEQS,
            tokens=lessons.tokens,
            precision=fast_precision(),
            seed=seed,
        ),
        optimizer=TrainOptimizer(lr=lessons.lr or LEVELS_A_STEP, beta2=0.95, clip_norm=0.0, warmup_steps=WARMUP_STEPS, end_lr_share=0.02),
        layout=TrainLayout(dp=lessons.processes, zero_stage=0),
        objective=TrainObjective(kind="distil", teacher=str(reference.resolve())),
        checkpoint=TrainCheckpoints(every_steps=CHECKPOINT_STEPS, keep=2),
    )


def export(student: Student, result: TrainResult, out: Path) -> Path:
    """The candidate's file with the trained weights in it, below OUT/healed. Raises InfeasibleError where one differs by a bit."""
    model = out / "train" / result.model
    healed = write_healed(student, read_codes(model), out / "healed")
    if not is_exact(student, healed, model):
        raise InfeasibleError(f"{healed} does not hold the weights that were trained; it is not to be used.")
    return healed
