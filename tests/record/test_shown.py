"""What a decision shows, in words."""

import copy

import pytest

from trimtab.decide.policies import catalog_gate, load_policy
from trimtab.decide.scope import evidence_for, framework_points
from trimtab.record.shown import what_was_shown

GATE = {
    "name": "text",
    "kind": "non_inferiority",
    "suite": "text",
    "unit": "nats/token",
    "margin": 0.02,
    "required": True,
    "verdict": "pass",
    "informative": True,
    "reasons": ["ok"],
    "n": 56,
    "n_clusters": 56,
    "delta": -0.011,
    "low": -0.0151,
    "high": -0.005,
    "detectable": 0.007,
    "positive_control": {"name": "weights-q2_k", "caught": True},
    "groups": [],
}
FAIR = {
    **GATE,
    "name": "fairness",
    "kind": "equivalence_by_group",
    "suite": "fairness",
    "unit": "nats",
    "margin": 0.1,
    "low": -0.01,
    "high": 0.071,
    "groups": [{"group": "sex:man"}, {"group": "sex:woman"}],
}
DECISION = {
    "kind": "certify",
    "verdict": "pass",
    "reference": {"id": "reference", "provenance": "m.gguf, expanded"},
    "candidates": [{"id": "c", "details": {"settings": {"slots": 4, "context_tokens": 1024}, "build": {"engine": "e", "version": "1"}}}],
    "gates": [GATE, FAIR],
    "decision": {"attempt": 2, "joint_power": 0.93},
    "policy": {"alpha": 0.05, "max_attempts": 3},
    "suite": {"languages": ["en", "fr"], "longest_tokens": 180},
    "machine": {"cpu": "a cpu"},
    "skipped": [{"what": "gates", "why": "gate choice: no items of its kind were asked for"}],
}


def told(decision):
    return {title: " ".join(sentences) for title, sentences in what_was_shown(decision)}


def test_each_part_says_its_figures():
    said = told(DECISION)
    assert "loses at most 0.016 nats/token (allowed: 0.020), on 56 items" in said["What was shown"], "rounded up, never down"
    assert "no group moves by more than 0.08 nats" in said["What was shown"]
    assert "sex: man, woman" in said["For whom"]
    assert "languages of the items: en, fr" in said["For whom"]
    assert "The longest item has 180 tokens; it is served with 1,024" in said["Up to where"]
    assert "3 deployments tried on these items together; this was number 2" in said["How surely"]
    assert "93 %" in said["How surely"]
    assert "Not examined: calling tools." in said["What was not shown"]
    assert "Not examined: how it speaks of groups" not in said["What was not shown"]
    assert "gate choice: no items of its kind" in said["What was not shown"]
    assert "NIST AI RMF MEASURE 2.11: fairness" in said["What this is evidence for"]
    assert said["What this is evidence for"].endswith("not compliance with them.")
    assert "compliant" not in str(said)


def test_what_failed_or_could_not_fail_is_not_shown():
    decision = copy.deepcopy(DECISION)
    decision["verdict"] = "fail"
    decision["gates"][0] |= {"verdict": "fail", "reasons": ["a loss"]}
    decision["gates"][1] |= {"informative": False, "positive_control": None}
    said = told(decision)
    assert "text" not in said["What was shown"]
    assert "text: is worse. a loss" in said["What was not shown"]
    assert "fairness: the gate was not shown able to fail." in said["What was not shown"]


def test_every_gate_has_framework_points():
    assert framework_points({"kind": "parity", "suite": ""}) == [
        "NIST AI RMF MEASURE 2.3",
        "NIST AI RMF MEASURE 2.13",
        "EU AI Act Annex IV 2(g)",
        "EU AI Act Annex IV 4",
    ]
    assert "NIST AI RMF MEASURE 2.6" in framework_points({"kind": "non_inferiority", "suite": "refusal"})
    assert framework_points({"kind": "non_inferiority", "suite": "mine"})


@pytest.mark.parametrize(
    ("point", "suites"),
    [
        ("MEASURE 2.6", ("refusal", "overrefusal", "fraud", "jailbreak", "xstest", "xstest-safe", "simplesafetytests", "harmbench")),
        ("MEASURE 2.7", ("jailbreak", "injection")),
        ("MEASURE 2.11", ("stereotype", "ambiguous", "told", "lean", "decisions", "coreference", "crows-pairs", "winobias", "winogender")),
        ("MEASURE 2.11", ("bbq-ambiguous", "bbq-told", "bbq-lean", "fairness-es", "fairness-ar")),
    ],
)
def test_gates_of_safety_and_of_bias_are_evidence_for_just_that(point, suites):
    for suite in suites:
        gate = catalog_gate(suite) or next(one for one in load_policy("standard").gates if one.suite == suite)
        assert f"NIST AI RMF {point}" in framework_points({"kind": gate.kind, "suite": suite}), suite


def test_only_what_was_measured_is_evidence():
    assert evidence_for(GATE) == [*framework_points(GATE)]
    assert evidence_for({**GATE, "delta": None}) == []
