"""Remedies in the terminal: cost and gates before and after, or why one was not tried."""

import io

from rich.console import Console

from trimtab.cli.mitigation import mitigation_view

GATE = {"name": "fairness", "margin": 0.1, "unit": "nats", "required": True}


def shown(decision) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    for part in mitigation_view(decision):
        console.print(part)
    return console.export_text()


def remedy(name, **changes):
    base = {
        "name": name, "what": "kept: output in its own type", "why_not": "", "size_bytes": 95_000_000, "extra_bytes": 3_300_000,
        "speed": 0.97, "screen": {"kl_nats": 0.05, "kl_se": 0.002}, "gates_after": [], "verdict": None, "details": {},
    }  # fmt: skip
    return {**base, **changes}


def test_each_remedy_has_a_row() -> None:
    before = {**GATE, "delta": -0.31, "low": -0.39, "high": -0.23, "verdict": "fail"}
    after = {**GATE, "delta": -0.02, "low": -0.07, "high": 0.03, "verdict": "pass"}
    text = shown(
        {
            "mitigation": {
                "of": {"id": "llamacpp q4_0", "size_bytes": 91_700_000},
                "gates": ["fairness"],
                "gates_before": [before],
                "attempts": {"used": 1, "allowed": 3, "planned": 1, "alpha_each": 0.0166667},
                "before": {"screen": None, "speed": None},
                "remedies": [
                    remedy("sensitive weights kept", gates_after=[after], verdict="pass"),
                    remedy("next point of the run", why_not="it comes from no run", size_bytes=None, extra_bytes=None),
                ],
                "best": "sensitive weights kept",
            }
        }
    )
    assert "llamacpp q4_0 did not pass fairness." in text
    assert "✓ pass" in text
    assert "fairness: −0.31" in text.replace("\n", " ")
    assert "+3.3 MB" in text
    assert "it comes from no run." in text
    assert "not judged" in text


def test_without_remedies_nothing_is_said() -> None:
    assert list(mitigation_view({})) == []
