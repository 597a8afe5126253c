"""A package whose own `__init__` runs when something of it is asked for, and not for the sake of one of its modules."""

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Late(ModuleType):
    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def put_off(package: str) -> None:
    """Let `import package.module` run that module alone. Nothing happens if the package is loaded already or not installed."""
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.loader is not None:
        found = importlib.util.module_from_spec(spec)
        found.__class__ = _Late
        sys.modules[package] = found
