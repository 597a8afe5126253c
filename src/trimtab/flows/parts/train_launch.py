"""Start the processes of a training, follow the files that they write, stop them with a checkpoint, and say how they ended."""

import ctypes
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.core.errors import EXIT_INPUT, EXIT_INTERRUPTED, EXIT_MISSING, InfeasibleError, InputError, MissingError, StoppedError
from trimtab.core.errors import TrimtabError as Bug
from trimtab.core.files import json_object, write_atomic
from trimtab.core.training import StepRecord, TrainConfig, TrainResult
from trimtab.flows.parts.train_ended import last_words, why_it_died
from trimtab.flows.parts.train_files import Lines, kept_steps, read_result, step_record, told_error
from trimtab.record.disk import sentences
from trimtab.record.lock import NAME as LOCK
from trimtab.record.lock import FolderLock

WORKER = "trimtab.cli.train_worker"
PR_SET_PDEATHSIG = 1
POLL_S, TELL_S = 0.2, 1.0
STOP_S = 900.0
"""So long may processes take for the checkpoint of a stop; after that they are ended."""
HUNG_AFTER_S, HUNG_STEPS, HUNG_START_S = 120.0, 20.0, 900.0
MAY_CHANGE = {
    "layout": None,
    "checkpoint": None,
    "watch": None,
    "hardware": None,
    "train": ("micro_batch_seqs", "grad_accum", "grad_sync", "recompute", "offload", "compile"),
    "data": ("prefetch_steps", "cache_bytes"),
}
"""What a run that is taken up again may have otherwise than when it began: None = the whole table."""


@dataclass(frozen=True, kw_only=True)
class Follow:
    """What is new of a run; told at least once a second.

    steps, events: lines of steps.jsonl and events.jsonl since the last call; the first call brings what an earlier start left
    phase: `starting` until the first step of this start; silent_s: since the last sign of life
    hung: nothing came for far longer than a step takes; total_steps: of the whole run, None until the data have been counted
    """

    steps: tuple[StepRecord, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()
    phase: Literal["starting", "training", "stopping"] = "starting"
    silent_s: float = 0.0
    hung: bool = False
    total_steps: int | None = None


def launch(
    config: TrainConfig,
    out: Path,
    *,
    processes: int,
    time_limit_s: float | None = None,
    follow: Callable[[Follow], None] = lambda _: None,
    worker: str = WORKER,
) -> TrainResult:
    """Train in `processes` processes of this machine; `out` is the run's folder. An unfinished run there goes on, a finished one is told.

    Ctrl-C, SIGTERM and the time limit end it with a checkpoint. worker: module that each process runs.
    Raises InputError and MissingError as a process told them, StoppedError, InfeasibleError when a process died, TrimtabError for a bug.
    """
    lock = FolderLock(out)
    try:
        done = _prepare(config, out)
        if done is not None:
            return done
        run = _Run(out, _start(out, processes, worker, lock))
        with _terminated_like_interrupted():
            why = run.watch(follow, time_limit_s)
        return _ended(out, run, why, processes)
    finally:
        lock.release()


def _prepare(config: TrainConfig, out: Path) -> TrainResult | None:
    """Write train.toml; the result if the run has ended. Raises InputError if another run is there."""
    from trimtab.train.config import config_text, read_config

    path = out / "train.toml"
    if not path.exists() and any(one.name != LOCK for one in out.iterdir()):
        raise InputError(f"{out} holds something that is no training; choose another folder with --out.")
    if path.exists() and (out / "steps.jsonl").exists():
        changed = differing(read_config(path), config)
        if changed:
            raise InputError(
                f"{out} holds a run with other settings ({', '.join(changed[:3])}); choose another folder with --out, or start it anew "
                "with --fresh."
            )
        result = read_result(out)
        if result is not None and (out / result.model).is_dir():
            return result
    with sentences(out, "write"):
        (out / "error.json").unlink(missing_ok=True)
        write_atomic(path, config_text(config))
    return None


def differing(before: TrainConfig, now: TrainConfig) -> list[str]:
    """`[table] key` of each setting that two runs must share and do not."""
    found = []
    for field in fields(TrainConfig):
        old, new, free = getattr(before, field.name), getattr(now, field.name), MAY_CHANGE.get(field.name, ())
        if free is not None and is_dataclass(old):
            keys = [one.name for one in fields(old) if one.name not in free]
            found += [f"[{field.name}] {key}" for key in keys if getattr(old, key) != getattr(new, key)]
    return found


def _start(out: Path, processes: int, worker: str, lock: FolderLock) -> "subprocess.Popen[bytes]":
    """The worker, or torchrun with as many of them. Each process's words go to OUT/logs; none gets the terminal's Ctrl-C."""
    from trimtab.measure.machine import machine

    logs = out / "logs"
    program = ["-m", worker, str(out / "train.toml"), "--out", str(out)]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "--redirects=3", f"--log-dir={logs}"]
        program = [*torchrun, *program]
    environment = {"OMP_NUM_THREADS": str(max(1, machine().n_cores // processes)), "PYTHONUNBUFFERED": "1", **os.environ}
    with sentences(logs, "write"):
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / "start.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=_ended_with_parent(),
                pass_fds=lock.descriptors,
            )


def _ended_with_parent() -> Callable[[], None] | None:
    """What a child does first so that it is told to stop, with a checkpoint, when this process is killed. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # before the fork: afterwards nothing may be imported

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)

    return prepare


class _Run:
    """Processes that run, and what was last heard of them."""

    def __init__(self, out: Path, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.about = out / "run.json"
        self.total_steps: int | None = None
        self.steps, self.events = Lines(out / "steps.jsonl"), Lines(out / "events.jsonl")
        self.phase: Literal["starting", "training", "stopping"] = "starting"
        self.heard = time.monotonic()
        self.took: deque[float] = deque(maxlen=32)
        self.last_step = 0
        self.before = self.news()

    def watch(self, follow: Callable[[Follow], None], time_limit_s: float | None) -> Literal["", "interrupt", "limit"]:
        """Until every process has ended; returns who stopped them. A second interrupt ends them at once."""
        started = time.monotonic()
        ends = started + time_limit_s if time_limit_s else float("inf")
        told, why = started, ""
        follow(self.before)
        try:
            while self.process.poll() is None:
                try:
                    news = self.news()
                    if self.phase == "starting" and news.steps:
                        self.phase = "training"
                    if news.steps or news.events or time.monotonic() - told >= TELL_S:
                        follow(news)
                        told = time.monotonic()
                    if not why and time.monotonic() > ends:
                        why = self.stop("limit")
                    elif why and time.monotonic() > ends + STOP_S:
                        self.kill()
                    time.sleep(POLL_S)
                except KeyboardInterrupt:
                    if why:
                        self.kill()
                        break
                    ends, why = time.monotonic(), self.stop("interrupt")
        finally:
            if self.process.poll() is None:
                self.kill()
        follow(self.news())
        return why  # type: ignore[return-value]

    def news(self) -> Follow:
        steps = tuple(step_record(row) for row in self.steps.new())
        events = tuple(self.events.new())
        now = time.monotonic()
        if steps or events:
            self.heard = now
            self.took.extend(step.step_s for step in steps)
            self.last_step = steps[-1].step if steps else self.last_step
        silent = now - self.heard
        usual = max(HUNG_AFTER_S, HUNG_STEPS * statistics.median(self.took)) if self.phase == "training" and self.took else HUNG_START_S
        return Follow(
            steps=steps,
            events=events,
            phase=self.phase,
            silent_s=silent,
            hung=silent > usual and self.phase != "stopping",
            total_steps=self.total(),
        )

    def total(self) -> int | None:
        """As process 0 wrote it in run.json."""
        if self.total_steps is None:
            found = json_object(self.about).get("total_steps")
            self.total_steps = found if isinstance(found, int) else None
        return self.total_steps

    def stop(self, why: str) -> str:
        """Ask every worker, not torchrun, which would wait for half a minute only."""
        self.phase = "stopping"
        for pid in self.workers():
            _signal(pid, signal.SIGTERM)
        return why

    def workers(self) -> list[int]:
        import psutil

        try:
            below = [child.pid for child in psutil.Process(self.process.pid).children()]
        except psutil.Error:
            return []
        is_torchrun = "torch.distributed.run" in self.process.args  # type: ignore[operator]
        return (below or [self.process.pid]) if is_torchrun else [self.process.pid]

    def kill(self) -> None:
        """All at once. Workers are in torchrun's session, or in their own."""
        for pid in self.workers():
            _signal(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM to the verb, and a terminal that is closed, stop as Ctrl-C does. Only the main thread may say so."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in numbers:
            signal.signal(number, interrupt)
    except ValueError:
        numbers = []
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _ended(out: Path, run: _Run, why: str, processes: int) -> TrainResult:
    """The result, or the sentence for how it ended."""
    told = told_error(out)
    code = run.process.returncode
    result = read_result(out) if code == 0 else None
    if result is not None:
        return result
    if why or (told and told[0] == EXIT_INTERRUPTED):
        raise StoppedError(_stopped(out, why, run.last_step))
    if told is None:
        death = why_it_died(out / "logs", code, processes, run.last_step)
        goes_on = " The same command goes on from the newest checkpoint." if kept_steps(out) else ""
        raise (InfeasibleError if death.is_signal else Bug)(death.sentence + goes_on)
    exit_code, message = told
    raise {EXIT_INPUT: InputError, EXIT_MISSING: MissingError, 1: InfeasibleError}.get(exit_code, Bug)(message)


def _stopped(out: Path, why: str, last_step: int) -> str:
    kept = kept_steps(out)
    who = "at the time limit" if why == "limit" else "as asked"
    if not kept:
        words = last_words(out / "logs")
        return f"Stopped {who}, before there was a checkpoint; the same command starts anew.{f' Last words: {words}' if words else ''}"
    return f"Stopped {who} after step {last_step}; the checkpoint of step {kept[-1]} is in {out}. The same command goes on from there."
