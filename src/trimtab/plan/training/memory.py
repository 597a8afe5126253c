"""Peak memory of one device, by part, for many layouts at once.

Activations: arXiv:2205.05198 (Korthikanti et al.), whose table this reproduces; sharding of states: arXiv:1910.02054 (ZeRO), likewise.
The fullest device counts: the first pipeline stage holds most micro-batches, the last one the logits; the larger is reported.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.core.planning import TrainJob
from trimtab.plan.training.layouts import OFFLOAD, RECOMPUTE, Layouts
from trimtab.plan.training.schedules import held_micro_batches
from trimtab.plan.training.work import Layer, layers

FloatArray = NDArray[np.float64]
# Bytes a parameter: weights as computed with or kept, gradients, a master copy besides. Optimizer moments come on top.
STATES = {
    "": (2.0, 4.0, 4.0),
    "deepspeed": (2.0, 2.0, 4.0),
    "metaseq": (2.0, 2.0, 4.0),
    "nanotron": (2.0, 6.0, 4.0),  # gradients as computed, and summed in fp32
    **dict.fromkeys(("fsdp", "torchtitan", "composer", "trimtab", "maxtext", "levanter"), (4.0, 4.0, 0.0)),
}
MOMENTS = {"adamw": 8.0, "adam": 8.0, "adamw-8bit": 2.0, "adafactor": 0.02, "sgd": 4.0, "lion": 4.0, "none": 0.0}
VALUE_BYTES = 2.0
GATHERED = ("nanotron", "torchtitan", "fsdp", "trimtab")
"""Frameworks that keep what sequence parallelism gathered for a product; Megatron-LM gathers it again."""
NO_PRODUCTS = ("megatron", "nemo")
"""Frameworks whose selective recomputation does attention's scores, norms and activations again; others' every other product too."""
LIVE_PARAMS, BUCKET_BYTES = 1e9, 1e9  # DeepSpeed's ZeRO-3 keeps so many parameters gathered, and reduces in buckets of 5e8 values
SCORE_BYTES = 5.0  # scores and their dropout mask, a head, query and key, where attention writes them


@dataclass(frozen=True, kw_only=True)
class MemoryTerms:
    """What physics leaves open.

    fragmentation: of activations and buffers that the allocator cannot use
    fixed_bytes: context, libraries and communicators' buffers
    logit_bytes: kept a logit: as computed, and in fp32 for the loss and its gradient
    """

    fragmentation: float = 0.08
    fixed_bytes: float = 1.0e9
    logit_bytes: float = 13.0


TERMS = MemoryTerms()


@dataclass(frozen=True, kw_only=True)
class TrainMemory:
    """Bytes on the fullest device, one position a layout. `total_bytes` is their sum. On the host: `host_bytes`."""

    weights_bytes: FloatArray
    gradients_bytes: FloatArray
    optimizer_bytes: FloatArray
    activations_bytes: FloatArray
    logits_bytes: FloatArray
    buffers_bytes: FloatArray
    overhead_bytes: FloatArray
    total_bytes: FloatArray
    host_bytes: FloatArray


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Parameters of one device before ZeRO, by kind, and over how many ranks ZeRO shards each."""

    dense: FloatArray
    expert: FloatArray
    dense_ranks: FloatArray
    expert_ranks: FloatArray
    layer: FloatArray


def peak(job: TrainJob, many: Layouts, terms: MemoryTerms = TERMS) -> TrainMemory:
    """Memory at its peak in a step, of the fullest device."""
    first = _stage(job, many, terms, first=True)
    last = _stage(job, many, terms, first=False)
    fuller = first["total_bytes"] >= last["total_bytes"]
    return TrainMemory(**{name: np.where(fuller, first[name], last[name]) for name in first})


def shards(job: TrainJob, many: Layouts) -> Shards:
    """Parameters of a device on the fullest pipeline stage, with one of the tables: the first holds the inputs', the last the outputs'."""
    a = job.architecture
    stack = layers(a)
    n = sum(layer.n_layers for layer in stack)
    mine = np.where(many.pp > 1, -(-n // (many.pp * many.vp)) * many.vp, n)
    alone = np.where(many.ep > 1, many.ep, many.tp)
    dense_all = sum(layer.n_layers * layer.dense_params for layer in stack)
    expert_all = sum(layer.n_layers * layer.expert_params for layer in stack)
    table = a.vocab_size * a.d_model
    tables = np.where(many.pp > 1, 1, 1 if a.tied else 2) * table
    scale = _published(a.n_params, dense_all + expert_all + table * (1 if a.tied else 2))
    dense = scale * (dense_all / n * mine + tables) / many.tp
    expert = scale * expert_all / n * mine / alone
    largest = max((layer.dense_params for layer in stack), default=0)
    return Shards(
        dense=dense,
        expert=np.asarray(expert, float),
        dense_ranks=(many.dp * many.cp).astype(float),
        expert_ranks=np.maximum(1.0, many.dp * many.cp * np.where(many.ep > 1, many.tp / many.ep, 1.0)),
        layer=largest / many.tp + max((layer.expert_params for layer in stack), default=0) / alone,
    )


def _published(told: int, counted: float) -> float:
    """A published count corrects for biases and the like; one far from the shape is another model's."""
    return told / counted if told and counted and 0.8 < told / counted < 1.25 else 1.0


def value_bytes(job: TrainJob) -> float:
    """Of one value between layers: activations, messages, gathered weights."""
    return 4.0 if job.precision == "fp32" else VALUE_BYTES


def state_bytes(job: TrainJob, many: Layouts, mine: Shards) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights, gradients and optimizer states of a device after sharding by ZeRO's stage."""
    weight, gradient, master = STATES.get(job.framework, STATES[""])
    optimizer = master + MOMENTS.get(job.optimizer, MOMENTS["adamw"])
    if job.precision == "fp32":
        weight, gradient, optimizer = 4.0, 4.0, optimizer - master
    if job.trains == "adapters":
        frozen = weight if job.framework == "trimtab" else min(weight, value_bytes(job))  # trimtab computes in 16 bits from 32
        weight, gradient, optimizer = frozen, 0.0, 0.0

    def sharded(each: float, stage: int) -> FloatArray:
        ranks = (np.where(many.zero_stage >= stage, mine.dense_ranks, 1.0), np.where(many.zero_stage >= stage, mine.expert_ranks, 1.0))
        return np.asarray(each * (mine.dense / ranks[0] + mine.expert / ranks[1]), float)

    # Without FSDP the framework computes with whole 16-bit weights, whatever it keeps sharded
    whole = np.where(many.zero_stage >= 3, weight, min(weight, VALUE_BYTES) if job.precision != "fp32" else weight)
    kept = np.where(many.zero_stage >= 3, 0.0, max(0.0, weight - VALUE_BYTES) if job.precision != "fp32" else 0.0)
    weights = sharded(1.0, 3) * whole + sharded(1.0, 1) * kept
    # Gradients that are summed before they are reduced are whole on every device
    reduced = (many.grad_sync_each == 1) | (many.grad_accum == 1)
    gradients = np.where(reduced, sharded(gradient, 2), gradient * (mine.dense + mine.expert))
    return weights, gradients, sharded(optimizer, 1)


def _stage(job: TrainJob, many: Layouts, terms: MemoryTerms, *, first: bool) -> dict[str, FloatArray]:
    a, value = job.architecture, value_bytes(job)
    mine = shards(job, many)
    weights, gradients, optimizer = state_bytes(job, many, mine)
    held = held_micro_batches(many) if first else np.where(many.pp > 1, 1.0, held_micro_batches(many))
    kept, working = activations(job, many)
    tokens = many.micro_batch * job.seq_tokens / many.cp
    has_logits = (many.pp == 1) | (not first)
    logits = np.where(has_logits, tokens * a.vocab_size / many.tp * terms.logit_bytes, 0.0)
    # FSDP holds two layers' weights and gradients whole at a time; under a pipeline a stage's weights, gathered once a step
    buckets = np.minimum(LIVE_PARAMS, mine.dense + mine.expert) * value + BUCKET_BYTES if job.framework == "deepspeed" else 0.0
    whole = np.where(many.pp > 1, value * (mine.dense + mine.expert), 2 * mine.layer * 2 * value + buckets)
    gathered = np.where((many.zero_stage >= 3) & (many.dp * many.cp > 1), whole, 0.0)
    message = tokens * a.d_model * value
    spread = np.where(many.sequence_parallel == 1, many.tp, 1)
    messages = np.where(many.tp > 1, 2.0 * message, 0.0) + np.where(many.pp > 1, (1 + held) * message / spread, 0.0)
    parts = {
        "weights_bytes": np.where(many.offload == OFFLOAD["all"], 0.0, weights),
        "gradients_bytes": np.where(many.offload == OFFLOAD["all"], 0.0, gradients),
        "optimizer_bytes": np.where(many.offload > 0, 0.0, optimizer),
        "activations_bytes": held * kept + working,
        "logits_bytes": logits,
        "buffers_bytes": gathered + messages,
    }
    moving = parts["activations_bytes"] + logits + parts["buffers_bytes"]
    parts["overhead_bytes"] = terms.fragmentation * moving + terms.fixed_bytes
    total = np.sum(list(parts.values()), axis=0)
    host = np.where(many.offload > 0, optimizer, 0.0) + np.where(many.offload == OFFLOAD["all"], weights + gradients, 0.0)
    return {**parts, "total_bytes": total, "host_bytes": host}


def activations(job: TrainJob, many: Layouts) -> tuple[FloatArray, FloatArray]:
    """Bytes that a micro-batch leaves for the backward pass on a pipeline rank, and what one layer needs while it is computed again."""
    stack = layers(job.architecture)
    n = sum(layer.n_layers for layer in stack)
    mine = np.where(many.pp > 1, -(-n // (many.pp * many.vp)) * many.vp, n) / n
    kept = np.zeros(len(many))
    working = np.zeros(len(many))
    for layer in stack:
        each, whole = layer_activations(job, many, layer)
        kept = kept + layer.n_layers * mine * each
        working = np.maximum(working, np.where(many.recompute == RECOMPUTE["full"], whole, 0.0))
    return kept, working


def layer_activations(job: TrainJob, many: Layouts, layer: Layer) -> tuple[FloatArray, FloatArray]:
    """Bytes one layer keeps of a micro-batch under the layout's policy, and without one."""
    value = value_bytes(job)
    tokens = many.micro_batch * job.seq_tokens / many.cp
    spread = np.where(many.sequence_parallel == 1, many.tp, 1)
    expert_tokens = np.where(many.ep > 1, 1 / many.tp, 1.0) * layer.n_experts_used
    written = many.flash_attention == 0
    masks = np.where(written, 2.0 * job.architecture.d_model, 0.0)  # dropout, of the time before flash attention
    full = (layer.kept_full * value + masks) / spread
    split = layer.kept_split * value / many.tp
    experts = layer.kept_expert * value * expert_tokens / np.where(many.ep > 1, 1, many.tp)
    scores = np.where(written, SCORE_BYTES * layer.n_heads * job.seq_tokens / many.tp, 0.0)
    kept_too = (job.framework in GATHERED) * (spread > 1) * layer.n_sums * job.architecture.d_model * value * (1 - 1 / spread)
    whole = full + split + experts + scores + kept_too
    some = layer.some_full / spread + layer.some_split / many.tp + layer.some_expert * expert_tokens / np.where(many.ep > 1, 1, many.tp)
    if job.framework in NO_PRODUCTS:
        some = (layer.kept_full - layer.light_full) / spread + (layer.kept_split - layer.light_split) / many.tp
        some = some + (layer.kept_expert - layer.light_expert) * expert_tokens / np.where(many.ep > 1, 1, many.tp)
    selective = np.where(written, full + split + experts, some * value)
    only_input = job.architecture.d_model * value / spread
    kept = np.where(many.recompute == RECOMPUTE["full"], only_input, np.where(many.recompute == RECOMPUTE["selective"], selective, whole))
    return tokens * kept, tokens * whole
