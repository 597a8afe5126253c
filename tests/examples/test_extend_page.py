"""docs/extend.md: what it shows loads, and what it names exists."""

import re
import tomllib
from pathlib import Path

import pytest

from trimtab.compress.base import builder_of, load_recipes, read_recipe
from trimtab.decide.policies import load_policy
from trimtab.plan.workloads import load_workload

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def saved(tmp_path):
    """The page's TOML block with this `name`, as a file."""

    def save(name):
        path = tmp_path / f"{name}.toml"
        (text,) = (block for block in BLOCKS if tomllib.loads(block).get("name") == name)
        path.write_text(text)
        return path

    return save


def test_the_recipe_is_a_new_one_that_its_family_builds(saved):
    recipe = read_recipe(saved("llamacpp-q5_k_s"))
    assert recipe.name not in {shipped.name for shipped in load_recipes()}
    pytest.importorskip("llama_cpp")
    assert recipe.parameters["type"] in builder_of(recipe.family).TYPES


def test_the_workload_and_the_policy_load(saved):
    assert load_workload(str(saved("summaries"))).concurrency == (1, 8)
    assert [gate.name for gate in load_policy(saved("conversions")).gates] == ["units", "parity"]


def test_entry_points_are_those_of_the_examples():
    shown = [tomllib.loads(block)["project"]["entry-points"] for block in BLOCKS if block.startswith("[project")]
    held = [
        tomllib.loads((ROOT / "examples" / name / "pyproject.toml").read_text())["project"]["entry-points"]
        for name in ("own_engine", "own_suite", "own_guard")
    ]
    assert shown == held


def test_every_named_file_exists():
    named = {
        path
        for path in re.findall(r"[\w./]+/[\w./]+", PAGE)
        if re.match(r"(?:src|tests|examples|catalog|engines|compress|core|flows)/", path)
    }
    assert len(named) > 12
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "src" / "trimtab" / path).exists(), path
