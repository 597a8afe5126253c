"""One side of benchmarks/train.py in a process of its own: `python train_child.py SIDE FOLDER SETTINGS`. Told `N`, it takes N steps.

Sides: `plain`, a loop of torch and transformers as one writes it by hand; `trainer`, transformers' Trainer on Accelerate; `ours`, the
worker on batches from memory; `streaming`, the worker on shards. After each N steps it answers a JSON line: seconds, loss, peak_bytes.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever a library prints is no answer


class Turns:
    """When steps may be taken: `next()` before each. It answers when as many are done as were asked for, and waits to be asked again."""

    def __init__(self) -> None:
        self.left, self.began_s, self.loss = 0, 0.0, lambda: float("nan")

    def next(self) -> None:
        if self.left == 0:
            if self.began_s:
                self.answer(seconds=time.perf_counter() - self.began_s, loss=self.loss())
            line = sys.stdin.readline()
            if not line:
                os._exit(0)
            self.left, self.began_s = int(line), time.perf_counter()
        self.left -= 1

    def answer(self, **told: Any) -> None:
        told["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        ANSWERS.write(json.dumps(told) + "\n")
        ANSWERS.flush()


def numbers(settings: dict[str, Any]) -> Iterator[np.ndarray]:
    """int64 [micro batch, tokens + 1] without end: the same on every side."""
    random = np.random.default_rng(0)
    kept = [random.integers(0, settings["vocabulary"], (settings["micro"], settings["tokens"] + 1)) for _ in range(16)]
    while True:
        yield from kept


def plain(folder: Path, settings: dict[str, Any], turns: Turns) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, get_cosine_schedule_with_warmup

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, 0, 100_000)
    batches = numbers(settings)
    total = 0.0
    turns.loss = lambda: total
    while True:
        turns.next()
        total = 0.0
        for _ in range(settings["accum"]):
            ids = torch.from_numpy(next(batches))
            with torch.autocast("cpu", torch.bfloat16, enabled=settings["precision"] == "bf16"):
                logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()) / settings["accum"]
            loss.backward()
            total += float(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)


def trainer(folder: Path, settings: dict[str, Any], turns: Turns) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for batch in numbers(settings):
                for row in batch:
                    ids = torch.from_numpy(row)
                    yield {"input_ids": ids[:-1], "labels": ids[:-1]}  # it shifts them itself

    class Waits(TrainerCallback):
        def on_step_begin(self, *told: Any, **more: Any) -> None:
            turns.next()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
            self.last = logs.get("loss", float("nan"))

    waits = Waits()
    turns.loss = lambda: waits.last
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=settings["micro"],
        gradient_accumulation_steps=settings["accum"],
        max_steps=100_000,
        learning_rate=1e-4,
        adam_beta2=0.95,
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        bf16=settings["precision"] == "bf16",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[waits]).train()


class FromMemory:
    """A stream of the same numbers that no one has to read."""

    n_sequences, digest = 10**9, "memory"

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def steps(self, **asked: Any) -> Iterator[list[Any]]:
        from trimtab.train.batch import MicroBatch

        size, length = self.settings["micro"], self.settings["tokens"]
        common = {
            "weights": np.ones((size, length), np.float32),
            "position_ids": np.tile(np.arange(length), (size, 1)),
            "document_ids": np.zeros((size, length), np.int32),
        }
        batches = numbers(self.settings)
        while True:
            made = (next(batches) for _ in range(asked["grad_accum"]))
            yield [MicroBatch(input_ids=ids[:, :-1].copy(), target_ids=ids[:, 1:].copy(), **common) for ids in made]

    def close(self) -> None:
        pass


def worker(folder: Path, settings: dict[str, Any], turns: Turns, *, streaming: bool) -> None:
    from trimtab.core.training import TrainCheckpoints, TrainConfig, TrainData, TrainModel, TrainOptimizer, TrainRun
    from trimtab.train.data.stream import open_stream
    from trimtab.train.data.tokenizers import HuggingFaceTokenizer
    from trimtab.train.worker import run

    out = folder / ("streaming" if streaming else "ours")
    config = TrainConfig(
        model=TrainModel(source=str(folder), init="random"),
        data=TrainData(files=(str(folder / "text.jsonl"),), mask_documents=False),
        train=TrainRun(
            seq_tokens=settings["tokens"],
            global_batch_seqs=settings["micro"] * settings["accum"],
            micro_batch_seqs=settings["micro"],
            steps=100_000,
            precision=settings["precision"],
        ),
        optimizer=TrainOptimizer(lr=1e-4),
        checkpoint=TrainCheckpoints(every_steps=0),
    )

    class Waits:
        """A stream that gives a step's batches when it may."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.n_sequences, self.digest, self.close = inner, inner.n_sequences, inner.digest, inner.close

        def steps(self, **asked: Any) -> Iterator[list[Any]]:
            batches = iter(self.inner.steps(**asked))
            while True:
                turns.next()
                yield next(batches)

    def data(resolved: TrainConfig) -> Any:
        if not streaming:
            return Waits(FromMemory(settings))
        tokenizer = HuggingFaceTokenizer(folder)
        cache = folder / "cache"
        return Waits(open_stream(resolved.data, seq_tokens=settings["tokens"], seed=0, tokenizer=tokenizer, cache_dir=cache))

    def last_loss() -> float:
        lines = (out / "steps.jsonl").read_text().splitlines()
        return float(json.loads(lines[-1])["loss"])

    turns.loss = last_loss
    run(config, out, data=data)


def main() -> None:
    side, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(settings["threads"])
    turns = Turns()
    if side in ("plain", "trainer"):
        {"plain": plain, "trainer": trainer}[side](folder, settings, turns)
    else:
        worker(folder, settings, turns, streaming=side == "streaming")


if __name__ == "__main__":
    main()
