"""Runs that were killed, and runs that go on elsewhere: real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_killed_run_is_the_run_that_never_was(tmp_path: Path) -> None:
    """Eight kills with -9, at random times and inside the writing of a checkpoint, on one process and on two; then on other numbers."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    command = [sys.executable, "benchmarks/resume.py", "--kills", "8", "--without-times", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ok"], done.stdout
    figures = found["figures"]
    assert figures["kills"] == 8
    assert figures["bitwise_differences"] == figures["folders_not_whole"] == figures["other_orders"] == 0


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    pytest.importorskip("torchao")
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "tests/train/parts/checkpoint_checks.py", str(folder / "checkpoints"), str(folder / "found.json")]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"found.{rank}.json").read_text()) for rank in (0, 1)]


def test_every_layout_goes_on_as_every_other(two: list[dict[str, Any]]) -> None:
    crossed = two[0]["crossed"]
    assert len(crossed) == 9
    assert all(row == {"step": 3, "apart": 0.0, "said": []} for process in two for row in process["crossed"].values())


def test_packed_states_go_on_elsewhere_within_their_rounding(two: list[dict[str, Any]]) -> None:
    for process in two:
        for name, row in process["packed"].items():
            same_parts = ("fsdp" in name) == (name == "fsdp to fsdp")
            assert row["step"] == 3
            assert row["apart"] == 0.0 if same_parts else 0.0 < row["apart"] < 0.01, name
    assert "packed anew" in two[0]["packed"]["single to fsdp"]["said"][0]


def test_processes_agree_when_one_cannot_write(two: list[dict[str, Any]]) -> None:
    assert two[0]["one_fails"] == two[1]["one_fails"]
    assert two[0]["one_fails"]["said"].startswith("The checkpoint of step 2 was not written; whole ones of steps: 1. File too large.")
    assert two[0]["one_fails"]["names"] == ["step-00000001", "step-00000004"]


def test_processes_agree_when_one_sees_damage(two: list[dict[str, Any]]) -> None:
    assert [process["one_sees_damage"]["step"] for process in two] == [1, 1]
    said = [process["one_sees_damage"]["said"] for process in two]
    assert "process-00001.safetensors" in said[0][0]
    assert not said[1]  # process 0 writes the events
