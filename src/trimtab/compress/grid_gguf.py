"""Matrices on a grid as blocks of a GGUF file, and a GGUF file with some of its tensors replaced by them.

The layout of the blocks is ggml's (ggml-common.h, `block_q4_0` and its kin): scale, offset where there is one, then the levels, of which
the first half of a block lies in the low and the second in the high nibbles.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.compress.grids import Codes, Floats, check_codes, grid_named
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import sync_folder

Raw = npt.NDArray[np.uint8]


def pack(codes: Codes) -> Raw:
    """Bytes [rows, bytes a row] of the matrix in the type that the grid is named after. Raises InputError for another engine's grid."""
    grid = check_codes(codes)
    if grid.engine != "llamacpp":
        raise InputError(f"A GGUF file cannot hold grid {codes.grid}.")
    rows, columns = codes.shape
    parts: list[npt.NDArray[Any]] = [_bytes(codes.scales, rows), *([] if codes.offsets is None else [_bytes(codes.offsets, rows)])]
    blocks = codes.levels.reshape(rows, columns // grid.group, grid.group)
    if codes.grid == "Q8_0":
        return np.concatenate([*parts, blocks.view(np.uint8)], axis=-1).reshape(rows, -1)
    unsigned = (blocks.astype(np.int16) - grid.low).astype(np.uint8)
    if codes.grid == "Q5_0":
        parts.append(np.packbits(unsigned >> np.uint8(4), axis=-1, bitorder="little"))
    half = grid.group // 2
    parts.append((unsigned[..., :half] & 15) | (unsigned[..., half:] << 4))
    return np.concatenate(parts, axis=-1).reshape(rows, -1)


def unpack(raw: Raw, grid_name: str) -> Codes:
    """The codes behind the bytes [rows, bytes a row] of a tensor of the type `grid_name`: `pack` backwards.

    Raises InputError where the bytes hold what the grid cannot, e.g. a level of -128 in Q8_0.
    """
    grid = grid_named(grid_name)
    size = round(grid.bits_per_weight * grid.group / 8)
    rows = raw.shape[0]
    blocks = np.ascontiguousarray(raw).reshape(rows, -1, size)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
    offsets = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0] if grid.offset == "minimum" else None
    if grid_name == "Q8_0":
        levels = np.ascontiguousarray(blocks[..., 2:]).view(np.int8)
    else:
        nibbles = blocks[..., -grid.group // 2 :]
        unsigned = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
        if grid_name == "Q5_0":
            unsigned |= np.unpackbits(blocks[..., 2:6], axis=-1, bitorder="little") << 4
        levels = unsigned if grid.low == 0 else (unsigned.astype(np.int16) + grid.low).astype(np.int8)
    codes = Codes(grid=grid_name, levels=levels.reshape(rows, -1), scales=scales, offsets=offsets)
    check_codes(codes)
    return codes


def write_gguf(source: Path, target: Path, codes: Mapping[str, Codes], floats: Mapping[str, Floats]) -> None:
    """Write `source` as `target` with the tensors named in `codes` and `floats` replaced; all else, metadata included, as it is.

    codes: by GGUF name, in the order of rows that the file has; floats: by GGUF name, stored as 32-bit floats
    Raises InputError for a name that the file does not have or another shape, InfeasibleError for one part of a split file, OSError.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    if "split.count" in reader.fields and int(reader.fields["split.count"].contents()) > 1:
        raise InfeasibleError(f"{source.name} is one part of a split file; join it first.")
    _check_names(source, {tensor.name: _shape(tensor) for tensor in reader.tensors}, codes, floats)
    partial = target.with_name(f".{target.name}.part")
    try:
        writer = gguf.GGUFWriter(partial, str(reader.fields["general.architecture"].contents()))
        copy_metadata(reader, writer, None if not codes else max(codes.values(), key=lambda each: each.levels.size).grid)
        held = []
        for tensor in reader.tensors:
            data, kind = _replacement(tensor, codes, floats)
            held.append(data)
            writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for data in held:
            writer.write_tensor_data(data)
        writer.close()
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(target.parent)


def _bytes(halves: npt.NDArray[Any], rows: int) -> Raw:
    return np.ascontiguousarray(halves.astype("<f2")).view(np.uint8).reshape(rows, -1, 2)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(length) for length in reversed(tensor.shape))


def _check_names(source: Path, shapes: Mapping[str, tuple[int, ...]], codes: Mapping[str, Codes], floats: Mapping[str, Floats]) -> None:
    for name, each in codes.items():
        if grid_named(each.grid).engine != "llamacpp":
            raise InputError(f"A GGUF file cannot hold grid {each.grid}, which {name} is to have.")
    for name, shape in [*((name, each.shape) for name, each in codes.items()), *((name, each.shape) for name, each in floats.items())]:
        if name not in shapes:
            raise InputError(f"{source.name} has no weight {name!r}.")
        if shapes[name] != shape:
            raise InputError(f"{name} is {shapes[name]} in {source.name}, and what is to replace it is {shape}.")
    both = sorted(codes.keys() & floats.keys())
    if both:
        raise InputError(f"{both[0]} is given both on a grid and as floats.")


def _replacement(tensor: Any, codes: Mapping[str, Codes], floats: Mapping[str, Floats]) -> tuple[Any, Any]:
    """Data and type of a tensor of the new file. What is kept stays mapped from the old one."""
    import gguf

    if tensor.name in codes:
        return pack(codes[tensor.name]), gguf.GGMLQuantizationType[codes[tensor.name].grid]
    if tensor.name in floats:
        return np.ascontiguousarray(floats[tensor.name], np.float32), gguf.GGMLQuantizationType.F32
    return tensor.data, tensor.tensor_type


def copy_metadata(reader: Any, writer: Any, grid_name: str | None) -> None:
    """All key-values of a file but those that the writer adds itself; the file type becomes that of the grid, if one is named."""
    import gguf

    for name, held in reader.fields.items():
        if name.startswith(("GGUF.", "split.")) or name == "general.architecture":
            continue
        kind = held.types[0]
        value = held.contents()
        if name == "general.alignment":
            writer.add_custom_alignment(value)
        if name == "general.file_type" and grid_name is not None:
            value = int(gguf.LlamaFileType[f"MOSTLY_{grid_name}"])
        if kind == gguf.GGUFValueType.ARRAY and value:  # the writer has no empty ones
            writer.add_key_value(name, value, kind, sub_type=held.types[-1])
        elif kind != gguf.GGUFValueType.ARRAY:
            writer.add_key_value(name, value, kind)
