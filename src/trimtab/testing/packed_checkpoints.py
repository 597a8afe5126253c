"""Quantised Hugging Face checkpoints, made from plain ones: each layout written bit by bit, with the numbers that it stands for.

Nothing here shares code with the readers in compress/: bits are laid out with `np.packbits`, and FP8 is torch's.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Stored = dict[str, tuple[str, Array]]
"""Tensors by name: the type as safetensors calls it, and the bytes' array."""

_AWQ_COLUMNS = [0, 2, 4, 6, 1, 3, 5, 7]
_MX_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


@dataclass(frozen=True, kw_only=True)
class PackedMatrix:
    """stored: what the layout keeps, named from the module on; values: what that stands for, float32 in the shape of the plain matrix"""

    stored: Stored
    values: Array


def bits_in_words(values: Array, bits: int) -> Array:
    """Numbers [n, m] of `bits` bits, one after another down each column, lowest bits first, as int32 [words, m]; zeros at the end."""
    n, m = values.shape
    planes = (values.T.astype(np.uint8)[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    flat = planes.reshape(m, n * bits)
    padded = np.pad(flat, ((0, 0), (0, -(n * bits) % 32)))
    return np.ascontiguousarray(np.packbits(padded, axis=1, bitorder="little").view("<i4").T)


def _levels(matrix: Array, bits: int, groups: Array, *, symmetric: bool) -> tuple[Array, Array, Array]:
    """(levels [inputs, outputs], zeros [groups, outputs], 16-bit scales alike) of a matrix [outputs, inputs], rounded to nearest."""
    turned, top = matrix.T.astype(np.float32), (1 << bits) - 1
    n = int(groups.max()) + 1
    low = np.stack([turned[groups == g].min(0) for g in range(n)])
    high = np.stack([turned[groups == g].max(0) for g in range(n)])
    if symmetric:
        scales = np.maximum(np.abs(low), np.abs(high)) / (top // 2)
        zeros = np.full(low.shape, 1 << (bits - 1), np.int64)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = (high - low) / top
        zeros = np.clip(np.round(-low / np.maximum(scales, 1e-8)), 1, top).astype(np.int64)
    scales = np.maximum(scales, 1e-4).astype(np.float16)
    levels = np.clip(np.round(turned / scales.astype(np.float32)[groups]) + zeros[groups], 0, top).astype(np.int64)
    return levels, zeros, scales


def _meant(levels: Array, zeros: Array, scales: Array, groups: Array) -> Array:
    return np.ascontiguousarray(((levels - zeros[groups]).astype(np.float64) * scales.astype(np.float64)[groups]).astype(np.float32).T)


def pack_awq(matrix: Array, *, group_size: int = 32) -> PackedMatrix:
    """AutoAWQ, gemm, 4 bits with zero points."""
    groups = np.arange(matrix.shape[1]) // group_size
    levels, zeros, scales = _levels(matrix, 4, groups, symmetric=False)

    def columns(values: Array) -> Array:
        moved = values.reshape(len(values), -1, 8)[:, :, _AWQ_COLUMNS].reshape(len(values), -1)
        return np.ascontiguousarray(bits_in_words(moved.T, 4).T)

    stored: Stored = {"qweight": ("I32", columns(levels)), "qzeros": ("I32", columns(zeros)), "scales": ("F16", scales)}
    return PackedMatrix(stored=stored, values=_meant(levels, zeros, scales, groups))


def pack_gptq(
    matrix: Array, *, bits: int = 4, group_size: int = 32, order: Array | None = None, symmetric: bool = False, v2: bool = False
) -> PackedMatrix:
    """GPTQ; order: the order in which columns were taken, which makes g_idx; v2: zeros are stored as they are."""
    groups = np.arange(matrix.shape[1]) // group_size
    if order is not None:
        groups = groups[np.argsort(order)]
    levels, zeros, scales = _levels(matrix, bits, groups, symmetric=symmetric)
    stored: Stored = {
        "qweight": ("I32", bits_in_words(levels, bits)),
        "qzeros": ("I32", np.ascontiguousarray(bits_in_words((zeros - (0 if v2 else 1)).T, bits).T)),
        "scales": ("F16", scales),
        "g_idx": ("I32", groups.astype("<i4")),
    }
    return PackedMatrix(stored=stored, values=_meant(levels, zeros, scales, groups))


def pack_fp8(matrix: Array, *, block: tuple[int, int] = (32, 32)) -> PackedMatrix:
    """DeepSeek's FP8: e4m3 with a 32-bit scale for each block."""
    import torch

    rows, columns = matrix.shape
    values, codes = np.empty(matrix.shape, np.float32), np.empty(matrix.shape, np.uint8)
    scales = np.empty((-(-rows // block[0]), -(-columns // block[1])), np.float32)
    for i, j in np.ndindex(*scales.shape):
        part = np.s_[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
        scales[i, j] = np.float32(max(np.abs(matrix[part]).max(), 1e-6) / 448)
        rounded = torch.from_numpy(np.ascontiguousarray(matrix[part] / scales[i, j])).to(torch.float8_e4m3fn)
        codes[part] = rounded.view(torch.uint8).numpy()
        values[part] = rounded.float().numpy() * scales[i, j]
    return PackedMatrix(stored={"weight": ("F8_E4M3", codes), "weight_scale_inv": ("F32", scales)}, values=values)


def pack_integers(matrix: Array, *, bits: int = 4, group_size: int = 32, symmetric: bool = True) -> PackedMatrix:
    """compressed-tensors' pack-quantized. Scales in 16-bit floats."""
    groups = np.arange(matrix.shape[1]) // (group_size or matrix.shape[1])
    levels, zeros, scales = _levels(matrix, bits, groups, symmetric=symmetric)
    stored: Stored = {
        "weight_packed": ("I32", np.ascontiguousarray(bits_in_words(levels, bits).T)),
        "weight_scale": ("F16", np.ascontiguousarray(scales.T)),
        "weight_shape": ("I64", np.array(matrix.shape, "<i8")),
    }
    if not symmetric:
        stored["weight_zero_point"] = ("I32", bits_in_words(zeros.T, bits))
    return PackedMatrix(stored=stored, values=_meant(levels, zeros, scales, groups))


def pack_int8(matrix: Array) -> PackedMatrix:
    """compressed-tensors' int-quantized: a scale a row."""
    scales = np.maximum(np.abs(matrix).max(1, keepdims=True) / 127, 1e-4).astype(np.float16)
    levels = np.clip(np.round(matrix / scales.astype(np.float32)), -128, 127).astype(np.int8)
    values = (levels.astype(np.float64) * scales.astype(np.float64)).astype(np.float32)
    return PackedMatrix(stored={"weight": ("I8", levels), "weight_scale": ("F16", scales)}, values=values)


def pack_float8(matrix: Array) -> PackedMatrix:
    """compressed-tensors' float-quantized: e4m3, a scale a row."""
    import torch

    scales = np.maximum(np.abs(matrix).max(1, keepdims=True) / 448, 1e-4).astype(np.float16)
    rounded = torch.from_numpy(np.ascontiguousarray(matrix / scales.astype(np.float32))).to(torch.float8_e4m3fn)
    values = (rounded.double().numpy() * scales.astype(np.float64)).astype(np.float32)
    return PackedMatrix(stored={"weight": ("F8_E4M3", rounded.view(torch.uint8).numpy()), "weight_scale": ("F16", scales)}, values=values)


def pack_mxfp4(experts: Array) -> tuple[Array, Array, Array]:
    """(blocks, scales, values) of gpt-oss' experts [experts, inputs, outputs]."""
    turned = np.ascontiguousarray(experts.swapaxes(1, 2)).reshape(experts.shape[0], experts.shape[2], -1, 32)
    exponents = np.ceil(np.log2(np.maximum(np.abs(turned).max(-1), 1e-6) / 6)).astype(np.int64)
    scaled = turned / np.exp2(exponents)[..., None]
    nearest = np.abs(np.abs(scaled)[..., None] - _MX_VALUES).argmin(-1)
    codes = (nearest + 8 * np.signbit(scaled)).astype(np.uint8)
    blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
    meant = np.where(np.signbit(scaled), -1, 1) * _MX_VALUES[nearest] * np.exp2(exponents)[..., None]
    values = meant.astype(np.float32).reshape(*turned.shape[:2], -1).swapaxes(1, 2)
    return blocks, (exponents + 127).astype(np.uint8), np.ascontiguousarray(values)


def _weights_group(bits: int, kind: str, strategy: str, group_size: int | None, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "group_size": group_size, "symmetric": True, **more}
    return {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}


def _compressed(layout: str, groups: Mapping[str, Any]) -> dict[str, Any]:
    told = {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups, "ignore": ["lm_head"]}
    return {**told, "quantization_status": "compressed"}


_ACT_ORDER = np.random.default_rng(5)
SCHEMES: dict[str, tuple[dict[str, Any], Callable[[Array], PackedMatrix]]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}, pack_awq),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}, lambda m: pack_gptq(m, symmetric=True)),
    "gptq-3": ({"quant_method": "gptq", "bits": 3, "group_size": 32, "desc_act": False, "sym": False}, lambda m: pack_gptq(m, bits=3)),
    "gptq-act-order": (
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False, "checkpoint_format": "gptq_v2"},
        lambda m: pack_gptq(m, order=_ACT_ORDER.permutation(m.shape[1]), v2=True),
    ),
    "fp8": ({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}, pack_fp8),
    "int4": (_compressed("pack-quantized", _weights_group(4, "int", "group", 32)), pack_integers),
    "int8": (_compressed("int-quantized", _weights_group(8, "int", "channel", None)), pack_int8),
    "float8": (_compressed("float-quantized", _weights_group(8, "float", "channel", None)), pack_float8),
    "mxfp4": ({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}, lambda m: pack_awq(m)),
}
"""By name: `quantization_config` and the packer of one matrix (mxfp4 packs experts, see `pack_checkpoint`)."""


def pack_checkpoint(source: Path, folder: Path, scheme: str) -> dict[str, Array]:
    """Write `folder`: the plain directory `source` with the matrices of its layers packed as one of SCHEMES.

    Returns the float32 numbers that the tensors stand for, by the names of the plain model.
    """
    config, pack = SCHEMES[scheme]
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    told = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**told, "quantization_config": config}), encoding="utf-8")
    stored: Stored = {}
    meant: dict[str, Array] = {}
    for name, values in read_plain(source / "model.safetensors").items():
        if scheme == "mxfp4" and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            blocks, scales, meant[name] = pack_mxfp4(values)
            stored |= {f"{name}_blocks": ("U8", blocks), f"{name}_scales": ("U8", scales)}
        elif scheme != "mxfp4" and values.ndim == 2 and ".layers." in name:
            packed = pack(values)
            meant[name] = packed.values
            stored |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in packed.stored.items()}
        else:
            meant[name] = values
            stored[name] = ("F32", values)
    save(folder / "model.safetensors", stored)
    return meant


def read_plain(path: Path) -> dict[str, Array]:
    """The tensors of a file that holds F32, F16 and BF16 only, as float32."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    found = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = (start + place for place in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw[begin:end], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw[begin:end], {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype(np.float32)
        found[name] = values.reshape(entry["shape"])
    return found


def save(path: Path, tensors: Stored) -> None:
    """Write a .safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (kind, array) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(
        len(raw).to_bytes(8, "little") + raw + b"".join(np.ascontiguousarray(array).tobytes() for _, array in tensors.values())
    )
