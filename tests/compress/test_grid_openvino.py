"""OpenVINO models of trained grids against NNCF's own products, and against what the CPU plugin computes from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.compress.base import make
from trimtab.compress.grids import GRIDS, Codes, dequantize, quantize
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InputError
from trimtab.core.files import sha256_file
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.testing.tiny_models import write_tiny_gguf

pytest.importorskip("nncf")

from trimtab.compress.grid_openvino import read_codes, write_openvino
from trimtab.compress.openvino import FP16, import_openvino

pytestmark = pytest.mark.model
OPENVINO_GRIDS = [name for name, grid in GRIDS.items() if grid.engine == "openvino"]
openvino = import_openvino()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", hidden_size=128)
    files = (SnapshotFile(name=path.name, size_bytes=path.stat().st_size, sha256=sha256_file(path)),)
    return Snapshot(source=str(path), format="gguf", root=path.parent, files=files)


@pytest.fixture(scope="module")
def cache(source: Snapshot) -> Path:
    return source.root / "cache"


@pytest.fixture(scope="module")
def base(source: Snapshot, cache: Path) -> Path:
    return make(FP16, source, cache).path


def weights_of(folder: Path, names: Any) -> dict[str, np.ndarray]:
    model = openvino.Core().read_model(str(folder / "openvino_model.xml"))
    return {
        node.get_friendly_name(): node.data.astype(np.float32)
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Constant" and node.get_friendly_name() in names
    }


def graph_of(folder: Path) -> str:
    """The XML without what it says of its making."""
    return (folder / "openvino_model.xml").read_text().partition("<rt_info>")[0]


@pytest.mark.parametrize(
    ("mode", "options"),
    [("int4_sym", {"group_size": 64}), ("int4_asym", {"group_size": 32}), ("int8_sym", {}), ("int8_asym", {})],
)
def test_the_form_is_nncfs(tmp_path: Path, source: Snapshot, cache: Path, base: Path, mode: str, options: dict[str, int]) -> None:
    """Quantised here and written onto the fp16 directory, or onto a packed one with other weights: the same graph and the same bytes."""
    theirs = make(Recipe(name=mode, family="openvino", engine="openvino", parameters={"mode": mode, **options}), source, cache).path
    packed = read_codes(theirs)
    assert len(packed) == 15
    codes = {name: quantize(weight, packed[name].grid) for name, weight in weights_of(base, packed).items()}
    write_openvino(base, tmp_path / "ours", codes, {})
    assert (tmp_path / "ours" / "openvino_model.bin").read_bytes() == (theirs / "openvino_model.bin").read_bytes()
    assert graph_of(tmp_path / "ours") == graph_of(theirs)
    changed = {name: quantize(-dequantize(each), each.grid) for name, each in codes.items()}
    write_openvino(theirs, tmp_path / "changed", changed, {})
    write_openvino(tmp_path / "changed", tmp_path / "back", codes, {})
    assert (tmp_path / "changed" / "openvino_model.bin").read_bytes() != (theirs / "openvino_model.bin").read_bytes()
    assert (tmp_path / "back" / "openvino_model.bin").read_bytes() == (theirs / "openvino_model.bin").read_bytes()
    assert {path.name for path in base.iterdir()} - {"product.json"} == {path.name for path in (tmp_path / "back").iterdir()}


def computed(folder: Path, name: str, columns: int, *, alone: bool) -> np.ndarray:
    """What the CPU plugin makes of a weight: by itself, or as it multiplies every unit vector (through its packed kernels)."""
    from openvino import opset13

    model = openvino.Core().read_model(str(folder / "openvino_model.xml"))
    user = next(
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "MatMul" and any(each.get_friendly_name() == name for each in behind(node.input_value(1).get_node()))
    )
    given = opset13.parameter([-1, columns], np.float32)
    weight = user.input_value(1)
    zero = opset13.multiply(opset13.reduce_sum(given, 0), np.float32(0))
    result = opset13.add(weight, zero) if alone else opset13.matmul(given, weight, False, True)
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = openvino.Core().compile_model(openvino.Model([result], [given]), "CPU", options)
    found = compiled([np.eye(columns, dtype=np.float32)])[0]
    return np.array(found if alone else found.T)


def behind(node: Any) -> list[Any]:
    found = [node]
    while node.get_input_size():
        node = node.input_value(0).get_node()
        found.append(node)
    return found


@pytest.mark.parametrize("grid", OPENVINO_GRIDS)
def test_openvino_computes_with_the_numbers_of_the_grid(tmp_path: Path, base: Path, grid: str) -> None:
    """Of trained codes, not only of those that a quantiser chooses: all levels, signs of scales and zero points occur."""
    random = np.random.default_rng(3)
    held = GRIDS[grid]
    rows, columns = 128, 128
    low, high = held.low, held.high + 1
    groups = columns // (held.group or columns)
    codes = Codes(
        grid=grid,
        levels=random.integers(low, high, (rows, columns)).astype(np.uint8 if low == 0 else np.int8),
        scales=(random.standard_normal((rows, groups)) * 0.03).astype(np.float16),
        offsets=random.integers(0, high, (rows, groups)).astype(np.uint8) if held.offset == "zero-point" else None,
    )
    name = "model.layers[1].self_attn.q_proj.weight"
    write_openvino(base, tmp_path / "out", {name: codes}, {})
    (again,) = read_codes(tmp_path / "out").values()
    for part in ("levels", "scales", "offsets"):
        np.testing.assert_array_equal(getattr(again, part), getattr(codes, part))
    for alone in (True, False):
        np.testing.assert_array_equal(computed(tmp_path / "out", name, columns, alone=alone), dequantize(codes))


def test_floats_and_what_does_not_fit(tmp_path: Path, base: Path) -> None:
    name = "model.layers[0].mlp.up_proj.weight"
    values = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    write_openvino(base, tmp_path / "out", {}, {name: values})
    np.testing.assert_array_equal(weights_of(tmp_path / "out", [name])[name], values.astype(np.float16).astype(np.float32))
    codes = quantize(values, "int4-sym-g32")
    for given, floats, words in [
        ({"model.layers[9].mlp.up_proj.weight": codes}, {}, "has no weight"),
        ({name: quantize(values[:64], "int8-sym")}, {}, "128, 128"),
        ({name: quantize(values, "Q4_0")}, {}, "Q4_0"),
        ({name: codes}, {name: values}, "both"),
        ({}, {name: values * 1e9}, "16-bit"),
    ]:
        with pytest.raises(InputError, match=words):
            write_openvino(base, tmp_path / "wrong", given, floats)
    assert not (tmp_path / "wrong").exists()
