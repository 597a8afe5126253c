"""`train debias` end to end on a tiny model: its own texts, adapters, back to the source's form, gates and gaps, and bad input."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("llama_cpp")

from trimtab.core.errors import InputError
from trimtab.evaluate.suites import bias, registry
from trimtab.flows.parts import reference
from trimtab.flows.parts.debias_config import check_ways
from trimtab.flows.train_debias import train_debias
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = pytest.mark.slow
N_CLUSTERS = 16
POLICY = """
name = "own"
version = "1"
max_attempts = 1
[[gates]]
name = "told"
kind = "non_inferiority"
suite = "told"
unit = "nats/token"
margin = 5.0
control = "weights-q2_k"
min_clusters = 5
reason = "test"
"""


def few_items():
    """Every item of some clusters of three sub-suites."""
    clusters: dict[str, dict[str, None]] = {}
    for item in bias.bias_items():
        if item.suite in ("stereotype", "coreference", "told"):
            clusters.setdefault(item.suite, {})[item.cluster] = None
    kept = {(suite, cluster) for suite, names in clusters.items() for cluster in list(names)[:N_CLUSTERS]}
    return tuple(item for item in bias.bias_items() if (item.suite, item.cluster) in kept)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("debias")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        patch.setitem(registry.SHIPPED, "bias", ("test", few_items))
        patch.setitem(reference.EXACT, "gguf", ("llamacpp", "f16", ""))  # without the 32-bit form, which only tells of noise
        write_tiny_gguf(root / "model.gguf", architecture="llama", seed=1)
        (root / "own.toml").write_text(POLICY)
        yield root


def debias(folder, **options):
    given = {"policy": str(folder / "own.toml"), "against": ("bias",), "tokens": 700, "out": folder / "run", "offline": True}
    return train_debias(str(folder / "model.gguf"), **{**given, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(folder):
    return debias(folder, method="balanced", lr=5e-3, strength=1.0)


def test_what_comes_out(folder, found) -> None:
    assert found == json.loads((folder / "run" / "debias.json").read_text())
    assert found["targets"] == ["stereotype", "coreference"]
    assert found["texts"]["n_rows"] == 2 * (found["texts"]["n_texts"] + found["texts"]["n_neutral"] // 2)
    assert found["training"]["steps"] >= 1
    assert found["training"]["last_loss"] < 100.0
    assert (folder / "run" / "model.gguf").read_bytes()[:4] == b"GGUF"
    assert [row["suite"] for row in found["before"]] == ["stereotype", "coreference"]
    assert (folder / "run" / "report.html").exists()


def test_the_table_has_what_was_to_fall_and_what_it_cost(found) -> None:
    rows = {row["name"]: row for row in found["table"]}
    assert list(rows)[:3] == ["all of these, mean gap", "stereotype, gap", "coreference, gap"]
    assert not rows["stereotype, as a change"]["required"]
    assert rows["told"]["required"]
    assert rows["told"]["part"] == "elsewhere"
    gap = rows["all of these, mean gap"]
    assert gap["after"] - gap["before"] == pytest.approx(gap["change"])
    assert gap["low"] <= gap["change"] <= gap["high"]
    assert gap["change"] != 0.0, "the training must have reached the weights that were judged"
    assert found["verdict"] != "pass", "sixteen templates are too few for these gates"


def test_the_same_command_again_finds_everything_done(folder, found) -> None:
    before = (folder / "run" / "train" / "steps.jsonl").read_bytes()
    again = debias(folder, method="balanced", lr=5e-3, strength=1.0, judge=False)
    assert (folder / "run" / "train" / "steps.jsonl").read_bytes() == before
    assert again["texts"] == found["texts"]
    assert again["training"] == found["training"]
    assert again["verdict"] == "inconclusive"


def test_options_that_do_not_go_together_are_refused(folder) -> None:
    with pytest.raises(InputError, match="run"):
        debias(folder, method="counterfactual")
    with pytest.raises(InputError, match="several groups"):
        debias(folder, suites=("tools",), out=folder / "other")
    with pytest.raises(InputError, match="adapters"):
        check_ways("balanced", lora_rank=0, strength=0.0, tokens=0, lr=0.0)
    with pytest.raises(InputError, match="strength"):
        check_ways("reweigh", lora_rank=8, strength=1.0, tokens=0, lr=0.0)
    with pytest.raises(InputError, match="the methods are"):
        check_ways("magic", lora_rank=8, strength=0.0, tokens=0, lr=0.0)
    (folder / "mine.jsonl").write_text('{"text": "Rain fell on the roof."}\n')
    with pytest.raises(InputError, match="swap lists"):
        debias(folder, data=(str(folder / "mine.jsonl"),), out=folder / "mine")
