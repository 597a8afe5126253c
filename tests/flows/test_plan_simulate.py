"""`trimtab plan simulate` from the typed question to the document, and every mistake as one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import main
from trimtab.record.run import DECISION_SCHEMA

STEPS = "fixed_s = 0.01\nsequence_s = 0.001\nprompt_token_s = 1e-4\ncontext_token_s = 1e-6\n"
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2024-01-01 00:{second // 60:02d}:{second % 60:02d},{100 + 37 * second % 400},{20 + second % 50}\n" for second in range(0, 600, 3)
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "steps.toml").write_text(STEPS)
    (tmp_path / "trace.csv").write_text(TRACE)
    return {"steps": str(tmp_path / "steps.toml"), "trace": str(tmp_path / "trace.csv")}


def simulate(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["plan", "simulate", *words, "--json"])
    said = capsys.readouterr()
    assert not said.err, said.err
    document: dict[str, Any] = json.loads(said.out)
    return code, document


def test_policies_side_by_side(capsys: pytest.CaptureFixture[str], files: dict[str, str]) -> None:
    words = ["--steps", files["steps"], "--trace", files["trace"], "--replicas", "0..3", "--cold-start", "5", "--price", "3.6"]
    words += ["--policy", "fixed", "--policy", "scale-to-zero:keep=60", "--slo", "ttft_p50<1s"]
    code, document = simulate(capsys, *words)
    assert code == 0
    assert (document["schema"], document["kind"], document["found"]) == ("trimtab.fleet/1", "simulate", True)
    fixed, zero = document["runs"]
    assert [fixed["policy"], zero["policy"]] == ["fixed", "scale-to-zero:keep=60"]
    assert fixed["answered"] == zero["answered"] == document["traffic"]["requests"] == 200
    assert fixed["usd"] == pytest.approx(3 * fixed["seconds"] / 1000)
    assert zero["usd"] < 0.5 * fixed["usd"]
    assert (fixed["saw_cold_start"], zero["cold_starts"]) == (0, 1)
    assert zero["ttft_ms"]["max"] > 3000 > fixed["ttft_ms"]["max"]
    assert document["best"] == 1, "it keeps the demand for less"
    assert simulate(capsys, *words)[1] == document, "the same question has the same answer"


def test_a_demand_that_nothing_keeps_is_no(capsys: pytest.CaptureFixture[str], files: dict[str, str]) -> None:
    code, document = simulate(capsys, "--steps", files["steps"], "--trace", files["trace"], "--slo", "ttft_p95<1ms")
    assert code == 1
    assert not document["found"]
    assert "No policy keeps the demands" in document["headline"]
    assert document["runs"][0]["slo"]["share"] == 0


def test_a_fleet_that_answers_nothing_is_no(capsys: pytest.CaptureFixture[str], files: dict[str, str]) -> None:
    code, document = simulate(capsys, "--steps", files["steps"], "--trace", files["trace"], "--kv-tokens", "5")
    assert (code, document["found"], document["runs"][0]["ttft_ms"]) == (1, False, None)
    assert any("200 requests are too long" in note for note in document["notes"])


def test_a_model_on_devices_of_the_catalog(capsys: pytest.CaptureFixture[str], files: dict[str, str]) -> None:
    words = [
        "llama-3.1-8b",
        "--hardware",
        "h100-sxm,l40s",
        "--weights",
        "bf16",
        "--trace",
        files["trace"],
        "--replicas",
        "h100-sxm=1,l40s=0..2",
    ]
    code, document = simulate(capsys, *words, "--policy", "outstanding", "--price", "h100-sxm=2,l40s=1", "--speed", "10", "--region", "de")
    assert code == 0
    run = document["runs"][0]
    assert [one["name"] for one in document["kinds"]] == ["h100-sxm", "l40s"]
    assert run["answered"] == 200
    assert run["usd_per_1000"] > 0
    assert run["g_co2_per_1000"] > 0
    assert document["kinds"][0]["cold_s"] > 30, "the process, and 16 GB from a drive"
    assert 1 < run["tpot_ms"]["p50"] < 40
    assert document["kinds"][0]["batching"]["kv_tokens"] > 100_000


def test_made_traffic_is_repeated_with_other_seeds(capsys: pytest.CaptureFixture[str], files: dict[str, str]) -> None:
    words = ["--steps", files["steps"], "--rate", "2/s", "--duration", "60s", "--workload", "200/30", "--policy", "fixed"]
    document = simulate(capsys, *words)[1]
    run = document["runs"][0]
    assert run["runs"] == 5
    low, high = run["spread"]["ttft_ms"]["p95"]
    assert low < high
    assert simulate(capsys, *words, "--seed", "7")[1]["runs"][0]["ttft_ms"] != run["ttft_ms"]


def test_a_page_tells_the_same(capsys: pytest.CaptureFixture[str], files: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "fleet.html"
    words = ["--steps", files["steps"], "--trace", files["trace"], "--replicas", "0..2", "--policy", "fixed", "--policy", "scale-to-zero"]
    document = simulate(capsys, *words, "--html", str(page))[1]
    text = page.read_text()
    assert text.count("<svg") == 5
    for word in (document["headline"], "replica hours", "scale-to-zero", "in order of arrival, 8 at once"):
        assert word in text
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org", "").replace("http-equiv", "")


@pytest.mark.parametrize("columns", ["80", "140"])
def test_the_table_fits_its_terminal(
    capsys: pytest.CaptureFixture[str], files: dict[str, str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    words = ["--steps", files["steps"], "--trace", files["trace"], "--replicas", "0..2", "--policy", "fixed", "--policy", "scale-to-zero"]
    assert main(["plan", "simulate", *words]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= int(columns)
    for word in ("TTFT p95", "replica hours", "over time", "in order of arrival, 8 at once"):
        assert word in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "{steps}"], "Say what comes"),
        (["--steps", "{steps}", "--trace", "{trace}", "--rate", "3/s"], "Say what comes"),
        (["--steps", "{steps}", "--trace", "none.csv"], "none.csv cannot be read"),
        (["--trace", "{trace}"], "Say what answers"),
        (["llama-3.1-8b", "--steps", "{steps}", "--trace", "{trace}"], "leave MODEL and --hardware out"),
        (["llama-3.1-8b", "--hardware", "h1000", "--trace", "{trace}"], "h1000"),
        (["llama-3.1-405b", "--hardware", "h100-sxm", "--trace", "{trace}"], "does not fit 1 × h100-sxm"),
        (["llama-3.1-8b", "--hardware", "h100-sxm", "--trace", "{trace}", "--layout", "dp=2"], "takes tp, pp and ep, not dp"),
        (["--steps", "{steps}", "--trace", "{trace}", "--replicas", "8..2"], "runs backwards"),
        (["--steps", "{steps}", "--trace", "{trace}", "--replicas", "0"], "answers nothing"),
        (["--steps", "{steps}", "--trace", "{trace}", "--replicas", "some"], "'some' is no number of replicas"),
        (["--steps", "{steps}", "--trace", "{trace}", "--policy", "magic"], "no policy 'magic'"),
        (["--steps", "{steps}", "--trace", "{trace}", "--slo", "memory<1GB"], "judged by ttft, tpot, e2e"),
        (["--steps", "{steps}", "--trace", "{trace}", "--slots", "64", "--batch-tokens", "32"], "fewer than 64 slots need"),
        (["llama-3.1-8b", "--hardware", "h100-sxm", "--trace", "{trace}", "--storage", "tape"], "No storage is called 'tape'"),
    ],
)
def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str], files: dict[str, str], words: list[str], said: str) -> None:
    assert main(["plan", "simulate", *(word.format(**files) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_steps_of_an_own_run(capsys: pytest.CaptureFixture[str], files: dict[str, str], tmp_path: Path) -> None:
    def point(level: int, ttft_ms: float, itl_ms: float) -> dict[str, Any]:
        return {"concurrency": level, "ttft_ms": {"p50": ttft_ms}, "itl_ms": {"p50": itl_ms}}

    row = {
        "id": "llamacpp q8_0",
        "status": "certified",
        "measurement": {"cold_ttft_ms": 1500.0, "points": [point(1, 500.0, 10.0), point(4, 900.0, 22.0)]},
    }
    document = {
        "schema": DECISION_SCHEMA,
        "chosen": {"id": "llamacpp q8_0"},
        "candidates": [row],
        "workload": {"prompt_tokens": 500, "output_tokens": 100},
    }
    run = tmp_path / "run"
    run.mkdir()
    (run / "decision.json").write_text(json.dumps(document))
    code, found = simulate(capsys, "--steps", str(run), "--rate", "0.01/s", "--workload", "500/101", "--duration", "20m")
    assert code == 0
    assert found["kinds"][0]["cold_s"] == 1.0
    assert found["kinds"][0]["batching"]["slots"] == 4
    assert found["runs"][0]["ttft_ms"]["p50"] == pytest.approx(500.0, rel=1e-3)
    assert found["runs"][0]["tpot_ms"]["p50"] == pytest.approx(10.0, rel=1e-3)
    row["measurement"]["points"] = []  # type: ignore[index]
    (run / "decision.json").write_text(json.dumps(document))
    assert main(["plan", "simulate", "--steps", str(run), "--trace", files["trace"]]) == 2
    assert "holds no timings of one request at a time" in capsys.readouterr().err
