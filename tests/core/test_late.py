"""Packages whose start is put off: a module of theirs is there without it, and whoever asks for more gets it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.core.late import put_off


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that says when it starts, and whose start imports its one module."""
    name = "starts_slowly"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("import sys\nfrom starts_slowly.low import *\nsys.slow_starts += 1\nHIGH = 2\n")
    (tmp_path / name / "low.py").write_text("LOW = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "slow_starts", 0, raising=False)
    yield name
    for module in (name, f"{name}.low"):
        sys.modules.pop(module, None)


def test_a_module_comes_without_the_start_and_the_rest_with_it(package: str) -> None:
    put_off(package)
    import starts_slowly.low as low  # type: ignore[import-not-found]

    assert (low.LOW, sys.slow_starts) == (1, 0)  # type: ignore[attr-defined]
    import starts_slowly

    assert starts_slowly.HIGH == 2
    assert (starts_slowly.LOW, sys.slow_starts) == (1, 1)  # type: ignore[attr-defined]
    assert starts_slowly.low is low
    with pytest.raises(AttributeError):
        _ = starts_slowly.NOTHING


def test_what_is_loaded_or_absent_is_left_alone(package: str) -> None:
    import starts_slowly

    put_off(package)
    assert sys.modules[package] is starts_slowly
    put_off("no_such_package_here")
    assert "no_such_package_here" not in sys.modules
