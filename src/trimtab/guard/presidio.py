"""Presidio's pattern recognisers without presidio's language engine.

`import presidio_analyzer` loads spaCy (3 s, 80 MB) for recognisers that need a language model; those for national numbers are patterns with
check digits and need none of it. They are loaded from the installed package's files with an empty `__init__` in front of them. The
names are taken out of `sys.modules` again, so that whoever imports presidio in the same process gets all of it.
"""

import functools
import importlib
import importlib.util
import pkgutil
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trimtab.guard.base import missing

PACKAGE = "presidio_analyzer"
PARTS = {
    "analysis_explanation": "AnalysisExplanation",
    "recognizer_result": "RecognizerResult",
    "entity_recognizer": "EntityRecognizer",
    "local_recognizer": "LocalRecognizer",
    "pattern": "Pattern",
    "pattern_recognizer": "PatternRecognizer",
}
_LOCK = threading.Lock()


@functools.cache
def recognizers() -> Mapping[str, type[Any]]:
    """Pattern recognisers of national numbers by class name, as the installed presidio-analyzer has them. Raises MissingError."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise missing("personal", "presidio-analyzer", "pip install 'trimtab[guard]'")
    root = next(iter(found.submodule_search_locations))
    with _LOCK, _without_init(root):
        top = sys.modules[PACKAGE]
        for part, name in PARTS.items():
            setattr(top, name, getattr(importlib.import_module(f"{PACKAGE}.{part}"), name))
        base = f"{PACKAGE}.predefined_recognizers"
        folder = importlib.import_module(f"{base}.country_specific").__path__
        classes: dict[str, type[Any]] = {}
        for country in sorted(_packages(folder)):
            for module in sorted(_modules(f"{folder[0]}/{country}")):
                try:
                    loaded = importlib.import_module(f"{base}.country_specific.{country}.{module}")
                except ImportError:
                    continue  # it is built on a recogniser that is no pattern
                classes |= {
                    name: value for name, value in vars(loaded).items() if isinstance(value, type) and value.__module__ == loaded.__name__
                }
    return classes


@contextmanager
def _without_init(root: str) -> Iterator[None]:
    """Import presidio's files with empty packages in front; leave `sys.modules` as it was."""

    def ours(name: str) -> bool:
        return name == PACKAGE or name.startswith(f"{PACKAGE}.")

    before = {name: sys.modules.pop(name) for name in list(sys.modules) if ours(name)}
    try:
        for path in ("", "nlp_engine", "predefined_recognizers", "predefined_recognizers/generic"):
            _empty(root, path)
        sys.modules[f"{PACKAGE}.nlp_engine"].NlpArtifacts = object  # type: ignore[attr-defined]
        yield
    finally:
        for name in [name for name in sys.modules if ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _empty(root: str, path: str) -> None:
    name = f"{PACKAGE}.{path.replace('/', '.')}" if path else PACKAGE
    package = types.ModuleType(name)
    package.__path__ = [f"{root}/{path}" if path else root]
    sys.modules[name] = package


def _packages(folder: Any) -> Iterator[str]:
    return (one.name for one in pkgutil.iter_modules(folder) if one.ispkg)


def _modules(folder: str) -> Iterator[str]:
    return (one.name for one in pkgutil.iter_modules([folder]) if one.name.endswith(("_recognizer", "_recognizers")))
