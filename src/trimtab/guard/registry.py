"""Guards by name: ours as lazy imports, others by the entry-point group `trimtab.guards`."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.errors import InputError, MissingError
from trimtab.core.guarding import Side
from trimtab.core.plugins import Plugins
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
EXTRA = "pip install 'trimtab[guard]'"
TIME_LIMIT_S = 2.0
_GUARDS = Plugins(kind="guard", base=Guard, contract_version=CONTRACT_VERSION, shipped=SHIPPED, fix=lambda name: EXTRA)
GROUP = _GUARDS.group


def guard_names() -> list[str]:
    """All names that can be asked for, ours first."""
    return _GUARDS.names()


def guard_class(name: str) -> type[Guard]:
    """The class behind a name. Raises InputError for an unknown name, MissingError if it cannot be loaded."""
    found: type[Guard] = _GUARDS.load(name)
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
