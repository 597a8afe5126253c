"""The published formulas of packed weights, in numpy: integers in words, 8- and 4-bit floats with their scales, to float32.

Every function returns a matrix as Hugging Face's plain models hold it, rows = outputs (mxfp4: see there), or raises PackedError with what
does not fit. Products are computed in float32: exact for scales in 16-bit floats, rounded once for scales in 32-bit floats.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

WORD_BITS = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each nibble of a word holds, from the lowest up (AutoAWQ, WQLinear_GEMM)."""
MX_BLOCK = 32
"""Values that share a power of two in OCP's MX formats."""
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The sixteen 4-bit floats (OCP Microscaling Formats 1.0, section 5.3.3)."""


class PackedError(Exception):
    """Tensors that do not fit each other, in words that go on from the name of their layer."""


def _e4m3_values() -> Floats:
    """The 256 numbers of float8 e4m3fn: a sign, 4 bits of exponent with bias 7, 3 of mantissa; S.1111.111 is no number (OCP FP8 1.0)."""
    codes = np.arange(256)
    exponents, mantissas = (codes >> 3) & 15, codes & 7
    sizes = np.where(exponents == 0, mantissas * 2.0**-9, (8 + mantissas) * 2.0 ** (exponents - 10.0))
    values = np.where(codes & 128, -sizes, sizes)
    values[(codes & 127) == 127] = np.nan
    return values.astype(np.float32)


E4M3 = _e4m3_values()


def from_stream(words: Array, bits: int, n: int) -> npt.NDArray[np.uint8]:
    """The first n numbers of `bits` bits that lie one after another in 32-bit words along the first axis, lowest bits first. [n, ...]"""
    places = np.arange(n, dtype=np.int64) * bits
    first, shift = places // WORD_BITS, (places % WORD_BITS).astype(np.uint64)
    whole = words.view(np.uint32).astype(np.uint64)
    joined = whole[first] | (whole[np.minimum(first + 1, len(whole) - 1)] << np.uint64(WORD_BITS))
    shift = shift.reshape(-1, *[1] * (words.ndim - 1))
    return ((joined >> shift) & np.uint64((1 << bits) - 1)).astype(np.uint8)


def from_words(words: Array, bits: int, n: int, *, dense: bool = True) -> npt.NDArray[np.uint8]:
    """The first n numbers of `bits` bits along the last axis of 32-bit words. [rows, n]

    dense: one after another; else each word holds as many whole ones as fit (the same for 2, 4 and 8 bits). Raises PackedError.
    """
    each = WORD_BITS // bits
    needed = -(-n * bits // WORD_BITS) if dense else -(-n // each)
    if words.shape[-1] != needed:
        raise PackedError(f"{words.shape[-1]} words do not hold {n} numbers of {bits} bits")
    if dense and WORD_BITS % bits:
        return from_stream(np.ascontiguousarray(words.T), bits, n).T
    shifts = (np.arange(each) * bits).astype(np.uint32)
    found = (words.view(np.uint32)[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return found.reshape(*words.shape[:-1], -1)[..., :n].astype(np.uint8)


def lies_dense(n_words: int, bits: int, n: int) -> bool:
    """How n numbers of 3, 5, 6 or 7 bits lie in so many words: compressed-tensors 0.20 lays them one after another, earlier ones did not.

    Raises PackedError for a number of words that is neither's, or both's.
    """
    dense, whole = -(-n * bits // WORD_BITS), -(-n // (WORD_BITS // bits))
    if WORD_BITS % bits and dense == whole and dense > 1:
        raise PackedError(f"{n} numbers of {bits} bits in {whole} words can be read in two ways")
    if n_words not in (dense, whole):
        raise PackedError(f"{n_words} words do not hold {n} numbers of {bits} bits")
    return n_words == dense


def awq(qweight: Array, qzeros: Array, scales: Floats, *, group_size: int) -> Floats:
    """AutoAWQ's gemm, 4 bits: w = (q - z) * s.

    qweight: int32 [inputs, outputs/8]; qzeros: int32 [groups, outputs/8]; scales: [groups, outputs]
    """
    inputs, outputs = qweight.shape[0], qweight.shape[1] * 8
    groups = _n_groups(inputs, group_size)
    _shaped("qzeros", qzeros, (groups, outputs // 8))
    _shaped("scales", scales, (groups, outputs))
    size = inputs // groups
    levels = _awq_columns(qweight).astype(np.float32).reshape(groups, size, outputs)
    found = (levels - _awq_columns(qzeros).astype(np.float32)[:, None]) * scales[:, None]
    return np.ascontiguousarray(found.reshape(inputs, outputs).T)


def _awq_columns(words: Array) -> npt.NDArray[np.uint8]:
    found = np.empty((*words.shape, 8), np.uint8)
    for place, column in enumerate(AWQ_ORDER):
        found[..., column] = (words.view(np.uint32) >> np.uint32(4 * place)) & np.uint32(15)
    return found.reshape(words.shape[0], -1)


def gptq(qweight: Array, qzeros: Array, scales: Floats, g_idx: Array | None, *, bits: int, group_size: int, zeros_less_one: bool) -> Floats:
    """GPTQ: w = (q - z) * s. qweight int32 [inputs*bits/32, outputs]; qzeros int32 [groups, outputs*bits/32]; scales [groups, outputs].

    g_idx: the group of each input (desc_act); None = they lie in order. zeros_less_one: z is stored less one, as the first format has it;
    a stored number of all ones is refused there: kernels disagree whether it is 2^bits or 0.
    """
    outputs = qweight.shape[1]
    if qweight.shape[0] * WORD_BITS % bits:
        raise PackedError(f"qweight has {qweight.shape[0]} rows of words, no whole number of {bits}-bit values")
    inputs = qweight.shape[0] * WORD_BITS // bits
    if g_idx is not None:
        _shaped("g_idx", g_idx, (inputs,))
    groups = _n_groups(inputs, group_size) if g_idx is None else scales.shape[0]
    _shaped("scales", scales, (groups, outputs))
    _shaped("qzeros", qzeros, (groups, outputs * bits // WORD_BITS))
    zeros = from_stream(np.ascontiguousarray(qzeros.T), bits, outputs).T.astype(np.int16)
    if zeros_less_one:
        if zeros.size and zeros.max() == (1 << bits) - 1:
            raise PackedError("qzeros hold a number of all ones, which engines read in two ways; save it in format gptq_v2")
        zeros = zeros + 1
    of_input = np.arange(inputs) // (inputs // groups) if g_idx is None else g_idx.astype(np.int64)
    if of_input.size and (of_input.min() < 0 or of_input.max() >= groups):
        raise PackedError(f"g_idx names group {of_input.max() if of_input.max() >= groups else of_input.min()} of {groups}")
    levels = from_stream(qweight, bits, inputs).astype(np.float32)
    found = (levels - zeros.astype(np.float32)[of_input]) * scales[of_input]
    return np.ascontiguousarray(found.T)


def fp8(codes: npt.NDArray[np.uint8], scales: Floats, *, block: tuple[int, int] | None) -> Floats:
    """e4m3 times its scale: one of the matrix, one of each row ([rows, 1]), or of each block ([.., row blocks, column blocks]).

    codes: [.., rows, columns], the last block of a side may be cut off
    """
    values = E4M3[codes]
    if scales.size == 1:
        return values * scales.reshape(())
    rows, columns = codes.shape[-2:]
    if block is None:
        _shaped("its scale", scales.reshape(-1, 1), (rows, 1))
        return values * scales.reshape(rows, 1)
    _shaped("its scale", scales, (*codes.shape[:-2], -(-rows // block[0]), -(-columns // block[1])))
    return values * np.repeat(np.repeat(scales, block[0], -2)[..., :rows, :], block[1], -1)[..., :columns]


def e8m0(codes: npt.NDArray[np.uint8]) -> Floats:
    """Powers of two from 2^-127 to 2^127. Raises PackedError for 255, which is no number."""
    if codes.size and codes.max() == 255:
        raise PackedError("a scale is no number (255)")
    return np.ldexp(np.float32(1), codes.astype(np.int32) - 127).astype(np.float32)


def mxfp4(blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]) -> Floats:
    """gpt-oss' experts as its plain model holds them, turned: [experts, inputs, outputs].

    blocks: [experts, outputs, inputs/32, 16], the lower nibble first; scales: [experts, outputs, inputs/32]
    """
    if blocks.ndim != 4 or blocks.shape[-1] != MX_BLOCK // 2:
        raise PackedError(f"its blocks have the shape {_text(blocks.shape)}, not [experts, outputs, blocks, 16]")
    _shaped("its scales", scales, blocks.shape[:-1])
    values = np.stack([E2M1[blocks & 15], E2M1[blocks >> 4]], axis=-1).reshape(*blocks.shape[:-1], MX_BLOCK)
    found = (values * e8m0(scales)[..., None]).reshape(*blocks.shape[:2], -1)
    return np.ascontiguousarray(found.swapaxes(1, 2))


def pack_quantized(
    words: Array, scales: Floats, zeros: Array | None, g_idx: Array | None, *, shape: Sequence[int], bits: int, group_size: int
) -> Floats:
    """compressed-tensors' pack-quantized: w = (q - z) * s, integers stored with 2^(bits-1) added. words int32 [rows, words of a row].

    zeros: int32 [words of a column, groups], packed downwards in the same way, None = symmetric; shape: of the matrix;
    g_idx: the group of each column, None or all -1 = they lie in order
    """
    if len(shape) != 2 or min(shape) < 1:
        raise PackedError(f"weight_shape is {_text(shape)}, no matrix")
    rows, columns = int(shape[0]), int(shape[1])
    half = 1 << (bits - 1)
    _rows("weight_packed", words, rows)
    dense = lies_dense(words.shape[1], bits, columns)
    levels = from_words(words, bits, columns, dense=dense).astype(np.float32) - np.float32(half)
    offsets = None
    if zeros is not None:
        _rows("weight_zero_point, turned,", zeros.T, scales.shape[-1] if scales.ndim == 2 else 1)
        offsets = from_words(np.ascontiguousarray(zeros.T), bits, rows, dense=dense).T.astype(np.float32) - np.float32(half)
    return scaled(levels, scales, offsets, g_idx, group_size=group_size)


def scaled(levels: Floats, scales: Floats, offsets: Floats | None, g_idx: Array | None, *, group_size: int) -> Floats:
    """(q - z) * s. levels [rows, columns]; scales and offsets: one number (group_size -1), [rows, 1] (0) or [rows, groups]."""
    rows, columns = levels.shape
    if group_size < 0:
        for name, held in (("weight_scale", scales), ("weight_zero_point", offsets)):
            if held is not None and held.size != 1:
                raise PackedError(f"{name} holds {held.size} numbers for one matrix, not 1")
        zero = 0 if offsets is None else offsets.reshape(())
        return np.asarray((levels - zero) * scales.reshape(()), np.float32)
    groups = _n_groups(columns, group_size, cut_off=True)
    spread = scales.reshape(rows, 1) if group_size == 0 and scales.size == rows else scales
    _shaped("weight_scale", spread, (rows, groups))
    if offsets is not None:
        offsets = offsets.reshape(rows, 1) if group_size == 0 and offsets.size == rows else offsets
        _shaped("weight_zero_point", offsets, (rows, groups))
    size = columns if group_size == 0 else group_size
    of_column = np.arange(columns) // size
    if g_idx is not None and (g_idx != -1).any():
        _shaped("weight_g_idx", g_idx, (columns,))
        of_column = g_idx.astype(np.int64)
        if of_column.min() < 0 or of_column.max() >= groups:
            raise PackedError(f"weight_g_idx names a group outside of {groups}")
    found = levels if offsets is None else levels - offsets[:, of_column]
    return np.asarray(found * spread[:, of_column], np.float32)


def _n_groups(inputs: int, group_size: int, *, cut_off: bool = False) -> int:
    """Groups of one row; 0 = the whole row is one. Raises PackedError where the size does not divide the row."""
    if group_size == 0:
        return 1
    if inputs % group_size and not cut_off:
        raise PackedError(f"its {inputs} inputs are no whole number of groups of {group_size}")
    return -(-inputs // group_size)


def _shaped(name: str, array: Array, shape: Sequence[int]) -> None:
    if tuple(array.shape) != tuple(shape):
        raise PackedError(f"{name} has the shape {_text(array.shape)} where {_text(shape)} belongs")


def _rows(name: str, array: Array, rows: int) -> None:
    if array.ndim != 2 or array.shape[0] != rows:
        raise PackedError(f"{name} has the shape {_text(array.shape)} and not {rows} rows")


def _text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(int(length)) for length in shape) + "]"
