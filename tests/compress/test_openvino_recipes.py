"""Recipes of family `openvino` on tiny models."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino_genai")

from trimtab.compress import openvino as family
from trimtab.compress.base import load_recipes, make
from trimtab.compress.openvino_q4_1 import _order, _zero_points
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import sha256_file
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.testing.tiny_models import write_tiny_gguf

TEXT = "the sea was calm and the small boat turned slowly into the wind while the birds came from the north "


def tiny(folder: Path, weight_type: str = "F16", architecture: str = "llama") -> Snapshot:
    path = write_tiny_gguf(folder / f"tiny-{architecture}-{weight_type}.gguf", architecture=architecture, weight_type=weight_type)
    file = SnapshotFile(name=path.name, size_bytes=path.stat().st_size, sha256=sha256_file(path))
    return Snapshot(source="tiny", format="gguf", root=folder, files=(file,))


def recipe(**parameters: object) -> Recipe:
    return Recipe(name="openvino-test", family="openvino", engine="openvino", parameters=parameters)


def logits(folder: Path) -> np.ndarray:
    """Logits [tokens, vocabulary] of the directory's model in 32-bit floats, without activations quantised on the fly."""
    openvino = family.import_openvino()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}
    compiled = openvino.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", exact)
    ids = np.arange(10, 60, dtype=np.int64)[None]
    positions = np.arange(ids.size, dtype=np.int64)[None]
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions, "beam_idx": np.zeros(1, np.int32)}
    return np.array(compiled.create_infer_request().infer(inputs)[0][0])


def test_fp16_products_are_cached_and_named(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    made = make(family.FP16, source, tmp_path / "cache")
    assert made.format == "openvino"
    assert made.made_by == f"openvino-fp16 {source.digest}"
    assert [file.name for file in made.files][:2] == ["openvino_model.bin", "openvino_model.xml"]
    assert "max_position_embeddings" in (made.path / "config.json").read_text()
    assert make(family.FP16, source, tmp_path / "cache") == made
    assert not list(tmp_path.glob("*.xml"))


@pytest.mark.slow
def test_the_reader_moves_q4_1_weights_and_exact_does_not(tmp_path: Path) -> None:
    """The finding in small: against 16-bit floats of the same weights, exact zero points leave a tenth of the error or less."""
    source = tiny(tmp_path, "Q4_1")
    cache = tmp_path / "cache"
    reference = logits(make(family.FP16, source, cache).path)
    shipped = logits(make(recipe(mode="gguf"), source, cache).path) - reference
    exact = logits(make(recipe(mode="gguf-exact"), source, cache).path) - reference
    assert np.sqrt((exact**2).mean()) < 0.1 * np.sqrt((shipped**2).mean())


def test_q8_0_is_near_and_small(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    cache = tmp_path / "cache"
    sixteen, eight = make(family.FP16, source, cache), make(recipe(mode="q8_0"), source, cache)
    reference = logits(sixteen.path)
    assert np.sqrt(((logits(eight.path) - reference) ** 2).mean()) < 0.05 * reference.std()
    assert (eight.path / "openvino_model.bin").stat().st_size < 0.7 * (sixteen.path / "openvino_model.bin").stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{"mode": "int8_asym"}, {"mode": "int4_asym", "group_size": 32}], ids=lambda found: found["mode"])
def test_the_same_weights_have_the_same_digest_whatever_was_built_before(tmp_path: Path, parameters: dict[str, object]) -> None:
    """A lock names the digest. The second build finds the fp16 directory that the first one made, and OpenVINO has counted on meanwhile."""
    source = tiny(tmp_path)
    first = make(recipe(**parameters), source, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", ignore=lambda _, names: [name for name in names if name == first.path.name])
    second = make(recipe(**parameters), source, tmp_path / "two")
    assert second.path != first.path
    assert first.digest == second.digest
    assert np.array_equal(logits(first.path), logits(second.path))


def test_exact_needs_q4_1(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="no Q4_1"):
        make(recipe(mode="gguf-exact"), tiny(tmp_path, "Q8_0"), tmp_path / "cache")


def test_zero_points_by_hand() -> None:
    scales = np.array([[0.5, 0.0], [0.25, 2.0]], np.float16)
    minima = np.array([[-1.0, 3.0], [0.5, -7.0]], np.float16)
    assert _zero_points(scales, minima).tolist() == [[2.0, 0.0], [-2.0, 3.5]]
    assert _order(scales, scales[::-1]).tolist() == [1, 0]


@pytest.fixture(scope="module")
def sixteen_bits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, Path, np.ndarray]:
    """A source, a cache that has its 16-bit directory, and the logits of that."""
    folder = tmp_path_factory.mktemp("sixteen")
    source = tiny(folder)
    return source, folder / "cache", logits(make(family.FP16, source, folder / "cache").path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"mode": "int8_asym"},
        {"mode": "int8_sym"},
        {"mode": "int4_sym", "group_size": 32},
        {"mode": "int4_asym", "group_size": 32, "ratio": 0.8},
        {"mode": "int4_sym", "group_size": 32, "ratio": 0.8, "calibration": True, "calibration_tokens": 300, "scale_estimation": True},
        {"mode": "int4_sym", "group_size": 32, "calibration": True, "calibration_tokens": 300, "awq": True, "scale_estimation": True},
    ],
)
def test_nncf_modes(sixteen_bits: tuple[Snapshot, Path, np.ndarray], parameters: dict[str, object]) -> None:
    source, cache, reference = sixteen_bits
    made = make(recipe(**parameters), source, cache, calibration=[TEXT * 20])
    error = np.sqrt(((logits(made.path) - reference) ** 2).mean()) / reference.std()
    assert 0 < error < (0.1 if "int8" in str(parameters["mode"]) else 0.5)
    assert made.size_bytes < make(family.FP16, source, cache).size_bytes


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"mode": "int3"}, "int3"),
        ({}, "mode"),
        ({"mode": "fp16", "group_size": 64}, "4-bit"),
        ({"mode": "int4_sym", "groups": 64}, "groups"),
        ({"mode": "int4_sym", "awq": True}, "calibration"),
    ],
)
def test_wrong_parameters_are_named(tmp_path: Path, parameters: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        family.build(recipe(**parameters), tiny(tmp_path), tmp_path)


def test_what_the_reader_cannot_read_is_infeasible(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="gemma3"):
        make(recipe(mode="gguf"), tiny(tmp_path, architecture="gemma3"), tmp_path / "cache")
    directory = Snapshot(source="d", format="openvino", root=tmp_path, files=())
    assert family.build(recipe(mode="gguf"), directory, tmp_path) is directory
    with pytest.raises(InfeasibleError, match="GGUF"):
        family.build(recipe(mode="fp16"), directory, tmp_path)


def test_calibration_windows_are_cut(tmp_path: Path) -> None:
    made = make(recipe(mode="gguf"), tiny(tmp_path), tmp_path / "cache")
    windows = family._windows(made.path, [TEXT * 20, TEXT], 300)
    assert [window["input_ids"].shape for window in windows] == [(1, 256), (1, 44)]
    with pytest.raises(InputError):
        family._windows(made.path, ["", "a"], 300)


def test_shipped_recipes_name_valid_parameters() -> None:
    mine = [each for each in load_recipes() if each.family == "openvino"]
    assert len(mine) >= 8
    for each in mine:
        family._check(each)
        assert each.name.startswith("openvino-")
        assert family.version(each)


def packed_types(folder: Path) -> dict[str, str]:
    """Element type of each weight's constant, by the weight's name."""
    openvino = family.import_openvino()
    model = openvino.Core().read_model(str(folder / "openvino_model.xml"))
    return {
        node.get_friendly_name(): node.get_element_type().get_type_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Constant" and node.get_friendly_name().endswith(".weight") and len(node.get_output_shape(0)) >= 2
    }


def test_nncf_gives_named_weights_their_own_type(tmp_path: Path) -> None:
    tensors = {r"mlp\.down_proj": "int4_sym", "embed_tokens": "keep"}
    made = make(recipe(mode="int8_sym", group_size=32, tensors=tensors), tiny(tmp_path), tmp_path / "cache")
    plain = make(recipe(mode="int8_sym"), tiny(tmp_path), tmp_path / "cache")
    fp16 = make(family.FP16, tiny(tmp_path), tmp_path / "cache")
    assert fp16.size_bytes > made.size_bytes
    assert np.isfinite(logits(made.path)).all()
    types = packed_types(made.path)
    assert {kind for name, kind in types.items() if "down_proj" in name} == {"i4"}
    assert {kind for name, kind in types.items() if "q_proj" in name} == {"i8"}
    assert {kind for name, kind in types.items() if "embed" in name} == {"f16"}
    assert {kind for name, kind in packed_types(plain.path).items() if "down_proj" in name} == {"i8"}


@pytest.mark.slow
def test_the_reader_gets_the_file_with_its_changed_weights(tmp_path: Path) -> None:
    source = tiny(tmp_path, "Q4_1")
    cache = tmp_path / "cache"
    reference = logits(make(family.FP16, source, cache).path)
    kept = logits(make(recipe(mode="gguf-exact"), source, cache).path) - reference
    mixed = make(recipe(mode="gguf-exact", tensors={r"ffn_down": "Q4_0"}), source, cache)
    moved = logits(mixed.path) - reference
    assert np.abs(moved).mean() > 3 * np.abs(kept).mean(), "the changed weights lose something"
    half = logits(make(recipe(mode="gguf-exact", tensors={r"blk\.0\.ffn_down": "Q4_0"}), source, cache).path) - reference
    assert np.abs(kept).mean() < np.abs(half).mean() < np.abs(moved).mean()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"mode": "int8_sym", "tensors": {"down": "Q4_0"}}, "'Q4_0'"),
        ({"mode": "gguf", "tensors": {"down": "int4_sym"}}, "'int4_sym'"),
        ({"mode": "fp16", "tensors": {"down": "int8_sym"}}, "not with 'fp16'"),
        ({"mode": "int8_sym", "tensors": {"no_such": "int4_sym"}}, "no weight's name matches"),
        ({"mode": "int8_sym", "tensors": {"down(": "int4_sym"}}, "regular expression"),
        ({"mode": "int8_sym", "group_size": 32, "tensors": {"down": "keep"}}, "goes with a 4-bit mode"),
    ],
)
def test_mistakes_in_tensors_are_named(tmp_path: Path, parameters: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        make(recipe(**parameters), tiny(tmp_path), tmp_path / "cache")
    assert words in str(caught.value)
