"""What the verbs make of a Hugging Face directory before anything runs."""

from pathlib import Path

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError
from trimtab.engines.registry import engine_class
from trimtab.flows.parts.opening import default_engine, open_model, recipe_named
from trimtab.flows.parts.reference import EXACT, MADE, WEAK
from trimtab.flows.parts.space import baseline_plan, shelf_plans, user_plans
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_safetensors

ENGINES = ("llamacpp", "openvino", "transformers")


def test_a_directory_runs_in_transformers_unless_told_otherwise(tmp_path: Path) -> None:
    opened = open_model(str(write_tiny_safetensors(tmp_path / "model")), cache_dir=tmp_path / "cache", offline=True)
    assert default_engine(opened) == "transformers"
    assert baseline_plan(opened, ENGINES).id == "transformers as-shipped"
    with pytest.raises(InputError, match="none of the engines at hand"):
        baseline_plan(opened, ())


@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_its_recipes_start_from_both_forms(tmp_path: Path, form: str) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf") if form == "gguf" else write_tiny_safetensors(tmp_path / "model")
    plans, skipped = shelf_plans(open_model(str(path), cache_dir=tmp_path / "cache", offline=True), ("transformers",))
    assert [plan.recipe.name for plan in plans] == [f"transformers-{name}" for name in ("bf16", "int8", "int4-g64", "int8-dynamic", "fp32")]
    assert skipped == []


def test_a_candidate_runs_in_the_engine_that_it_is_for(tmp_path: Path) -> None:
    folder = write_tiny_safetensors(tmp_path / "model")
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert [plan.engine for plan in user_plans([str(folder), str(file), f"openvino:{file}"])] == ["transformers", "llamacpp", "openvino"]


def test_every_reference_can_be_made_and_told() -> None:
    for engine, recipe, finer in EXACT.values():
        assert recipe_named(recipe, engine).engine == engine
        assert recipe in MADE
        assert not finer or recipe_named(finer, engine).engine == engine
        assert recipe_named(WEAK[engine], engine).engine == engine


def test_weights_that_somebody_packed_are_unpacked_or_refused(tmp_path: Path) -> None:
    opened = open_model(str(write_tiny_safetensors(tmp_path / "awq", quantization="awq")), cache_dir=tmp_path / "cache", offline=True)
    assert default_engine(opened) == "transformers"
    assert baseline_plan(opened, ["transformers"]).recipe.name == "huggingface-fp32"
    assert "AWQ" in engine_class("transformers").refuses(opened.snapshot, opened.header, Settings())
    unknown = open_model(
        str(write_tiny_safetensors(tmp_path / "nf4", quantization="bitsandbytes")), cache_dir=tmp_path / "cache", offline=True
    )
    with pytest.raises(InputError, match="bitsandbytes"):
        default_engine(unknown)
