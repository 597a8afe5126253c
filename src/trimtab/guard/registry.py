"""Guards by name: ours as lazy imports, others by the entry-point group `trimtab.guards`."""

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from trimtab.core.errors import InputError, MissingError
from trimtab.core.guarding import Side
from trimtab.guard.base import CONTRACT_VERSION, Guard

SHIPPED = {
    "personal": "trimtab.guard.personal:PersonalData",
    "secrets": "trimtab.guard.secrets:Secrets",
    "injection": "trimtab.guard.injection:Injection",
    "hazards": "trimtab.guard.hazards:Hazards",
    "output": "trimtab.guard.output:DisallowedOutput",
    "unicode": "trimtab.guard.unicode:UnicodeTricks",
    "loops": "trimtab.guard.loops:Loops",
    "limits": "trimtab.guard.limits:Limits",
    "topics": "trimtab.guard.topics:Topics",
    "model": "trimtab.guard.model:GuardModel",
    "llm-guard": "trimtab.guard.llm_guard:LlmGuard",
    "nemo": "trimtab.guard.nemo:NemoRails",
}
GROUP = "trimtab.guards"
EXTRA = "pip install 'trimtab[guard]'"
TIME_LIMIT_S = 2.0


def guard_names() -> list[str]:
    """All names that can be asked for, ours first."""
    return [*SHIPPED, *(point.name for point in entry_points(group=GROUP) if point.name not in SHIPPED)]


def guard_class(name: str) -> type[Guard]:
    """The class behind a name. Raises InputError for an unknown name, MissingError if it cannot be loaded."""
    places = {point.name: point.value for point in entry_points(group=GROUP)} | SHIPPED
    if name not in places:
        raise InputError(f"Unknown guard {name!r}; the guards are {', '.join(guard_names())}.")
    module, _, attribute = places[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        fix = EXTRA if name in SHIPPED else f"install what the package of {module} asks for"
        raise MissingError(f"Guard {name!r} needs a library that is not installed ({error}).", fix) from error
    except Exception as error:
        if name in SHIPPED:
            raise
        # Code of another package: whatever is wrong with it, the sentence says which guard it is.
        raise MissingError(
            f"Guard {name!r} of another package cannot be loaded ({type(error).__name__}: {error}).", f"tell the author of {module}"
        ) from error
    version = getattr(found, "contract_version", CONTRACT_VERSION)
    if version != CONTRACT_VERSION:
        raise MissingError(
            f"Guard {name!r} was written for contract version {version}, this trimtab speaks {CONTRACT_VERSION}.",
            f"use a version of trimtab or of the package of {module} that fits the other",
        )
    if not (isinstance(found, type) and issubclass(found, Guard)):
        raise MissingError(
            f"Guard {name!r} is not a trimtab guard ({places[name]}).",
            "tell its author: it must be a class derived from trimtab.guard.base.Guard",
        )
    return found


def open_guard(name: str, options: Mapping[str, Any] | None = None, *, side: Side = "in", time_limit_s: float = TIME_LIMIT_S) -> Guard:
    """A guard ready to judge texts of one side. Raises InputError if it cannot judge that side."""
    found = guard_class(name)
    if side not in found.sides:
        raise InputError(f"Guard {name!r} reads {' and '.join(sorted(found.sides))} texts only, not {side!r}.")
    try:
        return found(options or {}, side=side, time_limit_s=time_limit_s)
    except ImportError as error:
        raise MissingError(f"Guard {name!r} needs a library that is not installed ({error}).", EXTRA) from error
