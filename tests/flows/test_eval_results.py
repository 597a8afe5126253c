"""An evaluation as the hub's .eval_results."""

import pytest
import yaml

from trimtab.core.errors import InputError
from trimtab.core.files import sha256_file
from trimtab.evaluate.suites import public
from trimtab.flows.parts.eval_results import eval_results_yaml, places_on_hub

LEVEL = {"value": 0.54123, "low": 0.52, "high": 0.56, "n": 2376, "n_clusters": 2376}
EVALUATION = {
    "finished": "2026-11-26T10:00:00Z",
    "model": {"engine": "llamacpp", "recipe": "llamacpp-q8_0", "build": {"version": "0.3"}},
    "suite": {"version": "as published, abc"},
    "levels": [
        {"suite": "arc", "unit": "nats/token", "share_correct": LEVEL},
        {"suite": "gsm8k", "unit": "nats/token", "share_correct": None},
        {"suite": "mine", "unit": "nats/token", "share_correct": LEVEL},
    ],
}
ARC = {"arc": {"dataset": "allenai/ai2_arc", "task": "ARC-Easy"}}


def test_shares_of_public_sets_are_written():
    (entry,) = yaml.safe_load(eval_results_yaml(EVALUATION, ARC))
    assert entry["dataset"] == {"id": "allenai/ai2_arc", "task_id": "ARC-Easy"}
    assert entry["value"] == 0.5412
    assert "95 % interval 0.5200 to 0.5600" in entry["notes"]
    assert "most likely option per token" in entry["notes"]


def test_how_answers_were_found_is_said_of_a_server():
    asked = {"levels": [{"suite": "arc", "unit": "share", "share_correct": LEVEL}], "suite": EVALUATION["suite"], "finished": "2026-11-26"}
    server = {"engine": "openai", "recipe": "", "build": {"version": ""}}
    (entry,) = yaml.safe_load(eval_results_yaml({**asked, "model": server}, ARC))
    assert "asked for the letter of the option" in entry["notes"]
    assert "; openai, suite version" in entry["notes"]


def test_nothing_to_write_is_said():
    with pytest.raises(InputError, match="no share of right answers on arc to be written"):
        eval_results_yaml({**EVALUATION, "levels": EVALUATION["levels"][1:]}, ARC)


def test_which_suites_have_a_place_is_known_before_anything_is_scored(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    file.write_text("one")
    sets = {**public.public_sets()}
    sets["arc"] = {"hub": {"dataset": "allenai/ai2_arc", "task_by_sha256": {sha256_file(file): "ARC-Challenge"}}}
    monkeypatch.setattr("trimtab.flows.parts.eval_results.public_sets", lambda: sets)
    assert places_on_hub([f"core,arc:{file}"]) == {"arc": {"dataset": "allenai/ai2_arc", "task": "ARC-Challenge"}}
    assert places_on_hub(["boolq:part.jsonl", "core"]) == {"boolq": {"dataset": "google/boolq", "task": "default"}}
    file.write_text("another")
    for suites in ([f"arc:{file}"], ["core,gsm8k:g.jsonl"], ["lm-eval:boolq"], ["lm-eval:arc_easy,boolq"], ["core,lm-eval:arc_easy,boolq"]):
        with pytest.raises(InputError, match="None of these suites has a place on the hub; those that have are arc, boolq, openbookqa"):
            places_on_hub(suites)


def test_tasks_of_another_tool_have_no_entry_whatever_they_are_called(tmp_path):
    both = places_on_hub(["openbookqa:o.jsonl", "lm-eval:boolq"])
    rows = [{"suite": name, "unit": "nats/token", "share_correct": LEVEL} for name in ("openbookqa", "boolq")]
    (entry,) = yaml.safe_load(eval_results_yaml({**EVALUATION, "levels": rows}, both))
    assert entry["dataset"]["id"] == "allenai/openbookqa"
