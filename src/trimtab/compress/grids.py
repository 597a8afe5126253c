"""The grids that engines keep weights on: which numbers a format can hold, a matrix laid onto one, and the numbers it then stands for.

A weight is `scale * level`, `scale * level + minimum`, `scale * (level - zero point)` or `scale * table[level]`. Blocks of a GGUF type and
groups of OpenVINO lie along a row. `quantize` does what the engine's own converter does without data (ggml's `quantize_row_*_ref`, NNCF's
`calculate_integer_quantization_params`), `dequantize` gives the numbers that the engine computes with. Scales are 16-bit floats, as in the
files; the levels are those that belong to the scale before it was rounded, as both converters choose them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import InputError, MissingError

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Levels = npt.NDArray[np.int8] | npt.NDArray[np.uint8]
EPSILON = float(np.finfo(np.float32).eps)
"""The smallest scale of NNCF."""
IQ4_NL_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""ggml's kvalues_iq4nl."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which numbers a format can hold.

    engine: `llamacpp` or `openvino`
    group: weights of a row that share a scale, 0 = all of the row
    low, high: smallest and largest level; levels are uint8 where low is 0, else int8
    offset: `none`; `minimum`: added to scale * level (float16); `zero-point`: subtracted from the level (uint8)
    table: what a level stands for, () = itself
    bits_per_weight: as stored, with scales and offsets (of groups; those of whole rows are not counted)
    """

    name: str
    engine: Literal["llamacpp", "openvino"]
    group: int
    low: int
    high: int
    offset: Literal["none", "minimum", "zero-point"] = "none"
    table: tuple[int, ...] = ()
    bits_per_weight: float


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A matrix on a grid.

    levels: [rows, columns], uint8 or int8 (see Grid)
    scales: [rows, groups a row], float16, signed
    offsets: like scales (float16 minima or uint8 zero points), None where the grid has none
    """

    grid: str
    levels: Levels
    scales: Halves
    offsets: npt.NDArray[Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.levels.shape
        return rows, columns


def _grids() -> dict[str, Grid]:
    found = [
        Grid(name="Q4_0", engine="llamacpp", group=32, low=-8, high=7, bits_per_weight=4.5),
        Grid(name="Q4_1", engine="llamacpp", group=32, low=0, high=15, offset="minimum", bits_per_weight=5.0),
        Grid(name="Q5_0", engine="llamacpp", group=32, low=-16, high=15, bits_per_weight=5.5),
        Grid(name="Q8_0", engine="llamacpp", group=32, low=-127, high=127, bits_per_weight=8.5),
        Grid(name="IQ4_NL", engine="llamacpp", group=32, low=0, high=15, table=IQ4_NL_VALUES, bits_per_weight=4.5),
        Grid(name="int8-sym", engine="openvino", group=0, low=-128, high=127, bits_per_weight=8.0),
        Grid(name="int8-asym", engine="openvino", group=0, low=0, high=255, offset="zero-point", bits_per_weight=8.0),
    ]
    for group in (32, 64, 128):
        bits = 4 + 16 / group
        found.append(Grid(name=f"int4-sym-g{group}", engine="openvino", group=group, low=-8, high=7, bits_per_weight=bits))
        found.append(
            Grid(
                name=f"int4-asym-g{group}",
                engine="openvino",
                group=group,
                low=0,
                high=15,
                offset="zero-point",
                bits_per_weight=bits + 4 / group,
            )
        )
    return {grid.name: grid for grid in found}


GRIDS: Mapping[str, Grid] = _grids()


def grid_named(name: str) -> Grid:
    """Raises InputError for a name that is none of GRIDS."""
    if name not in GRIDS:
        raise InputError(f"Unknown grid {name!r}; the grids are {', '.join(GRIDS)}.")
    return GRIDS[name]


def quantize(weight: Floats, grid: str) -> Codes:
    """Lay a matrix [rows, columns] onto a grid, as the engine's own converter does. float32 in, whatever else is given.

    Raises InputError for an unknown grid, what is no matrix, rows that the groups do not divide, NaN or infinity, and weights so large that
    a 16-bit scale cannot hold them; MissingError for IQ4_NL without llama.cpp, whose search it is.
    """
    held = grid_named(grid)
    values = np.ascontiguousarray(weight, np.float32)
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"Grid {grid} takes a matrix of weights, not something of shape {values.shape}.")
    rows, columns = values.shape
    group = held.group or columns
    if columns % group:
        raise InputError(f"Rows of {columns} weights are not divided by the groups of {group} of grid {grid}.")
    if not np.isfinite(values).all():
        raise InputError("The weights hold NaN or infinity, which no grid can.")
    blocks = values.reshape(rows, columns // group, group)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        if held.engine == "openvino":
            levels, scales, offsets = _nncf(blocks, held)
        elif held.table:
            levels, scales, offsets = _searched_by_ggml(values)
        else:
            levels, scales, offsets = _ggml(blocks, held)
        rounded = scales[..., 0].astype(np.float16)
        kept = None if offsets is None else offsets[..., 0].astype(np.float16 if held.offset == "minimum" else np.uint8)
    if not np.isfinite(rounded).all() or (held.offset == "minimum" and kept is not None and not np.isfinite(kept).all()):
        raise InputError(f"The weights reach {np.abs(values).max():.3g}, more than the 16-bit scales of grid {grid} can hold.")
    flat = levels.reshape(rows, columns)
    whole: Levels = flat.astype(np.uint8) if held.low == 0 else flat.astype(np.int8)
    return Codes(grid=grid, levels=whole, scales=rounded, offsets=kept)


def dequantize(codes: Codes) -> Floats:
    """The numbers [rows, columns] that the engine computes with, float32. Raises InputError for codes that do not fit their grid."""
    held = check_codes(codes)
    rows, columns = codes.shape
    levels = np.asarray(held.table, np.float32)[codes.levels] if held.table else codes.levels.astype(np.float32)
    blocks = levels.reshape(rows, codes.scales.shape[1], -1)
    scales = codes.scales.astype(np.float32)[..., None]
    if codes.offsets is None:
        values = scales * blocks
    elif held.offset == "minimum":
        values = scales * blocks + codes.offsets.astype(np.float32)[..., None]
    else:
        values = (blocks - codes.offsets.astype(np.float32)[..., None]) * scales
    return values.reshape(rows, columns)


def check_codes(codes: Codes) -> Grid:
    """The grid of the codes. Raises InputError where shapes, types or ranges are not the grid's, or scales are not finite."""
    held = grid_named(codes.grid)
    if codes.levels.ndim != 2 or codes.levels.size == 0:
        raise InputError(f"Codes of grid {codes.grid} are a matrix, not something of shape {codes.levels.shape}.")
    rows, columns = codes.shape
    group = held.group or columns
    if columns % group or codes.scales.shape != (rows, columns // group):
        raise InputError(f"Scales of shape {codes.scales.shape} do not fit {rows} x {columns} weights of grid {codes.grid}.")
    if (codes.offsets is None) != (held.offset == "none") or (codes.offsets is not None and codes.offsets.shape != codes.scales.shape):
        raise InputError(f"Offsets of these codes are not what grid {codes.grid} has ({held.offset}).")
    wanted: list[tuple[npt.NDArray[Any], Any, str]] = [
        (codes.levels, np.uint8 if held.low == 0 else np.int8, "levels"),
        (codes.scales, np.float16, "scales"),
    ]
    if codes.offsets is not None:
        wanted.append((codes.offsets, np.float16 if held.offset == "minimum" else np.uint8, "offsets"))
    for array, kind, what in wanted:
        if array.dtype != kind:
            raise InputError(f"Of grid {codes.grid} the {what} are {np.dtype(kind)}, not {array.dtype}.")
        if array.dtype == np.float16 and not np.isfinite(array).all():
            raise InputError(f"Of grid {codes.grid} some {what} are not finite.")
    ranged: list[tuple[npt.NDArray[Any], str]] = [(codes.levels, "levels")]
    if held.offset == "zero-point" and codes.offsets is not None:
        ranged.append((codes.offsets, "zero points"))
    for array, what in ranged:
        if array.min() < held.low or array.max() > held.high:
            raise InputError(f"Of grid {codes.grid} the {what} go from {held.low} to {held.high}.")
    return held


Parts = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None]
"""Levels [rows, groups, group] in float32, scales and offsets [rows, groups, 1] before they are rounded."""


def _ggml(blocks: Floats, grid: Grid) -> Parts:
    """quantize_row_q4_0_ref and its kin (ggml-quants.c): scale from the extreme weight, levels from its reciprocal."""
    if grid.offset == "minimum":
        minima = blocks.min(axis=-1, keepdims=True)
        scales = (blocks.max(axis=-1, keepdims=True) - minima) / np.float32(grid.high)
        levels = np.trunc((blocks - minima) * _reciprocal(scales) + np.float32(0.5))
        return np.clip(levels, grid.low, grid.high), scales, minima
    if grid.name == "Q8_0":
        scales = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(grid.high)
        scaled = blocks * _reciprocal(scales)
        return np.sign(scaled) * _rounded_up(np.abs(scaled)), scales, None  # C's roundf: halves away from zero
    place = np.abs(blocks).argmax(axis=-1, keepdims=True)
    scales = np.take_along_axis(blocks, place, axis=-1) / np.float32(grid.low)
    levels = np.trunc(blocks * _reciprocal(scales) + np.float32(0.5 - grid.low)) + np.float32(grid.low)
    return np.clip(levels, grid.low, grid.high), scales, None


def _reciprocal(scales: Floats) -> Floats:
    """1 / scale; 0 for 0 and where it overflows (such a scale is 0 in 16 bits: ggml's levels are undefined there, and mean nothing)."""
    inverse = np.float32(1) / scales
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _rounded_up(sizes: Floats) -> Floats:
    """Halves go up, without the error of adding 0.5 to a number just below a half."""
    whole = np.floor(sizes)
    return whole + np.floor(2 * (sizes - whole))


def _nncf(blocks: Floats, grid: Grid) -> Parts:
    """NNCF's integer grids: the extreme weight is an end of the range; symmetric scales carry the sign of the shorter side."""
    lowest, highest = blocks.min(axis=-1, keepdims=True), blocks.max(axis=-1, keepdims=True)
    if grid.offset == "zero-point":
        lowest, highest = np.minimum(lowest, 0), np.maximum(highest, 0)
        scales = _at_least_epsilon((highest - lowest) / np.float32(grid.high))
        zeros = np.clip(np.float32(0) - np.round(lowest / scales), grid.low, grid.high)
        return np.clip(np.round(blocks / scales + zeros), grid.low, grid.high), scales, zeros
    scales = _at_least_epsilon(np.where(np.abs(lowest) >= highest, np.abs(lowest), -highest) / np.float32(-grid.low))
    return np.clip(np.round(blocks / scales), grid.low, grid.high), scales, None


def _at_least_epsilon(scales: Floats) -> Floats:
    return np.where(np.abs(scales) < EPSILON, np.float32(EPSILON), scales)


def _searched_by_ggml(values: Floats) -> Parts:
    """IQ4_NL: ggml tries fifteen scales a block. Its order of additions is the compiler's, so the library itself is asked."""
    import ctypes

    import gguf

    try:
        from llama_cpp._ggml import libggml
    except ImportError as error:
        raise MissingError(f"Grid IQ4_NL is laid out by llama.cpp ({error}).", "pip install 'trimtab[llamacpp]'") from error
    rows, columns = values.shape
    call = libggml.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    raw = np.empty((rows, columns // 32, 18), np.uint8)
    call(int(gguf.GGMLQuantizationType.IQ4_NL), values.ctypes.data, raw.ctypes.data, 0, rows, columns, None)
    scales = np.ascontiguousarray(raw[..., :2]).view(np.float16)
    return np.concatenate([raw[..., 2:] & 15, raw[..., 2:] >> 4], axis=-1), scales, None
