"""Engines by name: ours as lazy imports, others by the entry-point group `trimtab.engines`."""

import importlib
from importlib.metadata import entry_points

from trimtab.core.errors import InputError, MissingError
from trimtab.engines.base import CONTRACT_VERSION, Engine

SHIPPED = {
    "llamacpp": "trimtab.engines.llamacpp:LlamaCppEngine",
    "openvino": "trimtab.engines.openvino:OpenVinoEngine",
}
GROUP = "trimtab.engines"


def engine_names() -> list[str]:
    """All names that can be asked for, ours first."""
    return [*SHIPPED, *(point.name for point in entry_points(group=GROUP) if point.name not in SHIPPED)]


def engine_class(name: str) -> type[Engine]:
    """The class behind a name. Raises InputError for an unknown name, MissingError if its library is not installed."""
    places = {point.name: point.value for point in entry_points(group=GROUP)} | SHIPPED
    if name not in places:
        raise InputError(f"Unknown engine {name!r}; the engines are {', '.join(engine_names())}.")
    module, _, attribute = places[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        fix = f"pip install 'trimtab[{name}]'" if name in SHIPPED else f"install what the package of {module} asks for"
        raise MissingError(f"Engine {name!r} needs a library that is not installed ({error}).", fix) from error
    except Exception as error:
        if name in SHIPPED:
            raise
        # Code of another package: whatever is wrong with it, it is one engine less and not the end of a run.
        raise MissingError(
            f"Engine {name!r} of another package cannot be loaded ({type(error).__name__}: {error}).", f"tell the author of {module}"
        ) from error
    version = getattr(found, "contract_version", CONTRACT_VERSION)
    if version != CONTRACT_VERSION:
        raise MissingError(
            f"Engine {name!r} was written for contract version {version}, this trimtab speaks {CONTRACT_VERSION}.",
            f"use a version of trimtab or of the package of {module} that fits the other",
        )
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise MissingError(
            f"Engine {name!r} is not a trimtab engine ({places[name]}).",
            "tell its author: it must be a class derived from trimtab.engines.base.Engine",
        )
    return found
