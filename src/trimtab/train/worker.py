"""One training run, as every process of it carries it out: `run(config, out)`."""

import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.core.files import canonical_json, write_atomic
from trimtab.core.training import StepRecord, TrainConfig, TrainResult
from trimtab.train.config import resolved
from trimtab.train.models import load_model
from trimtab.train.objectives import next_token
from trimtab.train.optimizers import open_optimizer
from trimtab.train.processes import start_processes, stop_processes
from trimtab.train.schedules import lr_at
from trimtab.train.steps import Learner, Stepper


def run(config: TrainConfig, out: Path, *, stream: Any = None) -> TrainResult:
    """Train as the configuration says and leave everything in the run folder."""
    processes = start_processes()
    began_s = time.perf_counter()
    try:
        config = resolved(config, processes.world)
        out.mkdir(parents=True, exist_ok=True)
        model = load_model(config, Path(config.model.source), processes.device, meta=False)
        learner = Learner(model, next_token)
        optimizer = open_optimizer(model, config.optimizer, config.train)
        stepper = Stepper(learner, optimizer, config, processes)
        total = total_steps(config, stream.n_sequences)
        batches = stream.steps(
            first_step=0,
            rank=processes.rank,
            world=processes.world,
            micro_batch_seqs=config.train.micro_batch_seqs,
            grad_accum=config.train.grad_accum,
        )
        records: list[StepRecord] = []
        for step in range(total):
            at_s = time.perf_counter()
            waiting = next(batches)
            wait_s = time.perf_counter() - at_s
            lr = lr_at(step, total, config.optimizer)
            outcome = stepper.step(waiting, lr)
            seen = (records[-1].tokens_seen if records else 0) + outcome.tokens
            record = StepRecord(
                step=step + 1,
                tokens=outcome.tokens,
                tokens_seen=seen,
                loss=outcome.loss,
                grad_norm=outcome.grad_norm,
                lr=lr,
                step_s=time.perf_counter() - at_s,
                data_wait_s=wait_s,
                peak_memory_bytes=0,
                time=datetime.now(UTC).isoformat(),
            )
            records.append(record)
            if processes.first:
                with (out / "steps.jsonl").open("a", encoding="utf-8") as file:
                    file.write(canonical_json(record) + "\n")
        model.save_pretrained(out / "model")
        result = TrainResult(
            steps=total,
            tokens_seen=records[-1].tokens_seen,
            first_loss=records[0].loss,
            last_loss=records[-1].loss,
            wall_s=time.perf_counter() - began_s,
            cpu_s=time.process_time(),
            world=processes.world,
            model="model",
            peak_memory_bytes=0,
        )
        write_atomic(out / "result.json", json.dumps(result.__dict__))
        return result
    finally:
        stop_processes()


def total_steps(config: TrainConfig, n_sequences: int) -> int:
    """Steps of the whole run: given, or what holds so many tokens (padding counted) or epochs."""
    run = config.train
    if run.steps:
        return run.steps
    if run.tokens:
        return math.ceil(run.tokens / (run.global_batch_seqs * run.seq_tokens))
    return max(1, math.ceil(run.epochs * n_sequences / run.global_batch_seqs))
