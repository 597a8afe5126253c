"""Why the others lose: for each choice of the best plan, the best layout that chose otherwise, and what it pays for that, in one sentence.

Nothing is guessed: the sentences come from the parts of both layouts' time and memory. A rival keeps the devices and the precision of the
plan where another degree is compared, and may choose everything else anew.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.planning import TrainJob
from trimtab.plan.search.train import UNCALIBRATED, Physics, TrainPlan, TrainSearch, Weighed, plan_at, weigh
from trimtab.plan.training.layouts import RECOMPUTE, layouts, refusals

DEGREES = ("tp", "pp", "vp", "cp", "ep", "zero_stage", "recompute", "micro_batch", "grad_sync_each", "offload", "schedule")
WORDS = {"recompute": {value: word for word, value in RECOMPUTE.items()}}
PARTS = {
    "matmul": "matrix products",
    "attention": "attention",
    "elementwise": "elementwise work",
    "launch": "starting kernels",
    "logits": "logits",
    "recompute": "computing activations again",
    "tensor_comm": "tensor-parallel messages",
    "expert_comm": "expert messages",
    "context_comm": "context-parallel messages",
    "pipeline_comm": "messages between stages",
    "bubble": "pipeline bubble",
    "data_comm": "gradient and weight messages",
    "optimizer": "optimizer",
    "fixed": "fixed costs",
    "weights": "weights",
    "gradients": "gradients",
    "activations": "activations",
    "buffers": "buffers",
    "overhead": "overhead",
}
ENOUGH = 0.005
"""Shares below this are no difference worth a word."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One choice that was not taken. dimension: field of a layout, `devices`, `device` or `precision`; value: the other choice

    slower: its step, or for other devices its whole time, over the best one's, less 1; None = it cannot run
    sentence: e.g. `tp=4: 18 % slower: 61 ms more of tensor-parallel messages`
    """

    dimension: str
    value: str
    slower: float | None
    sentence: str
    plan: TrainPlan | None = None


def why_others_lose(found: TrainSearch, plan: TrainPlan | None = None, physics: Physics = UNCALIBRATED) -> tuple[Loss, ...]:
    """Rivals of a plan (the best one, if none is given) by dimension, as a layout's fields stand, each with the next best values first."""
    plan = plan or (found.best[0] if found.best else None)
    if plan is None:
        return ()
    mine = next(one for one in found.weighed if one.job == plan.job)
    losses: list[Loss] = []
    for dimension in DEGREES:
        values = sorted({int(value) for value in np.unique(getattr(mine.layouts, dimension))} - {plan.layout[dimension]})
        rivals = [_rival(found, plan, mine, dimension, value, physics) for value in values]
        losses += sorted(rivals, key=lambda loss: (loss.slower is None, loss.slower or 0.0))
    return (*losses, *_other_runs(found, plan, physics))


def why_not(found: TrainSearch, pinned: Mapping[str, int], plan: TrainPlan | None = None, physics: Physics = UNCALIBRATED) -> Loss:
    """Why one named alternative loses, e.g. {"tp": 4} or a whole layout. Where it cannot run, the sentence says what does not divide."""
    plan = plan or (found.best[0] if found.best else None)
    if plan is None:
        raise InputError(f"There is nothing to compare with: {found.none_because}")
    mine = next(one for one in found.weighed if one.job == plan.job)
    mask = np.ones(len(mine), bool)
    for name, value in pinned.items():
        mask &= getattr(mine.layouts, name) == value
    name, label = ",".join(pinned), ",".join(f"{key}={_word(key, one)}" for key, one in pinned.items())
    if not mask.any():  # outside the space that was searched, or not possible at all
        try:
            mine = weigh(replace(found.ask, pinned=pinned), plan.job, physics)
        except InputError:
            return Loss(dimension=name, value=label, slower=None, sentence=f"{label}: {_does_not_divide(plan, pinned)}")
        mask = np.ones(len(mine), bool)
    return _against(found, plan, mine, mask, name, label, label, physics)


def _rival(found: TrainSearch, plan: TrainPlan, mine: Weighed, dimension: str, value: int, physics: Physics) -> Loss:
    label = f"{dimension}={_word(dimension, value)}"
    mask = getattr(mine.layouts, dimension) == value
    return _against(found, plan, mine, mask, dimension, _word(dimension, value), label, physics)


def _against(
    found: TrainSearch, plan: TrainPlan, mine: Weighed, mask: NDArray[np.bool_], dimension: str, value: str, label: str, physics: Physics
) -> Loss:
    """The best layout among those of the mask against the plan, or the leanest, if none fits."""
    rows = np.flatnonzero(mask)
    best = int(rows[np.argmin(mine.step_s[rows])])
    if not np.isfinite(mine.step_s[best]):
        leanest = int(rows[np.argmin(mine.memory_bytes[rows])])
        rival = plan_at(found.ask, mine, leanest, physics)
        return Loss(
            dimension=dimension, value=value, slower=None, sentence=f"{label}: {_too_big(rival, found.ask.memory_margin)}", plan=rival
        )
    rival = plan_at(found.ask, mine, best, physics)
    slower = rival.step_s / plan.step_s - 1.0
    return Loss(dimension=dimension, value=value, slower=slower, sentence=f"{label}: {_slower(rival, plan, slower)}", plan=rival)


def _word(name: str, value: int) -> str:
    return WORDS.get(name, {}).get(value, str(value))


def _too_big(rival: TrainPlan, margin: float) -> str:
    room = rival.job.device.memory_bytes
    largest = max(rival.memory_parts, key=lambda name: rival.memory_parts[name])
    part = f"{rival.memory_parts[largest] / 1e9:.1f} GB of it {PARTS.get(largest, largest)}"
    need = f"needs {rival.memory_bytes / 1e9:.1f} GB of {room / 1e9:.0f} GB, {part}"
    return need if rival.memory_bytes > room else f"{need}, which leaves less than the {100 * margin:.0f} % that the prediction may err"


def _slower(rival: TrainPlan, plan: TrainPlan, slower: float) -> str:
    """How much slower, and the part that grew most; what it saves in memory where it loses next to nothing."""
    if slower < ENOUGH:
        saved = plan.memory_bytes - rival.memory_bytes
        word = "as fast" if slower > -ENOUGH else f"{_percent(-slower)} faster"
        memory = f"{abs(saved) / 1e9:.1f} GB {'less' if saved > 0 else 'more'} memory"
        return f"{word}, with {memory}" if abs(saved) > 5e7 else word
    grew = {name: value - plan.time_parts.get(name, 0.0) for name, value in rival.time_parts.items()}
    most = max(grew, key=lambda name: (grew[name], name))
    return f"{_percent(slower)} slower: {_seconds(grew[most])} more of {PARTS.get(most, most)}"


def _percent(share: float) -> str:
    percent = 100.0 * share
    return f"{percent:.1f} %" if percent < 10 else f"{percent:,.0f} %"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"


def _other_runs(found: TrainSearch, plan: TrainPlan, physics: Physics) -> list[Loss]:
    """The best of every other device, count and precision, by the whole run."""
    losses = []
    for one in found.weighed:
        if one.job == plan.job:
            continue
        dimension, value = _difference(one.job, plan.job)
        best = int(np.argmin(one.step_s))
        if not np.isfinite(one.step_s[best]):
            rival = plan_at(found.ask, one, int(np.argmin(one.memory_bytes)), physics)
            losses.append(
                Loss(
                    dimension=dimension,
                    value=value,
                    slower=None,
                    sentence=f"{value}: {_too_big(rival, found.ask.memory_margin)}",
                    plan=rival,
                )
            )
            continue
        rival = plan_at(found.ask, one, best, physics)
        losses.append(
            Loss(
                dimension=dimension,
                value=value,
                slower=rival.hours / plan.hours - 1.0,
                sentence=f"{value}: {_run(found, rival, plan)}",
                plan=rival,
            )
        )
    refused = [
        Loss(dimension="devices", value=f"{n} x {device}", slower=None, sentence=f"{n} x {device}: {why}")
        for device, n, why in found.refused
    ]
    return sorted(losses, key=lambda loss: (loss.slower is None, loss.slower or 0.0)) + refused


def _difference(job: TrainJob, mine: TrainJob) -> tuple[str, str]:
    precision = f" in {job.precision}" if job.precision != mine.precision else ""
    dimension = "device" if job.device != mine.device else "devices" if job.n_devices != mine.n_devices else "precision"
    return dimension, f"{job.n_devices} x {job.device.name}{precision}"


def _run(found: TrainSearch, rival: TrainPlan, plan: TrainPlan) -> str:
    ratio = rival.hours / plan.hours
    time = f"{rival.hours:,.1f} h, {ratio:.2f} times as long" if ratio >= 1.0 else f"{rival.hours:,.1f} h, {ratio:.2f} times the time"
    said = time if rival.usd is None or plan.usd is None else f"{time}, for {rival.usd:,.0f} USD instead of {plan.usd:,.0f}"
    ask = found.ask
    if rival.hours > ask.deadline_h:
        return f"{said}: over the deadline of {ask.deadline_h:,.1f} h"
    if rival.usd is not None and rival.usd > ask.budget_usd:
        return f"{said}: over the budget of {ask.budget_usd:,.0f} USD"
    if ask.max_devices and rival.job.n_devices > ask.max_devices:
        return f"{said}: more than {ask.max_devices} devices"
    if rival.job.precision != plan.job.precision and ratio < 1.0:
        return f"{said}; its quality is to be certified by compare"
    return said


def _does_not_divide(plan: TrainPlan, pinned: Mapping[str, int]) -> str:
    """The first rule that the plan's own layout breaks once the named fields are changed and replicas and accumulation follow."""
    job, told = plan.job, {**plan.layout, **pinned}
    if job.n_devices % math.prod(pinned.get(name, 1) for name in ("tp", "pp", "cp", "dp")):
        return f"does not divide {job.n_devices} devices"
    ranks = told["tp"] * told["pp"] * told["cp"]
    told["dp"] = pinned.get("dp", max(job.n_devices // ranks, 1))
    told["grad_accum"] = pinned.get("grad_accum", max(job.global_batch_seqs // (told["dp"] * told["micro_batch"]), 1))
    many = layouts(**told)
    rules = [words for broken, words in refusals(job, many) if broken.any()]
    return rules[0].format(**many.one(0)) if rules else "no layout of these devices and this batch has it"
