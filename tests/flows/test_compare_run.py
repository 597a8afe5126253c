"""`compare` end to end on tiny random models: real engine, real files, resume, bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("llama_cpp")

from trimtab.cli.main import main
from trimtab.flows.compare import compare
from trimtab.record.deploy import read_deploy_toml
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.slow]

WORDS = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_gguf(root / "qwen.gguf", architecture="qwen2", seed=1)
    write_tiny_gguf(root / "gemma.gguf", architecture="gemma3", seed=1)
    write_tiny_gguf(root / "other.gguf", architecture="qwen2", seed=2)
    rows = [{"id": f"t{n}", "text": " ".join(WORDS[(n * 5 + k * (1 + n % 3)) % len(WORDS)] for k in range(24))} for n in range(60)]
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module", autouse=True)
def own_state(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def run(folder, a, b, out, **more):
    return compare(
        f"llamacpp:{folder / a}",
        f"llamacpp:{folder / b}",
        suites=[str(folder / "mine.jsonl")],
        workload="64/16@1,2",
        timing=False,
        out=out,
        **more,
    )


@pytest.mark.parametrize("name", ["qwen.gguf", "gemma.gguf"])
def test_a_model_is_no_worse_than_itself_in_another_shape(folder, tmp_path, name):
    decision = run(folder, name, f"{name}?threads=1&slots=5&batch_tokens=96", tmp_path / "run")
    gate = next(gate for gate in decision["gates"] if gate["name"] == "mine")
    assert gate["verdict"] == "pass"
    assert abs(gate["delta"]) < 1e-3
    assert gate["n"] == 60 - len(range(6))
    # Random weights at two bits are as good as any others: the planted control cannot fail, and that is said.
    assert not gate["informative"]
    assert decision["verdict"] == "inconclusive"


def test_other_weights_fail_and_every_file_is_there(folder, tmp_path):
    decision = run(folder, "qwen.gguf", "other.gguf", tmp_path / "run")
    assert decision["verdict"] in ("fail", "inconclusive")
    for name in ("run.json", "candidates.jsonl", "decision.json", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert json.loads((tmp_path / "run" / "decision.json").read_text())["verdict"] == decision["verdict"]
    assert list((tmp_path / "run" / "items").glob("*.parquet"))
    assert not (tmp_path / "run" / "deploy.toml").exists()


def test_the_second_time_everything_is_known(folder, tmp_path):
    first = run(folder, "qwen.gguf", "other.gguf", tmp_path / "one")
    again = run(folder, "qwen.gguf", "other.gguf", tmp_path / "two")
    assert again["work"]["computed"] == 0
    assert again["gates"] == first["gates"]


def test_another_vocabulary_cannot_be_compared_and_says_so(folder, tmp_path):
    decision = run(folder, "qwen.gguf", "gemma.gguf", tmp_path / "run")
    assert decision["verdict"] == "fail"
    assert "vocabulary" in decision["candidates"][0]["reasons"][0]


def test_a_killed_run_goes_on(folder, tmp_path):
    """kill -9 whenever more is known; the run that is left alone goes on there and ends with the same gates as one never killed."""
    command = [
        sys.executable, "-m", "trimtab", "compare", f"llamacpp:{folder / 'qwen.gguf'}", f"llamacpp:{folder / 'other.gguf'}",
        "--suite", str(folder / "mine.jsonl"), "--workload", "64/16@1,2", "--no-timing", "--out", str(tmp_path / "run"), "--json", "-q",
    ]  # fmt: skip
    own = os.environ | {"TRIMTAB_HOME": str(tmp_path / "state")}  # nothing is known beforehand

    def n_known():
        return sum(path.is_file() for path in (tmp_path / "state" / "cache" / "results").rglob("*"))

    for more in (1, 3, 5):
        n_enough = n_known() + more
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=own)
        while n_known() < n_enough:
            assert process.poll() is None, "there was less to do than to be killed in"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)
    assert done.returncode in (1, 4), done.stderr
    after_kills = json.loads(done.stdout)
    assert after_kills["work"]["known"] >= 6
    undisturbed = run(folder, "qwen.gguf", "other.gguf", tmp_path / "calm")
    # Served answers are sampled while others run, so only what is scored is the same to the last digit.
    assert after_kills["gates"][0] == undisturbed["gates"][0]


def test_a_pass_needs_a_gate_that_can_fail_and_writes_a_lockfile(certified_once, tmp_path, monkeypatch):
    same = json.loads((certified_once / "run" / "decision.json").read_text())
    assert same["verdict"] == "pass", same["reasons"]
    assert same["gates"][0]["positive_control"]["caught"]
    lock = read_deploy_toml(certified_once / "run" / "deploy.toml")
    assert (lock.build.engine, lock.settings.threads, lock.verdict) == ("llamacpp", 1, "pass")

    monkeypatch.setenv("TRIMTAB_HOME", str(certified_once / "state"))
    model = f"llamacpp:{certified_once / 'model.gguf'}"
    worse = compare(
        model, f"{model}?recipe=q2_k", suites=[str(certified_once / "said.jsonl")], policy=str(certified_once / "own.toml"),
        workload="64/16@1,2", timing=False, out=tmp_path / "worse",
    )  # fmt: skip
    assert worse["verdict"] == "fail", worse["reasons"]
    assert worse["gates"][0]["high"] < -0.02
    assert not (tmp_path / "worse" / "deploy.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["compare", "none.gguf", "none.gguf"], 2, "none.gguf"),
        (["compare", "{dir}/qwen.gguf", "nope:{dir}/qwen.gguf"], 2, "nope"),
        (["compare", "{dir}/qwen.gguf", "{dir}/qwen.gguf", "--policy", "lenient"], 2, "lenient"),
        (["compare", "{dir}/qwen.gguf", "{dir}/qwen.gguf", "--suite", "none"], 2, "none"),
        (["compare", "{dir}/qwen.gguf", "{dir}/qwen.gguf?threads=many"], 2, "threads"),
        (["compare", "{dir}/qwen.gguf", "{dir}/qwen.gguf?recipe=q99"], 2, "q99"),
        (["optimize", "{dir}/qwen.gguf", "--engine", "vlm"], 2, "vlm"),
        (["optimize", "{dir}/qwen.gguf", "--time-limit", "2s"], 2, "30 s"),
        (["optimize", "{dir}", "--out", "{dir}/run"], 2, "gguf"),
    ],
)
def test_bad_input_is_one_sentence_and_its_code(folder, tmp_path, capsys, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    assert main([part.replace("{dir}", str(folder)) for part in arguments]) == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("trimtab: ")
    assert sentence in said
