"""What other ways of predicting say of the same published runs: a rule of thumb, llm-analysis, AIConfigurator."""

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parts.peer_env import peer_python

from trimtab.plan.anchors.scores import Outcome, score
from trimtab.plan.operators import active_params
from trimtab.plan.training.rows import Run, read

Ours = Mapping[tuple[str, str], float]
MFU = 0.4
LLM_ANALYSIS = "llm-analysis==0.2.2"
AICONFIGURATOR = "aiconfigurator==0.12.0"
TIMEOUT_S = 600
N_SWEEP_ROWS = 48
"""Of the sweeps, evenly through the file: AIConfigurator takes seconds for a row."""
NAMES = {"meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B"}
"""Models that AIConfigurator carries under another name; for others it would ask a hub."""


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


Found = tuple[str, str, Mapping[str, float], Mapping[str, Any]]
"""Of a row: its id, its source, what was measured and what a rival says, by quantity."""


def rival_lines(paths: Sequence[Path], ours: Ours, *, make: bool) -> Iterator[str]:
    """A line a rival: its errors on the rows that it covers, and the planner's on the same (without their configuration)."""
    runs = runs_of(paths)
    asked = [(run, question) for run in runs if (question := _question(run)) is not None]
    answers = _answers("llm-analysis", LLM_ANALYSIS, "llm_analysis_child.py", [question for _, question in asked], make=make)
    found = (
        answers
        if isinstance(answers, str)
        else [(_id(run), run.source, run.measured, told) for (run, _), told in zip(asked, answers, strict=True)]
    )
    yield _line("llm-analysis", found, ours, ("tok_s_per_device", "step_time_s", "peak_memory_bytes"), len(runs))
    rows = _sweep_rows(paths)
    answers = _answers("aiconfigurator", AICONFIGURATOR, "aiconfigurator_child.py", [_estimate(row) for row in rows], make=make)
    measured = [{"ttft_ms": float(row["silicon_ttft_ms"]), "tpot_ms": float(row["silicon_tpot_ms"])} for row in rows]
    found = (
        answers
        if isinstance(answers, str)
        else [(row["id"], "", said, told) for row, said, told in zip(rows, measured, answers, strict=True)]
    )
    yield _line("aiconfigurator", found, ours, ("tpot_ms", "ttft_ms"), len(rows))


def _answers(name: str, package: str, child: str, questions: Sequence[Any], *, make: bool) -> list[dict[str, Any]] | str:
    """What a rival says of each, or why it says nothing."""
    try:
        python = peer_python(name, [package], make=make)
    except (subprocess.CalledProcessError, OSError) as error:
        return f"its environment could not be made ({error})"
    if python is None:
        return "no environment of it is there (--rivals makes one)"
    script = Path(__file__).with_name(child)
    try:
        done = subprocess.run([python, script], input=json.dumps(questions), capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        print((getattr(error, "stderr", "") or "")[-2000:], file=sys.stderr)
        return f"it did not run ({type(error).__name__})"
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _id(run: Run) -> str:
    """As `plan check` names a row: one without an id by its line."""
    return f"line {int(run.id[4:]) + 1}" if run.id.startswith("row ") else run.id


def _line(name: str, found: Sequence[Found] | str, ours: Ours, quantities: Sequence[str], n: int) -> str:
    if isinstance(found, str):
        return f"{name}: skipped, {found}."
    parts = []
    for quantity in quantities:
        covered = [one for one in found if quantity in one[2] and one[3].get(quantity)]
        if not covered:
            continue
        theirs = score([Outcome(source, measured[quantity], told[quantity]) for _, source, measured, told in covered])
        same = score([Outcome("", 1.0, ours[quantity, row]) for row, *_ in covered if (quantity, row) in ours])
        beside = f"{same.median_ape_pct:.1f} % by trimtab on {same.n} of them" if same.median_ape_pct is not None else "trimtab not asked"
        parts.append(f"{quantity} median {theirs.median_ape_pct:.1f} %, bias {theirs.bias_pct:+.1f} % on {theirs.n} rows ({beside})")
    reasons = Counter(str(told["why"])[:80] for *_, told in found if "why" in told).most_common(3)
    return f"{name} ({n} rows asked for): " + "; ".join(parts or ["it covers no row"]) + "".join(f"\n  {k} x {why}" for why, k in reasons)


def _sweep_rows(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Aggregated rows of sweeps of servers, evenly through the files."""
    rows: list[dict[str, str]] = []
    for path in paths:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows += [row for row in csv.DictReader(file) if row.get("silicon_tpot_ms") and row.get("mode") == "agg"]
    return rows[:: max(1, len(rows) // N_SWEEP_ROWS)]


def _estimate(row: Mapping[str, str]) -> dict[str, Any]:
    """A row in the words of `cli_estimate`."""
    sizes = {name: int(float(row[name])) for name in ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size") if row[name]}
    modes = {name: row[name] for name in ("gemm_quant_mode", "moe_quant_mode") if row[name]}
    dense = sizes.get("moe_tp_size", 1) * sizes.get("moe_ep_size", 1) <= 1
    told = {name: size for name, size in sizes.items() if size and not (dense and name.startswith("moe"))}
    return {
        "model_path": NAMES.get(row["model_path"], row["model_path"]),
        "system_name": row["system"],
        "backend_name": row["backend"],
        "isl": int(float(row["isl"])),
        "osl": int(float(row["osl"])),
        "batch_size": max(1, round(float(row["batch_size"]))),
        **told,
        **modes,
    }


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
        },
        "layout": {name: int(degrees[name]) for name in ("dp", "tp", "pp", "micro_batch", "grad_accum", "zero_stage", "recompute")},
        "sp": bool(degrees["sequence_parallel"]),
        "seq_len": job.seq_tokens,
        "global_batch": job.global_batch_seqs,
        "n_devices": job.n_devices,
        "flops_efficiency": MFU,
    }
