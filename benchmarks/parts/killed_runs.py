"""A tiny training as the worker runs it, in forked processes killed with -9: after a time, or inside the writing of a checkpoint."""

import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas  # noqa: F401 (loaded once here rather than by each process)
import pyarrow.parquet  # noqa: F401
import torch
from transformers import LlamaConfig

from trimtab.core.training import TrainCheckpoints, TrainConfig, TrainData, TrainLayout, TrainModel, TrainOptimizer, TrainResult, TrainRun
from trimtab.train import checkpoint_storage, checkpoints, worker
from trimtab.train.batch import MicroBatch
from trimtab.train.data.stream import Stream, open_stream

STEPS = 32
EVERY = 4
POINTS = ("half a file", "before the manifest", "before the rename", "after the rename", "half removed")
"""Inside the writing of a checkpoint, where a process kills itself; process 0, and half a file on the last process too."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """after_s: from the start of the processes, or point: one of POINTS, the nth time that it is passed."""

    after_s: float = 0.0
    point: str = ""
    nth: int = 1


class Characters:
    """Letters, spaces and line ends as tokens."""

    end_id = 0
    vocab_size = 64
    digest = "characters of resume.py"

    def encode(self, text: str) -> list[int]:
        """One id a character."""
        return [1 + ord(character) % 61 for character in text]

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[bool]]:
        """No chats here."""
        raise NotImplementedError


class Logged:
    """A stream that notes which sequences went into which step."""

    def __init__(self, stream: Stream, path: Path) -> None:
        self._stream, self._path = stream, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def steps(self, *, first_step: int, **more: Any) -> Iterator[list[MicroBatch]]:
        """The stream's, noted as they are taken."""
        for step, batches in enumerate(self._stream.steps(first_step=first_step, **more), first_step):
            taken = [int(one) for batch in batches if batch.sequence_ids is not None for one in batch.sequence_ids]
            with self._path.open("a") as file:
                file.write(f"{json.dumps([step, int(os.environ.get('ATTEMPT', '0')), taken])}\n")
            yield batches


def prepare(folder: Path) -> TrainConfig:
    """Text, a model's shape, and the run that all of these are."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(5)
    words = ["".join(chance.choices("aeioukmnrst", k=chance.randint(2, 6))) for _ in range(60)]
    documents = ("\n".join(" ".join(chance.choices(words, k=40)) for _ in range(6)) for _ in range(40))
    (folder / "text.txt").write_text("\n\n".join(documents))
    LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    ).save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_text("{}")  # looked for, not used: see Characters
    return TrainConfig(
        model=TrainModel(source=str(folder / "model"), init="random"),
        data=TrainData(files=(str(folder / "text.txt"),)),
        train=TrainRun(seq_tokens=64, global_batch_seqs=8, micro_batch_seqs=4, steps=STEPS),
        optimizer=TrainOptimizer(lr=3e-3, warmup_steps=4),
        checkpoint=TrainCheckpoints(every_steps=EVERY, keep=2),
    )


def with_layout(config: TrainConfig, zero_stage: Any) -> TrainConfig:
    """The same run, laid out otherwise."""
    return replace(config, layout=TrainLayout(zero_stage=zero_stage))


def attempt(config: TrainConfig, out: Path, world: int, kill: Kill | None) -> bool:
    """Start the run's processes, kill them all as told, and say whether they came to the end. Raises RuntimeError when they fail."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic_ns()
    children = [_forked(config, out, rank, world, port, began, kill) for rank in range(world)]
    ends = time.monotonic() + (kill.after_s if kill and not kill.point else 120.0)
    codes: dict[int, int] = {}
    while len(codes) < world and time.monotonic() < ends and not any(codes.values()):
        for child in children:
            if child not in codes and (found := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = found[1]
        time.sleep(0.002)
    for child in children:
        if child not in codes:
            os.kill(child, signal.SIGKILL)  # as torchrun does when one has died
            codes[child] = os.waitpid(child, 0)[1]
    # A process whose neighbour was killed may fail before it is killed too.
    if any(codes.values()) and not any(os.WIFSIGNALED(code) for code in codes.values()):
        raise RuntimeError(f"a run failed by itself: {(out / 'said').read_text()[-2000:]}")
    return not any(codes.values())


def _forked(config: TrainConfig, out: Path, rank: int, world: int, port: int, began: int, kill: Kill | None) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        said = os.open(out / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        names = {"ATTEMPT": began, "RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
        torch.set_num_threads(1)
        if kill and kill.point and rank == (world - 1 if kill.nth % 2 and kill.point == POINTS[0] else 0):
            _arm(kill.point, kill.nth)
        run(config, out, rank)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def run(config: TrainConfig, out: Path, rank: int = 0) -> TrainResult:
    """The worker's run, with characters for tokens and a log of what it learns from."""

    def data(resolved: TrainConfig) -> Any:
        stream = open_stream(
            resolved.data,
            seq_tokens=resolved.train.seq_tokens,
            seed=resolved.train.seed,
            tokenizer=Characters(),
            cache_dir=out.parent / "cache",
        )
        return Logged(stream, out / f"order-{rank}.jsonl")

    return worker.run(config, out, data=data)


def _arm(point: str, nth: int) -> None:
    """This process dies the nth time that it passes a point."""
    passed = 0

    def now() -> bool:
        nonlocal passed
        passed += 1
        return passed == nth

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    write, rename, whole, remove = checkpoint_storage.write_safetensors, os.rename, checkpoint_storage.write_atomic, shutil.rmtree

    def half_a_file(path: Path, tensors: Any) -> Any:
        written = write(path, tensors)
        if now():
            os.truncate(path, written.size_bytes // 2)
            die()
        return written

    def before_the_manifest(path: Path, text: Any) -> None:
        if now():
            path.write_text(text[: len(text) // 2])
            die()
        whole(path, text)

    def about_a_rename(source: Any, target: Any) -> None:
        hit = str(source).endswith(".part") and now()
        if hit and point == POINTS[2]:
            die()
        rename(source, target)
        if hit:
            die()

    def half_removed(path: Any, **more: Any) -> None:
        if str(path).endswith(".aside") and now():
            next(Path(path).iterdir()).unlink()
            die()
        remove(path, **more)

    if point == POINTS[0]:
        checkpoint_storage.write_safetensors = half_a_file
    elif point == POINTS[1]:
        checkpoint_storage.write_atomic = before_the_manifest
    elif point in POINTS[2:4]:
        checkpoint_storage.os.rename = about_a_rename
    else:
        checkpoints.shutil.rmtree = half_removed


def losses_of(out: Path) -> dict[int, float]:
    """By step."""
    path = out / "steps.jsonl"
    rows = (json.loads(line) for line in path.read_text().splitlines()) if path.exists() else iter(())
    return {row["step"]: row["loss"] for row in rows}


def order_of(out: Path) -> dict[int, list[int]]:
    """Sequences of each step (from 0) over all processes, of the attempt that took it last."""
    found: dict[int, dict[int, list[int]]] = {}
    for path in out.glob("order-*.jsonl"):
        for line in path.read_text().splitlines():
            if line.endswith("]]"):
                step, began, taken = json.loads(line)
                found.setdefault(step, {}).setdefault(began, []).extend(taken)
    return {step: sorted(attempts[max(attempts)]) for step, attempts in found.items()}


def weights_of(out: Path) -> bytes:
    """The exported weights, byte by byte."""
    return (out / "model" / "model.safetensors").read_bytes()
