"""GGUF headers: known answers, and one sentence for each thing that can be wrong."""

import struct
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.sources.ggml_types import GGML_TYPES, ggml_type
from trimtab.sources.gguf import gguf_parts, read_gguf_array, read_gguf_header
from trimtab.testing.tiny_models import write_tiny_gguf


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCH = pair("general.architecture", 8, text("llama"))


def gguf_bytes(
    pairs: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: int = 512,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    **counts: int,
) -> bytes:
    pairs = [ARCH] if pairs is None else pairs
    tensors = [tensor("a.weight", (8, 4), 0, 0)] if tensors is None else tensors
    head = magic + struct.pack("<IQQ", version, counts.get("n_tensors", len(tensors)), counts.get("n_keys", len(pairs)))
    body = head + b"".join(pairs) + b"".join(tensors)
    return body + bytes(-len(body) % 32) + bytes(data)


def write(tmp_path: Path, raw: bytes, name: str = "m.gguf") -> Path:
    path = tmp_path / name
    path.write_bytes(raw)
    return path


def test_reads_metadata_and_row_major_shapes(tmp_path: Path) -> None:
    header = read_gguf_header((write(tmp_path, gguf_bytes([ARCH, pair("llama.block_count", 4, struct.pack("<I", 7))])),))
    assert header.architecture == "llama"
    assert header.metadata["llama.block_count"] == 7
    (only,) = header.tensors
    assert (only.shape, only.type_name, only.size_bytes) == ((4, 8), "F32", 128)


def test_type_table_equals_the_gguf_package() -> None:
    from gguf.constants import GGML_QUANT_SIZES

    assert {int(kind): (kind.name, *size) for kind, size in GGML_QUANT_SIZES.items()} == GGML_TYPES
    assert ggml_type(200) is None
    assert ggml_type(1 << 31) is None


def test_header_equals_the_gguf_package(tmp_path: Path) -> None:
    from gguf import GGUFReader

    path = write_tiny_gguf(tmp_path / "t.gguf", architecture="qwen2", weight_type="Q8_0")
    header = read_gguf_header((path,))
    theirs = {t.name: (tuple(int(n) for n in reversed(t.shape)), t.tensor_type.name, int(t.n_bytes)) for t in GGUFReader(str(path)).tensors}
    assert {t.name: (t.shape, t.type_name, t.size_bytes) for t in header.tensors} == theirs
    assert "<|im_start|>" in read_gguf_array(path, "tokenizer.ggml.tokens")
    assert header.chat_template.startswith("{% for")


def test_long_arrays_are_summarised_and_read_on_demand(tmp_path: Path) -> None:
    tokens = [f"t{number}" for number in range(2000)]
    array = struct.pack("<IQ", 8, len(tokens)) + b"".join(text(token) for token in tokens)
    path = write(tmp_path, gguf_bytes([ARCH, pair("tokenizer.ggml.tokens", 9, array)]))
    kept = read_gguf_header((path,)).metadata["tokenizer.ggml.tokens"]
    assert kept["length"] == 2000
    assert len(kept["sha256"]) == 64
    assert read_gguf_array(path, "tokenizer.ggml.tokens") == tuple(tokens)
    with pytest.raises(InputError, match="no array"):
        read_gguf_array(path, "tokenizer.ggml.merges")


NESTED = struct.pack("<IQ", 9, 1) * 40 + struct.pack("<IQ", 4, 0)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty \\(0 bytes\\)"),
    "tiny": (b"GGUF", "fewer than the shortest header"),
    "magic": (gguf_bytes(magic=b"GGML"), "starts with b'GGML'"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(200), "big endian"),
    "version": (gguf_bytes(version=1), "version is 1"),
    "tensor count": (gguf_bytes(n_tensors=1 << 60), "claims 1152921504606846976 tensors"),
    "key count": (gguf_bytes(n_keys=1 << 40), "metadata keys"),
    "key length": (gguf_bytes([ARCH, struct.pack("<Q", 1 << 62)]), "more than 65535"),
    "string length": (gguf_bytes([ARCH, text("k") + struct.pack("<IQ", 8, 1 << 62)]), "ends inside its header"),
    "value type": (gguf_bytes([ARCH, pair("k", 99, b"")]), "unknown type 99"),
    "array type": (gguf_bytes([ARCH, pair("k", 9, struct.pack("<IQ", 77, 1))]), "unknown element type 77"),
    "array length": (gguf_bytes([ARCH, pair("k", 9, struct.pack("<IQ", 4, 1 << 61))]), "ends inside its header"),
    "string array": (gguf_bytes([ARCH, pair("k", 9, struct.pack("<IQ", 8, 1 << 40))]), "claims 1099511627776 strings"),
    "string array runs out": (gguf_bytes([ARCH, pair("k", 9, struct.pack("<IQ", 8, 1 << 20))]), "runs past the end"),
    "nested arrays": (gguf_bytes([ARCH, pair("k", 9, NESTED)]), "nested deeper"),
    "duplicate key": (gguf_bytes([ARCH, ARCH]), "appears twice"),
    "unprintable key": (gguf_bytes([ARCH, pair("a\x1b[2J", 0, b"\1")]), "not printable"),
    "alignment": (gguf_bytes([ARCH, pair("general.alignment", 4, struct.pack("<I", 3))]), "not a power of two"),
    "no architecture": (gguf_bytes([]), "does not name its architecture"),
    "no tensors": (gguf_bytes(tensors=[]), "no weights"),
    "dimensions": (gguf_bytes(tensors=[tensor("a", (1, 1, 1, 1, 1), 0, 0)]), "5 dimensions"),
    "zero rows": (gguf_bytes(tensors=[tensor("a", (0, 4), 0, 0)]), "absurd shape"),
    "huge shape": (gguf_bytes(tensors=[tensor("a", (1 << 40, 1 << 40), 0, 0)]), "absurd shape"),
    "unknown type": (gguf_bytes(tensors=[tensor("a", (8,), 250, 0)]), "unknown type 250"),
    "block": (gguf_bytes(tensors=[tensor("a", (33,), 8, 0)]), "not a multiple of Q8_0's 32"),
    "misaligned": (gguf_bytes(tensors=[tensor("a", (8,), 0, 4)]), "not aligned to 32"),
    "outside": (gguf_bytes(tensors=[tensor("a", (1024,), 0, 0)]), "beyond its end"),
    "far outside": (gguf_bytes(tensors=[tensor("a", (8,), 0, 1 << 62)]), "beyond its end"),
    "overlap": (gguf_bytes(tensors=[tensor("a", (32,), 0, 0), tensor("b", (32,), 0, 32)]), "'a' and 'b' overlap"),
    "duplicate tensor": (gguf_bytes(tensors=[tensor("a", (8,), 0, 0), tensor("a", (8,), 0, 32)]), "same name"),
    "truncated header": (gguf_bytes()[:70], "ends inside its header"),
    "truncated data": (gguf_bytes()[:-500], "beyond its end"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_one_sentence(tmp_path: Path, name: str) -> None:
    raw, expected = BAD[name]
    with pytest.raises(InputError, match=expected) as caught:
        read_gguf_header((write(tmp_path, raw),))
    assert "m.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def split(tmp_path: Path, **changes: Any) -> list[Path]:
    """A model in two parts."""
    paths = []
    for number in range(2):
        keys = [ARCH] if number == 0 else []
        keys += [
            pair("split.no", 2, struct.pack("<H", changes.get("number", number))),
            pair("split.count", 2, struct.pack("<H", changes.get("count", 2))),
        ]
        keys.append(pair("split.tensors.count", 5, struct.pack("<i", changes.get("told", 2))))
        name = changes.get("name") or f"t{number}"
        paths.append(write(tmp_path, gguf_bytes(keys, [tensor(name, (8,), 0, 0)]), f"m-0000{number + 1}-of-00002.gguf"))
    return paths


def test_split_files_are_found_from_any_part_and_joined(tmp_path: Path) -> None:
    paths = split(tmp_path)
    assert gguf_parts(paths[1]) == tuple(paths)
    assert [item.name for item in read_gguf_header(gguf_parts(paths[1])).tensors] == ["t0", "t1"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"count": 3}, "one of 3 parts"),
        ({"number": 0}, "not part 2"),
        ({"told": 9}, "hold 9 tensors"),
        ({"name": "same"}, "a tensor twice"),
    ],
)
def test_parts_that_do_not_fit_together(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_gguf_header(tuple(split(tmp_path, **changes)))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = split(tmp_path)
    paths[0].unlink()
    with pytest.raises(InputError, match=r"m-00001-of-00002\.gguf"):
        gguf_parts(paths[1])
    with pytest.raises(InputError, match="cannot be"):
        gguf_parts(tmp_path / "m-00003-of-00002.gguf")


def test_a_part_renamed_to_a_whole_is_noticed(tmp_path: Path) -> None:
    whole = split(tmp_path)[0].rename(tmp_path / "whole.gguf")
    with pytest.raises(InputError, match="one of 2 parts"):
        read_gguf_header(gguf_parts(whole))
