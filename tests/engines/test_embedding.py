"""Embedding engines: transformers' own vectors, the same from llama.cpp, poolings, batches, refusals; and what the flows make of them."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

import torch
import transformers

from trimtab.compress.base import load_recipes, make
from trimtab.core.embedding import EmbeddingForm, read_form
from trimtab.core.errors import EngineRefused, InfeasibleError, InputError
from trimtab.core.model import Snapshot
from trimtab.engines.embedding import embedder_class
from trimtab.engines.embedding_llamacpp import LlamaCppEmbedder
from trimtab.engines.embedding_transformers import TransformersEmbedder
from trimtab.flows.compare import compare
from trimtab.flows.evaluate import evaluate
from trimtab.flows.parts.embeddings import are_embeddings, tokens_of
from trimtab.sources.open import open_source
from trimtab.testing.tiny_models import write_tiny_safetensors
from trimtab.testing.tiny_transformers import write_tiny_embedding

RECIPES = {recipe.name: recipe for recipe in load_recipes()}
TEXTS = ["When the water rises", "the", "Boats lie in the harbour, and nobody is walking on the quay.", "12 + 7 = 19!"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_embedding(tmp_path_factory.mktemp("embedding") / "model")


@pytest.fixture(scope="module")
def source(folder: Path) -> Snapshot:
    return open_source(str(folder), cache_dir=folder.parent / "opened", embedding=True)


@pytest.fixture(scope="module")
def ids(folder: Path) -> list[list[int]]:
    return tokens_of(folder, TEXTS, 128)


def test_vectors_are_those_of_the_formula(folder: Path, source: Snapshot, ids: list[list[int]]) -> None:
    net = transformers.AutoModel.from_pretrained(str(folder))
    with torch.inference_mode():
        states = [net(input_ids=torch.tensor([row])).last_hidden_state[0].numpy() for row in ids]
    for pooling, pooled in (("mean", [one.mean(0) for one in states]), ("first", [one[0] for one in states])):
        expected = np.stack([one / np.linalg.norm(one) for one in pooled])
        embedder = TransformersEmbedder(source, EmbeddingForm(pooling=pooling, max_tokens=128), threads=1)
        for batch in (1, 3, 32):
            found = embedder.embed(ids, batch=batch)
            assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
            assert np.allclose(found, expected, atol=1e-5)
        embedder.close()
        with pytest.raises(EngineRefused, match="closed"):
            embedder.embed(ids)


def test_llama_cpp_gives_the_same_vectors(source: Snapshot, ids: list[list[int]], tmp_path: Path) -> None:
    product = make(RECIPES["llamacpp-f32"], source, tmp_path / "products")
    for pooling in ("mean", "first"):
        form = EmbeddingForm(pooling=pooling, max_tokens=128)
        there, here = TransformersEmbedder(source, form, threads=1), LlamaCppEmbedder(product, form, threads=1)
        for batch in (1, 32):
            assert np.allclose(there.embed(ids), here.embed(ids, batch=batch), atol=2e-3)  # its GELU is a table of 16-bit floats
        many = here.embed([ids[2]] * 200, batch=64)
        assert np.allclose(many, many[0], atol=2e-3)
        with pytest.raises(EngineRefused, match="longer than"):
            here.embed([[5] * 3000])
        here.close()
        there.close()


def test_what_is_not_known_is_refused(folder: Path, tmp_path: Path) -> None:
    assert read_form(folder) == EmbeddingForm(pooling="mean", max_tokens=128)
    other = write_tiny_embedding(tmp_path / "other", pooling="first")
    assert read_form(other).pooling == "first"
    (other / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(InputError, match="max_tokens"):
        read_form(other)
    (other / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]))
    with pytest.raises(InputError, match="Dense"):
        read_form(other)
    with pytest.raises(InputError, match="openvino makes no embeddings"):
        embedder_class("openvino")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    write_tiny_embedding(tmp_path / "whole")
    (other / "modules.json").write_bytes((tmp_path / "whole" / "modules.json").read_bytes())
    (other / "1_Pooling" / "config.json").write_bytes((tmp_path / "whole" / "1_Pooling" / "config.json").read_bytes())
    with pytest.raises(InfeasibleError, match="plain BERT"):
        make(RECIPES["llamacpp-f32"], open_source(str(other), cache_dir=tmp_path, embedding=True), tmp_path / "products")


def test_compare_and_evaluate_judge_embedding_models(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model finds next to nothing, so that no gate can be shown able to fail: what is tested is the way there."""
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    text = str(write_tiny_safetensors(tmp_path / "text"))
    assert not are_embeddings([text], offline=True)
    with pytest.raises(InputError, match="compare like with like"):
        are_embeddings([str(folder), text], offline=True)
    document = compare(f"{folder}?threads=1", f"llamacpp:{folder}?recipe=f32&threads=1", out=tmp_path / "out", offline=True)
    assert document["verdict"] in ("pass", "inconclusive")
    rows = document["embedding"]["rows"]
    assert [row["id"].split()[0] for row in rows] == ["A:", "B:", "planted", "planted"]
    assert rows[1]["cosine"]["value"] > 0.999
    assert rows[0]["overlap"]["value"] == pytest.approx(1.0)
    assert {gate["name"] for gate in document["gates"]} == {"rank", "found", "order", "vector"}
    assert json.loads((tmp_path / "out" / "decision.json").read_text())["embedding"] == document["embedding"]
    assert (tmp_path / "out" / "report.html").is_file()
    alone = evaluate(f"llamacpp:{folder}?recipe=q8_0&threads=1", out=tmp_path / "alone", offline=True)
    assert alone["embedding"]["suite"]["n_clusters"] >= 60
    with pytest.raises(InputError, match="only setting is threads"):
        evaluate(f"llamacpp:{folder}?kv_type=q8_0", out=tmp_path / "alone", offline=True)
