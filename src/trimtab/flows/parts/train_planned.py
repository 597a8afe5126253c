"""Plan meets run: what the planner says of a training on this machine, held against what it then takes, and kept for the next plan."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from trimtab.core.errors import InputError, MissingError
from trimtab.core.phrases import significant
from trimtab.core.planning import Architecture, Device, TrainJob
from trimtab.core.training import StepRecord, TrainConfig
from trimtab.flows.parts.own_hardware import THIS_MACHINE, find_device
from trimtab.flows.parts.plan_feedback import MEASUREMENTS
from trimtab.flows.parts.plan_predicted import predict_layout
from trimtab.flows.parts.plan_told import Number, inverse, scaled
from trimtab.plan.anchors.measured import Measurement, remember
from trimtab.plan.anchors.scheme import UNITS
from trimtab.plan.flops import DEFAULT, train_flops_per_token
from trimtab.plan.training.features import memory_features, time_features
from trimtab.plan.training.layouts import RECOMPUTE, Layouts, layouts
from trimtab.plan.training.memory import peak
from trimtab.plan.training.rows import setting_of
from trimtab.plan.training.time import step
from trimtab.record.home import state_dir

OPTIMIZERS = {"adamw": "adamw", "adamw8bit": "adamw-8bit", "sgd": "sgd"}
WARM_UP_STEPS, LEAST_STEPS = 2, 5
"""The first steps are slower; fewer than so many say little."""
LORA = "megatron-lora"
GLANCE_S = 1.0
COUNTED = 0.7
"""What is counted from the shape alone, without an interval, may be so much less."""
COPIES = 4.0
"""Processes of one machine exchange through its memory; each message is written and read about so often."""
NO_FP64 = "Training in fp64 is not predicted."


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run before it starts.

    numbers: `step_time_s`, `tok_s` of all processes, `peak_memory_bytes` of the largest process; empty where `why_not` says why. One that
        nothing measured supports is `unknown` and has what physics alone says as `physics`
    job, layout: as the planner sees it: a processor's cores and memory are shared out over the processes
    is_known: the device is one of the planner's, so that what is measured here is kept; notes: what the numbers leave out
    flops_per_token, peak_flop_s: of the convention named, and of all processes together; 0 = not known
    """

    job: TrainJob
    layout: Layouts
    processes: int
    is_known: bool
    numbers: dict[str, Number] = field(default_factory=dict)
    why_not: str = ""
    notes: tuple[str, ...] = ()
    convention: str = DEFAULT
    flops_per_token: float = 0.0
    peak_flop_s: float = 0.0


def plan_run(config: TrainConfig, architecture: Architecture, processes: int) -> Planned:
    """What the planner says of this configuration in so many processes here. config: resolved. Raises InputError for unknown hardware."""
    from trimtab.train.config import resolved

    config = resolved(config, processes)
    device, is_known, notes = run_device(config, processes)
    job = TrainJob(
        architecture=architecture,
        device=device,
        n_devices=processes,
        seq_tokens=config.train.seq_tokens,
        global_batch_seqs=config.train.global_batch_seqs,
        precision="bf16" if config.train.precision == "bf16" else "fp32",
        framework="trimtab",
        optimizer=OPTIMIZERS[config.optimizer.name],
        tokens=float(config.train.tokens),
        trains="adapters" if config.model.lora_rank else "all",
    )
    layout = run_layout(config)
    convention = LORA if job.trains == "adapters" else DEFAULT
    wanted = "bf16" if job.precision == "bf16" and "bf16" in device.peak_flop_s else "fp32"
    told = Planned(
        job=job,
        layout=layout,
        processes=processes,
        is_known=is_known and _is_plain(config),
        notes=(*notes, *_left_out(config)),
        convention=convention,
        flops_per_token=train_flops_per_token(architecture, job.seq_tokens, convention),
        peak_flop_s=device.peak_flop_s.get(wanted, 0.0) * processes,
    )
    if config.train.precision == "fp64":
        return replace(told, why_not=NO_FP64)
    speed, memory = predict_layout(job, layout)
    tok_s = scaled(speed, float(processes), "tok/s")
    step_s = inverse(tok_s, float(job.seq_tokens * job.global_batch_seqs), "s")
    if "unknown" in speed:
        physics_s = float(step(job, layout).step_s[0])
        step_s |= {"physics": physics_s}
        tok_s |= {"physics": job.seq_tokens * job.global_batch_seqs / physics_s}
    return replace(told, numbers={"step_time_s": step_s, "tok_s": tok_s, "peak_memory_bytes": memory})


def run_device(config: TrainConfig, processes: int) -> tuple[Device, bool, tuple[str, ...]]:
    """What one process has, whether the planner knows the device, and what a person should know of the choice.

    The device that [hardware] names where there is an accelerator; else this machine, as `plan measure` found it or at a glance.
    """
    named = str(config.hardware.get("device", ""))
    notes: tuple[str, ...] = ()
    if named:
        device = find_device(named)
        if device.kind in ("cpu", "soc") or _has_accelerator():
            return _share(device, processes), True, ()
        notes = (f"Planned for {named}; here is none, so the numbers are of this machine.",)
    try:
        return _share(find_device(THIS_MACHINE), processes), True, notes
    except InputError:
        hint = "This machine was measured at a glance; `trimtab plan measure` does it well, and lets the planner learn from this run."
        return _share(_at_a_glance(), processes), False, (*notes, hint)


def _has_accelerator() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _share(device: Device, processes: int) -> Device:
    """A processor's part for each of the processes that share it; an accelerator is one process's own."""
    if device.kind not in ("cpu", "soc"):
        return device
    return replace(
        device,
        peak_flop_s={kind: rate / processes for kind, rate in device.peak_flop_s.items()},
        matmul_flop_s={kind: rate / processes for kind, rate in device.matmul_flop_s.items()},
        memory_bytes=device.memory_bytes / processes,
        memory_bytes_s=device.memory_bytes_s / processes,
        link_bytes_s=device.link_bytes_s or device.memory_bytes_s / processes / COPIES,
        devices_per_node=processes,
    )


def _at_a_glance() -> Device:
    """This machine by a second's measurement, without a file."""
    from trimtab.measure.machine import machine, measure_rates

    here = machine()
    read_gb_s, gflop_s = measure_rates(GLANCE_S, here.n_cores)
    rate = {"fp32": gflop_s * 1e9}
    return Device(
        name=THIS_MACHINE,
        vendor="",
        kind="cpu",
        year=datetime.now(UTC).year,
        peak_flop_s=rate,
        matmul_flop_s=rate,
        memory_bytes=float(here.memory_bytes),
        memory_bytes_s=read_gb_s * 1e9,
    )


def run_layout(config: TrainConfig) -> Layouts:
    """A resolved configuration's layout in the planner's words."""
    return layouts(
        dp=config.layout.dp,
        zero_stage=config.layout.zero_stage,
        recompute=RECOMPUTE[config.train.recompute],
        micro_batch=config.train.micro_batch_seqs,
        grad_accum=config.train.grad_accum,
        offload=2 if config.train.offload else 0,
        grad_sync_each=int(config.train.grad_sync == "each"),
    )


def _is_plain(config: TrainConfig) -> bool:
    """Whether the planner means this kind of run: what a teacher or a grid adds would be learnt as the machine's slowness."""
    return config.objective.kind == "next-token" and not config.model.grid and config.train.precision != "fp64" and not config.train.compile


def _left_out(config: TrainConfig) -> tuple[str, ...]:
    notes = []
    if config.objective.kind == "distil":
        notes.append("The teacher is not in the predicted numbers.")
    if config.model.grid:
        notes.append("What rounding to the grid takes is not in the predicted numbers.")
    return tuple(notes)


def check_memory(planned: Planned) -> None:
    """Raises MissingError where even the low end of the predicted peak is more than there is."""
    held = planned.numbers.get("peak_memory_bytes")
    room = planned.job.device.memory_bytes
    if not held or not room:
        return
    least = held["low"] if held["low"] < held["value"] else COUNTED * held["value"]
    if least <= room:
        return
    together = f" for each of {planned.processes} processes" if planned.processes > 1 else ""
    raise MissingError(
        f"This training needs about {gb(held['value'])}{together} (at least {gb(least)}), and there are {gb(room)}.",
        _leaner(planned) + " --no-plan tries all the same.",
    )


def _leaner(planned: Planned) -> str:
    """What makes it smaller, most first."""
    ways = ["a smaller model"]
    if planned.job.trains == "all":
        ways.insert(0, "--lora RANK")
    if int(planned.layout.micro_batch[0]) > 1:
        ways.insert(0, "a smaller micro-batch")
    if int(planned.layout.recompute[0]) < RECOMPUTE["full"]:
        ways.insert(0, "recompute = full")
    return f"take {', '.join(ways[:-1])} or {ways[-1]}." if len(ways) > 1 else f"take {ways[0]}."


def gb(n_bytes: float) -> str:
    return f"{significant(n_bytes / 1e9)} GB"


@dataclass(frozen=True, kw_only=True)
class Met:
    """A predicted number beside the measured one. low, high, inside: None where physics alone stands behind the prediction."""

    quantity: str
    unit: str
    predicted: float | None
    low: float | None
    high: float | None
    measured: float
    inside: bool | None


def measured_numbers(planned: Planned, steps: Sequence[StepRecord]) -> dict[str, float]:
    """Medians after the warm-up, and the peak; nothing where there were too few steps. Tokens are those that were computed, pads too."""
    late = steps[WARM_UP_STEPS:]
    if len(late) < LEAST_STEPS - WARM_UP_STEPS:
        return {}
    step_s = statistics.median(one.step_s for one in late)
    found = {"step_time_s": step_s, "tok_s": planned.job.seq_tokens * planned.job.global_batch_seqs / step_s}
    peak_bytes = max(one.peak_memory_bytes for one in steps)
    return {**found, "peak_memory_bytes": float(peak_bytes)} if peak_bytes else found


def met(planned: Planned, steps: Sequence[StepRecord]) -> list[Met]:
    """Predicted against measured, one row a number that was measured."""
    rows = []
    units: dict[str, str] = {"step_time_s": "s", "tok_s": "tok/s", "peak_memory_bytes": "bytes"}
    for name, value in measured_numbers(planned, steps).items():
        number = planned.numbers.get(name, {})
        predicted, low, high = number.get("value", number.get("physics")), number.get("low"), number.get("high")
        if low is None or high is None or low == high:
            low = high = None
        inside = None if low is None or high is None else bool(low <= value <= high)
        rows.append(Met(quantity=name, unit=units[name], predicted=predicted, low=low, high=high, measured=value, inside=inside))
    return rows


def remember_run(planned: Planned, steps: Sequence[StepRecord]) -> int:
    """Keep what was measured for the planner; returns how many numbers.

    None where the planner does not know this machine or this kind of run, where steps were few, and where data held them up.
    """
    found = measured_numbers(planned, steps) if planned.is_known and planned.numbers else {}
    if not found or _waited(steps) > 0.05:
        return 0
    job, layout = planned.job, planned.layout
    took, held = step(job, layout), peak(job, layout)
    rows: list[tuple[Literal["tok_s_per_device", "peak_memory_bytes"], float, float, Any]] = [
        ("tok_s_per_device", found["tok_s"] / planned.processes, float(took.tok_s_per_device[0]), time_features(job, layout, took))
    ]
    if "peak_memory_bytes" in found:
        rows.append(("peak_memory_bytes", found["peak_memory_bytes"], float(held.total_bytes[0]), memory_features(job, layout, held)))
    n_kept = 0
    for quantity, value, physics, seen in rows:
        measurement = Measurement(
            quantity=quantity,
            unit=UNITS[quantity],
            value=value,
            physics=physics,
            features={**seen, "model": job.architecture.name},
            setting=setting_of(job, layout),
            model=job.architecture.name,
            when=datetime.now(UTC).date().isoformat(),
            conditions={"verb": "train", "processes": str(planned.processes)},
        )
        try:
            remember(state_dir() / MEASUREMENTS, measurement)
            n_kept += 1
        except (InputError, OSError):
            continue
    return n_kept


def _waited(steps: Sequence[StepRecord]) -> float:
    """Share of the time after the warm-up in which a process waited for data."""
    late = steps[WARM_UP_STEPS:]
    total = sum(one.step_s for one in late)
    return sum(one.data_wait_s for one in late) / total if total else 0.0
