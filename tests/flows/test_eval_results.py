"""An evaluation as the hub's .eval_results."""

import pytest
import yaml

from trimtab.core.errors import InputError
from trimtab.flows.parts.eval_results import check_place, eval_results_yaml

LEVEL = {"value": 0.54123, "low": 0.52, "high": 0.56, "n": 2376, "n_clusters": 2376}
EVALUATION = {
    "finished": "2026-11-26T10:00:00Z",
    "model": {"engine": "llamacpp", "recipe": "llamacpp-q8_0", "build": {"version": "0.3"}},
    "suite": {"version": "as published, abc"},
    "levels": [
        {"suite": "arc", "share_correct": LEVEL},
        {"suite": "gsm8k", "share_correct": None},
        {"suite": "mine", "share_correct": LEVEL},
    ],
}


def test_shares_of_public_sets_are_written():
    (entry,) = yaml.safe_load(eval_results_yaml(EVALUATION))
    assert entry["dataset"] == {"id": "allenai/ai2_arc", "task_id": "ARC-Easy"}
    assert entry["value"] == 0.5412
    assert "95 % interval 0.5200 to 0.5600" in entry["notes"]
    assert "most likely option per token" in entry["notes"]


def test_nothing_to_write_is_said():
    with pytest.raises(InputError, match="those that have are arc, boolq, openbookqa"):
        eval_results_yaml({**EVALUATION, "levels": EVALUATION["levels"][1:]})


def test_that_there_will_be_nothing_to_write_is_said_before_anything_is_scored():
    check_place(["core,arc:arc_easy.jsonl"])
    for suites in (["core", "gsm8k:g.jsonl"], ["lm-eval:arc_easy"]):
        with pytest.raises(InputError, match="None of these sub-suites has a place on the hub"):
            check_place(suites)
