"""One training run, as every process of it carries it out: `run(config, out)`.

Each process does the same in the same order; what they decide (stop, go back) they decide on numbers that all have.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimtab.core.errors import InfeasibleError, InputError, StoppedError
from trimtab.core.files import digest_of
from trimtab.core.training import StepRecord, TrainConfig, TrainResult
from trimtab.record.home import cache_dir
from trimtab.train.boards import open_boards
from trimtab.train.checkpoints import Checkpoints
from trimtab.train.config import resolved
from trimtab.train.data.order import batch_of_step
from trimtab.train.data.rates import data_bound, data_facts
from trimtab.train.data.stream import Stream, open_stream
from trimtab.train.data.tokenizers import HuggingFaceTokenizer
from trimtab.train.masks import check_masks
from trimtab.train.models import export_model, load_model, weights_of
from trimtab.train.objectives import Objective, next_token
from trimtab.train.optimizers import open_optimizer
from trimtab.train.processes import Processes, peak_memory_bytes, start_processes, stop_processes
from trimtab.train.run_files import RunFiles
from trimtab.train.schedules import lr_at
from trimtab.train.sharding import lay_out, sharded
from trimtab.train.source import with_folders
from trimtab.train.spikes import SpikeWatch, Verdict, batches_to_leave_out
from trimtab.train.steps import Gradient, NothingLearnt, Stepper

DATA_BOUND_STEPS = 50
"""After so many steps it is looked at whether the run waits for data."""


def run(config: TrainConfig, out: Path, *, data: Callable[[TrainConfig], Stream] | None = None) -> TrainResult:
    """Train as the configuration says and leave everything in the run folder; begun there before, it goes on from the newest checkpoint.

    data: opens the stream; None = what [data] names, with the tokenizer beside the model
    Raises InputError, MissingError, InfeasibleError (spikes that rollbacks do not mend) and StoppedError (SIGTERM or SIGINT: the weights
    are saved, the same call goes on).
    """
    started_s = time.perf_counter()
    processes = start_processes(alone_too=config.train.offload)
    try:
        with _stop_asked() as stop:
            config = with_folders(resolved(config, processes.world))
            files = RunFiles(out, writes=processes.first)
            done = files.result()
            if done is not None:
                return done
            if config.train.deterministic:
                _be_deterministic()
            torch.manual_seed(config.train.seed + processes.rank)
            stream = data(config) if data else _open_data(config, files)
            try:
                return _Training(config, files, processes, stream, stop, started_s).run()
            finally:
                stream.close()
    finally:
        stop_processes()


class _Training:
    """A run between its first and its last step.

    seen: target tokens; left_out: positions of batches that hurt
    earlier_wall_s, earlier_cpu_s: what earlier starts took up to the checkpoint that this one goes on from
    """

    def __init__(
        self, config: TrainConfig, files: RunFiles, processes: Processes, stream: Stream, stop: list[int], started_s: float
    ) -> None:
        self.started_s, self.earlier_wall_s, self.earlier_cpu_s = started_s, 0.0, 0.0
        self.config, self.files, self.processes, self.stream, self.stop = config, files, processes, stream, stop
        self.folder = Path(config.model.source)
        self.total = total_steps(config, stream.n_sequences)
        self.boards = open_boards(config.watch, files.out, files.note) if processes.first else []
        files.begin(
            {
                "seed": config.train.seed,
                "world": processes.world,
                "device": processes.device.type,
                "threads": torch.get_num_threads(),
                "total_steps": self.total,
                "data": self._data_facts(),
            },
            {
                "data": stream.digest,
                "settings": digest_of([config.model, config.objective, config.optimizer, config.train.seed, self.total]),
            },
        )
        self.model = model_for(config, processes)
        self.stepper = stepper_for(self.model, config, processes, objective_of(config, processes))
        check_masks(self.stepper.learner, self.model, config, processes.device)
        folder = files.out / "checkpoints"
        self.checkpoints = Checkpoints(folder, config.checkpoint, rank=processes.rank, world=processes.world, note=files.note)
        self.step, self.seen, self.resumed, self.rollbacks = 0, 0, 0, 0
        self.left_out: list[int] = []
        self.watch = SpikeWatch(config.watch)
        self.losses: list[float] = []
        self.recent: list[StepRecord] = []
        self.waits = False
        self.passed_over = 0
        self.peak_bytes = 0
        self.back_before: int | None = None

    def _data_facts(self) -> dict[str, Any]:
        """What the first process finds of the data; nothing of a stream that is not one of files."""
        if not self.processes.first or not isinstance(self.stream, Stream):
            return {}
        chosen = self.config.train
        return data_facts(self.stream, world=self.processes.world, micro_batch_seqs=chosen.micro_batch_seqs, grad_accum=chosen.grad_accum)

    def run(self) -> TrainResult:
        """To the end. Raises StoppedError when asked to stop, InfeasibleError when it goes wrong too often."""
        extra = self._load()
        if extra:
            self.resumed += 1
            self.earlier_wall_s, self.earlier_cpu_s = extra.get("wall_s", 0.0), extra.get("cpu_s", 0.0)
            self.files.note("resumed", f"Going on after step {self.step}.", step=self.step)
        while self.step < self.total:
            self._until_trouble()
        self._save()
        self.checkpoints.wait()
        if self.config.model.grid:
            from trimtab.train.heal import fake_quant
            from trimtab.train.heal.codes_file import write_codes

            codes = fake_quant.bake(self.model)
        export_model(self.model, self.folder, self.files.out / "model")
        if self.config.model.grid and self.processes.first:
            write_codes(self.files.out / "model", codes)
        result = TrainResult(
            steps=self.step,
            tokens_seen=self.seen,
            first_loss=self.files.first_loss() if self.processes.first else math.nan,
            last_loss=self.losses[-1],
            **self._spent(),
            world=self.processes.world,
            model="model",
            peak_memory_bytes=self.peak_bytes,
            resumed=self.resumed,
            rollbacks=self.rollbacks,
            notes=tuple(self.files.noted),
        )
        for board in self.boards:
            board.close()
        self.files.end(result)
        self.processes.wait_for_all()
        return result

    def _until_trouble(self) -> None:
        """Steps until the last one, or until one went wrong and the run has gone back."""
        save_due = False
        batches = self.stream.steps(
            first_step=self.step,
            rank=self.processes.rank,
            world=self.processes.world,
            micro_batch_seqs=self.config.train.micro_batch_seqs,
            grad_accum=self.config.train.grad_accum,
            leave_out=tuple(self.left_out),
        )
        ended_s = time.perf_counter()
        while self.step < self.total:
            waited_s = time.perf_counter()
            batch = next(batches)
            wait_s = time.perf_counter() - waited_s
            try:
                gradient = self.stepper.gradient(batch, ask=(wait_s, peak_memory_bytes(self.processes.device), float(bool(self.stop))))
            except NothingLearnt:
                self._pass_over()
                return
            verdict = self.watch.judge(gradient.loss, gradient.norm)
            if verdict in ("spike", "nan"):
                self._go_back(verdict, gradient)
                return
            lr = lr_at(self.step, self.total, self.config.optimizer)
            self.stepper.apply(gradient, lr)
            now_s = time.perf_counter()
            self._done(gradient, lr, now_s - ended_s)
            ended_s = now_s
            if gradient.agreed[2]:
                self._stop()
            every = self.config.checkpoint.every_steps
            save_due = save_due or (every > 0 and self.step % every == 0)
            if save_due and verdict == "fine":
                self._save()
                save_due = False

    def _done(self, gradient: Gradient, lr: float, step_s: float) -> None:
        """One step more."""
        self.step += 1
        self.passed_over = 0
        self.seen += gradient.tokens
        self.losses.append(gradient.loss)
        wait_s, memory_bytes, _ = gradient.agreed
        self.peak_bytes = max(self.peak_bytes, int(memory_bytes))
        record = StepRecord(
            step=self.step,
            tokens=gradient.tokens,
            tokens_seen=self.seen,
            loss=gradient.loss,
            grad_norm=gradient.norm,
            lr=lr,
            step_s=step_s,
            data_wait_s=wait_s,
            peak_memory_bytes=int(memory_bytes),
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        self.files.add_step(record)
        for board in self.boards:
            board.step(record)
        self._look_at_waits(record)

    def _look_at_waits(self, record: StepRecord) -> None:
        """Say it when steps wait for data, and again only if they did not in between."""
        self.recent.append(record)
        if len(self.recent) == DATA_BOUND_STEPS:
            found = data_bound(self.recent)
            waited, self.waits = self.waits, found is not None
            if found is not None and not waited:
                self.files.note("data-bound", f"{found.text}.", step=self.step, share=found.share)
            self.recent = []

    def _spent(self) -> dict[str, float]:
        """Seconds of all starts so far; every process must ask."""
        return {
            "wall_s": self.earlier_wall_s + time.perf_counter() - self.started_s,
            "cpu_s": self.earlier_cpu_s + float(self.processes.gathered([time.process_time()]).sum()),
        }

    def _save(self) -> None:
        extra = {
            **self._spent(),
            "tokens_seen": self.seen,
            "left_out": self.left_out,
            "rollbacks": self.rollbacks,
            "resumed": self.resumed,
            "peak_memory_bytes": self.peak_bytes,
            "fine_losses": self.watch.fine_losses,
        }
        self.checkpoints.save(self.step, self.model, self.stepper.optimizer, extra)
        self.back_before = None

    def _load(self) -> dict[str, Any]:
        """Weights, optimizer and counts of the newest whole checkpoint, and what was saved with them; empty if there is none."""
        found = self.checkpoints.load_latest(self.model, self.stepper.optimizer, before=self.back_before)
        if found is None and self.back_before is not None:
            found = self.checkpoints.load_latest(self.model, self.stepper.optimizer)
        if found is None:
            if self.step == 0:
                self.files.keep_steps(0)
            return {}
        self.step, extra = found
        self.seen, self.peak_bytes = extra["tokens_seen"], extra["peak_memory_bytes"]
        self.left_out = sorted({*self.left_out, *extra["left_out"]})
        self.rollbacks, self.resumed = max(self.rollbacks, extra["rollbacks"]), max(self.resumed, extra["resumed"])
        self.losses = self.files.keep_steps(self.step)
        self.watch = SpikeWatch(self.config.watch, extra["fine_losses"])
        self.processes.wait_for_all()
        return extra

    def _pass_over(self) -> None:
        """Leave out a batch of which no token counts. Raises InputError after an epoch of such batches."""
        self.passed_over += 1
        if self.passed_over * self.config.train.global_batch_seqs > self.stream.n_sequences:
            raise InputError("No token of all the data counts towards the loss; look at the weights, and at who speaks in a chat.")
        position = batch_of_step(self.step, self.left_out)
        self.left_out = sorted({*self.left_out, position})
        text = f"Of the batch after step {self.step} no token counts towards the loss; it is left out."
        self.files.note("note", text, step=self.step, leave_out=[position])

    def _go_back(self, verdict: Verdict, gradient: Gradient) -> None:
        """Leave out what may have hurt the model, and go on from the newest checkpoint, or from here if there is none yet.

        A second time without a checkpoint between goes one further back: the weights may have been hurt before it showed.
        """
        self.stepper.forget()
        said = "is no number" if verdict == "nan" else f"is {gradient.loss:.4g}, far above the ones before"
        self.files.note("spike", f"The loss of step {self.step + 1} {said}.", step=self.step + 1)
        if self.rollbacks == self.config.watch.rollbacks:
            self.checkpoints.wait()
            raise InfeasibleError(
                f"The loss of step {self.step + 1} {said}, after {self.rollbacks} rollback(s); lower [optimizer] lr, or look at the data. "
                "The newest checkpoint is good."
            )
        self.rollbacks += 1
        positions = batches_to_leave_out(verdict, self.step, self.left_out)
        failed = self.step + 1
        loaded = self._load()
        if not loaded:  # the batches before it have been learnt from and do not come again
            positions = positions[-1:]
        self.left_out = sorted({*self.left_out, *positions})
        self.back_before = self.step if loaded else None
        without = f"batch of step {failed}" if len(positions) == 1 else f"batches of steps {failed - len(positions) + 1} to {failed}"
        self.files.note("rollback", f"Back to step {self.step}, without the {without}.", step=self.step, leave_out=positions)

    def _stop(self) -> None:
        self._save()
        self.checkpoints.wait()
        self.files.note("stopped", f"Stopped as asked after step {self.step}; its checkpoint is written.", step=self.step)
        raise StoppedError(f"Stopped as asked after step {self.step} of {self.total}; the same command goes on from there.")


def total_steps(config: TrainConfig, n_sequences: int) -> int:
    """Steps of the whole run: given, or what holds so many tokens (padding counted) or epochs."""
    run = config.train
    if run.steps:
        return run.steps
    if run.tokens:
        return math.ceil(run.tokens / (run.global_batch_seqs * run.seq_tokens))
    return max(1, math.ceil(run.epochs * n_sequences / run.global_batch_seqs))


def model_for(config: TrainConfig, processes: Processes) -> nn.Module:
    """The model to train: of shapes only where it will be sharded, else whole; on its grid where the configuration names one."""
    meta = sharded(config, processes) and not config.model.grid
    model = load_model(config, Path(config.model.source), processes.device, meta=meta)
    if config.model.grid:
        from trimtab.train.heal import fake_quant
        from trimtab.train.heal.codes_file import read_codes

        fake_quant.apply(model, config.model.grid, config.model.tensors, start=read_codes(Path(config.model.source)))
    return model


def stepper_for(model: nn.Module, config: TrainConfig, processes: Processes, objective: Objective) -> Stepper:
    """The model laid out over the processes, with its optimizer."""
    whole = not any(parameter.is_meta for parameter in model.parameters())
    weights = None if whole else weights_of(model, config, Path(config.model.source))

    def fill(part: nn.Module) -> None:
        if weights is not None:
            weights.fill(part, processes.device)

    learner = lay_out(model, objective, config, processes, fill)
    return Stepper(learner, open_optimizer(model, config.optimizer, config.train), config, processes)


def objective_of(config: TrainConfig, processes: Processes) -> Objective:
    """What [objective] names. A teacher that runs along lies whole on every process."""
    chosen = config.objective
    if chosen.kind == "paired":
        from trimtab.train.debias.pairing import Paired, gender_tokens

        return Paired(gender_tokens(HuggingFaceTokenizer(Path(config.model.source)).encode), chosen.pair_weight)
    if chosen.kind == "distil":
        from trimtab.train.heal.distil import distil
        from trimtab.train.heal.teacher import open_teacher

        teacher = open_teacher(Path(chosen.teacher), config.train.precision, processes.device)
        return distil(teacher, top_k=chosen.top_k, text_share=chosen.text_share)
    return next_token


def _open_data(config: TrainConfig, files: RunFiles) -> Stream:
    """What [data] names, in sequences of the run's length; what takes long is noted."""
    return open_stream(
        config.data,
        seq_tokens=config.train.seq_tokens,
        seed=config.train.seed,
        tokenizer=HuggingFaceTokenizer(Path(config.model.source)),
        cache_dir=cache_dir() / "train",
        say=lambda text: files.note("note", f"{text}."),
    )


def _be_deterministic() -> None:
    """The same numbers from the same inputs, on the same device and number of threads; slower on accelerators."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False


@contextmanager
def _stop_asked() -> Iterator[list[int]]:
    """A list that a SIGTERM or SIGINT makes longer; a step that runs is finished first."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
