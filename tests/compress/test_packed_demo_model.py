"""The demo model packed as GPTQ and as compressed-tensors, against the plain directory of the numbers that each stands for."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from trimtab.compress.base import load_recipes, make
from trimtab.compress.quantized_checkpoint import packing_in
from trimtab.compress.transformers import EXPANDED, in_floats
from trimtab.core.deployment import Settings
from trimtab.core.model import Snapshot
from trimtab.engines.base import ScoreRequest
from trimtab.engines.llamacpp import LlamaCppEngine
from trimtab.engines.transformers import TransformersEngine
from trimtab.sources.open import open_source
from trimtab.testing.engine_contract import all_logprobs
from trimtab.testing.packed_checkpoints import pack_checkpoint, read_plain, save

pytestmark = [pytest.mark.slow, pytest.mark.model]
TEXT = "The lighthouse keeper counted the ships that passed in the fog, and wrote each of them down with the hour and the wind."
F32 = next(recipe for recipe in load_recipes() if recipe.name == "llamacpp-f32")


@pytest.fixture(scope="module")
def plain(demo_snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A directory in 32 bits."""
    return make(EXPANDED, demo_snapshot, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("scheme", ["gptq", "int8"])
def test_scores_of_the_packed_demo_model_are_those_of_its_numbers(plain: Snapshot, tmp_path: Path, scheme: str) -> None:
    meant = pack_checkpoint(plain.root, tmp_path / "packed", scheme)
    packed = open_source(str(tmp_path / "packed"), cache_dir=tmp_path / "opened")
    assert packing_in(packed) is not None
    assert packed.size_bytes < plain.size_bytes / 1.5
    unpacked = in_floats(packed, tmp_path / "products")
    found = read_plain(unpacked.root / "model.safetensors")
    assert all((found[name] == values).all() for name, values in meant.items())

    shutil.copytree(tmp_path / "packed", tmp_path / "meant")
    save(tmp_path / "meant" / "model.safetensors", {name: ("F32", values) for name, values in meant.items()})
    (tmp_path / "meant" / "config.json").write_bytes((plain.root / "config.json").read_bytes())
    reference = open_source(str(tmp_path / "meant"), cache_dir=tmp_path / "opened")
    settings = Settings(context_tokens=256, threads=1)
    scores = {}
    for name, snapshot in (("unpacked", unpacked), ("reference", reference)):
        engine = TransformersEngine(snapshot, settings)
        engine.load("score")
        ids = engine.tokenize(TEXT, parse_special=False)
        request = ScoreRequest(prefix_ids=tuple(ids[:1]), continuations=(tuple(ids[1:]),), top_k=20)
        scores[name] = engine.score([request])
        engine.close()
    assert scores["unpacked"] == scores["reference"]  # every log-probability, and the 20 most likely at each place: KL 0

    gguf = LlamaCppEngine(make(F32, packed, tmp_path / "products"), settings)
    gguf.load("score")
    there = all_logprobs(gguf.score([request]))
    gguf.close()
    assert there == pytest.approx(all_logprobs(scores["reference"]), abs=0.02)  # its keys and values have 16 bits
