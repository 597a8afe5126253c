"""What other ways of predicting say of the same published runs: a rule of thumb, llm-analysis, AIConfigurator."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from parts.peer_env import peer_python

from trimtab.plan.anchors.scores import Outcome, score
from trimtab.plan.operators import active_params, n_params
from trimtab.plan.training.rows import Run, read

MFU = 0.4
LLM_ANALYSIS = "llm-analysis==0.2.2"
CHILD = Path(__file__).with_name("llm_analysis_child.py")
TIMEOUT_S = 600


def runs_of(paths: Sequence[Path]) -> list[Run]:
    """The measured training runs among the files."""
    found: list[Run] = []
    for path in paths:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and ("# GPUs" in rows[0] or "tok_s_per_device" in rows[0]):
            found += [run for run in read(rows)[0] if run.kind == "measured"]
    return found


def constant_mfu(paths: Sequence[Path], quantity: str) -> list[Outcome]:
    """6ND at 40 % of the 16-bit peak, on every run that tells the quantity."""
    outcomes = []
    for run in runs_of(paths):
        job = run.job
        peak = job.device.peak_flop_s.get("bf16") or job.device.peak_flop_s.get("fp16", 0.0)
        if quantity not in run.measured or not peak or (quantity == "step_time_s" and "vTrain, one node" not in run.source):
            continue
        rate = MFU * peak / 6 / active_params(job.architecture)
        said = rate if quantity == "tok_s_per_device" else job.global_batch_seqs * job.seq_tokens / rate / job.n_devices
        outcomes.append(Outcome(run.source, run.measured[quantity], said, 0.0, 0.0))
    return outcomes


def rival_lines(paths: Sequence[Path], *, make: bool) -> Iterator[str]:
    """One line a rival: its errors and ours are on the same rows only where it covers them, so how many is told."""
    yield _llm_analysis(runs_of(paths), make=make)


def _llm_analysis(runs: Sequence[Run], *, make: bool) -> str:
    """llm-analysis with its own defaults and 40 % of the peak as FLOPs efficiency, for dense models, as it wants one told."""
    try:
        python = peer_python("llm-analysis", [LLM_ANALYSIS], make=make)
    except (subprocess.CalledProcessError, OSError) as error:
        return f"llm-analysis: skipped, its environment could not be made ({error})."
    if python is None:
        return "llm-analysis: skipped, no environment of it is there (--rivals makes one)."
    asked = [(run, question) for run in runs if (question := _question(run)) is not None]
    try:
        done = subprocess.run(
            [python, CHILD],
            input=json.dumps([question for _, question in asked]),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        print(getattr(error, "stderr", "") or "", file=sys.stderr)
        return f"llm-analysis: skipped, it did not run ({type(error).__name__})."
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    lines = []
    for quantity in ("tok_s_per_device", "step_time_s", "peak_memory_bytes"):
        outcomes = [
            Outcome(run.source, run.measured[quantity], answer[quantity])
            for (run, _), answer in zip(asked, answers, strict=True)
            if quantity in run.measured and answer.get(quantity)
        ]
        if outcomes:
            one = score(outcomes)
            n = sum(quantity in run.measured for run in runs)
            lines.append(
                f"{quantity} median {one.median_ape_pct:.1f} %, bias {one.bias_pct:+.1f} % on the {one.n} of {n} rows that it covers"
            )
    return "llm-analysis: " + "; ".join(lines or ["it covers no row"]) + "."


def _question(run: Run) -> dict[str, Any] | None:
    """A dense run in llm-analysis's words; None where it has none for it."""
    job, degrees = run.job, run.layout.one(0)
    a = job.architecture
    block = a.blocks[0]
    if (
        len(a.blocks) > 1
        or block.attention is None
        or block.feedforward is None
        or block.feedforward.n_experts
        or block.attention.kind != "full"
    ):
        return None
    peak = job.device.peak_flop_s.get("bf16") or job.device.peak_flop_s.get("fp16", 0.0)
    if job.device.kind != "gpu" or not peak or job.trains != "all" or degrees["cp"] > 1:
        return None
    return {
        "model": {
            "name": a.name,
            "num_layers": a.n_layers,
            "n_head": block.attention.n_heads,
            "num_key_value_heads": block.attention.n_kv_heads,
            "hidden_dim": a.d_model,
            "vocab_size": a.vocab_size,
            "max_seq_len": job.seq_tokens,
            "ffn_embed_dim": block.feedforward.d_ff,
            "mlp_gated_linear_units": block.feedforward.gated,
        },
        "gpu": {
            "name": job.device.name,
            "mem_per_GPU_in_GB": job.device.memory_bytes / 2**30,
            "hbm_bandwidth_in_GB_per_sec": job.device.memory_bytes_s / 1e9,
            "intra_node_bandwidth_in_GB_per_sec": job.device.link_bytes_s / 1e9,
            "inter_node_bandwidth_in_GB_per_sec": max(job.device.network_bytes_s, 1e9) / 1e9,
            "peak_fp16_TFLOPS": peak / 1e12,
            "peak_i8_TFLOPS": peak / 1e12,
            "peak_i4_TFLOPS": peak / 1e12,
        },
        "layout": {name: int(degrees[name]) for name in ("dp", "tp", "pp", "micro_batch", "grad_accum", "zero_stage", "recompute")},
        "sp": bool(degrees["sequence_parallel"]),
        "seq_len": job.seq_tokens,
        "global_batch": job.global_batch_seqs,
        "n_devices": job.n_devices,
        "n_params": float(np.float64(n_params(a))),
    }
