"""Bits of a stored number: weights by scheme and part of the model, cache values by type.

Schemes leave parts wide: scales of blocks are counted in, embeddings and output matrix of server formats stay in 16 bits, norms always do.
GGUF mixes give some matrices more bits (llama.cpp src/llama-quant.cpp); the numbers here are means over the matrices of a part.
"""

import re
from collections.abc import Mapping
from typing import Final

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture

STATE_BYTES: Final = 2.0
_WIDE: Final = 16.0

# Plain types: every part alike, or all matrices inside the layers. Block scales: fp8 one fp32 for 128x128, nvfp4 one fp8 for 16, mxfp4 one
# byte for 32, int4 one 16-bit scale and one 4-bit zero point for a group.
_ALL: Final[Mapping[str, float]] = {"fp32": 32.0, "bf16": 16.0, "fp16": 16.0}
_INSIDE: Final[Mapping[str, float]] = {
    "fp8": 8.0,
    "fp8_block": 8.0 + 32.0 / 128**2,
    "mxfp8": 8.25,
    "int8": 8.0,
    "int4": 4.0 + 20.0 / 128,
    "int4_g128": 4.0 + 20.0 / 128,
    "int4_g64": 4.0 + 20.0 / 64,
    "int4_g32": 4.0 + 20.0 / 32,
    "nf4": 4.127,
    "nvfp4": 4.5,
    "int4_experts": 4.5,
    "mxfp4": 4.25,
}
# Only routed experts are narrow: gpt-oss ships mxfp4 so, Kimi K2 and K2.5 int4 in groups of 32 without zero points.
_EXPERTS_ONLY: Final[Mapping[str, float]] = {"mxfp4": 4.25, "int4_experts": 4.5}

# (attention, feed-forward, embedding, output) in bits. A tied table has the output's type. Norms and routers stay in 32 bits.
_GGUF: Final[Mapping[str, tuple[float, float, float, float]]] = {
    "f32": (32.0, 32.0, 32.0, 32.0),
    "f16": (16.0, 16.0, 16.0, 16.0),
    "bf16": (16.0, 16.0, 16.0, 16.0),
    "q8_0": (8.5, 8.5, 8.5, 8.5),
    "q6_k": (6.5625, 6.5625, 6.5625, 6.5625),
    "q5_k_m": (5.68, 5.68, 5.5, 6.5625),
    "q5_k_s": (5.5, 5.5, 5.5, 6.5625),
    "q5_1": (6.0, 6.0, 6.0, 6.5625),
    "q5_0": (5.5, 5.5, 5.5, 6.5625),
    "q4_k_m": (4.7, 4.86, 4.5, 6.5625),
    "q4_k_s": (4.55, 4.55, 4.5, 6.5625),
    "q4_1": (5.0, 5.0, 5.0, 6.5625),
    "q4_0": (4.5, 4.5, 4.5, 6.5625),
    "iq4_nl": (4.5, 4.5, 4.5, 6.5625),
    "iq4_xs": (4.3, 4.3, 4.25, 6.5625),
    "q3_k_l": (4.1, 4.15, 3.4375, 6.5625),
    "q3_k_m": (3.8, 3.86, 3.4375, 6.5625),
    "q3_k_s": (3.4375, 3.4375, 3.4375, 6.5625),
    "q2_k": (3.1, 3.39, 2.625, 6.5625),
    # MLX: groups of 64 with a 16-bit scale and bias, tables too
    "mlx_q3": (3.5, 3.5, 3.5, 3.5),
    "mlx_q4": (4.5, 4.5, 4.5, 4.5),
    "mlx_q5": (5.5, 5.5, 5.5, 5.5),
    "mlx_q6": (6.5, 6.5, 6.5, 6.5),
    "mlx_q8": (8.5, 8.5, 8.5, 8.5),
    "mlx_q4_g32": (5.0, 5.0, 5.0, 5.0),
    "mlx_q5_g32": (6.0, 6.0, 6.0, 6.0),
}
_KV: Final[Mapping[str, float]] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "u8": 1.0,
    "q8_0": 1.0625,
    "q5_1": 0.75,
    "q5_0": 0.6875,
    "q4_1": 0.625,
    "q4_0": 0.5625,
    "iq4_nl": 0.5625,
    "nvfp4": 0.5625,
    "int4": 0.5,
}
_ALIASES: Final[Mapping[str, str]] = {
    "f32": "fp32",
    "float32": "fp32",
    "f16": "fp16",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "amp_bf16": "bf16",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "e4m3": "fp8",
    "fp4": "nvfp4",
    "w4a16": "int4",
    "int4_wo": "int4",
    "w4a16_mxfp4": "mxfp4",
    "uint4": "int4",
    "awq": "int4",
    "gptq": "int4",
    "w8a8": "int8",
    "int8_wo": "int8",
    "int8_weight_only": "int8",
    "int4_weight_only": "int4",
    "w8a16": "int8",
    "auto": "bf16",
    "int4_awq": "int4",
    "awq_int4": "int4",
    "int4_gptq": "int4",
    "w4a8": "int4",
    "4bit": "int4",
    "8bit": "int8",
    "bnb_4bit": "nf4",
    "bitsandbytes": "nf4",
    "fp8_dynamic": "fp8",
    "fp8_per_tensor": "fp8",
    "q3": "mlx_q3",
    "q4": "mlx_q4",
    "q5": "mlx_q5",
    "q6": "mlx_q6",
    "q8": "mlx_q8",
    "q4_g32": "mlx_q4_g32",
    "q5_g32": "mlx_q5_g32",
    "q3_k": "q3_k_m",
    "q4_k": "q4_k_m",
    "q5_k": "q5_k_m",
}


def _plain(name: str) -> str:
    key = re.sub(r"[\s\-/]+", "_", name.strip().lower())
    return _ALIASES.get(key, key)


def bytes_per_kv_value(kv_type: str) -> float:
    """Bytes of one cached number; "" is 16 bits. Raises InputError."""
    key = _plain(kv_type or "bf16")
    if key in _KV:
        return _KV[key]
    raise InputError(f"The cache type {kv_type!r} is not known; use one of {', '.join(_KV)}.")


def weight_types() -> tuple[str, ...]:
    """Every name `bits_by_part` takes, aliases apart."""
    return tuple(dict.fromkeys((*_ALL, *_INSIDE, *_EXPERTS_ONLY, *_GGUF)))


def bits_by_part(weight_type: str, architecture: Architecture) -> dict[str, float]:
    """Bits a stored parameter by part of the model (`plan.operators.PARTS`). Raises InputError for a type that is not known."""
    key = _plain(weight_type)
    has_experts = any(block.feedforward is not None and block.feedforward.n_experts for block in architecture.blocks)
    wide = {"embedding": _WIDE, "attention": _WIDE, "mlp": _WIDE, "experts": _WIDE, "router": _WIDE, "norm": _WIDE, "output": _WIDE}
    if key in _ALL:
        return dict.fromkeys(wide, _ALL[key])
    if key in _EXPERTS_ONLY and has_experts:
        return {**wide, "experts": _EXPERTS_ONLY[key]}
    if key in _INSIDE:
        narrow = dict.fromkeys(("attention", "mlp", "experts"), _INSIDE[key])
        if key == "nvfp4" and any(block.attention is not None and block.attention.kind == "mla" for block in architecture.blocks):
            del narrow["attention"]  # published 4-bit checkpoints of latent attention keep its projections wide
        return {**wide, **narrow}
    if key in _GGUF:
        attention, feedforward, embedding, output = _GGUF[key]
        table = output if architecture.tied else embedding
        inner = {"attention": attention, "mlp": feedforward, "experts": feedforward}
        return {**wide, **inner, "router": 32.0, "norm": 32.0, "embedding": table, "output": output}
    raise InputError(f"The weight type {weight_type!r} is not known; use one of {', '.join(weight_types())}.")
