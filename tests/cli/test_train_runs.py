"""`trimtab train finetune` with real processes: a small model from scratch, stopped and taken up again; broken data; a full disk."""

import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
MOST_S = 900
STEPS, STATED_GAIN = 160, 0.5
"""In nats a token, over the last twenty steps: what context is worth, below the entropy of single tokens. The text, docs/, grows."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """What examples/from_scratch makes of the project's own documents, and the entropy that it tells."""
    folder = tmp_path_factory.mktemp("scratch")
    program = [sys.executable, str(ROOT / "examples" / "from_scratch" / "prepare.py"), str(folder)]
    texts = sorted(str(path) for path in (ROOT / "docs").glob("*.md"))
    made = subprocess.run([*program, *texts], check=True, capture_output=True, text=True)
    found = re.search(r"single tokens: ([\d.]+) nats", made.stdout)
    assert found
    return folder, float(found[1])


STARTED: list["subprocess.Popen[str]"] = []


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """A test that fails must not leave processes behind."""
    yield
    while STARTED:
        run = STARTED.pop()
        if run.poll() is None:
            run.kill()  # its own processes then stop by themselves
        run.communicate()


def train(scratch: Path, out: Path, *words: str, home: Path, most_bytes: int = 0) -> "subprocess.Popen[str]":
    """The command in a process of its own. most_bytes: of any file that it writes, 0 = no limit."""

    def limit() -> None:
        if most_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-m", "trimtab", "train", "finetune", str(scratch / "model"), "--from-scratch", "--seq", "128"]
    run = subprocess.Popen(
        [*command, "--lr", "0.01", "--out", str(out), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TRIMTAB_HOME": str(home), "OMP_NUM_THREADS": "1"},
        preexec_fn=limit,
        cwd=out.parent,
    )
    STARTED.append(run)
    return run


def steps_of(out: Path) -> list[dict[str, float]]:
    path = out / "steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_small_model_is_trained_from_scratch_and_a_stop_costs_nothing(scratch: tuple[Path, float], tmp_path: Path) -> None:
    folder, entropy = scratch
    out = tmp_path / "run"
    words = ["--data", str(folder / "text.jsonl"), "--steps", str(STEPS), "--batch", "16", "--micro-batch", "8", "--processes", "2"]
    first = train(folder, out, *words, home=tmp_path / "home")
    while len(steps_of(out)) < 30 and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=MOST_S)
    assert first.returncode == 130, said
    assert "The same command goes on from there" in said.replace("\n", " ")
    before = steps_of(out)
    assert 30 <= len(before) < STEPS

    again = train(folder, out, *words, "--json", home=tmp_path / "home")
    answer, said = again.communicate(timeout=MOST_S)
    assert again.returncode == 0, said
    found = json.loads(answer)
    steps = steps_of(out)
    assert steps[: len(before)] == before, "what was done is kept"
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    loss = statistics.mean(step["loss"] for step in steps[-20:])
    assert loss < entropy - STATED_GAIN
    assert found["result"]["world"] == 2
    assert found["result"]["resumed"] == 1
    assert [event["kind"] for event in found["events"] if event["kind"] not in ("note", "data-bound")] == ["stopped", "resumed"]
    assert {path.name for path in (out / "model").iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert "Predicted for this-machine" in said
    assert "measured" in (out / "report.html").read_text()

    alone = tmp_path / "alone"
    alone.mkdir()
    text, n_changed = re.subn(r"(?m)^steps = .*$", "steps = 3", (out / "train.toml").read_text())
    assert n_changed == 1
    (alone / "train.toml").write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "trimtab.cli.train_worker"]
    subprocess.run([*command, str(alone / "train.toml")], check=True, timeout=MOST_S, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert len(steps_of(alone)) == 3
    assert (alone / "model" / "model.safetensors").is_file()


def test_broken_data_and_a_full_disk_have_one_sentence(scratch: tuple[Path, float], tmp_path: Path) -> None:
    folder, _ = scratch
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "whole"}\n{"text": "cut of')
    words = ["--steps", "3", "--batch", "4"]
    runs = {
        "broken": train(folder, tmp_path / "broken", "--data", str(broken), *words, home=tmp_path / "home"),
        "full": train(folder, tmp_path / "full", "--data", str(folder / "text.jsonl"), *words, home=tmp_path / "home", most_bytes=300_000),
    }
    said = {name: run.communicate(timeout=MOST_S)[1].strip().splitlines()[-1] for name, run in runs.items()}
    assert [run.returncode for run in runs.values()] == [2, 3], said
    assert re.search(r"trimtab: .*broken\.jsonl.* 2.* is no JSON", said["broken"]), said
    assert said["full"].startswith("trimtab: ")
    assert "No space left" in said["full"] or "make room" in said["full"], said
    assert not list((tmp_path / "full" / "checkpoints").glob("step-*")), "nothing that is half there is called a checkpoint"
