"""All layouts of a training job that a search may choose from, as arrays, in one fixed order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.planning import TrainJob
from trimtab.plan.training.layouts import DEFAULTS, Layouts, check, layouts, possible

IntArray = NDArray[np.int64]
Rows = dict[str, IntArray]
Keep = Callable[[Rows], NDArray[np.bool_]]
POWERS = tuple(2**power for power in range(15))
FIXED = ("dp", "grad_accum")
"""What follows from the rest: the devices, and the batch."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Values that may be tried, by field of a layout; () = every value that divides.

    tp_across_nodes: tensor ranks may lie on several nodes (scale-up domains), which hardly ever pays
    sharded_pipelines: gradients and weights may be sharded (ZeRO 2, 3) under a pipeline, which gathers them at every micro-batch
    least_cp_tokens: of a sequence, on each context rank: no published run that we know cuts finer
    Left out, as no different or never better: sharding over one rank, sequence parallelism of one rank, early reduction of gradients
    that nothing shards, interleaving where the micro-batches are no multiple of the pipeline (Megatron-LM refuses that).
    """

    tp: tuple[int, ...] = ()
    pp: tuple[int, ...] = ()
    vp: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)
    cp: tuple[int, ...] = (1, 2, 4, 8, 16)
    ep: tuple[int, ...] = POWERS
    zero_stage: tuple[int, ...] = (0, 1, 2, 3)
    recompute: tuple[int, ...] = (0, 1, 2)
    micro_batch: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    sequence_parallel: tuple[int, ...] = (1,)
    offload: tuple[int, ...] = (0,)
    grad_sync_each: tuple[int, ...] = (0, 1)
    schedule: tuple[int, ...] = (0,)
    flash_attention: tuple[int, ...] = (1,)
    tp_across_nodes: bool = False
    sharded_pipelines: bool = False
    least_cp_tokens: int = 4096


def narrowed(space: Space, pinned: Mapping[str, int]) -> Space:
    """The space in which every pinned field has its one value. What is pinned is not judged: rules of taste are off for it."""
    known = {field.name for field in fields(Space)}
    values: dict[str, object] = {name: (value,) for name, value in pinned.items() if name in known}
    if "tp" in pinned:
        values["tp_across_nodes"] = True
    if "cp" in pinned:
        values["least_cp_tokens"] = 0
    if "zero_stage" in pinned and pinned.get("pp", 1) > 1:
        values["sharded_pipelines"] = True
    return replace(space, **values)  # type: ignore[arg-type]


def enumerate_layouts(job: TrainJob, space: Space, pinned: Mapping[str, int] | None = None) -> Layouts:
    """Every layout of the space that can run, once each, ordered by tp, pp, cp, vp, micro-batch, ep, sharding and the rest.

    pinned: fields with the only value they may have. Raises InputError where nothing divides, with what does not.
    """
    pinned = pinned or {}
    space = narrowed(space, pinned)
    rows = _degrees(job, space)
    rows = _stage(rows, "vp", space.vp, lambda r: _layers_fit(job, r) & ((r["vp"] == 1) | (r["pp"] > 1)))
    rows = _stage(rows, "micro_batch", space.micro_batch, lambda r: (job.global_batch_seqs // r["dp"]) % r["micro_batch"] == 0)
    rows["grad_accum"] = job.global_batch_seqs // (rows["dp"] * rows["micro_batch"])
    rows = _where(rows, (rows["vp"] == 1) | (rows["grad_accum"] % rows["pp"] == 0) | ("vp" in pinned))
    rows = _stage(rows, "ep", _expert_ranks(job, space.ep))
    rows = _stage(rows, "zero_stage", space.zero_stage, lambda r: _shards(r, space))
    rows = _stage(rows, "sequence_parallel", space.sequence_parallel)
    if "sequence_parallel" not in pinned:
        rows["sequence_parallel"] = np.where(rows["tp"] > 1, rows["sequence_parallel"], 0)
    rows = _stage(rows, "recompute", space.recompute)
    told = "grad_sync_each" in pinned
    rows = _stage(rows, "grad_sync_each", space.grad_sync_each, lambda r: (r["grad_sync_each"] == 0) | _early_helps(r) | told)
    for name in ("offload", "schedule", "flash_attention"):
        rows = _stage(rows, name, getattr(space, name))
    for name in FIXED:
        if name in pinned:
            rows = _where(rows, rows[name] == pinned[name])
    found = layouts(**rows) if len(rows["tp"]) else None
    found = found.take(possible(job, found)) if found is not None else None
    if found is None or not len(found):
        _refuse(job, pinned)
    assert found is not None
    return _without_twins(found) if len(space.sequence_parallel) > 1 else found


def _degrees(job: TrainJob, space: Space) -> Rows:
    """tp, pp, cp and dp of every split of the devices that divides the batch."""
    per_node = max(job.device.devices_per_node, 1)
    tps = [tp for tp in _divisors(job.n_devices, space.tp) if space.tp_across_nodes or _in_one_node(tp, per_node)]
    pps = [pp for pp in _divisors(job.n_devices, space.pp) if pp <= job.architecture.n_layers]
    cps = [cp for cp in _divisors(job.n_devices, space.cp) if cp == 1 or job.seq_tokens >= cp * space.least_cp_tokens]
    grid = np.array([(tp, pp, cp) for tp in tps for pp in pps for cp in cps], dtype=np.int64).reshape(-1, 3)
    grid = grid[job.n_devices % grid.prod(axis=1) == 0]
    dp = job.n_devices // grid.prod(axis=1)
    kept = job.global_batch_seqs % dp == 0
    return {"tp": grid[kept, 0], "pp": grid[kept, 1], "cp": grid[kept, 2], "dp": dp[kept]}


def _in_one_node(tp: int, per_node: int) -> bool:
    """Tensor ranks stay in a node that they divide, or in a domain so large that few devices would be left over."""
    return per_node % tp == 0 or per_node >= 16 * tp


def _divisors(number: int, allowed: Sequence[int]) -> list[int]:
    return [one for one in (sorted(set(allowed)) or range(1, number + 1)) if number % one == 0]


def _stage(rows: Rows, name: str, values: Sequence[int], keep: Keep | None = None) -> Rows:
    """Each row with each value of one more field, less those that are not to be kept."""
    ordered = np.array(sorted(set(values)), dtype=np.int64)
    grown = {key: np.repeat(column, len(ordered)) for key, column in rows.items()}
    grown[name] = np.tile(ordered, len(rows["tp"]))
    return grown if keep is None else _where(grown, keep(grown))


def _where(rows: Rows, mask: NDArray[np.bool_]) -> Rows:
    return {key: column[mask] for key, column in rows.items()}


def _layers_fit(job: TrainJob, rows: Rows) -> NDArray[np.bool_]:
    """No chunk stands empty: all have a layer, or the first has the embedding alone and the last the loss. The rest says `possible`."""
    return np.asarray(rows["pp"] * rows["vp"] <= job.architecture.n_layers + 2)


def _expert_ranks(job: TrainJob, allowed: Sequence[int]) -> list[int]:
    """Those that the experts of some layer divide over, or all that were pinned, for `possible` to refuse."""
    n_experts = max((block.feedforward.n_experts for block in job.architecture.blocks if block.feedforward), default=0)
    return [one for one in allowed if max(n_experts, 1) % one == 0] or list(allowed)


def _shards(rows: Rows, space: Space) -> NDArray[np.bool_]:
    pointless = (rows["zero_stage"] > 0) & (rows["dp"] * rows["cp"] == 1) & (len(set(space.zero_stage)) > 1)
    gathered = (rows["zero_stage"] > 1) & (rows["pp"] > 1) & (not space.sharded_pipelines)
    return np.asarray(~(pointless | gathered))


def _early_helps(rows: Rows) -> NDArray[np.bool_]:
    return np.asarray((rows["zero_stage"] > 1) & (rows["grad_accum"] > 1))


def _without_twins(found: Layouts) -> Layouts:
    """Without rows that became equal when sequence parallelism of one rank was switched off."""
    table = np.stack([getattr(found, name) for name in DEFAULTS], axis=1)
    _, first = np.unique(table, axis=0, return_index=True)
    return found.take(np.sort(first))


def _refuse(job: TrainJob, pinned: Mapping[str, int]) -> None:
    """Raise InputError for a space in which nothing runs: by the first rule that the pinned layout breaks, if one is pinned."""
    if pinned:
        told = {"tp": 1, "pp": 1, "cp": 1, "micro_batch": 1, **pinned}
        ranks = told["tp"] * told["pp"] * told["cp"]
        if "dp" not in pinned and job.n_devices % ranks:
            named = " x ".join(f"{name}={pinned[name]}" for name in ("tp", "pp", "cp") if name in pinned)
            raise InputError(f"The layout cannot run: {named} does not divide {job.n_devices} devices; change one of them.")
        told.setdefault("dp", max(job.n_devices // ranks, 1))
        told.setdefault("grad_accum", max(job.global_batch_seqs // (told["dp"] * told["micro_batch"]), 1))
        check(job, layouts(**told))
    split = f"{job.n_devices} {job.device.name} and a batch of {job.global_batch_seqs} sequences of {job.seq_tokens} tokens"
    raise InputError(
        f"No layout of {job.architecture.name} divides {split}: replicas must divide the batch, tensor ranks the heads, stages the layers; "
        "change the number of devices or --global-batch."
    )
