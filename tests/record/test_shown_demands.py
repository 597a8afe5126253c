"""What a person reads of objective, demands and capacity: in the terminal, on the page and as sentences."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trimtab.cli.tables import decision_view
from trimtab.core.files import to_plain
from trimtab.core.workload import SloTerm
from trimtab.decide.slo import judge_latency, judge_value
from trimtab.record.demands import capacity_lines, demand_rows, objective_claim
from trimtab.record.explain import headline
from trimtab.record.report import render_report

spec = importlib.util.spec_from_file_location("demand_decisions", Path(__file__).parents[1] / "cli" / "decisions.py")
assert spec is not None
assert spec.loader is not None
decisions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(decisions)

TTFT = SloTerm(metric="ttft", percentile=95.0, limit=400.0, upper=True, text="ttft_p95<400ms")
MEMORY = SloTerm(metric="memory", percentile=None, limit=1e9, upper=True, text="memory<1GB")


def demanding(chosen_ttft: float, baseline_ttft: float) -> dict[str, Any]:
    decision: dict[str, Any] = decisions.decision("pass")
    rows = []
    for role, ttft in (("baseline", baseline_ttft), ("chosen", chosen_ttft)):
        results = [
            judge_latency(TTFT, [100.0] * 70, concurrency=1),
            judge_latency(TTFT, [ttft] * 70, concurrency=4),
            judge_value(MEMORY, [4e8], None),
        ]
        rows += [{"candidate": decision[role]["id"], **to_plain(result)} for result in results]
    decision["slo"] = rows
    decision["objective"] = {
        "name": "throughput",
        "unit": "tok/s",
        "chosen": 31.2,
        "baseline": 15.8,
        "concurrency": 4,
        "ratio": {"ratio": 1.97, "low": 1.9049, "high": 2.0, "n_rounds": 8},
    }
    decision["capacity"] = {
        "chosen": {"id": decision["chosen"]["id"], "low": 2.0, "high": 2.8, "stopped": "narrow", "points": [{}, {}]},
        "baseline": {"id": decision["baseline"]["id"], "why": "Not measured: no time."},
    }
    return decision


def shown(decision: dict[str, Any], width: int) -> str:
    stream = io.StringIO()
    for renderable in decision_view(decision, {}):
        Console(file=stream, width=width).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 130])
def test_the_terminal_shows_demands_objective_and_capacity(width: int) -> None:
    text = shown(demanding(120.0, 900.0), width)
    assert max(len(line) for line in text.splitlines()) <= width
    flat = " ".join(text.replace("│", " ").split())
    for piece in (
        "Demands",
        "missed",
        "900 ms",
        "0 of 70",
        "at least 1.90× as good",
        "hold at 2.0 requests a second; at 2.8",
    ):
        assert piece in flat, piece


def test_no_word_is_cut_off_beside_long_names() -> None:
    decision = demanding(120.0, 900.0)
    term = SloTerm(metric="ttft", percentile=99.9, limit=5000.0, upper=True, text="ttft_p99.9<5s")
    decision["slo"] = [{"candidate": "llamacpp as-shipped", **to_plain(judge_latency(term, [653.0] * 10, concurrency=1))}]
    assert "? cannot tell" in shown(decision, 80)


def test_one_row_a_demand_at_its_worst_level_chosen_first() -> None:
    decision = demanding(120.0, 900.0)
    rows = demand_rows(decision)
    assert [(row["candidate"], row["demand"], row["verdict"]) for row in rows] == [
        (decision["chosen"]["id"], "ttft_p95<400ms", "pass"),
        (decision["chosen"]["id"], "memory<1GB", "pass"),
        (decision["baseline"]["id"], "ttft_p95<400ms", "fail"),
        (decision["baseline"]["id"], "memory<1GB", "pass"),
    ]
    assert rows[2]["at"] == "4"
    assert rows[1]["measured"] == "400 MB"


def test_the_page_has_them_too() -> None:
    html = render_report(demanding(120.0, 900.0))
    assert 'id="demands"' in html
    assert "ttft_p95&lt;400ms" in html
    assert "Ranked by: throughput 31.2 tok/s with 4 in flight, the baseline 15.8 tok/s, at least 1.90× as good." in html
    assert 'id="demands"' not in render_report(decisions.decision("pass"))


def test_sentences() -> None:
    decision = demanding(120.0, 900.0)
    assert "throughput 31.2 tok/s" in headline(decision)
    assert capacity_lines(decision)[1].endswith("Not measured: no time.")
    missed = demanding(900.0, 900.0) | {"chosen": None, "verdict": "fail"}
    assert headline(missed) == "No: nothing that was timed here meets what is demanded."
    unsure = demanding(120.0, 900.0) | {"verdict": "inconclusive"}
    unsure["slo"] = [{**row, "verdict": "inconclusive"} for row in unsure["slo"]]
    assert headline(unsure).startswith("Cannot tell yet whether")
    assert objective_claim({"objective": {"name": "latency", "chosen": 3.0}}) == ""
    assert objective_claim({"objective": {"name": "memory", "unit": "bytes", "chosen": 2e8, "baseline": 4e8, "ratio": {"ratio": 2.0}}}) == (
        "peak memory 200 MB, the baseline 400 MB (2.00×)"
    )
