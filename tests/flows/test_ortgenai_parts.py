"""What the verbs try in ONNX Runtime GenAI before anything runs: of a GGUF file and of a Hugging Face directory."""

from pathlib import Path

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError
from trimtab.engines.registry import engine_class
from trimtab.flows.parts.opening import open_model
from trimtab.flows.parts.space import baseline_plan, shelf_plans
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_safetensors

TRIED = ["ortgenai-int8", "ortgenai-int4-k-quant-mixed", "ortgenai-int4"]


@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_its_recipes_start_from_both_forms_and_the_baseline_is_another_engine(tmp_path: Path, form: str) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf") if form == "gguf" else write_tiny_safetensors(tmp_path / "model")
    opened = open_model(str(path), cache_dir=tmp_path / "cache", offline=True)
    plans, skipped = shelf_plans(opened, ("ortgenai",))
    assert [plan.recipe.name for plan in plans] == TRIED
    assert skipped == []
    assert baseline_plan(opened, ("llamacpp", "ortgenai", "transformers")).engine != "ortgenai"
    with pytest.raises(InputError, match="none of the engines at hand"):
        baseline_plan(opened, ("ortgenai",))
    assert "name a recipe" in engine_class("ortgenai").refuses(opened.snapshot, opened.header, Settings())
