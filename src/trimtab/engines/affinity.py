"""Keep a worker on some of the machine's cores. Pinned before the engine is loaded, all the threads that it starts inherit it."""

import os

from trimtab.core.deployment import Settings, cores_named
from trimtab.core.errors import EngineRefused


def refused_affinity(settings: Settings) -> str:
    """Why a worker of this process cannot keep to the cores of `cpu_affinity`; empty if it can, or if none are given."""
    if settings.cpu_affinity is None:
        return ""
    if not hasattr(os, "sched_setaffinity"):
        return "this system does not let a process choose its cores, so cpu_affinity must be unset"
    usable = os.sched_getaffinity(0)
    if missing := sorted(cores_named(settings.cpu_affinity) - usable):
        return f"cpu_affinity={settings.cpu_affinity} names core {missing[0]}; the cores that can be used here are {_ranges(usable)}"
    return ""


def pin(settings: Settings) -> None:
    """Keep this thread, and all that it starts from now on, on the cores of `cpu_affinity`. Raises EngineRefused."""
    if why := refused_affinity(settings):
        raise EngineRefused(f"The worker cannot be started: {why}.")
    if settings.cpu_affinity is not None:
        os.sched_setaffinity(0, cores_named(settings.cpu_affinity))


def _ranges(cores: frozenset[int] | set[int]) -> str:
    """`0-3, 8` for {0, 1, 2, 3, 8}."""
    firsts = sorted(core for core in cores if core - 1 not in cores)
    lasts = sorted(core for core in cores if core + 1 not in cores)
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in zip(firsts, lasts, strict=True))
