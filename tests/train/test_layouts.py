"""Two processes train as one does, on every layout. One torchrun makes all comparisons (parts/layout_checks.py); here they are judged."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

pytestmark = pytest.mark.slow
CHECKS = Path(__file__).parent / "parts" / "layout_checks.py"
LAYOUTS = ("ddp", "fsdp2", "fsdp3")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("layouts") / "found.json"
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(CHECKS), str(out.parent / "model"), str(out)]
    ended = subprocess.run(
        [sys.executable, *program], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["plain", "recompute", "lora"])
def test_two_processes_are_one_in_float64(found: dict[str, Any], case: str, layout: str) -> None:
    """Four SGD steps with clipping, decay, padding, packing, weights of tokens; gradients summed after each micro-batch, or the last."""
    differences = {name: value for name, value in found["float64"].items() if name.startswith(f"{case} {layout}")}
    assert len(differences) == (2 if case == "plain" else 1)
    assert max(differences.values()) < 1e-10
    assert found["float64"][f"{case} moved"] > 1e-2, "nothing was learnt, so nothing could differ"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_of_50_adamw_steps_stay_together_in_float32(found: dict[str, Any], layout: str) -> None:
    """The band stated in docs/train-inside.md."""
    assert found["band"][layout] < 1e-4
    assert found["band"]["fall"] > 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_under_bf16(found: dict[str, Any], layout: str) -> None:
    assert 1e-6 < found["bf16"][layout] < 0.02


def test_stored_weights_are_sharded_as_they_are_read_and_exported_whole(found: dict[str, Any]) -> None:
    stored = found["stored"]
    assert 0.45 < stored["share"] < 0.55, "each of two processes holds half"
    assert stored["trained"] < 1e-4
    assert stored["exported"] < 1e-5
    assert stored["moved"] > 1e-3
