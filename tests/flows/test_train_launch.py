"""Processes of a training are started, followed, stopped and taken up again; each ending has its sentence. The workers are scripts."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.core.errors import EXIT_INTERRUPTED, InfeasibleError, InputError, MissingError, StoppedError, TrimtabError
from trimtab.core.training import TrainConfig, TrainData, TrainModel, TrainRun
from trimtab.flows.parts import train_launch
from trimtab.flows.parts.train_files import Lines, read_steps
from trimtab.flows.parts.train_launch import Follow, launch

CONFIG = TrainConfig(model=TrainModel(source="m"), data=TrainData(files=("a.jsonl",)), train=TrainRun(steps=3))
HEAD = """
import json, os, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[3])
assert sys.argv[1] == str(out / "train.toml") and sys.argv[2] == "--out"
def step(n, **other):
    row = {"step": n, "tokens": 10, "tokens_seen": 10 * n, "loss": 3.0 / n, "grad_norm": 1.0, "lr": 0.1, "step_s": 0.01,
           "data_wait_s": 0.0, "peak_memory_bytes": 5, "time": "2026-01-01T00:00:00+00:00", **other}
    with (out / "steps.jsonl").open("a") as file: file.write(json.dumps(row) + "\\n")
def keep(n): (out / "checkpoints" / f"step-{n:08d}").mkdir(parents=True)
def done(n):
    (out / "model").mkdir()
    (out / "result.json").write_text(json.dumps({"steps": n, "tokens_seen": 10 * n, "first_loss": 3.0, "last_loss": 1.0, "wall_s": 1.0,
        "cpu_s": 1.0, "world": 1, "model": "model", "peak_memory_bytes": 5, "notes": ["a"], "later": 1}))
def tell(code, words):
    (out / "error.json").write_text(json.dumps({"exit_code": code, "message": words}))
    sys.exit(code)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a worker's script in OUT and gives what was followed."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def one(script: str, config: TrainConfig = CONFIG, time_limit_s: float | None = None, at_step=None):
        (tmp_path / "fake_worker.py").write_text(HEAD + script)
        told: list[Follow] = []

        def follow(news: Follow) -> None:
            told.append(news)
            if at_step and news.steps:
                at_step()

        try:
            result = launch(config, tmp_path / "out", processes=1, time_limit_s=time_limit_s, follow=follow, worker="fake_worker")
        except TrimtabError as error:
            result = error
        return result, told

    return one


def test_steps_and_events_are_told_as_they_come_and_a_finished_run_is_not_run_again(run, tmp_path: Path) -> None:
    script = 'step(1); step(2, loss=None); (out / "events.jsonl").write_text(\'{"kind": "spike", "text": "x"}\\n\'); step(3); done(3)'
    result, told = run(script)
    assert (result.steps, result.notes, result.last_loss) == (3, ("a",), 1.0)
    steps = [step for news in told for step in news.steps]
    assert [step.step for step in steps] == [1, 2, 3]
    assert steps[1].loss != steps[1].loss, "a loss that is no number is none"
    assert [event["kind"] for news in told for event in news.events] == ["spike"]
    assert run("tell(2, 'it ran')")[0] == result


@pytest.mark.parametrize(
    ("script", "kind", "code", "says"),
    [
        ("tell(2, 'No data: a.jsonl.')", InputError, 2, "No data: a.jsonl."),
        ("tell(3, 'Disk full.')", MissingError, 3, "Disk full."),
        ("tell(1, 'It diverged.')", InfeasibleError, 1, "It diverged."),
        ("tell(130, 'x')", StoppedError, 130, "before there was a checkpoint"),
        ("step(1); step(2); os.kill(os.getpid(), 9)", InfeasibleError, 1, "ended after step 2 by SIGKILL, which is what .* memory"),
        ("step(1); keep(1); os.kill(os.getpid(), 11)", InfeasibleError, 1, "SIGSEGV.*goes on from the newest checkpoint"),
        ("print('E1127 x', file=sys.stderr); raise ValueError('odd')", TrimtabError, 70, "before its first step.*ValueError: odd"),
        ("pass", TrimtabError, 70, "exit code 0"),
    ],
)
def test_every_ending_has_its_sentence(run, script: str, kind: type, code: int, says: str) -> None:
    error, _ = run(script)
    assert type(error) is kind
    assert error.exit_code == code
    import re

    assert re.search(says, str(error)), str(error)


GENTLE = """
def stop(*_):
    keep(7); tell(130, "stopped")
signal.signal(signal.SIGTERM, stop)
step(1)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_with_a_checkpoint_and_says_how_to_go_on(run, number: signal.Signals) -> None:
    began = time.monotonic()
    error, told = run(GENTLE, at_step=lambda: os.kill(os.getpid(), number))
    assert isinstance(error, StoppedError)
    assert error.exit_code == EXIT_INTERRUPTED
    assert "the checkpoint of step 7 is in" in str(error)
    assert "goes on from there" in str(error)
    assert told[-1].phase == "stopping"
    assert time.monotonic() - began < 20
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_interrupt_waits_no_longer(run) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); step(1); time.sleep(60)"
    threads = []

    def twice() -> None:
        if not threads:
            threads.append(threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT)))
            threads[0].start()
            os.kill(os.getpid(), signal.SIGINT)

    began = time.monotonic()
    error, _ = run(deaf, at_step=twice)
    assert isinstance(error, StoppedError)
    assert time.monotonic() - began < 20


def test_the_time_limit_stops_it_too(run) -> None:
    error, _ = run(GENTLE, time_limit_s=1.0)
    assert "Stopped at the time limit" in str(error)


def test_a_run_goes_on_with_the_same_settings_only(run, tmp_path: Path) -> None:
    run("step(1); keep(1); sys.exit(1)")
    error, _ = run("pass", replace(CONFIG, train=replace(CONFIG.train, seq_tokens=64)))
    assert isinstance(error, InputError)
    assert "[train] seq_tokens" in str(error)
    other_hands = replace(CONFIG, train=replace(CONFIG.train, micro_batch_seqs=4), layout=replace(CONFIG.layout, zero_stage=2))
    result, told = run("step(2); step(3); done(3)", other_hands)
    assert result.steps == 3
    assert [step.step for step in told[0].steps] == [1], "what was there before comes first"
    assert told[0].phase == "starting"


def test_two_at_once_in_one_folder(run, tmp_path: Path) -> None:
    seen = []

    def second() -> None:
        try:
            launch(CONFIG, tmp_path / "out", processes=1, worker="fake_worker")
        except InputError as error:
            seen.append(str(error))
        os.kill(os.getpid(), signal.SIGINT)

    run(GENTLE, at_step=second)
    assert "is in use by process" in seen[0]


def test_a_run_that_hangs_is_told(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_launch, "HUNG_AFTER_S", 0.5)
    monkeypatch.setattr(train_launch, "HUNG_STEPS", 2.0)
    _, told = run("step(1); time.sleep(2.5); step(2); step(3); done(3)")
    assert any(news.hung for news in told)
    assert not told[0].hung


def test_steps_that_were_done_again_count_once(tmp_path: Path) -> None:
    def row(step: int, loss: float | None) -> str:
        return json.dumps({"step": step, "tokens": 1, "tokens_seen": step, "loss": loss}) + "\n"

    path = tmp_path / "steps.jsonl"
    path.write_text(row(1, 3.0) + row(2, 2.0) + row(3, None) + row(2, 2.5) + '{"step": 3, "lo')
    assert [(one.step, one.loss) for one in read_steps(tmp_path)] == [(1, 3.0), (2, 2.5)]
    lines = Lines(path)
    assert len(lines.new()) == 4
    assert lines.new() == []
    anew = tmp_path / "anew"
    anew.write_text(row(1, 3.0) + row(2, 2.0) + row(3, None) + row(4, 1.0))
    anew.replace(path)
    assert [one["step"] for one in lines.new()] == [4], "lines that stay in a file that was written anew are not new"
    with path.open("a") as file:
        file.write(row(5, 0.5))
    assert [one["step"] for one in lines.new()] == [5]


def test_workers_stop_with_a_checkpoint_when_the_command_is_killed(tmp_path: Path) -> None:
    (tmp_path / "fake_worker.py").write_text(HEAD + GENTLE)
    program = (
        "from pathlib import Path\n"
        "from tests_config import CONFIG\n"
        "from trimtab.flows.parts.train_launch import launch\n"
        "launch(CONFIG, Path('out'), processes=1, worker='fake_worker')\n"
    )
    (tmp_path / "tests_config.py").write_text(
        "from trimtab.train.config import config_of\n"
        "CONFIG = config_of({'model': {'source': 'm'}, 'data': {'files': ['a.jsonl']}, 'train': {'steps': 3}})\n"
    )
    verb = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    steps, kept = tmp_path / "out" / "steps.jsonl", tmp_path / "out" / "checkpoints" / "step-00000007"
    for path, action in ((steps, verb.kill), (kept, lambda: None)):
        ends = time.monotonic() + 30
        while not path.exists() and time.monotonic() < ends:
            time.sleep(0.05)
        assert path.exists()
        action()
    assert verb.wait() == -signal.SIGKILL
