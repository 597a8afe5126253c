"""`trimtab plan serve`, `train`, `fit` with the real physics: exit codes, documents, tables, files, one sentence for each mistake."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import main

TRAIN = ["plan", "train", "llama-3.1-8b", "--hardware", "h100-sxm", "--devices", "8,64", "--seq", "8192", "--global-batch", "256"]
SERVE = ["plan", "serve", "llama-3.1-8b", "--hardware", "h100-sxm", "--weights", "bf16", "--engine", "vllm"]
FIT = ["plan", "fit", "llama-3.1-8b", "--hardware", "rtx-4090"]
TOP = {
    *("schema", "kind", "found", "headline", "reasons", "question", "model", "options", "plots", "losers", "assumptions", "conventions"),
    *("prices", "searched", "what_if", "emitted"),
}
OPTION = {"rank", "id", "what", "how", "device", "n_devices", "layout", "on_front", "numbers", "memory", "time"}
NUMBER = {"value", "low", "high", "unit", "basis", "why", "level", "speed_of_light"}
BASES = {"", "measured", "interpolated", "extrapolated", "speed-of-light"}


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main([*words, "--json"])
    said = capsys.readouterr()
    assert not said.err, said.err
    document: dict[str, Any] = json.loads(said.out)
    return code, document


@pytest.mark.parametrize(
    "words", [[*TRAIN, "--tokens", "300B"], [*SERVE, "--rate", "20/s", "--slo", "ttft_p95<500ms"], FIT], ids=lambda w: w[1]
)
def test_the_shape_of_a_document(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, document = plan(capsys, *words)
    assert (code, document["schema"], document["found"]) == (0, "trimtab.plan/1", True)
    assert set(document) == TOP
    assert document["kind"] == words[1]
    assert [row["rank"] for row in document["options"]] == list(range(1, len(document["options"]) + 1))
    assert 1 <= len(document["options"]) <= 10
    for row in document["options"]:
        assert set(row) - {"precision", "to_certify"} == OPTION
        for name, number in row["numbers"].items():
            if "unknown" in number:
                assert number["unknown"].endswith("."), name
                continue
            assert set(number) == NUMBER, name
            assert number["basis"] in BASES
            assert number["low"] <= number["value"] <= number["high"], name
            assert number["why"], name
        memory = row["memory"]
        assert sum(part["value"] for part in memory["parts"]) == pytest.approx(memory["total_bytes"], rel=1e-6)
        assert memory["total_bytes"] <= memory["capacity_bytes"]
    assert len({row["id"] for row in document["options"]}) == len(document["options"])
    if words is FIT:  # of searches the tests of their own room say so
        assert plan(capsys, *words)[1] == document, "the same question has the same answer"


def test_training_costs_what_its_time_costs(capsys: pytest.CaptureFixture[str]) -> None:
    document = plan(capsys, *TRAIN, "--tokens", "300B", "--price", "2")[1]
    for row in document["options"]:
        numbers = row["numbers"]
        if "unknown" in numbers["duration_s"]:
            continue
        assert numbers["cost_usd"]["value"] == pytest.approx(numbers["duration_s"]["value"] / 3600 * row["n_devices"] * 2)
        assert numbers["cost_usd"]["high"] == pytest.approx(numbers["duration_s"]["high"] / 3600 * row["n_devices"] * 2)
        layout = row["layout"]
        assert layout["dp"] * layout["tp"] * layout["pp"] * layout["cp"] == row["n_devices"]
        assert layout["dp"] * layout["micro_batch"] * layout["grad_accum"] == 256
    assert {row["name"] for row in document["what_if"]["rows"]} == {"8 × h100-sxm", "64 × h100-sxm"}


def test_of_layouts_that_nothing_tells_apart_the_one_that_holds_least_is_first(capsys: pytest.CaptureFixture[str]) -> None:
    _, document = plan(capsys, *TRAIN, "--tokens", "300B")
    rows = [(row["numbers"]["duration_s"]["value"], row["numbers"]["peak_memory_bytes"]["value"]) for row in document["options"]]
    fastest = min(seconds for seconds, _ in rows)
    alike = [held for seconds, held in rows if seconds <= 1.01 * fastest]
    assert len(alike) > 1
    assert alike == sorted(alike)
    assert [row[1] for row in rows][: len(alike)] == alike, "the others come behind"


def test_a_pinned_layout_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    document = plan(capsys, *TRAIN, "--layout", "tp=4,pp=2,recompute=full")[1]
    assert {(row["layout"]["tp"], row["layout"]["pp"], row["layout"]["recompute"]) for row in document["options"]} == {(4, 2, 2)}
    assert document["options"][0]["time"]["stages"]["n"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*TRAIN, "--tokens", "300B", "--budget", "10usd"], "cheapest"),
        ([*TRAIN, "--tokens", "300B", "--deadline", "1h"], "fast"),
        (["plan", "train", "llama-3.1-405b", "--hardware", "l40s", "--devices", "1", "--seq", "8192", "--global-batch", "8"], "leanest"),
        ([*SERVE, "--rate", "20/s", "--slo", "tpot_p95<5ms", "--max-devices", "1"], "Nothing meets"),
        (["plan", "fit", "llama-3.1-405b", "--hardware", "rtx-4090"], "Nearest"),
    ],
)
def test_nothing_fits_the_demands(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, document = plan(capsys, *words)
    assert (code, document["found"], document["emitted"]) == (1, False, {})
    assert said in " ".join(document["reasons"])
    assert main(words) == 1
    assert document["headline"].split(" ")[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*TRAIN[:3], "--hardware", "h900"], "h900"),
        ([*TRAIN[:3], "--hardware", "h100-sxm,,l40s"], "--hardware: "),
        (["plan", "train", "no-such-model-9z", "--hardware", "h100-sxm"], "no-such-model-9z"),
        ([*TRAIN, "--tokens", "plenty"], "--tokens: "),
        ([*TRAIN, "--devices", "512..8"], "--devices: "),
        ([*TRAIN, "--budget", "100eur"], "--budget: "),
        ([*TRAIN, "--deadline", "soon"], "--deadline: "),
        ([*TRAIN, "--seq", "0"], "--seq: "),
        ([*TRAIN, "--global-batch", "many"], "--global-batch: "),
        ([*TRAIN, "--precision", "bf17"], "--precision: "),
        ([*TRAIN, "--layout", "tp=3"], "3"),
        ([*TRAIN, "--layout", "tp"], "--layout"),
        ([*TRAIN, "--layout", "zp=3"], "--layout knows no 'zp'"),
        ([*TRAIN, "--price", "cheap"], "--price: "),
        ([*TRAIN, "--price", "l40s=1"], "--price: "),
        ([*TRAIN, "--emit", "slurm"], "--emit"),
        (["plan", "train", "llama-3.1-8b"], "--hardware"),
        ([*SERVE, "--rate", "20"], "--rate: "),
        ([*SERVE, "--slo", "speed<3ms"], "--slo: "),
        ([*SERVE, "--slo", "ttft_p95<900ms,e2e_p95<500ms"], "swapped"),
        ([*SERVE, "--workload", "weekend"], "weekend"),
        ([*SERVE, "--weights", "bf17"], "bf17"),
        ([*SERVE, "--layout", "dp=2"], "dp"),
        ([*SERVE, "--max-devices", "-1"], "--max-devices: "),
        ([*FIT, "--context", "999Mi"], "--context: "),
        (["plan", "fit", "llama-3.1-8b", "--hardware", "h100-sxm,l40s"], "--hardware: "),
        ([*FIT, "--weights", "Q99"], "Q99"),
        ([*FIT, "--devices", "3"], "--devices: "),
        ([*FIT, "--engine", "warp"], "--engine: "),
        ([*SERVE, "--engine", "warp"], "--engine: "),
        ([*SERVE, "--kv", "fp9"], "--kv: "),
        ([*SERVE, "--workload", "200000/128"], "--workload: "),
        ([*TRAIN, "--framework", "warp"], "--framework: "),
        ([*TRAIN, "--optimizer", "hope"], "--optimizer: "),
        (["plan", "guess"], "guess"),
    ],
)
def test_one_sentence_for_a_mistake(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert said in output.err
    assert output.err.count("\n") == 1, output.err


def test_what_it_is_kept_as(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, page = tmp_path / "plans" / "a", tmp_path / "page.html"
    assert main([*TRAIN, "--tokens", "300B", "--emit", "torchtitan", "--out", str(folder), "--html", str(page)]) == 0
    assert "Written: " in capsys.readouterr().out.replace("\n", " ")
    assert {path.name for path in folder.iterdir()} == {"plan.json", "report.html", "torchtitan.toml", "train.sh"}
    assert json.loads((folder / "plan.json").read_text())["kind"] == "train"
    assert page.read_text() == (folder / "report.html").read_text()
    assert main([*FIT, "--out", str(folder)]) == 0, "a later plan takes its place"
    (folder / "run.json").write_text("{}")
    assert main([*FIT, "--out", str(folder)]) == 2


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        ([*TRAIN, "--emit", "torchrun"], "# train.toml\n[model]"),
        ([*TRAIN, "--emit", "torchtitan"], "# torchtitan.toml\n[model]"),
        ([*TRAIN, "--emit", "megatron"], ""),
        ([*SERVE, "--emit", "vllm"], "vllm serve meta-llama/Llama-3.1-8B "),
        ([*SERVE, "--emit", "sglang", "--engine", "sglang"], "python"),
        ([*SERVE, "--emit", "trtllm", "--engine", "trtllm"], "# serve.sh\ntrtllm-serve meta-llama/Llama-3.1-8B "),
        ([*SERVE, "--emit", "kserve"], "apiVersion: serving.kserve.io"),
        ([*SERVE, "--emit", "rayservice"], "apiVersion: ray.io/v1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_configuration_goes_to_stdout_alone(capsys: pytest.CaptureFixture[str], words: list[str], begins: str) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(begins)


def test_what_a_program_is_told_to_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--emit", "torchrun"]) == 0
    assert 'source = "hf:meta-llama/Llama-3.1-8B"' in capsys.readouterr().out
    assert main(["plan", "serve", "gpt-76.1b", "--hardware", "h100-sxm", "--emit", "vllm"]) == 0
    said = capsys.readouterr()
    assert "serve gpt-76.1b " in said.out
    assert "put the path or hub name" in said.err


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("words", [[*TRAIN, "--tokens", "300B"], [*SERVE, "--rate", "20/s"], FIT], ids=lambda w: w[1])
def test_tables_fit_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= int(columns)
    assert not any("…" in line for line in lines), "a number is never cut"
    assert any("What stands behind the numbers of 1" in line for line in lines)


def test_help_names_the_parts_and_loads_no_physics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("serve", "train", "fit", "hardware"))


def test_a_run_whose_data_is_slow_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    slow = plan(capsys, *TRAIN, "--tokens", "300B", "--data", "disk=100KB/s", "--failures", "1e-5", "--checkpoint-storage", "5GB/s")[1]
    seconds = slow["options"][0]["numbers"]["duration_s"]["value"]
    assert seconds == pytest.approx(300e9 * 4 / 100e3, rel=0.05)
    assert any("disk brings" in line for line in slow["assumptions"])
    assert not any("disk" in line for line in plan(capsys, *TRAIN)[1]["assumptions"])


@pytest.mark.parametrize(
    ("flag", "value"), [("--data", "disc=1GB/s"), ("--data", "disk=none"), ("--failures", "daily"), ("--checkpoint-storage", "tape")]
)
def test_what_is_no_supply_is_refused(capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    assert main([*TRAIN, flag, value]) == 2
    assert flag in capsys.readouterr().err


def test_quiet_hours_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    document = plan(capsys, *SERVE, "--rate", "20..2000/s", "--price", "2", "--emit", "rayservice")[1]
    assert any(line.startswith("At 20 requests/s ") for line in document["reasons"])
    assert "min_replicas" in document["emitted"]["files"]["rayservice.yaml"]


def test_a_quantised_file_is_planned_as_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from trimtab.flows import plan_fit, plan_serve
    from trimtab.plan.architectures import architecture

    file = replace(architecture("llama-3.1-8b"), weight_bytes=4.9e9)
    for flow in (plan_fit, plan_serve):
        monkeypatch.setattr(flow, "plan_model", lambda spec, offline: file)
    kinds = [row["layout"]["weights"] for row in plan(capsys, *FIT)[1]["options"]]
    assert kinds[0] == "stored"
    assert set(kinds) == {"stored", "Q3_K_M"}, "more bytes than the file has win nothing"
    best = plan(capsys, "plan", "serve", "mine.gguf", "--hardware", "rtx-4090")[1]["options"][0]
    assert (best["layout"]["weights"], best["to_certify"]) == ("stored", "")


def test_a_layout_that_is_too_big_is_predicted_all_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["plan", "train", "llama-3.1-70b", "--hardware", "h100-sxm", "--devices", "8", "--layout", "tp=8,zero=0,recompute=none"]
    code, document = plan(capsys, *words, "--emit", "megatron")
    assert (code, document["found"], document["emitted"], document["losers"]) == (1, False, {}, [])
    assert "What comes nearest is shown" in document["reasons"][0]
    assert document["options"][0]["memory"]["total_bytes"] > document["options"][0]["memory"]["capacity_bytes"]
    assert main([*words, "--html", str(tmp_path / "plan.html")]) == 1
    assert "8 × h100-sxm" in (tmp_path / "plan.html").read_text(encoding="utf-8")


def test_an_own_measurement_corrects_the_next_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from trimtab.core.planning import ServeJob
    from trimtab.plan.anchors.measured import Measurement, remember
    from trimtab.plan.architectures import architecture
    from trimtab.plan.devices import device
    from trimtab.plan.serving.features import features, physics
    from trimtab.plan.serving.rows import Case

    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    words = [*FIT, "--weights", "Q4_K_M", "--engine", "llamacpp"]
    before = plan(capsys, *words)[1]["options"][0]["numbers"]["decode_tok_s"]
    asked = {"engine": "llamacpp", "weights": "Q4_K_M", "prompt_tokens": 2048 - 128, "output_tokens": 128}
    case = Case(
        id="",
        job=ServeJob(architecture=architecture("llama-3.1-8b"), device=device("rtx-4090"), **asked),
        form="alone",
        measured={},
        source="",
    )
    mine = Measurement(
        quantity="decode_tok_s",
        unit="tokens/s",
        value=before["value"] * 0.8,
        physics=physics(case, "decode_tok_s"),
        features=features(case, "decode_tok_s"),
        setting=case.setting,
        model="llama-3.1-8b",
        when="2026-11-27",
    )
    for _ in range(3):
        remember(tmp_path / "planner" / "measurements.jsonl", mine)
    after = plan(capsys, *words)[1]["options"][0]["numbers"]["decode_tok_s"]
    assert after["basis"] == "measured"
    assert before["value"] * 0.75 < after["value"] < before["value"] * 0.95
    assert (after["high"] - after["low"]) / after["value"] < (before["high"] - before["low"]) / before["value"]


def test_published_runs_stand_behind_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    first = plan(capsys, *TRAIN, "--tokens", "300B", "--framework", "torchtitan")[1]["options"][0]["numbers"]["tok_s_per_device"]
    assert first["basis"] in ("interpolated", "extrapolated")
    assert first["low"] < first["value"] < first["high"] <= first["speed_of_light"]
    assert plan(capsys, *SERVE, "--rate", "20/s")[1]["options"][0]["numbers"]["tpot_ms"]["basis"] in ("interpolated", "extrapolated")


@pytest.mark.parametrize(
    ("rival", "words"), [("tp=8,pp=2", "tp=8,pp=2: "), ("tp=3", "tp=3: does not divide 8 devices"), ("zero=0,tp=1", "zero_stage=0,tp=1: ")]
)
def test_a_rival_of_ones_own_is_told_why_it_loses(capsys: pytest.CaptureFixture[str], rival: str, words: str) -> None:
    document = plan(capsys, *TRAIN, "--devices", "8", "--why-not", rival)[1]
    assert words in document["losers"][0]["text"]
    assert main([*TRAIN, "--why-not", "tq=3"]) == 2
    assert "--why-not knows no 'tq'" in capsys.readouterr().err
