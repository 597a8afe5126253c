"""The public surface: frozen names, specs, results."""

import importlib
import json

import pytest

import trimtab as tt


def test_the_public_names_are_frozen():
    assert tt.__all__ == [
        "Flips",
        "Gate",
        "InfeasibleError",
        "InputError",
        "MissingError",
        "Model",
        "Result",
        "Trained",
        "TrimtabError",
        "certify",
        "check",
        "compare",
        "debias",
        "describe_model",
        "evaluate_model",
        "fairness",
        "fairness_data",
        "finetune",
        "heal",
        "open",
        "optimize",
        "plan_fit",
        "plan_serve",
        "plan_train",
        "release",
        "release_history",
    ]
    for name in tt.__all__:
        assert getattr(tt, name).__name__ == name
    importlib.import_module("trimtab.describe.card")  # a room must not take the place of a public name

    for name in tt.__all__:
        assert getattr(tt, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        tt.nope  # noqa: B018


def test_open_is_the_spec_that_the_command_line_takes():
    from trimtab.core.deployment import parse_spec

    model = tt.open("m.gguf", engine="llamacpp", recipe="llamacpp-q8_0", context_tokens=8192, flash_attention=False, tensor_split=[1, 3])
    assert model.spec == "llamacpp:m.gguf?recipe=llamacpp-q8_0&context_tokens=8192&flash_attention=off&tensor_split=1.0,3.0"
    spec = parse_spec(model.spec, ["llamacpp"])
    assert (spec.engine, spec.recipe, spec.settings) == (model.engine, model.recipe, model.settings)
    with pytest.raises(tt.InputError, match="Unknown setting 'contxt'"):
        tt.open("m.gguf", contxt=1)


@pytest.fixture
def result(tmp_path):
    gate = {
        "name": "text", "verdict": "fail", "delta": -0.1, "low": -0.12, "high": -0.08, "margin": 0.02, "unit": "nats/token", "n": 60,
        "required": True, "informative": True, "reasons": ["too much"], "kind": "non_inferiority",
    }  # fmt: skip
    flip = {"suite": "choice", "item_id": "c1", "direction": "lost"}
    run = tmp_path / "run"
    run.mkdir()
    (run / "report.html").write_text('<p title="a">&amp;</p>')
    return tt.Result({"verdict": "fail", "kind": "compare", "reasons": [], "gates": [gate], "flips": [flip], "candidates": []}, run)


def test_a_result_is_read_without_knowing_its_json(result, tmp_path):
    assert not result.passed
    assert result.gates[0].margin == 0.02
    assert result.gates[0].reasons == ("too much",)
    assert [flip["item_id"] for flip in result.flips] == ["c1"]
    assert "worse" in result.explain()
    saved = result.save(tmp_path / "kept")
    assert (saved / "report.html").exists()
    with pytest.raises(tt.InputError, match="exists already"):
        result.save(tmp_path / "kept")


def test_a_notebook_shows_the_report_and_nothing_of_it_escapes(result):
    shown = result._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "&lt;p title=&quot;a&quot;&gt;&amp;amp;" in shown
    json.dumps(result.decision)


def test_data_before_training_is_looked_at_from_python_too(tmp_path):
    (tmp_path / "people.csv").write_text("sex,hired\n" + "f,no\nm,yes\n" * 20)
    found = tt.fairness_data(tmp_path / "people.csv", group=["sex"], label="hired", out=tmp_path / "audit")
    assert (found["schema"], found["input"]["rows"]) == ("trimtab.fairness_data/1", 40)
    assert json.loads((tmp_path / "audit" / "data.json").read_text()) == found
    with pytest.raises(tt.InputError, match="Name what to look at"):
        tt.fairness_data(tmp_path / "people.csv")


def test_a_plan_from_python(tmp_path):
    found = tt.plan_train("llama-3.1-8b", hardware="h100-sxm", devices=64, tokens=3e11, seq=8192, global_batch=256, price=2)
    assert found.found
    assert found.document["question"]["tokens"] == 3e11
    assert found.options[0]["n_devices"] == 64
    assert found.explain().startswith("64 × h100-sxm")
    assert (found.save(tmp_path / "plan") / "plan.json").exists()
    assert "trimtab plan" in found._repr_html_()
    assert not tt.plan_fit("llama-3.1-405b", hardware="rtx-4090").found
    with pytest.raises(tt.InputError, match="--rate"):
        tt.plan_serve("llama-3.1-8b", hardware="h100-sxm", rate=20)
