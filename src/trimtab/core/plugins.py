"""Classes of one kind by name: ours as lazy imports, those of other packages by an entry-point group, their contract's version checked."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from trimtab.core.errors import InputError, MissingError


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """Everything of one kind that can be asked for.

    kind: `engine`, of the group `trimtab.engines`; base: what each is derived from
    contract_version: what those of other packages must state
    shipped: name -> `module:Class`; fix: the command that installs what a shipped one needs, from its name
    """

    kind: str
    base: type[Any]
    contract_version: int
    shipped: Mapping[str, str]
    fix: Callable[[str], str]

    @property
    def group(self) -> str:
        """The entry-point group of other packages."""
        return f"trimtab.{self.kind}s"

    def names(self) -> list[str]:
        """All names that can be asked for, ours first."""
        return [*self.shipped, *(point.name for point in entry_points(group=self.group) if point.name not in self.shipped)]

    def load(self, name: str) -> Any:
        """The class behind a name. Raises InputError for an unknown name, MissingError if it cannot be loaded."""
        title = f"{self.kind.capitalize()} {name!r}"
        places = {point.name: point.value for point in entry_points(group=self.group)} | {**self.shipped}
        if name not in places:
            raise InputError(f"Unknown {self.kind} {name!r}; the {self.kind}s are {', '.join(self.names())}.")
        module, _, attribute = places[name].partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            fix = self.fix(name) if name in self.shipped else f"install what the package of {module} asks for"
            raise MissingError(f"{title} needs a library that is not installed ({error}).", fix) from error
        except Exception as error:
            if name in self.shipped:
                raise
            # Code of another package: whatever is wrong with it, the sentence says whose it is, and the run goes on without it.
            raise MissingError(
                f"{title} of another package cannot be loaded ({type(error).__name__}: {error}).", f"tell the author of {module}"
            ) from error
        version = getattr(found, "contract_version", self.contract_version)
        if version != self.contract_version:
            raise MissingError(
                f"{title} was written for contract version {version}, this trimtab speaks {self.contract_version}.",
                f"use a version of trimtab or of the package of {module} that fits the other",
            )
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise MissingError(
                f"{title} is not a trimtab {self.kind} ({places[name]}).",
                f"tell its author: it must be a class derived from {self.base.__module__}.{self.base.__qualname__}",
            )
        return found
