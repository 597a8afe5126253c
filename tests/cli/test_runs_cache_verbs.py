"""`trimtab runs` and `trimtab cache` as they are typed: exit codes, one sentence for each error, what is shown."""

import importlib
import importlib.util
import json
import shlex
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cli.cache import AGE_UNITS_S, MOST_BYTES, SIZE_UNITS, age, bytes_text, size
from trimtab.cli.main import main
from trimtab.core.decision import CandidateResult
from trimtab.record.run import RunDir

spec = importlib.util.spec_from_file_location("run_decisions", Path(__file__).with_name("decisions.py"))
assert spec is not None
assert spec.loader is not None
decisions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(decisions)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def write_run(path: Path, *, finish: bool = True, seed: int = 0) -> None:
    inputs = {"model": "models/m.gguf", "workload": "chat", "policy": "strict", "engines": ["llamacpp"], "slo": ["memory<2GiB"]}
    with RunDir.open(path, digests={"source": "a" * 64}, seed=seed, inputs=inputs) as run:
        run.step("screen/x", lambda: 1)
        run.put_candidate(
            CandidateResult(
                id="llamacpp q8_0", engine="llamacpp", recipe="q8_0", settings={}, status="screened", verdict=None, reasons=("too slow",)
            )
        )
        if finish:
            run.write_decision(decisions.decision())
            run.write_text("report.html", "<p>report</p>")
            run.finish()


def said(capsys: pytest.CaptureFixture[str], line: str, code: int = 0) -> str:
    assert main(line.split()) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no runs in runs" in said(capsys, "runs list")
    write_run(Path("runs/done"))
    write_run(Path("runs/half"), finish=False, seed=3)
    (Path("runs") / "torn").mkdir()
    (Path("runs") / "torn" / "run.json").write_text("{")
    listed = said(capsys, "runs list")
    assert max(len(line) for line in listed.splitlines()) <= 80
    for text in ("runs/done", "pass openvino", "int8-asym", "unfinished", "damaged", "m.gguf (optimize, chat)"):
        assert text in listed
    assert {row["state"] for row in json.loads(said(capsys, "runs list runs --json"))["runs"]} == {"finished", "unfinished", "damaged"}
    done = said(capsys, "runs show runs/done")
    assert "Run openvino int8-asym" in done
    assert "webbrowser file://" in " ".join(done.split())
    assert json.loads(said(capsys, "runs show runs/done --json")) == decisions.decision()
    half = " ".join(said(capsys, "runs show runs/half").split())
    for text in ("unfinished", "Steps finished: 1 (screen 1)", "llamacpp q8_0 looked at too slow"):
        assert text in half
    assert (
        "trimtab optimize models/m.gguf --workload chat --policy strict --engine llamacpp --slo 'memory<2GiB' --seed 3 --out runs/half"
        in half
    )


def test_a_run_of_evaluate_is_listed_and_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "record")
    sample_items = importlib.import_module("sample_items")
    with RunDir.open(Path("runs/levels"), digests={}, seed=0, inputs={"model": "m.gguf", "reference": "", "suites": ["core"]}) as run:
        run.write_evaluation(sample_items.evaluation())
        run.finish()
    assert "evaluated" in said(capsys, "runs list")
    shown = said(capsys, "runs show runs/levels")
    assert "choice-es" in shown
    assert "runs/levels/report.html" in shown
    assert "Requests by class of harm" in shown
    assert "refusal self_harm (3)" in shown
    assert json.loads(said(capsys, "runs show runs/levels --json"))["schema"] == "trimtab.evaluation/1"
    Path("runs/levels/evaluation.json").write_text('{"schema": "trimtab.evaluation/1"}')
    assert "another shape" in said(capsys, "runs show runs/levels", 2)


def test_a_resume_command_has_all_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    from trimtab.cli.main import cli

    inputs = {
        "model": "m.gguf", "workload": "./my prompts.jsonl", "policy": "own.toml", "suites": ["core", "mine.jsonl"],
        "engines": ["llamacpp"], "candidates": ["q4.gguf"], "objective": "cost", "slo": ["memory<2GiB", "ttft_p95<1s"],
        "price_per_hour": 0.4, "over_long": "cut", "mixed": True, "time_limit_s": 900.0,
    }  # fmt: skip
    with RunDir.open(Path("runs/half"), digests={}, seed=3, inputs=inputs):
        pass
    shown = json.loads(said(capsys, "runs show runs/half --json"))
    words = shlex.split(shown["resume"])
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None
    asked = command.make_context(words[1], words[2:]).params
    assert {name: asked[name] for name in ("model", "workload", "policy", "objective", "price_per_hour", "over_long", "mixed")} == {
        name: inputs[name] for name in ("model", "workload", "policy", "objective", "price_per_hour", "over_long", "mixed")
    }
    assert (asked["suites"], asked["candidates"], asked["engines"]) == (("core", "mine.jsonl"), ("q4.gguf",), "llamacpp")
    assert (asked["slo"], asked["time_limit"], asked["seed"]) == ("memory<2GiB,ttft_p95<1s", 900.0, 3)
    assert "name them again" not in said(capsys, "runs show runs/half")


def test_a_resume_command_parses(capsys: pytest.CaptureFixture[str]) -> None:
    """The command that is shown is one that the verb takes."""
    from trimtab.cli.main import cli

    write_run(Path("runs/half"), finish=False, seed=3)
    words = shlex.split(json.loads(said(capsys, "runs show runs/half --json"))["resume"])
    command = cli.get_command(click.Context(cli), words[1])
    assert command is not None
    assert command.make_context(words[1], words[2:]).params["out"] == Path("runs/half")


def test_diff(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a"))
    write_run(Path("b"), seed=7)
    shown = said(capsys, "runs diff a b")
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "seed" in shown
    assert "very same result: text" in shown
    assert "from one session" in shown
    changed = json.loads(Path("b/decision.json").read_text())
    changed["gates"][0] |= {"delta": -0.05, "low": -0.06, "high": -0.04, "verdict": "fail"}
    changed["candidates"][3]["measurement"]["points"][0]["e2e_ms"]["p50"] = 5.0
    Path("b/decision.json").write_text(json.dumps(changed))
    shown = " ".join(said(capsys, "runs diff a b").split())
    assert "Beyond both" in shown
    assert "they are not comparable" in shown
    assert json.loads(said(capsys, "runs diff a b --json"))["gates"][0]["apart"] is True


def test_rm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(Path("runs/done"))
    Path("runs/done/notes.txt").write_text("mine")
    assert "--yes" in said(capsys, "runs rm runs/done", 2)
    assert "Would remove runs/done" in said(capsys, "runs rm runs/done --dry-run").replace(str(Path.cwd()) + "/", "")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(click, "confirm", lambda text, **_: (_ for _ in ()).throw(click.Abort()))
    assert main(["runs", "rm", "runs/done"]) == 130
    assert Path("runs/done/decision.json").exists()
    assert "notes.txt" in said(capsys, "runs rm runs/done --yes")
    assert [item.name for item in Path("runs/done").iterdir()] == ["notes.txt"]
    assert "not a run directory" in said(capsys, "runs rm runs/done --yes", 2)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("runs list nowhere", "nowhere is not a folder"),
        ("runs show nowhere", "not a run directory"),
        ("runs rm nowhere --yes", "not a run directory"),
        ("runs diff nowhere nowhere", "not a run directory"),
        ("runs rm", "Missing argument"),
        ("cache prune", "--max-size"),
        ("cache prune --max-size 5XB", "is not a size"),
        ("cache prune --max-size -1", "is not a size"),
        ("cache prune --older-than 30", "is not an age"),
        ("cache prune --older-than 0d", "is not an age"),
    ],
)
def test_wrong_input_has_one_sentence(capsys: pytest.CaptureFixture[str], line: str, says: str) -> None:
    error = said(capsys, line, 2)
    assert says in error
    assert error.startswith("trimtab: ")
    assert error.count("\n") == 1


def test_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "Nothing is kept yet" in said(capsys, "cache show")
    product = tmp_path / "home" / "cache" / "products" / f"llamacpp-q8-{'a' * 32}"
    product.mkdir(parents=True)
    (product / "w.gguf").write_bytes(b"x" * 2500)
    shown = said(capsys, "cache show")
    assert "built weights" in shown
    assert "2.50 kB" in shown
    assert "Would remove 2.50 kB" in said(capsys, "cache prune --max-size 2kB --dry-run")
    assert json.loads(said(capsys, "cache prune --max-size 2KiB --json"))["bytes_left"] == 0
    assert "Nothing to remove" in said(capsys, "cache prune --older-than 1d")


@given(st.integers(0, 10**6), st.sampled_from(sorted(SIZE_UNITS)), st.sampled_from(["", " "]))
def test_sizes_are_their_number_times_their_unit(n: int, unit: str, gap: str) -> None:
    if n * SIZE_UNITS[unit] <= MOST_BYTES:
        assert size(f"{n}{gap}{unit.upper()}") == n * SIZE_UNITS[unit]


@given(st.integers(1, 10**6), st.sampled_from(sorted(AGE_UNITS_S)))
def test_ages_are_their_number_times_their_unit(n: int, unit: str) -> None:
    assert age(f" {n}{unit} ") == n * AGE_UNITS_S[unit]


@given(st.text(max_size=12) | st.from_regex(r"[0-9.]{1,400}[a-zA-Z]{0,4}", fullmatch=True))
def test_any_text_is_a_size_and_an_age_or_refused(text: str) -> None:
    for parse, most in ((size, MOST_BYTES), (age, 10**9 * 365 * 86400)):
        try:
            value = parse(text)
        except click.BadParameter:
            continue
        assert 0 <= value <= most


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1500, "1.50 kB"), (2_000_000, "2.00 MB"), (3 * 10**9, "3.00 GB")]
)
def test_bytes_are_said_with_a_unit(n: int, text: str) -> None:
    assert bytes_text(n) == text
