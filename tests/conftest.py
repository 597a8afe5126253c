"""Which tests nothing may run beside; see `make test`."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
ALONE = ("cli", "cluster", "flows", "measure", "serve")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(HERE).parts[0] in ALONE:
            item.add_marker(pytest.mark.alone)
