"""Tensors of .safetensors files, mapped and written one at a time (format: huggingface/safetensors)."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import sync_folder
from trimtab.core.model import Snapshot

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of a file. type_name: `F32`, `F16`, `BF16` or what no conversion here takes; begin: of its bytes in the file."""

    path: Path
    type_name: str
    shape: tuple[int, ...]
    begin: int
    size_bytes: int

    def bytes(self) -> npt.NDArray[np.uint8]:
        """Its bytes, mapped."""
        if self.size_bytes == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", self.begin, (self.size_bytes,))

    def values(self) -> npt.NDArray[np.float32]:
        """Its numbers, float32, in its shape. Exact for the three types. Raises InfeasibleError for others."""
        raw = self.bytes()
        if self.type_name == "F32":
            return np.array(raw.view("<f4"), np.float32).reshape(self.shape)
        if self.type_name == "F16":
            return raw.view("<f2").astype(np.float32).reshape(self.shape)
        if self.type_name == "BF16":
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        raise InfeasibleError(f"{self.path.name} holds tensors of type {self.type_name}; only F32, F16 and BF16 can be converted.")


def read_tensors(snapshot: Snapshot) -> dict[str, StoredTensor]:
    """All tensors of a Hugging Face directory, by name. The headers were checked when the snapshot was opened. Raises InputError."""
    found: dict[str, StoredTensor] = {}
    for file in snapshot.files:
        if not file.name.endswith(".safetensors"):
            continue
        path = snapshot.root / file.name
        try:
            with path.open("rb") as handle:
                length = int.from_bytes(handle.read(8), "little")
                header: dict[str, Any] = json.loads(handle.read(length))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a safetensors file ({error}).") from error
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            found[name] = StoredTensor(
                path=path, type_name=entry["dtype"], shape=tuple(entry["shape"]), begin=8 + length + begin, size_bytes=end - begin
            )
    if not found:
        raise InputError(f"{snapshot.source} holds no .safetensors file.")
    return found


def write_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], type_name: str, values: Iterator[npt.NDArray[np.float32]]) -> None:
    """Write a file of tensors that all have one type. values: of each of `shapes`, in that order. Raises OSError.

    BF16 is rounded to nearest, ties to even; F16 that overflows raises InfeasibleError.
    """
    item = ITEM_BYTES[type_name]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * item
        header[name] = {"dtype": type_name, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    with path.open("wb") as handle:
        handle.write(len(raw).to_bytes(8, "little") + raw)
        for name, each in zip(shapes, values, strict=True):
            handle.write(_stored(name, each, type_name))
        handle.flush()
        os.fsync(handle.fileno())
    sync_folder(path.parent)


def _stored(name: str, values: npt.NDArray[np.float32], type_name: str) -> bytes:
    if type_name == "F32":
        return np.ascontiguousarray(values, "<f4").tobytes()
    if type_name == "F16":
        with np.errstate(over="ignore"):
            halves = values.astype("<f2")
        if not np.isfinite(halves).all() and np.isfinite(values).all():
            raise InfeasibleError(f"{name} holds numbers beyond what 16-bit floats reach; take bfloat16 or float32.")
        return np.ascontiguousarray(halves).tobytes()
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
