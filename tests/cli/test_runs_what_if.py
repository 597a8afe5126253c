"""`trimtab runs show --what-if` and prices, as they are typed."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import main
from trimtab.cli.tables import decision_view
from trimtab.record.run import RunDir

spec = importlib.util.spec_from_file_location("asked_decisions", Path(__file__).with_name("decisions.py"))
assert spec is not None
assert spec.loader is not None
decisions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(decisions)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), priced(decisions.decision()))
    write_run(Path("half"), None)
    write_run(Path("pair"), {**priced(decisions.decision()), "kind": "compare"})


def priced(decision: dict[str, Any]) -> dict[str, Any]:
    """The small decision with the rates that prices are made of, and the margin that its loser is beyond."""
    decision["policy"] = {"gates": [{"suite": "text", "margin": 0.02}]}
    decision["candidates"][2]["evidence"]["screen"]["delta_se"] = 0.01
    decision["workload"] = {"name": "chat", "prompt_tokens": 300, "output_tokens": 100}
    for row in decision["candidates"]:
        for point in (row["measurement"] or {}).get("points", ()):
            rate = point["concurrency"] * 100_000 / point["e2e_ms"]["p50"]
            point |= {"output_tok_s": rate, "round_tok_s": [rate * 0.99, rate * 1.01]}
    return decision


def write_run(path: Path, decision: dict[str, Any] | None) -> None:
    with RunDir.open(path, digests={"source": "a" * 64}, seed=0, inputs={"model": "m.gguf", "workload": "chat"}) as run:
        if decision is not None:
            run.write_decision(decision)
            run.finish()


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["runs", "show", *words]) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_answers_fit_and_say_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "run", "--what-if", "memory<1GiB", "--what-if", "concurrency=8", "--what-if", "memory<100MiB")
    assert max(len(line) for line in text.splitlines()) <= 80
    flat = " ".join(text.split())
    for piece in (
        "what if memory<1GiB certified openvino int8-asym (as chosen) 2,270 ms with 4 in flight",
        "Not measured: concurrency 8; measured were 1 and 4.",
        "Nothing measured meets memory<100MiB; the nearest is",
        "2 candidates were not timed",
    ):
        assert piece in flat, piece
    assert "Gates" not in text, "only what was asked for"


def test_answers_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "run", "--what-if", "objective=throughput", "--price-per-hour", "0.36", "--json"))
    (answer,) = found["what_if"]
    assert (answer["outcome"], answer["id"], answer["unit"]) == ("certified", "openvino int8-asym", "tok/s")
    by_level = found["prices"]["openvino int8-asym"]
    assert [cost["concurrency"] for cost in by_level] == [1, 4]
    assert by_level[1]["output"]["value"] == pytest.approx(0.36 / 3600 / (400_000 / 2270) * 1e6)
    assert by_level[1]["output"]["low"] < by_level[1]["output"]["value"] < by_level[1]["output"]["high"]


def test_a_question_of_cost_takes_the_price_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give --price-per-hour" in said(capsys, "run", "--what-if", "objective=cost")
    assert "per million output tokens" in said(capsys, "run", "--what-if", "objective=cost", "--price-per-hour", "0.40")


def test_prices_fit(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "run", "--price-per-hour", "0.40", "--power-watts", "80", "--price-per-kwh", "0.3")
    assert max(len(line) for line in text.splitlines()) <= 80
    flat = " ".join(text.split())
    assert "openvino int8-asym" in flat
    assert "80.0 W, as said" in flat
    assert "if it is always this busy" in flat


def test_optimize_with_a_price_ends_with_prices_and_the_next_question() -> None:
    decision = priced(decisions.decision()) | {"objective": {"name": "latency", "price_per_hour": 0.4}}
    files = {"decision": "my runs/a/decision.json"}
    drawn = list(decision_view(decision, files))
    assert any(getattr(part, "title", "") == "Price of a million tokens" for part in drawn)
    cells = [str(cell) for part in drawn if hasattr(part, "columns") for column in part.columns for cell in column.cells]
    assert "trimtab runs show 'my runs/a' --what-if 'memory<512MiB'" in cells


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--what-if", "memory<512"], "has no unit"),
        (["run", "--what-if", "beauty<5ms"], "unknown metric 'beauty'"),
        (["run", "--what-if", ""], "has an empty term"),
        (["half", "--what-if", "memory<1GiB"], "needs a finished run; half is unfinished"),
        (["pair", "--what-if", "memory<1GiB"], "needs a run of `trimtab optimize`"),
        (["half", "--price-per-hour", "1"], "needs a finished run"),
        (["run", "--price-per-hour", "0"], "--price-per-hour must be a number above zero"),
        (["run", "--price-per-hour", "nan"], "--price-per-hour must be a number above zero"),
        (["run", "--power-watts", "80"], "says nothing of a price"),
        (["run", "--price-per-kwh", "0.3"], "give --power-watts"),
    ],
)
def test_wrong_input_has_one_sentence(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    error = said(capsys, *words, code=2)
    assert says in error
    assert error.startswith("trimtab: ")
    assert error.count("\n") == 1


def test_a_decision_of_another_shape_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("run/decision.json")
    document = json.loads(path.read_text())
    document["candidates"][1]["measurement"] = {"points": [7]}
    path.write_text(json.dumps(document))
    assert "another shape" in said(capsys, "run", "--what-if", "memory<1GiB", code=2)
