"""Search for the layout that trains a model best: every layout that divides, on every device and count asked for, weighed at once.

What does not fit the memory is dropped, the rest is timed, and what breaks the budget, the deadline or the number of devices is set aside.
The same question gives the same answer: ties go to the layout that comes first in the order of `space.enumerate_layouts`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Device, TrainJob
from trimtab.plan.operators import n_params
from trimtab.plan.search.feed import Feed, Supply, feed
from trimtab.plan.search.goodput import DEFAULT_RATE, DEFAULT_STORAGE, FAILURE_RATES, STORAGES, FailureRate, Goodput, Storage, goodput
from trimtab.plan.search.pareto import front
from trimtab.plan.search.space import Space, enumerate_layouts
from trimtab.plan.training.layouts import Layouts
from trimtab.plan.training.memory import TrainMemory, peak
from trimtab.plan.training.time import TrainTime, step

FloatArray = NDArray[np.float64]
Objective = Literal["time", "money", "energy", "memory"]
OBJECTIVES: tuple[Objective, ...] = ("time", "money", "energy", "memory")
CHUNK = 8192
"""Layouts weighed at a time: their arrays stay in the processor's cache."""
DEFAULT_TOKENS = 1e9
N_BEST = 10
N_LEANEST, ABOUT = 3, 1.05
KIND = ("tp", "pp", "cp", "ep", "zero_stage", "offload")
"""Layouts that differ in nothing of this (and have the same devices and precision) are one kind: ten names for one choice help nobody."""
SHARDED_PIPELINES = ("torchtitan", "fsdp", "maxtext", "trimtab")
"""Frameworks that shard gradients and weights under a pipeline; others refuse it."""
MEMORY_MARGIN = 0.1
"""Of the predicted peak, kept free because the prediction errs; the caller may know better from published runs."""


@dataclass(frozen=True, kw_only=True)
class TrainAsk:
    """What is to be trained, on what of which devices, and what it may cost.

    counts: numbers of devices; tokens: in all, 0 = prices and times are told for 1e9
    precisions, framework, optimizer: as in `TrainJob`
    usd_per_device_hour: by name of the device; a device that is missing has no known price
    budget_usd, deadline_h, max_devices: what a plan must keep to; memory_margin: see `MEMORY_MARGIN`
    pinned: fields of a layout with the only value they may have; objective: what "best" means
    failures, storage: what interrupts a run and what takes its checkpoints; supply: what brings its data, None = not asked
    """

    architecture: Architecture
    devices: tuple[Device, ...]
    counts: tuple[int, ...]
    seq_tokens: int
    global_batch_seqs: int
    tokens: float = 0.0
    precisions: tuple[str, ...] = ("bf16",)
    framework: str = ""
    optimizer: str = "adamw"
    usd_per_device_hour: Mapping[str, float] = field(default_factory=dict)
    budget_usd: float = math.inf
    deadline_h: float = math.inf
    max_devices: int = 0
    memory_margin: float = MEMORY_MARGIN
    pinned: Mapping[str, int] = field(default_factory=dict)
    objective: Objective = "time"
    failures: FailureRate = FAILURE_RATES[DEFAULT_RATE]
    storage: Storage = STORAGES[DEFAULT_STORAGE]
    supply: Supply | None = None
    space: Space = field(default_factory=Space)


@dataclass(frozen=True, kw_only=True)
class Physics:
    """What weighs layouts: their memory and their step. Tests and calibrated predictions put their own in its place."""

    memory: Callable[[TrainJob, Layouts], TrainMemory] = peak
    time: Callable[[TrainJob, Layouts], TrainTime] = step


UNCALIBRATED = Physics()


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """All layouts of one device, count and precision. step_s is infinite where a layout does not fit the memory."""

    job: TrainJob
    layouts: Layouts
    memory_bytes: FloatArray
    step_s: FloatArray
    usd_per_device_hour: float
    goodput: Goodput

    def __len__(self) -> int:
        return len(self.layouts)


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """One layout with what it costs. hours, usd, kwh: for all tokens, failures and checkpoints included; None = not known

    step_s is of steps that go well and never wait for data; feed: whether they do, None = not asked
    headroom_bytes: of the device's memory, what the predicted peak leaves
    kwh: of the devices at their rated power, without hosts, network and cooling
    time_parts, memory_parts: seconds of a step and bytes, by part
    """

    job: TrainJob
    layout: Mapping[str, int]
    step_s: float
    tok_s_per_device: float
    mfu: float
    light_s: float
    memory_bytes: float
    headroom_bytes: float
    hours: float
    usd: float | None
    kwh: float | None
    goodput: Goodput
    feed: Feed | None
    time_parts: Mapping[str, float]
    memory_parts: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TrainSearch:
    """best: at most ten, the best first, each the best of its kind (`KIND`).

    front: what no other plan beats in time, money, energy and memory head-room together
    weighed: all that was looked at, for `why`; refused: device, count and the reason where nothing divides
    n_layouts, n_fit, n_allowed: looked at, of them fit the memory, of them keep to budget, deadline and devices
    none_because: one sentence where `best` is empty; leanest: where nothing fits, what needs about the least memory, timed all the same
    """

    ask: TrainAsk
    best: tuple[TrainPlan, ...]
    front: tuple[TrainPlan, ...]
    weighed: tuple[Weighed, ...]
    refused: tuple[tuple[str, int, str], ...]
    n_layouts: int
    n_fit: int
    n_allowed: int
    none_because: str = ""
    leanest: tuple[TrainPlan, ...] = ()


def search(ask: TrainAsk, physics: Physics = UNCALIBRATED) -> TrainSearch:
    """Weigh every layout and name the best. Raises InputError where the question makes no sense or nothing divides."""
    _check(ask)
    weighed, refused = [], []
    for device in ask.devices:
        for count in ask.counts:
            for precision in ask.precisions:
                try:
                    weighed.append(weigh(ask, _job(ask, device, count, precision), physics))
                except InputError as error:
                    refused.append((device.name, count, str(error)))
    if not weighed:
        raise InputError(refused[0][2])
    table = _table(ask, weighed)
    allowed = np.flatnonzero(table.allowed)
    order = allowed[_order(table.objectives[allowed], OBJECTIVES.index(ask.objective))]
    on_front = allowed[front(table.objectives[allowed])] if len(allowed) else allowed
    on_front = on_front[_order(table.objectives[on_front], OBJECTIVES.index(ask.objective))]

    best = _unlike(weighed, table, order)[:N_BEST]
    plans: dict[int, TrainPlan] = {}
    for part, one in enumerate(weighed):
        rows = [int(row) for row in dict.fromkeys((*best, *on_front)) if table.part[row] == part]
        if not rows:
            continue
        plans |= zip(rows, plans_at(ask, one, [int(table.position[row]) for row in rows], physics), strict=True)
    fits = np.isfinite(table.objectives[:, 0])
    return TrainSearch(
        ask=ask,
        best=tuple(plans[row] for row in best),
        front=tuple(plans[row] for row in on_front),
        weighed=tuple(weighed),
        refused=tuple(refused),
        n_layouts=len(table.part),
        n_fit=int(fits.sum()),
        n_allowed=len(allowed),
        none_because="" if len(allowed) else _none_because(ask, weighed, table),
        leanest=() if fits.any() else _leanest(ask, weighed, table, physics),
    )


def _check(ask: TrainAsk) -> None:
    if not ask.devices:
        raise InputError("No device was named; give --hardware, for example h100-sxm.")
    for name, value in (("--devices", min(ask.counts, default=0)), ("--seq", ask.seq_tokens), ("--global-batch", ask.global_batch_seqs)):
        if value < 1:
            raise InputError(f"{name} must be a whole number above zero, not {value}.")
    for flag, limit in (("--budget", ask.budget_usd), ("--deadline", ask.deadline_h)):
        if not limit > 0:
            raise InputError(f"{flag} must be above zero, not {limit:g}: nothing trains for less.")
    if ask.max_devices and min(ask.counts) > ask.max_devices:
        raise InputError(
            f"At most {ask.max_devices} devices may be used, and --devices begins at {min(ask.counts)}; lower one or raise the other."
        )
    unpriced = [device.name for device in ask.devices if device.name not in ask.usd_per_device_hour]
    if math.isfinite(ask.budget_usd) and unpriced:
        raise InputError(f"--budget needs a price, and {unpriced[0]} has none in the catalog; give --price USD_PER_DEVICE_HOUR.")
    if not 0 <= ask.memory_margin < 10:
        raise InputError(f"The share of memory kept free for errors must lie between 0 and 10, not {ask.memory_margin:g}.")


def _job(ask: TrainAsk, device: Device, count: int, precision: str) -> TrainJob:
    return TrainJob(
        architecture=ask.architecture,
        device=device,
        n_devices=count,
        seq_tokens=ask.seq_tokens,
        global_batch_seqs=ask.global_batch_seqs,
        precision=precision,
        framework=ask.framework,
        optimizer=ask.optimizer,
        tokens=ask.tokens,
    )


def _check_device(job: TrainJob) -> None:
    """Raises InputError for a device of which what every time rests on is not known."""
    device = job.device
    needs = {
        "memory": device.memory_bytes,
        "memory bandwidth": device.memory_bytes_s,
        "rate of matrix products": max(device.peak_flop_s.values(), default=0.0),
    }
    for what, value in needs.items():
        if value <= 0:
            raise InputError(
                f"The {what} of {device.name} is not known, so nothing can be said of training on it; give it in a TOML of your own."
            )
    if job.n_devices > 1 and not (device.link_bytes_s or device.network_bytes_s or device.host_link_bytes_s):
        raise InputError(
            f"How {job.n_devices} {device.name} are joined is not known, so they cannot be planned together; give link_bytes_s or "
            "network_bytes_s in a TOML of your own, or take --devices 1."
        )


def weigh(ask: TrainAsk, job: TrainJob, physics: Physics = UNCALIBRATED) -> Weighed:
    """Memory of every layout, and the time of those that fit."""
    _check_device(job)
    space = replace(ask.space, sharded_pipelines=True) if ask.framework in SHARDED_PIPELINES else ask.space
    many = enumerate_layouts(job, space, ask.pinned)
    memory_bytes = np.empty(len(many))
    step_s = np.full(len(many), np.inf)
    for start in range(0, len(many), CHUNK):
        chunk = many.take(slice(start, start + CHUNK))
        memory_bytes[start : start + CHUNK] = physics.memory(job, chunk).total_bytes
        fits = np.flatnonzero(memory_bytes[start : start + CHUNK] * (1.0 + ask.memory_margin) <= job.device.memory_bytes)
        if len(fits):
            step_s[start + fits] = physics.time(job, chunk.take(fits)).step_s
    return Weighed(
        job=job,
        layouts=many,
        memory_bytes=memory_bytes,
        step_s=step_s,
        usd_per_device_hour=ask.usd_per_device_hour.get(job.device.name, math.nan),
        goodput=goodput(n_params(job.architecture), job.n_devices, rate=ask.failures, storage=ask.storage),
    )


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Rows of all `Weighed` one after the other.

    objectives: columns as `OBJECTIVES`, smaller is better, NaN = not known, infinite = does not fit
    """

    part: NDArray[np.int64]
    position: NDArray[np.int64]
    objectives: FloatArray
    allowed: NDArray[np.bool_]


def _table(ask: TrainAsk, weighed: list[Weighed]) -> _Table:
    blocks = [_objectives(ask, one) for one in weighed]
    objectives = np.concatenate(blocks)
    n_devices = np.concatenate([np.full(len(one), one.job.n_devices) for one in weighed])
    allowed = np.isfinite(objectives[:, 0]) & (objectives[:, 0] <= ask.deadline_h)
    if math.isfinite(ask.budget_usd):
        allowed &= objectives[:, 1] <= ask.budget_usd
    if ask.max_devices:
        allowed &= n_devices <= ask.max_devices
    return _Table(
        part=np.concatenate([np.full(len(one), index) for index, one in enumerate(weighed)]),
        position=np.concatenate([np.arange(len(one)) for one in weighed]),
        objectives=objectives,
        allowed=allowed,
    )


def _objectives(ask: TrainAsk, one: Weighed) -> FloatArray:
    """hours, USD, kWh, and bytes used less bytes there (so that more head-room is smaller)."""
    hours = hours_of(ask, one, one.step_s)
    device_hours = hours * one.job.n_devices
    power_w = one.job.device.power_w or math.nan
    return np.stack(
        [hours, device_hours * one.usd_per_device_hour, device_hours * power_w / 1000.0, one.memory_bytes - one.job.device.memory_bytes],
        axis=1,
    )


def hours_of(ask: TrainAsk, one: Weighed, step_s: FloatArray) -> FloatArray:
    """Wall clock for all tokens: no step is shorter than its data takes to come, and failures and checkpoints come on top."""
    step_tokens = one.job.seq_tokens * one.job.global_batch_seqs
    fed = feed(1.0, one.job.n_devices, ask.supply).most_tok_s if ask.supply else math.inf
    paced = np.maximum(step_s, step_tokens / fed)
    return (one.job.tokens or DEFAULT_TOKENS) / step_tokens * paced / max(one.goodput.share, 1e-12) / 3600.0


def _order(objectives: FloatArray, first: int) -> NDArray[np.intp]:
    """Best first by one column, then by the others as they stand, then by position."""
    columns = [first, *(column for column in range(objectives.shape[1]) if column != first)]
    return np.lexsort([np.nan_to_num(objectives[:, column], nan=np.inf) for column in columns[::-1]])


def _unlike(weighed: list[Weighed], table: _Table, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first row of each kind, in order."""
    columns = [table.part, *(np.concatenate([getattr(one.layouts, name) for one in weighed]) for name in KIND)]
    code = np.zeros(len(order), dtype=np.int64)
    for column in columns:
        code = code * (int(column.max()) + 1) + column[order]
    return order[np.sort(np.unique(code, return_index=True)[1])]


def plan_at(ask: TrainAsk, one: Weighed, position: int, physics: Physics = UNCALIBRATED) -> TrainPlan:
    """One row of what was weighed, with all its parts, also where it does not fit."""
    return plans_at(ask, one, [position], physics)[0]


def plans_at(ask: TrainAsk, one: Weighed, positions: Sequence[int], physics: Physics = UNCALIBRATED) -> list[TrainPlan]:
    """Rows of what was weighed, in the order asked for."""
    many = one.layouts.take(np.array(positions, dtype=np.int64))
    memory, time = physics.memory(one.job, many), physics.time(one.job, many)
    hours = hours_of(ask, one, time.step_s)
    power_w, room = one.job.device.power_w, one.job.device.memory_bytes
    plans = []
    for row in range(len(many)):
        device_hours = float(hours[row]) * one.job.n_devices
        tok_s = float(time.tok_s_per_device[row])
        plans.append(
            TrainPlan(
                job=one.job,
                layout=many.one(row),
                step_s=float(time.step_s[row]),
                tok_s_per_device=tok_s,
                mfu=float(time.mfu[row]),
                light_s=float(time.light_s[row]),
                memory_bytes=float(memory.total_bytes[row]),
                headroom_bytes=room - float(memory.total_bytes[row]),
                hours=float(hours[row]),
                usd=None if math.isnan(one.usd_per_device_hour) else device_hours * one.usd_per_device_hour,
                kwh=device_hours * power_w / 1000.0 if power_w else None,
                goodput=one.goodput,
                feed=feed(tok_s, one.job.n_devices, ask.supply) if ask.supply else None,
                time_parts=_parts(time, row, "_s", ("step_s", "tok_s_per_device", "light_s")),
                memory_parts=_parts(memory, row, "_bytes", ("total_bytes", "host_bytes")),
            )
        )
    return plans


def _parts(of: TrainTime | TrainMemory, row: int, unit: str, without: tuple[str, ...]) -> dict[str, float]:
    """The summands of one layout by name, without their unit."""
    return {name.removesuffix(unit): float(values[row]) for name, values in vars(of).items() if name.endswith(unit) and name not in without}


def _leanest(ask: TrainAsk, weighed: list[Weighed], table: _Table, physics: Physics) -> tuple[TrainPlan, ...]:
    """Of the devices that lack least memory the fastest layouts that are about as lean as can be, the first of each kind."""
    part = int(table.part[np.argmin(table.objectives[:, 3])])
    one, rows = weighed[part], np.flatnonzero(table.part == part)
    rows = rows[one.memory_bytes <= ABOUT * one.memory_bytes.min()]
    step_s = physics.time(one.job, one.layouts.take(table.position[rows])).step_s
    rows = _unlike(weighed, table, rows[np.argsort(step_s, kind="stable")])[:N_LEANEST]
    return tuple(plans_at(ask, one, [int(table.position[row]) for row in rows], physics))


def _none_because(ask: TrainAsk, weighed: list[Weighed], table: _Table) -> str:
    fits = np.isfinite(table.objectives[:, 0])
    if not fits.any():
        row = int(np.argmin(table.objectives[:, 3]))
        one = weighed[int(table.part[row])]
        need = one.memory_bytes[int(table.position[row])]
        return (
            f"No layout fits: the leanest needs {need / 1e9:.1f} GB of the {one.job.device.memory_bytes / 1e9:.1f} GB of "
            f"{one.job.device.name} on {one.job.n_devices} devices, with {100 * ask.memory_margin:.0f} % kept free for errors; "
            "give more devices, more memory, or let --offload be tried."
        )
    fastest, cheapest = table.objectives[fits, 0].min(), table.objectives[fits, 1].min()
    if math.isfinite(ask.deadline_h) and fastest > ask.deadline_h:
        return f"No layout is fast enough: the fastest takes {fastest:,.1f} h, and --deadline gives {ask.deadline_h:,.1f} h; give more."
    if math.isfinite(ask.budget_usd) and cheapest > ask.budget_usd:
        return f"No layout is cheap enough: the cheapest costs {cheapest:,.0f} USD, and --budget gives {ask.budget_usd:,.0f} USD."
    return "No layout keeps to the budget, the deadline and the number of devices at once; loosen one of them."
