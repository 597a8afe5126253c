"""Hugging Face directories: headers, companions, quantisation schemes, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.sources.safetensors import read_hf_header, read_safetensors, snapshot_paths
from trimtab.testing.tiny_models import write_safetensors_file, write_tiny_safetensors


def raw_file(tmp_path: Path, header: Any, data: int = 8) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(data))
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": list(offsets)}


def test_reads_a_file(tmp_path: Path) -> None:
    path = write_safetensors_file(tmp_path / "x.safetensors", {"b": ("F16", (3, 2)), "a": ("I64", (1,))})
    assert [(t.name, t.shape, t.type_name, t.size_bytes) for t in read_safetensors(path)] == [
        ("b", (3, 2), "F16", 12),
        ("a", (1,), "I64", 8),
    ]


BAD: dict[str, tuple[Any, int, str]] = {
    "not json": (b"{nope}", 8, "not valid JSON"),
    "list": (b"[1, 2]", 8, "not a JSON object"),
    "duplicate": (b'{"a": 1, "a": 2}', 8, "appears twice"),
    "deep": (b"[" * 200_000, 8, "not valid JSON"),
    "not a tensor": ({"a": 3}, 8, "does not describe a tensor"),
    "dtype": ({"a": entry("F128")}, 8, "unknown dtype"),
    "dtype type": ({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, 8, "unknown dtype"),
    "negative": ({"a": entry(shape=(-2,))}, 8, "no proper shape"),
    "float": ({"a": entry(shape=(2.0,))}, 8, "no proper shape"),
    "bool": ({"a": entry(shape=(True,))}, 8, "no proper shape"),
    "one offset": ({"a": entry(offsets=(0,))}, 8, "no proper shape"),
    "size": ({"a": entry(shape=(3,))}, 8, "needs 12 bytes but its offsets span 8"),
    "huge": ({"a": entry(shape=(1 << 61, 1 << 61))}, 8, "absurd shape"),
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "overlaps"),
    "gap": ({"a": entry(offsets=(4, 12))}, 12, "gap"),
    "short": ({"a": entry()}, 4, "cut short"),
    "long": ({"a": entry()}, 16, "longer than"),
    "control characters": ({"a\x1b[2J": entry()}, 8, "does not describe a tensor"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_headers_get_one_sentence(tmp_path: Path, name: str) -> None:
    header, data, expected = BAD[name]
    with pytest.raises(InputError, match=expected) as caught:
        read_safetensors(raw_file(tmp_path, header, data))
    assert "\n" not in str(caught.value)


def test_header_lengths(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for raw, expected in (
        (b"", "0 bytes"),
        (b"abc", "no header"),
        (b"\xff" * 8 + b"{}", "claims a header"),
        (b"\xff\0\0\0\0\0\0\0{}", "cut short"),
    ):
        path.write_bytes(raw)
        with pytest.raises(InputError, match=expected):
            read_safetensors(path)


@pytest.mark.parametrize("scheme", ["none", "awq", "gptq", "compressed-tensors", "fp8", "mxfp4", "bitsandbytes"])
def test_quantisation_is_read_from_the_config(tmp_path: Path, scheme: str) -> None:
    header = read_hf_header(write_tiny_safetensors(tmp_path, quantization=scheme))
    assert header.quantization == scheme
    assert header.architecture == "llama"
    assert header.metadata["licence"] == "apache-2.0"
    assert header.chat_template.startswith("{% for")


def test_shards_are_joined_by_the_index(tmp_path: Path) -> None:
    one = read_hf_header(write_tiny_safetensors(tmp_path / "one"))
    three = read_hf_header(write_tiny_safetensors(tmp_path / "three", n_shards=3))
    assert {(t.name, t.shape) for t in one.tensors} == {(t.name, t.shape) for t in three.tensors}
    names = [path.name for path in snapshot_paths(tmp_path / "three")]
    assert names[:3] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert "config.json" in names
    (tmp_path / "three" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match="model-00002-of-00003"):
        read_hf_header(tmp_path / "three")


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ({"weight_map": {"a": "../../etc/model.safetensors"}}, "not a .safetensors file of its own folder"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "not a .safetensors file of its own folder"),
        ({"weight_map": {"gone": "model.safetensors"}}, "lacks 1 tensors its index names"),
        ({"weight_map": {}}, "no usable weight_map"),
        ({"weight_map": {"a": 3}}, "no usable weight_map"),
    ],
)
def test_bad_indexes(tmp_path: Path, index: dict[str, Any], expected: str) -> None:
    write_tiny_safetensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=expected):
        read_hf_header(tmp_path)


def test_chat_template_places(tmp_path: Path) -> None:
    write_tiny_safetensors(tmp_path)
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert read_hf_header(tmp_path).chat_template == "D"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "J"}))
    assert read_hf_header(tmp_path).chat_template == "J"
    (tmp_path / "chat_template.jinja").write_text("F")
    assert read_hf_header(tmp_path).chat_template == "F"


def test_config_must_name_the_architecture(tmp_path: Path) -> None:
    write_tiny_safetensors(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="names the architecture"):
        read_hf_header(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        read_hf_header(tmp_path)
