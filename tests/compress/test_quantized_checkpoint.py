"""Quantised checkpoints as plain directories: every tensor bit for bit, in each layout, or one sentence that names what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

from trimtab.compress.base import load_recipes, make
from trimtab.compress.quantized_checkpoint import packing_in, write_plain
from trimtab.core.errors import InfeasibleError
from trimtab.core.model import Snapshot
from trimtab.sources.open import open_source, read_header
from trimtab.testing.packed_checkpoints import SCHEMES, pack_awq, pack_checkpoint, pack_gptq, read_plain, save
from trimtab.testing.tiny_models import write_tiny_safetensors

RECIPES = {recipe.name: recipe for recipe in load_recipes()}
LINEAR = ["awq", "gptq", "gptq-3", "gptq-act-order", "int4", "int8"]
NEED_TORCH = {"fp8", "float8"}
LAYER = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with random weights in 32-bit floats."""
    folder = write_tiny_safetensors(tmp_path_factory.mktemp("plain") / "model")
    random = np.random.default_rng(0)
    values = {
        name: random.standard_normal(held.shape).astype(np.float32) for name, held in read_plain(folder / "model.safetensors").items()
    }
    save(folder / "model.safetensors", {name: ("F32", array) for name, array in values.items()})
    return folder


def opened(folder: Path) -> Snapshot:
    return open_source(str(folder), cache_dir=folder.parent / "opened")


@pytest.mark.parametrize("scheme", [*LINEAR, *sorted(NEED_TORCH)])
def test_every_tensor_comes_back_bit_for_bit(plain: Path, tmp_path: Path, scheme: str) -> None:
    if scheme in NEED_TORCH:
        pytest.importorskip("torch")
    meant = pack_checkpoint(plain, tmp_path / "packed", scheme)
    source = opened(tmp_path / "packed")
    product = make(RECIPES["huggingface-fp32"], source, tmp_path / "cache")
    found = read_plain(product.root / "model.safetensors")
    assert found.keys() == meant.keys()
    for name, values in meant.items():
        assert np.array_equal(found[name].view(np.uint32), values.view(np.uint32)), name
    config = json.loads((product.root / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    assert (product.root / "tokenizer_config.json").read_bytes() == (plain / "tokenizer_config.json").read_bytes()
    assert product.made_by == f"huggingface-fp32 {source.digest}"
    header = read_header(open_source(str(product.root), cache_dir=tmp_path / "opened"))
    assert header.quantization == "none"
    assert make(RECIPES["huggingface-fp32"], product, tmp_path / "cache") is product
    assert packing_in(product) is None


def test_sixteen_bits_are_rounded_once(plain: Path, tmp_path: Path) -> None:
    meant = pack_checkpoint(plain, tmp_path / "packed", "gptq")
    found = read_plain(make(RECIPES["huggingface-bf16"], opened(tmp_path / "packed"), tmp_path / "cache").root / "model.safetensors")
    for name, values in meant.items():
        wide = values.view(np.uint32).astype(np.uint64)
        nearest = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
        assert np.array_equal(found[name], nearest), name


def changed(folder: Path, tensors: dict[str, Any], config: dict[str, Any] | None = None) -> Snapshot:
    """A packed checkpoint with some tensors replaced (None = removed)."""
    raw = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    held: dict[str, Any] = {}
    kinds = {"I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "I8": "i1", "U8": "u1", "F8_E4M3": "u1"}
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = (start + place for place in entry["data_offsets"])
            held[name] = (entry["dtype"], np.frombuffer(raw[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"]))
    held |= tensors
    save(folder / "model.safetensors", {name: tensor for name, tensor in held.items() if tensor is not None})
    if config is not None:
        told = json.loads((folder / "config.json").read_text())
        told["quantization_config"] |= config
        (folder / "config.json").write_text(json.dumps(told))
    return opened(folder)


BAD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("awq", {f"{LAYER}.scales": None}, {}, "lacks model.layers.0.mlp.up_proj.scales"),
    ("awq", {f"{LAYER}.qweight": None}, {}, "without the tensors that belong to it"),
    ("awq", {f"{LAYER}.weight": ("F32", np.zeros((128, 64), np.float32))}, {}, "twice"),
    ("awq", {f"{LAYER}.scales": ("F16", np.zeros((1, 128), np.float16))}, {}, r"scales has the shape \[1, 128\] where \[2, 128\]"),
    ("awq", {f"{LAYER}.scales": ("F16", np.full((2, 128), np.inf, np.float16))}, {}, "not finite"),
    ("awq", {}, {"group_size": 48}, "no whole number of groups"),
    ("awq", {}, {"version": "gemv"}, "not 4 in gemv"),
    ("gptq", {f"{LAYER}.g_idx": ("I32", np.full(64, 9, np.int32))}, {}, "g_idx names group 9 of 2"),
    ("gptq", {f"{LAYER}.qzeros": ("I32", np.full((2, 16), -1, np.int32))}, {}, "gptq_v2"),
    ("gptq", {f"{LAYER}.qweight": ("F32", np.zeros((8, 128), np.float32))}, {}, "in F32; GPTQ has it in I32"),
    ("gptq", {}, {"bits": 8}, "qzeros has the shape|g_idx has the shape"),
    ("gptq", {}, {"checkpoint_format": "marlin"}, "not marlin"),
    ("gptq", {"model.extra": ("I32", np.zeros(3, np.int32))}, {}, "model.extra in I32"),
    ("gptq-act-order", {f"{LAYER}.g_idx": None}, {}, "desc_act"),
    ("int4", {f"{LAYER}.weight_shape": ("I64", np.array([128, 500]))}, {}, "weight_shape"),
    ("int4", {f"{LAYER}.weight_shape": None}, {}, "lacks model.layers.0.mlp.up_proj.weight_shape"),
    ("int4", {}, {"format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
    ("int4", {}, {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse"),
    ("int8", {f"{LAYER}.weight_zero_point": ("I8", np.ones((128, 1), np.int8))}, {}, "scheme says that it has none"),
    ("int8", {f"{LAYER}.weight_scale": ("F16", np.zeros((4, 1), np.float16))}, {}, "weight_scale has the shape"),
    ("int8", {}, {"quant_method": "bitsandbytes"}, "no reader here knows bitsandbytes"),
]


@pytest.mark.parametrize(("scheme", "tensors", "config", "words"), BAD)
def test_what_does_not_fit_is_refused_in_one_sentence(
    plain: Path, tmp_path: Path, scheme: str, tensors: dict[str, Any], config: dict[str, Any], words: str
) -> None:
    pack_checkpoint(plain, tmp_path / "packed", scheme)
    with pytest.raises(InfeasibleError, match=words) as caught:
        make(RECIPES["huggingface-fp32"], changed(tmp_path / "packed", tensors, config), tmp_path / "cache")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("huggingface*"))


def test_a_config_that_promises_what_no_tensor_holds_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_safetensors(tmp_path / "model", config={"quantization_config": {"quant_method": "awq"}})
    with pytest.raises(InfeasibleError, match="holds no tensor packed so"):
        write_plain(opened(folder), tmp_path, "F32")


def test_single_layers_may_have_bits_of_their_own(plain: Path, tmp_path: Path) -> None:
    """GPTQModel's `dynamic`: one layer in 8 bits, one not packed at all."""
    meant = pack_checkpoint(plain, tmp_path / "packed", "gptq")
    eight = pack_gptq(read_plain(plain / "model.safetensors")[f"{LAYER}.weight"], bits=8, group_size=64)
    down = "model.layers.1.mlp.down_proj"
    own: dict[str, Any] = {f"{LAYER}.{part}": tensor for part, tensor in eight.stored.items()}
    own |= {f"{down}.{part}": None for part in eight.stored} | {f"{down}.weight": ("F32", np.ones((64, 128), np.float32))}
    dynamic = {"+:.*layers\\.0\\.mlp\\.up_proj": {"bits": 8, "group_size": 64}, "-:.*layers\\.1\\.mlp\\.down_proj": {}}
    source = changed(tmp_path / "packed", own, {"dynamic": dynamic})
    found = read_plain(make(RECIPES["huggingface-fp32"], source, tmp_path / "cache").root / "model.safetensors")
    assert np.array_equal(found[f"{LAYER}.weight"], eight.values)
    assert (found[f"{down}.weight"] == 1).all()
    assert np.array_equal(found["model.layers.1.mlp.up_proj.weight"], meant["model.layers.1.mlp.up_proj.weight"])
    packing = packing_in(source)
    assert packing is not None
    assert packing.exceptions == (
        ".*layers\\.0\\.mlp\\.up_proj: 8 bits, groups of 64, symmetric; in floats: .*layers\\.1\\.mlp\\.down_proj"
    )


def test_biases_of_zeros_that_packers_added_are_left_out(plain: Path, tmp_path: Path) -> None:
    pack_checkpoint(plain, tmp_path / "packed", "gptq")
    biases = {f"{LAYER}.bias": ("F16", np.zeros(128, np.float16)), "model.layers.1.mlp.up_proj.bias": ("F16", np.ones(128, np.float16))}
    found = read_plain(
        make(RECIPES["huggingface-fp32"], changed(tmp_path / "packed", biases), tmp_path / "cache").root / "model.safetensors"
    )
    assert f"{LAYER}.bias" not in found
    assert (found["model.layers.1.mlp.up_proj.bias"] == 1).all()


def test_the_packers_of_these_tests_lose_what_such_packers_lose(plain: Path) -> None:
    """Else tests of "the same numbers" would hold for numbers that mean nothing."""
    matrix = read_plain(plain / "model.safetensors")[f"{LAYER}.weight"]
    for packed in (pack_awq(matrix), pack_gptq(matrix), pack_gptq(matrix, bits=8)):
        error = float(np.abs(packed.values - matrix).mean() / np.abs(matrix).mean())
        assert 0 < error < 0.2
    assert set(SCHEMES) >= set(LINEAR)
