"""A recipe of the user's own, named by its file wherever a recipe may be named."""

import tomllib
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.core.model import TensorInfo
from trimtab.core.toml import to_toml
from trimtab.flows.parts.opening import own_recipes_digest, recipe_named
from trimtab.flows.parts.space import user_plans
from trimtab.plan.tuning.mixes import mix_recipe
from trimtab.plan.tuning.tensor_groups import tensor_groups

GROUPS = tensor_groups(
    [TensorInfo(name=f"blk.{layer}.ffn_down.weight", shape=(64, 256), type_name="Q4_1", size_bytes=10240) for layer in range(2)], 1
)

TEXT = """
name = "{name}"
family = "gguf"
engine = "llamacpp"
bits_per_weight = 5.0
[parameters]
type = "keep"
[parameters.tensors]
ffn_down = "Q8_0"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.format(name="ffn-wide"))
    return path


def test_a_recipe_is_read_from_its_file(own: Path) -> None:
    recipe = recipe_named(str(own), "llamacpp")
    assert (recipe.name, recipe.parameters) == ("ffn-wide", {"type": "keep", "tensors": {"ffn_down": "Q8_0"}})


def test_a_candidate_may_name_it(own: Path) -> None:
    (plan,) = user_plans([f"llamacpp:m.gguf?recipe={own}&threads=1"])
    assert plan.recipe.parameters["tensors"] == {"ffn_down": "Q8_0"}
    assert plan.id == "llamacpp m ffn-wide threads=1"
    assert plan.source == "m.gguf"


def test_mistakes_are_named(own: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="for engine llamacpp, not openvino"):
        recipe_named(str(own), "openvino")
    with pytest.raises(InputError, match=r"gone\.toml"):
        recipe_named(str(tmp_path / "gone.toml"), "llamacpp")
    own.write_text(TEXT.format(name="llamacpp-q8_0"))
    with pytest.raises(InputError, match="like a shipped recipe"):
        recipe_named(str(own), "llamacpp")
    with pytest.raises(InputError, match=r"or name a \.toml file"):
        recipe_named("q9_9", "llamacpp")


def test_a_lockfile_holds_patterns_as_they_are() -> None:
    """Names in a mix are regular expressions, with signs that TOML keys must quote."""
    recipe = mix_recipe("llamacpp", {"ffn_down 0-1": "Q8_0"}, GROUPS, {"Q8_0": (32, 34)})
    document = {"recipe": {"parameters": dict(recipe.parameters)}}
    assert tomllib.loads(to_toml(document)) == document
    assert next(iter(recipe.parameters["tensors"])) == r"^blk\.(0|1)\.(ffn_down)\.weight$"


def test_a_run_is_bound_to_what_the_file_says(own: Path) -> None:
    spec = f"llamacpp:m.gguf?recipe={own}"
    before = own_recipes_digest([spec, "m.gguf"])
    assert set(before) == {"recipe files"}
    own.write_text(own.read_text().replace("Q8_0", "Q6_K"))
    assert own_recipes_digest([spec, "m.gguf"]) != before
    assert own_recipes_digest(["llamacpp:m.gguf?recipe=q8_0"]) == {}
