"""A comparison that failed, healed end to end on a tiny random model, and judged by the same gate."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from trimtab.compress.base import read_recipe
from trimtab.core.errors import InputError
from trimtab.flows.compare import compare
from trimtab.flows.train_heal import train_heal
from trimtab.testing.tiny_models import write_tiny_gguf

SAID = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")
pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.training]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, liked):
    """A run under `run` of plain 4-bit weights against the reference, and text that the model likes."""
    root = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        patch.setattr("trimtab.flows.parts.heal_training.SEQ_TOKENS", 64)
        patch.setattr("trimtab.flows.parts.heal_training.LEVELS_A_STEP", 0.02)
        model = write_tiny_gguf(root / "model.gguf", architecture="llama", seed=1)
        liked.write(model, root / "said.jsonl", n_texts=60)
        words = [f"{one} {other} the {third} of" for one in SAID for other in SAID for third in SAID]
        (root / "more.txt").write_text("\n\n".join(" ".join(words[first : first + 30]) for first in range(0, len(words), 30)))
        text = liked.policy.replace("max_attempts = 1", "max_attempts = 3").replace("margin = 0.02", "margin = 0.002")
        (root / "own.toml").write_text(text)
        decision = compare(
            f"llamacpp:{model}?recipe=f32", f"llamacpp:{model}?recipe=q4_0", suites=[str(root / "said.jsonl")],
            policy=str(root / "own.toml"), workload="64/16@1", timing=False, out=root / "run",
        )  # fmt: skip
        yield root, decision


def heal(root: Path, out: str, **changes):
    chosen = {"suites": [str(root / "said.jsonl")], "policy": str(root / "own.toml"), "data": [str(root / "more.txt")], "tokens": 4096}
    return train_heal(root / "run", out=root / out, **{**chosen, **changes})


def test_the_healed_file_takes_the_candidates_place_before_the_gate(compared) -> None:
    root, decision = compared
    name = decision["candidates"][0]["id"]
    found = heal(root, "healed", candidate=name)
    assert found["exact"]
    assert found["grid"] == "Q4_0"
    assert found["n_weights"] == 14
    assert found["verdict"] == found["decision"]["verdict"]
    assert found["decision"]["candidates"][0]["id"] == f"{name}, healed"
    before, after = decision["gates"][0], found["decision"]["gates"][0]
    assert (after["name"], after["margin"]) == (before["name"], before["margin"])
    assert abs(after["delta"]) < abs(before["delta"]), "nearer to the reference on items that were not trained on"
    assert Path(found["model"]).stat().st_size == pytest.approx(
        next(row for row in decision["candidates"])["details"]["size_bytes"], rel=0.02
    )
    assert json.loads((root / "healed" / "heal.json").read_text())["verdict"] == found["verdict"]
    assert (root / "healed" / "decision.json").exists()
    told = found["sensitivity"]
    assert told["divergence"] > 0
    assert told["extra_ms"] > 0
    recipe = read_recipe(Path(told["recipe"]))
    assert set(recipe.parameters["tensors"].values()) == {"Q8_0"}
    assert 0 < len(told["kept"]) == len(recipe.parameters["tensors"]) < 14
    again = heal(root, "healed", candidate=name)
    assert again["training"] == found["training"], "nothing is trained twice"


def test_text_that_the_reference_writes(compared) -> None:
    root, decision = compared
    found = heal(root, "written", candidate=decision["candidates"][0]["id"], data=(), tokens=512, judge=False)
    assert found["verdict"] == "inconclusive"
    assert found["decision"] is None
    assert found["text"] == "written by the reference"
    rows = [json.loads(line) for line in (root / "written" / "text.jsonl").read_text().splitlines()]
    assert all(row["text"].strip() for row in rows)


def test_what_cannot_be_healed_is_refused(compared) -> None:
    root, decision = compared
    with pytest.raises(InputError, match="no candidate"):
        heal(root, "wrong", candidate="nobody")
    with pytest.raises(InputError, match="less than one step"):
        heal(root, "wrong", candidate=decision["candidates"][0]["id"], tokens=10)
    with pytest.raises(InputError, match="names no file"):
        heal(root, "wrong", candidate=decision["candidates"][0]["id"], data=[str(root / "nothing*.txt")])
