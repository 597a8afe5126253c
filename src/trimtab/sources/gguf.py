"""GGUF headers, read and checked without reading weights (format: ggml/docs/gguf.md, versions 2 and 3, little endian).

Everything in a header is untrusted: counts and lengths are bounded by the file's size and by the limits below, tensors must lie
inside the file without overlap, names must be unique and printable.
"""

import hashlib
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader, TensorInfo
from trimtab.sources.ggml_types import ggml_type

MAX_HEADER_BYTES = 128 << 20
MAX_KEYS = 65_536
MAX_TENSORS = 65_536
MAX_STRINGS = 1 << 22
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 512
MAX_KEPT_STRING_BYTES = 4 << 20
MAX_KEPT_ARRAY = 1024
MAX_KEPT_BYTES = 64 << 20
MAX_NESTED = 64
MAX_DIMENSIONS = 4
MAX_TENSOR_VALUES = 1 << 45
MAX_ARRAY_DEPTH = 3

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TYPE_NAMES = {0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 8: "string", 9: "array", 10: "u64"}
_TYPE_NAMES |= {11: "i64", 12: "f64"}
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    info: TensorInfo
    offset: int


class _Cursor:
    """Position in a mapped file; every read is checked against the end and against MAX_HEADER_BYTES."""

    def __init__(self, data: mmap.mmap, size: int, path: Path) -> None:
        self.data, self.size, self.path, self.position = data, size, path, 0
        self.limit = min(size, MAX_HEADER_BYTES)
        self.budget = MAX_KEPT_BYTES
        self.strings_left = MAX_STRINGS

    def fail(self, why: str) -> InputError:
        return InputError(f"{self.path} is not a usable GGUF file: {why}.")

    def take(self, n_bytes: int, what: str) -> int:
        """Position before moving on by n_bytes."""
        start = self.position
        if n_bytes > self.limit - start:
            if start + n_bytes > self.size:
                raise self.fail(f"it ends inside its header, at {what} (a download cut short? fetch it again)")
            raise self.fail(f"its header is larger than {MAX_HEADER_BYTES >> 20} MiB")
        self.position = start + n_bytes
        return start

    def keep(self, n_bytes: int) -> None:
        """Account for about n_bytes of Python values kept, so that a small file cannot claim much memory."""
        self.budget -= n_bytes
        if self.budget < 0:
            raise self.fail("its metadata is larger than any model needs")

    def number(self, form: str, what: str) -> Any:
        packed = struct.Struct("<" + form)
        return packed.unpack_from(self.data, self.take(packed.size, what))[0]

    def text(self, max_bytes: int, what: str) -> bytes:
        length = self.number("Q", what)
        if length > max_bytes:
            raise self.fail(f"{what} is {length} bytes long, more than {max_bytes}")
        start = self.take(length, what)
        return self.data[start : start + length]


def _summary(cursor: _Cursor, kind: str, length: int, start: int) -> dict[str, Any]:
    digest = hashlib.sha256(memoryview(cursor.data)[start : cursor.position]).hexdigest()
    return {"array": kind, "length": length, "sha256": digest}


def _skip_strings(cursor: _Cursor, count: int, key: str) -> None:
    """Move past `count` strings. A tight loop: vocabularies hold up to a million of them."""
    cursor.strings_left -= count
    if cursor.strings_left < 0:
        raise cursor.fail(f"its arrays claim more than {MAX_STRINGS} strings")
    unpack, data, position, limit = struct.Struct("<Q").unpack_from, cursor.data, cursor.position, cursor.limit
    last = limit - 8
    for _ in range(count):
        if position > last:
            break
        position += 8 + unpack(data, position)[0]
    else:
        if position <= limit:
            cursor.position = position
            return
    raise cursor.fail(f"a string of the array {key!r} runs past the end of the file or of {MAX_HEADER_BYTES >> 20} MiB of header")


def _read_array(cursor: _Cursor, key: str, keep: bool, depth: int) -> Any:
    kind = cursor.number("I", f"the array {key!r}")
    length = cursor.number("Q", f"the array {key!r}")
    start = cursor.position
    if kind in _SCALARS:
        size = struct.calcsize("<" + _SCALARS[kind])
        cursor.take(size * length, f"the array {key!r}")
        if keep or length <= MAX_KEPT_ARRAY:
            cursor.keep(0 if keep else 16 * length)
            return struct.unpack_from(f"<{length}{_SCALARS[kind]}", cursor.data, start)
        return _summary(cursor, _TYPE_NAMES[kind], length, start)
    if kind == _STRING:
        if length > MAX_STRINGS:
            raise cursor.fail(f"the array {key!r} claims {length} strings, more than {MAX_STRINGS}")
        if keep or length <= MAX_KEPT_ARRAY:
            return tuple(_text_value(cursor, f"the array {key!r}", keep) for _ in range(length))
        _skip_strings(cursor, length, key)
        return _summary(cursor, "string", length, start)
    if kind == _ARRAY:
        if depth >= MAX_ARRAY_DEPTH or length > MAX_NESTED:
            raise cursor.fail(f"the array {key!r} is nested deeper or longer than any model needs")
        return tuple(_read_array(cursor, key, keep, depth + 1) for _ in range(length))
    raise cursor.fail(f"the array {key!r} has the unknown element type {kind}")


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def _name(cursor: _Cursor, max_bytes: int, what: str) -> str:
    raw = cursor.text(max_bytes, what)
    name = _decoded(raw)
    if not name or "\ufffd" in name or not name.isprintable():
        raise cursor.fail(f"{what} is empty or not printable text")
    return name


def _text_value(cursor: _Cursor, what: str, keep: bool) -> Any:
    """A string, or its summary if it is long (some files hold a whole tokenizer.json)."""
    start = cursor.position
    length = cursor.number("Q", what)
    begin = cursor.take(length, what)
    if keep:
        return _decoded(cursor.data[begin : begin + length])
    if length > MAX_KEPT_STRING_BYTES:
        return _summary(cursor, "text", length, start)
    cursor.keep(64 + length)
    return _decoded(cursor.data[begin : begin + length])


def _read_value(cursor: _Cursor, key: str, keep: bool) -> Any:
    kind = cursor.number("I", f"the value of {key!r}")
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind], f"the value of {key!r}")
    if kind == _ARRAY:
        return _read_array(cursor, key, keep, 1)
    if kind != _STRING:
        raise cursor.fail(f"the value of {key!r} has the unknown type {kind}")
    return _text_value(cursor, f"the value of {key!r}", keep)


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """(number of tensors, number of keys) after checking magic and version."""
    if cursor.size < 24:
        raise cursor.fail(f"it has {cursor.size} bytes, fewer than the shortest header")
    if cursor.data[:4] != b"GGUF":
        raise cursor.fail(f"it starts with {bytes(cursor.data[:4])!r} and not with b'GGUF'")
    cursor.take(4, "the magic")
    version = cursor.number("I", "the version")
    if version & 0xFFFF == 0:
        raise cursor.fail("it is big endian; convert it with gguf-py's gguf_convert_endian.py")
    if version not in (2, 3):
        raise cursor.fail(f"its version is {version}; versions 2 and 3 are read, convert the original model again")
    n_tensors, n_keys = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of keys")
    if n_tensors > MAX_TENSORS or n_tensors * 24 > cursor.size:
        raise cursor.fail(_too_many(n_tensors, MAX_TENSORS, "tensors", cursor.size))
    if n_keys > MAX_KEYS or n_keys * 13 > cursor.size:
        raise cursor.fail(_too_many(n_keys, MAX_KEYS, "metadata keys", cursor.size))
    return n_tensors, n_keys


def _too_many(n: int, most: int, of_what: str, n_bytes: int) -> str:
    if n > most:
        return f"it claims {n} {of_what}; no model has more than {most}"
    return f"it claims {n} {of_what}, which its {n_bytes:,} bytes cannot hold (a download cut short? fetch it again)"


def _read_tensor(cursor: _Cursor) -> _Tensor:
    name = _name(cursor, MAX_NAME_BYTES, "a tensor's name")
    n_dimensions = cursor.number("I", f"tensor {name!r}")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise cursor.fail(f"tensor {name!r} has {n_dimensions} dimensions, not 1 to {MAX_DIMENSIONS}")
    lengths = [cursor.number("Q", f"tensor {name!r}") for _ in range(n_dimensions)]
    type_id, offset = cursor.number("I", f"tensor {name!r}"), cursor.number("Q", f"tensor {name!r}")
    kind = ggml_type(type_id)
    if kind is None:
        raise cursor.fail(f"tensor {name!r} has the unknown type {type_id}; a newer `gguf` package may know it")
    n_values = 1
    for length in lengths:
        n_values *= length
    if not 0 < n_values <= MAX_TENSOR_VALUES:
        raise cursor.fail(f"tensor {name!r} has the absurd shape {lengths}")
    type_name, block, block_bytes = kind
    if lengths[0] % block:
        raise cursor.fail(f"tensor {name!r} has rows of {lengths[0]} values, not a multiple of {type_name}'s {block}")
    info = TensorInfo(name=name, shape=tuple(reversed(lengths)), type_name=type_name, size_bytes=n_values // block * block_bytes)
    return _Tensor(info=info, offset=offset)


def _check_places(cursor: _Cursor, tensors: list[_Tensor], alignment: Any) -> None:
    """Every tensor aligned, inside the file, and overlapping no other."""
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, not a power of two")
    start = -(-cursor.position // alignment) * alignment
    end_of_last, last = 0, ""
    for tensor in sorted(tensors, key=lambda item: item.offset):
        name, end = tensor.info.name, tensor.offset + tensor.info.size_bytes
        if tensor.offset % alignment:
            raise cursor.fail(f"tensor {name!r} starts at offset {tensor.offset}, which is not aligned to {alignment}")
        if tensor.offset < end_of_last:
            raise cursor.fail(f"tensors {last!r} and {name!r} overlap")
        if start + end > cursor.size:
            missing = start + end - cursor.size
            raise cursor.fail(f"tensor {name!r} lies {missing} bytes beyond its end (a download cut short? fetch it again)")
        end_of_last, last = end, name


def _parse(path: Path, keep: frozenset[str] = frozenset()) -> tuple[dict[str, Any], list[_Tensor]]:
    """(metadata, tensors) of one file. Arrays longer than MAX_KEPT_ARRAY are summarised unless their key is in `keep`."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size == 0:
                raise InputError(f"{path} is empty (0 bytes); fetch it again.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse_mapped(_Cursor(data, size, path), keep)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions.") from error


def _parse_mapped(cursor: _Cursor, keep: frozenset[str]) -> tuple[dict[str, Any], list[_Tensor]]:
    n_tensors, n_keys = _read_counts(cursor)
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = _name(cursor, MAX_KEY_BYTES, "a metadata key")
        if key in metadata:
            raise cursor.fail(f"the key {key!r} appears twice")
        metadata[key] = _read_value(cursor, key, key in keep)
    tensors = [_read_tensor(cursor) for _ in range(n_tensors)]
    if len({tensor.info.name for tensor in tensors}) < n_tensors:
        raise cursor.fail("two tensors have the same name")
    _check_places(cursor, tensors, metadata.get("general.alignment", 32))
    return metadata, tensors


def read_gguf_array(path: Path, key: str) -> tuple[Any, ...]:
    """One whole array of a GGUF file's metadata, e.g. `tokenizer.ggml.tokens`. Raises InputError if absent or not an array."""
    value = _parse(path, frozenset({key}))[0].get(key)
    if not isinstance(value, tuple):
        raise InputError(f"{path} has no array {key!r} in its metadata.")
    return value


def gguf_parts(path: Path) -> tuple[Path, ...]:
    """All parts of a split GGUF in order, or the file alone. Raises InputError if a part is missing."""
    match = _PART.match(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    if not 1 <= count <= 10_000 or not 1 <= int(match["number"]) <= count:
        raise InputError(f"{path.name} is named like part {int(match['number'])} of {count}, which cannot be.")
    parts = tuple(path.with_name(f"{match['stem']}-{number:05d}-of-{match['count']}.gguf") for number in range(1, count + 1))
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise InputError(
            f"{path.parent} lacks {len(missing)} of the {count} parts of the split model: {', '.join(missing[:3])}; fetch them too."
        )
    return parts


def is_later_part(name: str) -> bool:
    """True for parts 2, 3 ... of a split GGUF."""
    match = _PART.match(name)
    return match is not None and int(match["number"]) != 1


def read_gguf_header(parts: tuple[Path, ...]) -> ModelHeader:
    """Header of a GGUF model: metadata of the first part, tensors of all. Shapes are row-major (rows first), the reverse of the
    order in the file. Raises InputError.
    """
    metadata, tensors = _parse(parts[0])
    if len(parts) > 1 or metadata.get("split.count", 0) not in (0, 1):
        tensors = _joined(parts, metadata, tensors)
    architecture = metadata.get("general.architecture")
    if metadata.get("general.type") == "imatrix" or "imatrix.datasets" in metadata:
        raise InputError(f"{parts[0]} is an importance matrix, not a model; give it to a recipe and name the model itself here.")
    if not isinstance(architecture, str) or not architecture or len(architecture) > 64 or not architecture.isprintable():
        raise InputError(f"{parts[0]} does not name its architecture (general.architecture); convert the original model again.")
    if not tensors:
        raise InputError(f"{parts[0]} holds metadata but no weights; give the file with the weights.")
    template = metadata.get("tokenizer.chat_template", "")
    return ModelHeader(
        format="gguf",
        architecture=architecture,
        metadata=metadata,
        tensors=tuple(tensor.info for tensor in tensors),
        chat_template=template if isinstance(template, str) else "",
        quantization="gguf",
    )


def _joined(parts: tuple[Path, ...], metadata: Mapping[str, Any], tensors: list[_Tensor]) -> list[_Tensor]:
    """Tensors of all parts, after checking that the parts belong together."""
    if metadata.get("split.count") != len(parts):
        told = metadata.get("split.count")
        raise InputError(
            f"{parts[0]} says it is one of {told} parts, but {len(parts)} are there; keep the parts' original names and fetch all."
        )
    joined = list(tensors)
    for number, part in enumerate(parts[1:], start=1):
        others, more = _parse(part)
        if others.get("split.no") != number or others.get("split.count") != len(parts):
            raise InputError(
                f"{part} says it is not part {number + 1} of {len(parts)}; its name was changed or it belongs to another model."
            )
        joined += more
    if len({tensor.info.name for tensor in joined}) < len(joined):
        raise InputError(f"{parts[0]} and its other parts hold a tensor twice; they belong to different models.")
    told = metadata.get("split.tensors.count", len(joined))
    if told != len(joined):
        raise InputError(f"{parts[0]} says its parts hold {told} tensors, but they hold {len(joined)}; fetch all parts again.")
    return joined
