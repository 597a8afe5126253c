"""Smaller models: their shapes, that what matters least goes first, and what zeros stay."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parent / "parts"))

from healing import text_file, tiny_model  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from trimtab.compress.base import load_recipes, make  # noqa: E402
from trimtab.core.errors import InputError  # noqa: E402
from trimtab.sources.open import open_source  # noqa: E402
from trimtab.train.heal.divergence import divergences  # noqa: E402
from trimtab.train.heal.low_rank import break_even_rank, factored  # noqa: E402
from trimtab.train.heal.prune import Cut, look, mask, pruned, write_pruned  # noqa: E402
from trimtab.train.heal.start import first_sequences  # noqa: E402


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model of 2 layers, 4 heads in 2 groups and 128 channels, its directory, and sequences."""
    folder = tmp_path_factory.mktemp("prune")
    _, reference = tiny_model(folder)
    sequences = first_sequences(reference.root, [str(text_file(folder / "text.txt", 3000))], 64, 8)
    model = AutoModelForCausalLM.from_pretrained(reference.root, dtype=torch.float32).eval()
    return reference.root, model, sequences


def test_all_kept_is_the_same_model(tiny) -> None:
    _, model, sequences = tiny
    same = pruned(model, Cut(channels=128, kv_groups=2, layers=2), look(model, sequences))
    ids = torch.tensor(sequences[:1])
    assert torch.equal(same(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("cut", "changed"),
    [
        (Cut(channels=96), {"intermediate_size": 96}),
        (Cut(kv_groups=1), {"num_key_value_heads": 1, "num_attention_heads": 2}),
        (Cut(layers=1), {"num_hidden_layers": 1}),
        (Cut(layers=1, channels=64, kv_groups=1), {"num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2}),
    ],
)
def test_a_narrower_directory_opens_as_config_says(tiny, tmp_path: Path, cut: Cut, changed: dict[str, int]) -> None:
    source, model, sequences = tiny
    write_pruned(source, tmp_path / "small", cut, sequences)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert {key: config[key] for key in changed} == changed
    assert (tmp_path / "small" / "tokenizer.json").exists()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    assert found.num_parameters() < model.num_parameters()
    apart = divergences(source, tmp_path / "small", sequences[:2])
    assert np.isfinite(apart).all()
    assert (apart > 0).all()


def test_channels_that_do_nothing_go_first(tiny) -> None:
    _, model, sequences = tiny
    quiet = pruned(model, Cut(), look(model, sequences))
    idle = torch.arange(0, 128, 4)
    with torch.no_grad():
        for block in quiet.model.layers:
            block.mlp.up_proj.weight[idle] = 0
    smaller = pruned(quiet, Cut(channels=96), look(quiet, sequences))
    ids = torch.tensor(sequences[:1])
    assert torch.allclose(smaller(ids).logits, quiet(ids).logits, atol=1e-5)


def test_a_layer_that_does_nothing_goes_first(tiny) -> None:
    _, model, sequences = tiny
    quiet = pruned(model, Cut(), look(model, sequences))
    with torch.no_grad():
        quiet.model.layers[0].mlp.down_proj.weight.zero_()
        quiet.model.layers[0].self_attn.o_proj.weight.zero_()
    smaller = pruned(quiet, Cut(layers=1), look(quiet, sequences))
    ids = torch.tensor(sequences[:1])
    assert torch.allclose(smaller(ids).logits, quiet(ids).logits, atol=1e-5)


def test_two_of_four_stay_and_the_inputs_count() -> None:
    weight = torch.tensor([[3.0, 2.0, 1.0, 0.5, -1.0, -4.0, 2.0, 3.0]])
    sizes = torch.tensor([0.1, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert mask(weight, "2:4", "magnitude", sizes).tolist() == [[1, 1, 0, 0, 0, 1, 0, 1]]
    assert mask(weight, "2:4", "wanda", sizes).tolist() == [[0, 1, 1, 0, 0, 1, 0, 1]]
    assert mask(weight, 0.75, "magnitude", sizes).sum() == 2
    with pytest.raises(InputError, match="multiple of 4"):
        mask(weight[:, :6], "2:4", "wanda", sizes[:6])


@pytest.mark.parametrize("cut", [Cut(channels=200), Cut(kv_groups=3), Cut(layers=5)])
def test_more_than_there_is_is_refused(tiny, cut: Cut) -> None:
    _, model, sequences = tiny
    with pytest.raises(InputError, match="cannot be kept"):
        pruned(model, cut, look(model, sequences[:1]))


def test_zeros_stay_where_they_were_put(tiny) -> None:
    _, model, sequences = tiny
    sparse = pruned(model, Cut(zeros="2:4"), look(model, sequences))
    fours = (sparse.model.layers[1].mlp.down_proj.weight.reshape(-1, 4) == 0).sum(1)
    assert (fours == 2).all()


def test_factors_lose_least_on_the_inputs_that_are_seen() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(512, 24) * torch.logspace(0, -2, 24)
    weight = torch.randn(32, 24)
    product = inputs.t() @ inputs / 512
    left, sizes, right = torch.linalg.svd(weight)
    plain = left[:, :8] * sizes[:8] @ right[:8]
    found = factored(weight, 8, product)
    assert found.up.shape == (32, 8)
    assert found.down.shape == (8, 24)
    assert (inputs @ (weight - found.merged()).t()).norm() < 0.5 * (inputs @ (weight - plain).t()).norm()
    assert torch.allclose(factored(weight, 24, product).merged(), weight, atol=1e-4)
    assert break_even_rank(32, 24) == 13
    with pytest.raises(InputError, match="no part of rank"):
        factored(weight, 25, product)


def test_llama_cpp_computes_a_narrower_model_as_transformers_does(tiny, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    source, _, sequences = tiny
    write_pruned(source, tmp_path / "small", Cut(channels=96, kv_groups=1, layers=1), sequences)
    snapshot = open_source(str(tmp_path / "small"), cache_dir=tmp_path / "cache", offline=True)
    recipe = next(recipe for recipe in load_recipes() if recipe.name == "llamacpp-f32")
    path = make(recipe, snapshot, tmp_path / "products").path
    ids = sequences[0][:32]
    engine = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False)
    engine.eval(ids)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0]
    assert np.abs(engine.scores[: len(ids)] - wanted.numpy()).max() < 1e-2
    engine.close()
