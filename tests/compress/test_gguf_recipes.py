"""llama.cpp recipes: expansion is exact, types come out as asked, importance matrices are what they claim and help."""

import functools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trimtab.compress.base import make
from trimtab.core.deployment import Recipe, Settings
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import sha256_file
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.testing import tiny_models
from trimtab.testing.engine_contract import all_logprobs
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
import gguf

from trimtab.compress import gguf as family
from trimtab.compress import imatrix
from trimtab.engines.base import ScoreRequest
from trimtab.engines.llamacpp import LlamaCppEngine

pytestmark = pytest.mark.model
WIKITEXT = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "text" / "wikitext2_test.txt"
PROSE = "the sea was calm that morning and the old man walked down to the water with his dog to look for the boat he had lost. " * 60


def recipe_of(type_name: str, **parameters: Any) -> Recipe:
    return Recipe(name=f"to-{type_name}", family="gguf", engine="llamacpp", parameters={"type": type_name, **parameters})


def tensors_of(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values_of(tensor: gguf.ReaderTensor) -> np.ndarray:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot_of(write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


@pytest.mark.parametrize("stored", ["Q4_1", "Q8_0"])
def test_expansion_of_a_quantised_source_is_exact(tmp_path: Path, stored: str) -> None:
    """F32 and F16 products hold the numbers that the quantised source stands for: nothing is quantised a second time."""
    source = snapshot_of(write_tiny_gguf(tmp_path / "tiny.gguf", weight_type=stored))
    wide = tensors_of(make(recipe_of("F32"), source, tmp_path / "cache").path)
    half = tensors_of(make(recipe_of("F16"), source, tmp_path / "cache").path)
    for name, tensor in tensors_of(source.path).items():
        expected = values_of(tensor)
        np.testing.assert_array_equal(values_of(wide[name]), expected)
        np.testing.assert_array_equal(values_of(half[name]), expected.astype(np.float16) if tensor.tensor_type != 0 else expected)


def test_quantising_starts_from_the_source_not_from_a_lossy_step(tmp_path: Path, tiny: Snapshot) -> None:
    direct = make(recipe_of("Q8_0"), tiny, tmp_path)
    expanded = make(recipe_of("F32"), tiny, tmp_path)
    assert direct.files[0].sha256 == make(recipe_of("Q8_0"), expanded, tmp_path / "second").files[0].sha256


@pytest.mark.parametrize("type_name", sorted(family.TYPES))
def test_every_type_is_built_and_opens(tmp_path: Path, tiny: Snapshot, type_name: str) -> None:
    product = make(recipe_of(type_name), tiny, tmp_path)
    engine = LlamaCppEngine(product, Settings(threads=1, context_tokens=64))
    engine.load("score")
    ids = tuple(engine.tokenize("the old man and the sea", parse_special=False))
    (result,) = engine.score([ScoreRequest(prefix_ids=ids[:2], continuations=(ids[2:],))])
    assert np.isfinite(all_logprobs([result])).all()
    engine.close()
    assert family.product_bytes(recipe_of(type_name), tiny) > 0
    if type_name in ("Q8_0", "Q4_0", "F16"):
        types = {gguf.GGMLQuantizationType(tensor.tensor_type).name for tensor in tensors_of(product.path).values()}
        assert type_name in types


def test_as_shipped_is_the_source(tiny: Snapshot, tmp_path: Path) -> None:
    assert family.build(recipe_of("as-shipped"), tiny, tmp_path) is tiny


@pytest.mark.parametrize("parameters", [{"type": "Q9_X"}, {"type": "Q8_0", "colour": "red"}, {}])
def test_unknown_parameters_are_refused(tmp_path: Path, tiny: Snapshot, parameters: dict[str, str]) -> None:
    recipe = Recipe(name="mine", family="gguf", engine="llamacpp", parameters=parameters)
    with pytest.raises(InputError, match="mine"):
        make(recipe, tiny, tmp_path)


def test_sources_that_cannot_be_converted(tmp_path: Path, tiny: Snapshot) -> None:
    folder = Snapshot(source="folder", format="openvino", root=tiny.root, files=tiny.files)
    with pytest.raises(InfeasibleError, match="openvino"):
        family.build(recipe_of("Q8_0"), folder, tmp_path)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.path.read_bytes()[:2000])
    with pytest.raises(InfeasibleError, match=r"broken\.gguf"):
        make(recipe_of("Q8_0"), snapshot_of(broken), tmp_path / "cache")


def test_a_disk_that_filled_up_is_said(tmp_path: Path, tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family.native, "llama_model_quantize", lambda *_: 1)
    with pytest.raises(InfeasibleError, match="F16"):
        family.quantize(tiny.path, tmp_path / "out.gguf", "F16", {})
    monkeypatch.setattr(family.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="space"):
        family.quantize(tiny.path, tmp_path / "out.gguf", "F16", {})


def test_progress_is_reported(tmp_path: Path, tiny: Snapshot) -> None:
    seen: list[tuple[str, float]] = []
    make(recipe_of("Q8_0"), tiny, tmp_path, progress=lambda what, share: seen.append((what, share)))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


# Importance matrices


def test_importance_is_the_mean_square_of_the_inputs(tiny: Snapshot) -> None:
    """Of the first layer's attention matrices: the normalised embeddings, computed here from the stored weights."""
    measured = imatrix.measure(tiny.path, [PROSE], max_tokens=imatrix.CHUNK_TOKENS)
    held = tensors_of(tiny.path)
    engine = LlamaCppEngine(tiny, Settings(threads=1))
    ids = engine.tokenize(PROSE, parse_special=False)[: imatrix.CHUNK_TOKENS]
    bos = engine.info().bos_id
    engine.close()
    if bos is not None:
        ids[0] = bos
    embedded = values_of(held["token_embd.weight"])[ids].astype(np.float64)
    epsilon = next(
        field.parts[field.data[0]][0] for name, field in gguf.GGUFReader(tiny.path).fields.items() if name.endswith("rms_epsilon")
    )
    normal = embedded / np.sqrt((embedded**2).mean(axis=1, keepdims=True) + epsilon) * values_of(held["blk.0.attn_norm.weight"])
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"):
        np.testing.assert_allclose(measured.means()[name], (normal**2).mean(axis=0), rtol=1e-3)
    matrices = {name for name in held if name.startswith("blk.") and len(held[name].shape) == 2}
    seen = {name for name in measured.sums if measured.counts[name].sum() > 0}
    assert seen <= matrices
    assert len(seen) >= len(matrices) - 5  # the last layer computes its feed-forward part for one token alone


def test_importance_round_trip_and_given_file(tmp_path: Path, tiny: Snapshot) -> None:
    measured = imatrix.measure(tiny.path, [PROSE], max_tokens=512)
    path = tmp_path / "imatrix.gguf"
    imatrix.write_importance(path, measured, dataset="prose")
    again = imatrix.read_importance(path).means()
    assert again.keys() == measured.means().keys()
    for name, values in measured.means().items():
        np.testing.assert_allclose(again[name], values, rtol=1e-5)
    plain = make(recipe_of("Q4_0"), tiny, tmp_path / "cache")
    given = make(recipe_of("Q4_0", imatrix=str(path)), tiny, tmp_path / "cache")
    computed = make(recipe_of("Q4_0", calibration=True, calibration_tokens=512), tiny, tmp_path / "cache", calibration=[PROSE])
    assert plain.files[0].sha256 != given.files[0].sha256
    assert given.files[0].sha256 == computed.files[0].sha256


def test_one_matrix_serves_all_types(tmp_path: Path, tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    measure = imatrix.measure
    monkeypatch.setattr(imatrix, "measure", lambda *args, **kwargs: calls.append(1) or measure(*args, **kwargs))
    for type_name in ("Q4_0", "Q4_1"):
        make(recipe_of(type_name, calibration=True, calibration_tokens=512), tiny, tmp_path, calibration=[PROSE])
    assert len(calls) == 1


def test_experts_are_counted_one_by_one() -> None:
    importance = imatrix.Importance()
    importance.add("blk.0.ffn_up_exps.weight", 1, 3, np.array([2.0, 8.0]), 2)
    np.testing.assert_array_equal(importance.means()["blk.0.ffn_up_exps.weight"], np.float32([1, 1, 1, 4, 1, 1]))


def write_tiny_experts(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model with four experts a layer, two of them used for each token."""
    plain = tiny_models._shapes

    def shapes(*args: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name, shape in plain(*args):
            if ".ffn_" in name and "norm" not in name:
                yield name.replace(".weight", "_exps.weight"), (4, *shape)
            else:
                yield name, shape
            if "ffn_norm" in name:
                yield name.replace("ffn_norm", "ffn_gate_inp"), (4, shape[0])

    def add_vocab_size(writer: gguf.GGUFWriter, size: int) -> None:
        writer.add_expert_count(4)
        writer.add_expert_used_count(2)
        writer.add_uint32("llama.vocab_size", size)

    with monkeypatch.context() as patch:
        patch.setattr(tiny_models, "_shapes", shapes)
        patch.setattr(gguf.GGUFWriter, "add_vocab_size", add_vocab_size)
        return write_tiny_gguf(path)


def test_importance_of_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token counts for the experts that it goes through, with the input that it brings them."""
    source = snapshot_of(write_tiny_experts(tmp_path / "experts.gguf", monkeypatch))
    measured = imatrix.measure(source.path, [PROSE], max_tokens=imatrix.CHUNK_TOKENS)
    counts = measured.counts["blk.0.ffn_up_exps.weight"]
    assert counts.shape == (4,)
    assert counts.sum() == 2 * imatrix.CHUNK_TOKENS
    np.testing.assert_array_equal(counts, measured.counts["blk.0.ffn_down_exps.weight"])
    # Every token brings the same input to both of its experts: all inputs together are the router's inputs, twice.
    router = measured.sums["blk.0.ffn_gate_inp.weight"][0]
    np.testing.assert_allclose(measured.sums["blk.0.ffn_up_exps.weight"].sum(axis=0), 2 * router, rtol=1e-4)
    product = make(recipe_of("Q4_0", calibration=True, calibration_tokens=512), source, tmp_path / "cache", calibration=[PROSE])
    assert product.size_bytes < source.size_bytes


def test_a_split_source_becomes_one_file(tmp_path: Path, tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "GGUFWriter", functools.partial(gguf.GGUFWriter, split_max_tensors=8))
        write_tiny_gguf(tmp_path / "tiny.gguf")
    parts = sorted(tmp_path.glob("tiny-0*.gguf"))
    assert len(parts) > 1
    files = tuple(SnapshotFile(name=path.name, size_bytes=path.stat().st_size, sha256=sha256_file(path)) for path in parts)
    split = Snapshot(source="split", format="gguf", root=tmp_path, files=files)
    product = make(recipe_of("Q8_0"), split, tmp_path / "cache")
    assert product.path.name == "tiny.Q8_0.gguf"
    whole = tensors_of(make(recipe_of("Q8_0"), tiny, tmp_path / "cache").path)
    for name, tensor in tensors_of(product.path).items():
        np.testing.assert_array_equal(tensor.data, whole[name].data)


def test_short_calibration_and_broken_matrices_are_refused(tmp_path: Path, tiny: Snapshot) -> None:
    with pytest.raises(InputError, match="512"):
        make(recipe_of("Q4_0", calibration=True), tiny, tmp_path, calibration=["too short"])
    with pytest.raises(InputError, match="not there"):
        make(recipe_of("Q4_0", imatrix=str(tmp_path / "absent")), tiny, tmp_path)
    with pytest.raises(InputError, match="no importance matrix"):
        imatrix.read_importance(tiny.path)
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    with pytest.raises(InputError, match="junk"):
        imatrix.read_importance(tmp_path / "junk")


@pytest.mark.slow
def test_an_importance_matrix_lowers_the_loss_on_other_text(demo_model: Path, tmp_path: Path) -> None:
    """Q2_K of the demo model, calibrated on the end of a text and scored on its start: closer to the source with the matrix."""
    if not WIKITEXT.is_file():
        pytest.skip("the public test text is not there")
    text = WIKITEXT.read_text(encoding="utf-8")
    source = snapshot_of(demo_model)

    def nats_per_token(snapshot: Snapshot) -> float:
        engine = LlamaCppEngine(snapshot, Settings(context_tokens=512))
        engine.load("score")
        ids = tuple(engine.tokenize(text[:6000], parse_special=False))[:768]
        results = engine.score([ScoreRequest(prefix_ids=ids[k : k + 1], continuations=(ids[k + 1 : k + 256],)) for k in range(0, 768, 256)])
        engine.close()
        return float(np.mean(all_logprobs(results)))

    plain = nats_per_token(make(recipe_of("Q2_K"), source, tmp_path))
    taught = nats_per_token(
        make(recipe_of("Q2_K", calibration=True, calibration_tokens=1024), source, tmp_path, calibration=[text[-8_000:]])
    )
    assert taught > plain + 0.02
