"""Remedies as texts: costs, gates before and after, what was not tried and why."""

from typing import Any

from sample_decision import gate

from trimtab.core.files import to_plain
from trimtab.record.mitigation import mitigation_of

SCREEN = {"kl_nats": 0.294, "kl_se": 0.01}


def remedy(name: str, **changes: Any) -> dict[str, Any]:
    base = {
        "name": name, "what": "w", "id": name, "why_not": "", "size_bytes": 95_000_000, "extra_bytes": 3_300_000, "speed": 0.97,
        "screen": {"kl_nats": 0.05, "kl_se": 0.002}, "gates_after": [], "verdict": None, "details": {},
    }  # fmt: skip
    return {**base, **changes}


def decision(*remedies: dict[str, Any], best: str | None = None) -> dict[str, Any]:
    return {
        "mitigation": {
            "of": {"id": "llamacpp q4_0", "size_bytes": 91_700_000},
            "gates": ["fairness"],
            "gates_before": [to_plain(gate("fairness", "equivalence_by_group", "nats", 0.1, -0.31, 0.08, "fail"))],
            "attempts": {"used": 1, "allowed": 3, "planned": 2, "alpha_each": 0.0166667},
            "before": {"screen": SCREEN, "speed": 1.01},
            "remedies": list(remedies),
            "best": best,
        }
    }


def test_gates_stand_before_and_after() -> None:
    after = [
        to_plain(gate("fairness", "equivalence_by_group", "nats", 0.1, -0.02, 0.05)),
        to_plain(gate("text", "non_inferiority", "nats/token", 0.02, -0.05, 0.01, "fail")),
        to_plain(gate("cloze", "non_inferiority", "nats/token", 0.05, 0.0, 0.01)),
    ]
    found = mitigation_of(decision(remedy("kept", gates_after=after, verdict="fail")))
    assert found is not None
    (row,) = found["rows"]
    assert [one["name"] for one in row["gates"]] == ["fairness", "text"], "what it harms is told too, what it leaves alone is not"
    fair, text = row["gates"]
    assert fair["before"].startswith("−0.31")
    assert fair["before"].endswith("fail")
    assert (fair["verdict"], text["before"], text["verdict"]) == ("pass", "passed", "fail")
    assert (row["bytes"], row["extra"], row["speed"]) == ("95.0 MB", "+3.3 MB", "0.97×")
    assert row["kl"] == "0.050 ± 0.004"
    assert "nothing is chosen" in " ".join(found["lead"])
    assert "level of 0.0167" in " ".join(found["lead"])


def test_what_was_not_tried_says_why() -> None:
    row = remedy("calibration", why_not="Q8_0 is made without calibration text", size_bytes=None, extra_bytes=None, speed=None, screen=None)
    found = mitigation_of(decision(row, best=None))
    assert found is not None
    assert found["rows"][0]["why_not"] == "Q8_0 is made without calibration text."
    assert (found["rows"][0]["kl"], found["rows"][0]["speed"]) == ("not measured", "not measured")


def test_groups_come_by_gain_a_byte() -> None:
    rows = [
        {"group": "attn_kv 0-9", "extra_bytes": 300_000, "gains": {"fairness": 0.4}},
        {"group": "output", "extra_bytes": 12_000_000, "gains": {"fairness": 0.9}},
    ]
    found = mitigation_of(decision(remedy("kept", details={"sensitivity": rows[::-1]}), best="kept"))
    assert found is not None
    assert [row["name"] for row in found["groups"]] == ["attn_kv 0-9", "output"]
    assert found["groups"][0]["gains"] == "fairness +0.40"
    assert "Chosen of those that pass: kept" in " ".join(found["lead"])


def test_without_remedies_there_is_nothing_to_show() -> None:
    assert mitigation_of({}) is None
