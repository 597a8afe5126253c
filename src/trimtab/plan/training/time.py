"""Time of one training step, by part, for many layouts at once.

A matrix product takes its operations at the device's measured rate plus its bytes at the memory's, so that small or thin ones are slow;
collectives go by latency and bandwidth over the real topology (`collectives`); what can hide behind work does in part. The slowest
pipeline stage sets the pace, and the schedule (`schedules`) says how long the others wait.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.core.planning import TrainJob
from trimtab.plan.operators import FLOPS_PER_STATE_VALUE, attention_flops, matmul_flops, visible_pairs
from trimtab.plan.training.coefficients import TERMS, TimeTerms
from trimtab.plan.training.collectives import all_to_all_s, ring_s, send_s, wires
from trimtab.plan.training.layouts import OFFLOAD, RECOMPUTE, Layouts
from trimtab.plan.training.memory import NO_PRODUCTS, Shards, shards
from trimtab.plan.training.schedules import bubble_micro_batches
from trimtab.plan.training.work import Layer, Product, layers

FloatArray = NDArray[np.float64]
OPERANDS = {"fp8": "fp8", "mxfp8": "fp8", "nvfp4": "fp4", "fp16": "fp16", "bf16": "bf16", "fp32": "fp32", "tf32": "tf32"}
OPERAND_BYTES = {"fp4": 0.5625, "fp8": 1.0, "bf16": 2.0, "fp16": 2.0, "tf32": 4.0, "fp32": 4.0}
LAUNCH_EXPONENT = 4.0
AFTERWARDS = ("nanotron",)
"""Frameworks that reduce gradients when the backward pass is over, as all did before flash attention."""
FUSED = ("nemo", "megatron", "maxtext", "levanter")
"""Frameworks whose kernels or compilers join most of what lies between products."""


@dataclass(frozen=True, kw_only=True)
class TrainTime:
    """Seconds of a step by part, one position a layout; the parts sum to `step_s`.

    mfu: of the FLOPs of matrices and causal attention, forward and backward, at the peak of the operands' type
    light_s: what no layout of these devices can beat
    """

    matmul_s: FloatArray
    attention_s: FloatArray
    elementwise_s: FloatArray
    launch_s: FloatArray
    logits_s: FloatArray
    recompute_s: FloatArray
    tensor_comm_s: FloatArray
    expert_comm_s: FloatArray
    context_comm_s: FloatArray
    pipeline_comm_s: FloatArray
    bubble_s: FloatArray
    data_comm_s: FloatArray
    optimizer_s: FloatArray
    fixed_s: FloatArray
    step_s: FloatArray
    tok_s_per_device: FloatArray
    mfu: FloatArray
    light_s: FloatArray


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOP/s and bytes/s that the device reaches: products of layers in the job's type, everything else in 16 bits."""

    low: float
    high: float
    peak: float
    operand_bytes: float
    memory: float


def rates(job: TrainJob, terms: TimeTerms = TERMS) -> Rates:
    """Rates by the device's facts; a type that it cannot multiply is done in 16 bits, and those in fp32."""
    device = job.device
    unmeasured = terms.unmeasured_gpu_share if device.kind == "gpu" else terms.unmeasured_share
    wanted = OPERANDS.get(job.precision, "bf16")
    high = next((kind for kind in ("bf16", "fp16", "tf32", "fp32") if kind in device.peak_flop_s), "fp32")
    low = wanted if wanted in device.peak_flop_s else "fp8" if wanted == "fp4" and "fp8" in device.peak_flop_s else high

    def reached(kind: str) -> float:
        best = device.peak_flop_s.get(kind, 0.0)
        share = min(terms.low_share, 1 / terms.matmul_share) if kind in ("fp8", "fp4") else 1.0
        return max(device.matmul_flop_s.get(kind, 0.0) or best * unmeasured, 1.0) * terms.matmul_share * share

    return Rates(
        low=reached(low),
        high=reached(high),
        peak=max(device.peak_flop_s.get(low, 1.0), 1.0),
        operand_bytes=OPERAND_BYTES[low],
        memory=max(device.memory_bytes_s, 1.0),
    )


def step(job: TrainJob, many: Layouts, terms: TimeTerms = TERMS) -> TrainTime:
    """Time of a step: `grad_accum` micro-batches through the pipeline, then the reduction and the optimizer."""
    reach = rates(job, terms)
    n = job.architecture.n_layers  # a layer that predicts further tokens is as costly as the others, and fills a place of theirs
    deep = n + job.architecture.predict_layers
    mine = np.where(many.pp > 1, -(-deep // (many.pp * many.vp)) * many.vp, deep) / n
    forward, backward = _both(job, many, reach, terms)
    logits = _logits_s(job, many, reach, terms) * (1 + job.architecture.predict_layers)
    again = np.where(many.recompute == RECOMPUTE["full"], 1.0, 0.0)
    parts: dict[str, FloatArray] = {
        name: many.grad_accum * mine * (forward[name] + backward[name]) for name in forward if name != "selective"
    }
    selective = np.where(many.recompute == RECOMPUTE["selective"], forward["selective"], 0.0)
    computed_again = forward["matmul"] + forward["attention"] + forward["elementwise"] + forward["launch"]
    parts["recompute"] = many.grad_accum * mine * (again * computed_again + selective)
    for name in ("tensor_comm", "expert_comm", "context_comm"):
        parts[name] = parts[name] + many.grad_accum * mine * again * forward[name]
    full = mine * n  # layers of the fullest stage; places that stay empty are the ends', the loss's half of them rounded up
    spared = np.where(many.pp > 1, np.ceil((full * many.pp - deep) / 2.0) / full, 0.0)
    per_micro = sum(parts.values()) / many.grad_accum
    # The last stage adds the logits; whoever splits layers unevenly gives it fewer of them
    parts["logits"] = np.asarray(
        many.grad_accum * np.where(many.pp > 1, np.maximum(0.0, logits - per_micro * np.minimum(spared, 1.0)), logits), float
    )
    slowest = per_micro + parts["logits"] / many.grad_accum
    parts["bubble"] = bubble_micro_batches(many) * slowest
    parts["pipeline_comm"] = _pipeline_s(job, many, terms)
    parts["data_comm"] = _data_s(job, many, terms, slowest, backward_share=0.67)
    parts["optimizer"] = _optimizer_s(job, many, reach, terms)
    nodes = np.maximum(1.0, many.dp * many.tp * many.pp * many.cp / max(1, job.device.devices_per_node))
    parts["fixed"] = terms.step_fixed_s + terms.straggling * np.log2(nodes) * sum(parts.values())
    step_s = sum(parts.values())
    tokens = many.dp * many.micro_batch * many.grad_accum * job.seq_tokens
    rate = tokens / step_s / (many.dp * many.tp * many.pp * many.cp)
    flops = model_flops_per_token(job) * (2 / 3 if job.trains == "adapters" else 1)
    return TrainTime(
        **{f"{name}_s": np.asarray(value, float) for name, value in parts.items()},
        step_s=np.asarray(step_s, float),
        tok_s_per_device=rate,
        mfu=rate * flops / reach.peak,
        light_s=tokens * flops / (reach.peak * many.dp * many.tp * many.pp * many.cp),
    )


def model_flops_per_token(job: TrainJob) -> float:
    """Forward and backward, of the matrices a token passes and of causal attention."""
    a = job.architecture
    return 3.0 * (matmul_flops(a) + float(attention_flops(a, job.seq_tokens, job.seq_tokens)) / job.seq_tokens)


def _both(job: TrainJob, many: Layouts, reach: Rates, terms: TimeTerms) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Forward and backward time of one micro-batch through all layers on one rank of a pipeline of one, by part."""
    forward: dict[str, FloatArray] = {}
    backward: dict[str, FloatArray] = {}
    for layer in layers(job.architecture):
        ahead, back = _layer_s(job, many, reach, terms, layer)
        for total, one in ((forward, ahead), (backward, back)):
            for name, value in one.items():
                total[name] = total.get(name, 0.0) + layer.n_layers * value
    return forward, backward


def _layer_s(
    job: TrainJob, many: Layouts, reach: Rates, terms: TimeTerms, layer: Layer
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    tokens = many.micro_batch * job.seq_tokens / many.cp
    ahead = {"matmul": np.zeros(len(many)), "cast": np.zeros(len(many))}
    for product in layer.products:
        seconds, cast = _product_s(many, reach, terms, layer, product, tokens)
        ahead["matmul"] = ahead["matmul"] + seconds
        ahead["cast"] = ahead["cast"] + cast
    attention, scores = _attention_s(job, many, reach, terms, layer, tokens)
    elementwise = _elementwise_s(job, many, reach, terms, layer, tokens)
    cast = ahead.pop("cast")
    ahead |= {"attention": attention + scores, "elementwise": elementwise + cast}
    back = {
        "matmul": (1 if job.trains == "adapters" else 2) * ahead["matmul"],
        "attention": terms.backward_attention * attention + 2 * scores,
        "elementwise": 1.5 * elementwise + 1.5 * cast,
    }
    host = np.where(many.flash_attention == 0, terms.host_old_s, terms.host_s) * (job.device.kind != "tpu")
    for one, times in ((ahead, 1.0), (back, 1.6)):
        busy = one["matmul"] + one["attention"] + one["elementwise"]
        one["launch"] = (busy**LAUNCH_EXPONENT + (times * host) ** LAUNCH_EXPONENT) ** (1 / LAUNCH_EXPONENT) - busy
    written = many.flash_attention == 0
    light = 0.3 * elementwise if job.framework in NO_PRODUCTS else 0.5 * ahead["matmul"] + 0.7 * ahead["elementwise"]
    ahead["selective"] = np.where(written, attention + scores, light)
    for name, value in _layer_comm_s(job, many, terms, layer, tokens, attention).items():
        ahead[name] = value
        back[name] = value * (2.0 if name == "context_comm" else 1.0)
    return ahead, back


def _product_s(
    many: Layouts, reach: Rates, terms: TimeTerms, layer: Layer, product: Product, tokens: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Time of one product, and of casting its input where it is done in fewer bits."""
    copies = np.ones(len(many))
    rows = tokens
    ways = many.tp if product.split else np.ones_like(many.tp)
    if product.expert:
        ways = np.where(many.ep > 1, 1, many.tp)
        rows = tokens * layer.n_experts_used / np.where(many.ep > 1, many.tp, 1) * np.where(many.ep > 1, terms.imbalance, 1.0)
        copies = layer.n_experts / many.ep
    k = product.k / (ways if product.split == "k" else 1)
    n = product.n / (ways if product.split == "n" else 1)
    low = reach.low != reach.high
    moved = rows * k * reach.operand_bytes + copies * k * n * reach.operand_bytes + rows * n * 2.0
    seconds = 2.0 * rows * k * n / reach.low + terms.traffic * moved / reach.memory
    cast = terms.cast * (rows * k + copies * k * n * 0.5) / reach.memory if low else np.zeros(len(many))
    return product.count * seconds, product.count * cast


def _attention_s(
    job: TrainJob, many: Layouts, reach: Rates, terms: TimeTerms, layer: Layer, tokens: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Forward attention: products of scores and values, and moving the scores where they are written."""
    heads = layer.n_heads / many.tp
    written = many.flash_attention == 0
    whole = float(min(job.seq_tokens, layer.window_tokens or job.seq_tokens))
    context = np.where(written, whole, float(visible_pairs(job.seq_tokens, job.seq_tokens, layer.window_tokens)) / job.seq_tokens)
    products = 4.0 * tokens * context * heads * layer.head_dim / (reach.high * np.where(written, 1.0, terms.attention_share))
    scores = np.where(written, terms.score_bytes * tokens * whole * heads / reach.memory, 0.0)
    state = FLOPS_PER_STATE_VALUE * tokens * layer.state_values / many.tp / (reach.high * terms.attention_share)
    return products + state, scores


def _elementwise_s(job: TrainJob, many: Layouts, reach: Rates, terms: TimeTerms, layer: Layer, tokens: FloatArray) -> FloatArray:
    spread = np.where(many.sequence_parallel == 1, many.tp, 1)
    experts = layer.kept_expert * layer.n_experts_used / many.tp
    values = layer.kept_full / spread + layer.kept_split / many.tp + experts
    now = terms.elementwise_fused if job.framework in FUSED else terms.elementwise
    each = np.where(many.flash_attention == 0, terms.elementwise_old, now)
    return np.asarray(each * 2.0 * tokens * values / reach.memory, float)


def _layer_comm_s(
    job: TrainJob, many: Layouts, terms: TimeTerms, layer: Layer, tokens: FloatArray, attention: FloatArray
) -> dict[str, FloatArray]:
    """Forward collectives of a layer that is waited for: tensor ranks' sums, experts' exchange, the ring of keys and values."""
    by, d = wires(job.device, terms.link_share, terms.network_share), job.architecture.d_model
    apart = (many.ep > 1) & (layer.n_experts > 0)  # experts of expert ranks are whole
    tensor = (layer.n_sums - apart) * 2 * ring_s(by, tokens * d * 2.0, many.tp, 1)
    mine = tokens / many.tp
    reached = np.minimum(layer.n_experts_used, np.maximum(many.ep, 1))
    expert = 2 * all_to_all_s(by, mine * reached * d * 2.0, many.ep) if layer.n_experts else np.zeros(len(many))
    ring = ring_s(by, tokens * layer.kv_dim / many.tp * 2.0 * many.cp, many.cp, many.tp)
    return {
        "tensor_comm": terms.tensor_exposed * tensor,
        "expert_comm": terms.expert_exposed * expert,
        "context_comm": np.maximum(0.0, ring - attention) + 0.1 * ring,
    }


def _logits_s(job: TrainJob, many: Layouts, reach: Rates, terms: TimeTerms) -> FloatArray:
    """Output product, loss and their backward pass, in 16 bits with an fp32 copy."""
    a = job.architecture
    tokens = many.micro_batch * job.seq_tokens / many.cp
    n = a.vocab_size / many.tp
    moved = tokens * a.d_model * 2.0 + a.d_model * n * 2.0 + tokens * n * 2.0
    product = 2.0 * tokens * a.d_model * n / reach.high + terms.traffic * moved / reach.memory
    return np.asarray(3.0 * product + 20.0 * tokens * n / reach.memory, float)


def _pipeline_s(job: TrainJob, many: Layouts, terms: TimeTerms) -> FloatArray:
    """Messages between stages that the pipeline's fill and drain wait for; in its steady state they hide."""
    byte = many.micro_batch * job.seq_tokens / many.cp * job.architecture.d_model * 2.0 / many.tp
    one = send_s(wires(job.device, terms.link_share, terms.network_share), byte, many.tp * many.cp * many.dp)
    return np.where(many.pp > 1, one * 2 * (many.pp - 1 + 0.3 * many.vp * many.grad_accum), 0.0)


def _data_s(job: TrainJob, many: Layouts, terms: TimeTerms, micro_s: FloatArray, backward_share: float) -> FloatArray:
    """Gathering weights and reducing gradients that work does not hide. Adapters' gradients are too few to tell."""
    mine = shards(job, many)
    whole = many.zero_stage >= 3
    one_way = _data_ring_s(job, many, terms, mine)
    syncs = np.where(many.grad_sync_each == 1, many.grad_accum, 1)
    gathered_each = _hidden(3 * one_way, micro_s, terms.overlap)
    gathered_only = _hidden(2 * one_way, micro_s, terms.overlap)
    fsdp = syncs * gathered_each + (many.grad_accum - syncs) * gathered_only
    once = _hidden((1 + syncs) * one_way, micro_s * many.grad_accum, terms.overlap)  # a pipeline's stage is gathered once a step
    fsdp = np.where(many.pp > 1, once, fsdp)
    late = (many.flash_attention == 0) | (job.framework in AFTERWARDS)
    reduce = np.where(late, 2 * one_way, _hidden(2 * one_way, backward_share * micro_s, terms.overlap))
    return np.where(
        whole, gathered_only * many.grad_accum if job.trains == "adapters" else fsdp, 0.0 if job.trains == "adapters" else syncs * reduce
    )


def _data_ring_s(job: TrainJob, many: Layouts, terms: TimeTerms, mine: Shards) -> FloatArray:
    by = wires(job.device, terms.link_share, terms.network_share)
    dense = ring_s(by, 2.0 * mine.dense, mine.dense_ranks, many.tp)
    expert_stride = np.where(many.ep > 1, many.ep, many.tp)
    return dense + ring_s(by, 2.0 * mine.expert, mine.expert_ranks, expert_stride)


def _hidden(comm: FloatArray, work: FloatArray, exponent: float) -> FloatArray:
    """What is left of `comm` behind `work`: all where there is no work, little where there is much."""
    return np.asarray((comm**exponent + work**exponent) ** (1 / exponent) - work, float)


def _optimizer_s(job: TrainJob, many: Layouts, reach: Rates, terms: TimeTerms) -> FloatArray:
    mine = shards(job, many)
    sharded = many.zero_stage >= 1
    updated = mine.dense / np.where(sharded, mine.dense_ranks, 1) + mine.expert / np.where(sharded, mine.expert_ranks, 1)
    if job.trains == "adapters":
        return np.zeros(len(many))
    host = max(job.device.host_link_bytes_s, 1e9)
    # Weights and gradients that lie in the host come and go in every pass of every micro-batch
    passes = np.where(many.offload == OFFLOAD["all"], many.grad_accum * 3 * 2.0 * (mine.dense + mine.expert) / host, 0.0)
    return passes + np.where(many.offload > 0, updated * 16.0 / host, updated * terms.optimizer_bytes / reach.memory)
