"""The tiny models that ship for tests: same bytes each time, and llama.cpp loads and decodes them."""

from itertools import islice
from pathlib import Path

import pytest

from trimtab.core.model import KvLayers
from trimtab.describe.card import model_card
from trimtab.sources.open import open_source, read_header
from trimtab.testing.tiny_models import ARCHITECTURES, write_tiny_gguf


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    first = write_tiny_gguf(tmp_path / "a.gguf", architecture="gemma3").read_bytes()
    assert write_tiny_gguf(tmp_path / "b.gguf", architecture="gemma3").read_bytes() == first
    assert write_tiny_gguf(tmp_path / "c.gguf", architecture="gemma3", seed=1).read_bytes() != first


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tiny models are made of llama, qwen2, qwen3, gemma3"):
        write_tiny_gguf(tmp_path / "a.gguf", architecture="bert")


def test_gemma_layers_slide_but_every_sixth(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "g.gguf", architecture="gemma3", n_layers=6, sliding_window=32)
    snapshot = open_source(str(path), cache_dir=tmp_path)
    card = model_card(read_header(snapshot), snapshot)
    sliding = KvLayers(kind="sliding", n_layers=5, values_per_token=64, window_tokens=32)
    assert card.kv_layers == (sliding, KvLayers(kind="full", n_layers=1, values_per_token=64))


@pytest.mark.model
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_llama_cpp_loads_and_decodes(tmp_path: Path, architecture: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    path = write_tiny_gguf(tmp_path / "t.gguf", architecture=architecture, weight_type="Q8_0")
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
    text = "the small boat turned é\n 42".encode()
    ids = model.tokenize(text, add_bos=False)
    assert len(ids) < len(text)  # the learned pieces are used
    assert model.detokenize(ids) == text
    made = list(islice(model.generate(model.tokenize(b"the old sailor", add_bos=False), temp=0.0), 6))
    assert len(made) == 6
    assert all(0 <= token < model.n_vocab() for token in made)
    model.close()


@pytest.mark.model
@pytest.mark.parametrize("architecture", ["qwen2", "gemma3"])
def test_the_card_agrees_with_llama_cpp(tmp_path: Path, architecture: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    path = write_tiny_gguf(tmp_path / "t.gguf", architecture=architecture, weight_type="Q8_0", n_layers=6)
    snapshot = open_source(str(path), cache_dir=tmp_path)
    card = model_card(read_header(snapshot), snapshot)
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
    assert card.n_params == llama_cpp.llama_model_n_params(model.model)
    assert sum(card.bytes_by_type.values()) == llama_cpp.llama_model_size(model.model)
    # The saved state grows by the keys and values of each token, and a few bytes of bookkeeping for each cache.
    model.eval(list(range(10, 14)))
    before = llama_cpp.llama_state_get_size(model.ctx)
    model.eval(list(range(20, 40)))
    grown = (llama_cpp.llama_state_get_size(model.ctx) - before) / 20
    assert card.kv_bytes_per_token <= grown <= card.kv_bytes_per_token + 64
    model.close()
