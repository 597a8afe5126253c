"""What a person sees of a decision, at the widths people have."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trimtab.cli.tables import candidates_table, decision_view, files_of, id_of, ratio_text, settings_text

spec = importlib.util.spec_from_file_location("table_decisions", Path(__file__).with_name("decisions.py"))
assert spec is not None
assert spec.loader is not None
decisions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(decisions)


def shown(width: int, verdict: str = "pass", **console: object) -> str:
    stream = io.StringIO()
    out = Console(file=stream, width=width, highlight=False, **console)  # type: ignore[arg-type]
    for renderable in decision_view(decisions.decision(verdict), {"report": "runs/demo/report.html"}):
        out.print(renderable)
    return stream.getvalue()


def shown_of(decision: dict[str, Any]) -> str:
    stream = io.StringIO()
    for renderable in decision_view(decision, {}):
        Console(file=stream, width=120).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120, 160])
def test_fits_and_says_everything(width: int) -> None:
    text = shown(width)
    assert max(len(line) for line in text.splitlines()) <= width
    flat = " ".join(text.split())
    for piece in (
        "PASS",
        "2.14×",
        "[2.08×",
        "1,126 ms",
        "2.18×",
        "2,270 ms",
        "412 MB",
        "+0.191",
        "inconclusive",
        "not measured",
        "caught",
        "runs/demo/report.html",
    ):
        assert piece in flat, piece
    assert "loses 0.19 nats" in flat
    assert "fairness: only 40 templates" in flat
    assert "…" not in text


def test_the_headline_says_how_much_of_it_the_baselines_engine_already_gives() -> None:
    box = shown(120).partition("╰")[0]
    assert "vs baseline" in box
    assert "vs llamacpp q8-0" in box
    assert "2.14× [2.08×, 2.20×]" in box
    assert "2.61× [2.55×, 2.67×]" in box


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_without_colours_there_are_none(verdict: str) -> None:
    text = shown(100, verdict, no_color=True, force_terminal=True)
    assert "\x1b[3" not in text.replace("\x1b[3m", "")
    assert verdict.upper() in text


def test_what_disturbed_and_what_was_left_out_is_said() -> None:
    decision = decisions.decision() | {
        "noise": {"noisy": True, "why": "The machine was noisy: another job took a core"},
        "skipped": [{"what": "engine openvino", "why": "is not installed"}],
        "seconds": 319.4,
        "work": {"computed": 3, "known": 9},
    }
    for piece in (
        "noisy while timing: another job took a core",
        "engine openvino",
        "is not installed",
        "5 min 19 s, 9 of 12 results known",
    ):
        assert piece in shown_of(decision)


def test_what_lost_too_much_is_told_from_what_was_only_slower() -> None:
    decision = decisions.decision() | {"policy": {"gates": [{"suite": "text", "required": True, "margin": 0.02}]}}
    row = {"status": "screened", "verdict": None, "measurement": None, "reasons": ["why"]}
    decision["candidates"] = [
        {**row, "id": "lossy", "evidence": {"screen": {"delta_nats_per_token": -0.2, "delta_se": 0.01}}},
        {**row, "id": "slower", "evidence": {"screen": {"delta_nats_per_token": -0.01, "delta_se": 0.01}}},
    ]
    cells = [str(cell) for column in candidates_table(decision, wide=False).columns for cell in column.cells]
    assert "lossy\nloses too much" in cells
    assert "slower\nno finalist" in cells


def test_keeping_the_baseline_is_said_so() -> None:
    decision = decisions.decision()
    decision["chosen"] = decision["baseline"]
    cells = [str(cell) for column in candidates_table(decision, wide=True).columns for cell in column.cells]
    assert "kept" in cells
    assert "Keep llamacpp as-shipped" in shown_of(decision)


def test_a_gate_that_cannot_fail_is_not_shown_as_passed() -> None:
    decision = decisions.decision("inconclusive")
    control = {"name": "q2_k", "caught": False}
    decision["gates"] = [decisions.gate("text", "pass", 0.0, informative=False, positive_control=control)]
    decision["reasons"] = ["text: not informative: the planted control was not failed"]
    shown = shown_of(decision)
    assert "? no proof" in shown
    assert "✓ pass" not in shown
    assert "missed" in shown
    assert "not informative: the planted" not in shown.partition("╰")[0], "what gates say stands with the gates"


def test_compare_has_no_list_of_losers() -> None:
    decision = decisions.decision() | {"kind": "compare"}
    assert "Why each other one lost" not in shown_of(decision)
    assert "Gates" in shown_of(decision)


def test_long_reasons_are_cut_short() -> None:
    decision = decisions.decision()
    decision["candidates"][2]["reasons"] = ["word " * 100] * 5
    shown = " ".join(shown_of(decision).split())
    assert shown.count("word") < 100
    assert "and 3 more in the report" in shown


def test_missing_numbers_are_never_zero() -> None:
    assert ratio_text(None) == ""
    assert ratio_text({"ratio": None}) == ""
    never_run = {"id": "x", "status": "dropped", "verdict": None, "reasons": [], "measurement": None, "evidence": None}
    table = candidates_table({"candidates": [never_run]}, wide=True)
    assert not any(char.isdigit() for column in table.columns for cell in column.cells for char in str(cell))


def test_names_leave_out_what_was_not_set() -> None:
    assert settings_text({"settings": {"threads": 2, "kv_type": None}}) == "threads=2"
    assert id_of({"id": "llamacpp q8-0"}) == "llamacpp q8-0"
    assert id_of("reference") == "reference"


def test_only_files_that_are_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "decision.json").write_text("{}")
    assert files_of(tmp_path) == {"decision": str(tmp_path / "decision.json")}
