"""What words of published training runs mean: precision, framework, sharding, recomputation; and what a run does where it does not say.

One normaliser each. A default is what that framework does when nobody sets it, at the time of the row's device.
"""

import re
from dataclasses import dataclass

from trimtab.core.planning import Architecture, Device
from trimtab.plan.training.layouts import OFFLOAD

FRAMEWORKS = (
    ("megatron-bridge", "nemo"),
    ("nemo", "nemo"),
    ("megatron-deepspeed", "deepspeed"),
    ("megatron", "megatron"),
    ("composer", "composer"),
    ("foundry", "composer"),
    ("torchtitan", "torchtitan"),
    ("maxtext", "maxtext"),
    ("t5x", "maxtext"),
    ("pathways", "maxtext"),
    ("pax", "maxtext"),
    ("axlearn", "maxtext"),
    ("jax", "maxtext"),
    ("nanotron", "nanotron"),
    ("levanter", "levanter"),
    ("deepspeed", "deepspeed"),
    ("neox", "deepspeed"),
    ("metaseq", "metaseq"),
    ("colossal", "megatron"),
    ("neuronx", "megatron"),
    ("trimtab", "trimtab"),
    *(
        (word, "fsdp")
        for word in ("axolotl", "accelerate", "trl", "lightning", "litgpt", "transformers", "recipes", "fairscale", "fsdp", "ddp")
    ),
)
SHARDED = ("fsdp", "composer", "torchtitan", "maxtext", "levanter", "metaseq", "trimtab")
FUSED_ATTENTION_YEAR = 2022
"""Runs on older devices wrote attention's scores to memory, but for frameworks whose first releases were later."""
LATE_FRAMEWORKS = ("composer", "nemo", "torchtitan", "nanotron", "maxtext", "trimtab")


def precision_of(text: str, framework: str, device: Device) -> str:
    """The type of the products: `FP8-CS` is fp8, `FP8-MX` mxfp8, `amp_bf16/DEFAULT` bf16. Not told: what the framework's benchmarks use."""
    told = text.lower().replace("float", "fp").replace("bfp16", "bf16")
    first = re.split(r"[(]", told)[0].strip()
    if "nvfp4" in first or "fp4" in first:
        return "nvfp4"
    if "mxfp8" in first or ("fp8" in first and "mx" in first):
        return "mxfp8"
    if "fp8" in first or "e4m3" in first:
        return "fp8"
    if "bf16" in first and "fp16/bf16" not in first:
        return "bf16"
    if "fp16" in first or "half" in first or first.startswith("16"):
        return "fp16"
    if "fp32" in first or "tf32" in first:
        return "fp32"
    if framework == "nemo" and "fp8" in device.peak_flop_s and device.kind == "gpu":
        return "fp8"
    return "bf16" if "bf16" in device.peak_flop_s else "fp16"


def framework_of(text: str) -> str:
    told = text.lower()
    return next((name for word, name in FRAMEWORKS if word in told), "")


def zero_stage_of(text: str, framework: str, device: Device) -> int:
    """`FULL_SHARD` shards everything, `SHARD_GRAD_OP` and FSDP without resharding all but weights, a distributed optimizer is stage 1."""
    told = text.lower()
    numbered = re.search(r"zero[- _]?(?:stage)?[- _]?(\d)", told)
    if numbered:
        return min(3, int(numbered[1]))
    if "shard_grad_op" in told or "no reshard" in told:
        return 2
    if any(word in told for word in ("fsdp", "hsdp", "full_shard", "full-shard", "hybrid_shard")):
        return 3
    if told in ("none", "no", "-") or "no_shard" in told or "ddp" in told:
        return 0
    if "dist" in told and "opt" in told:
        return 1
    if framework in SHARDED:
        return 3
    return 1 if framework in ("nemo", "nanotron") or (framework == "megatron" and device.year >= FUSED_ATTENTION_YEAR) else 0


def offload_of(text: str) -> int:
    """`ZeRO-3 offload` moves optimizer states to the host; with parameters named, weights and gradients too."""
    told = text.lower()
    return 0 if "offload" not in told else OFFLOAD["all"] if "param" in told else OFFLOAD["optimizer"]


def recompute_of(text: str, framework: str, device: Device, *, fused: bool) -> int:
    told = text.lower()
    if any(word in told for word in ("selective", "minimal", "partial", "op-level", "per-op")):
        return 1
    if told.startswith(("none", "no", "false", "off")):
        return 0
    if told:
        return 2
    if device.kind == "tpu" or framework in ("levanter", "maxtext"):
        return 2
    return (0 if framework else 1) if fused else 2


def fused_attention(framework: str, device: Device) -> bool:
    """On A100s, who names no framework is a laboratory with code of its own, and those had such kernels early."""
    late = framework in LATE_FRAMEWORKS or (not framework and device.year >= FUSED_ATTENTION_YEAR - 2)
    return device.kind == "tpu" or device.year >= FUSED_ATTENTION_YEAR or late


def sequence_parallel_of(text: str, framework: str, device: Device, tp: int) -> bool:
    """Norms are split too: told with the recomputation, or the way of frameworks since it was published."""
    told = any(word in text.lower() for word in ("seqpar", "sequence"))
    usual = framework in ("nemo", "torchtitan", "nanotron", "maxtext") or (framework == "megatron" and device.year >= FUSED_ATTENTION_YEAR)
    return tp > 1 and (told or usual)


@dataclass(frozen=True, kw_only=True)
class Degrees:
    """Model-parallel degrees, some of which a row leaves out."""

    tp: int
    pp: int
    cp: int
    ep: int


def smallest_split(a: Architecture, device: Device, n_devices: int, n_params: float, zero_stage: int) -> Degrees:
    """The fewest model-parallel devices on which the states fit in half the memory: what a run does that does not say."""
    ways = 1
    per_param = 16.0 / (n_devices if zero_stage >= 3 else 1)
    if zero_stage in (1, 2):
        per_param = 6.0 + 12.0 / n_devices
    while n_params * per_param / ways > 0.6 * device.memory_bytes and ways * 2 <= n_devices:
        ways *= 2
    heads = min((block.attention.n_heads for block in a.blocks if block.attention), default=1)
    tp = next((k for k in (8, 4, 2, 1) if k <= ways and k <= device.devices_per_node and heads % k == 0), 1)
    return Degrees(tp=tp, pp=max(1, min(ways // tp, a.n_layers)), cp=1, ep=1)
