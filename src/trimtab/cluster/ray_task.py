"""What runs inside the processes of a Ray cluster: one unit, by the hands that the asking side names, and what a node says of itself."""

import asyncio
import contextlib
import dataclasses
import importlib
import os
import platform
import threading
from collections.abc import Mapping
from typing import Any

from trimtab.cluster.base import own_versions, versions_text
from trimtab.cluster.local import Hands
from trimtab.cluster.store import open_results
from trimtab.cluster.units import Unit, failed
from trimtab.core.errors import MissingError, TrimtabError
from trimtab.core.files import to_plain

_loop: asyncio.AbstractEventLoop | None = None
_hands: dict[str, Hands] = {}


def do_here(target: str, unit: Mapping[str, Any], versions: tuple[str, int, str]) -> dict[str, Any]:
    """The receipt of a unit, as JSON types. target: `module:name` of what makes the hands; versions: of the asking side.

    The hands stay, with their engines, for the next unit that Ray gives this process.
    """
    import ray

    asked, node = Unit(**unit), _node_name(ray)
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)  # a unit may give work to the same cluster
    try:
        _check(node, versions)
        receipt = asyncio.run_coroutine_threadsafe(_made(target).do(asked), _running()).result()
    except TrimtabError as error:
        receipt = failed(asked, error)
    plain: dict[str, Any] = to_plain(dataclasses.replace(receipt, node=node))
    return plain


def facts(seen: tuple[str, str, str]) -> dict[str, Any]:
    """What a node knows of itself; what the cluster knows of it is added by the asking side. seen: place, kind and key of an entry."""
    trimtab, protocol, python = own_versions()
    place, kind, key = seen
    try:
        sees = open_results(place).get_json(kind, key) is not None
    except TrimtabError:
        sees = False
    return {
        "trimtab": trimtab,
        "protocol": protocol,
        "python": python,
        "cpu": _cpu(),
        "sees_results": sees,
    }


def build_of(engine: str) -> tuple[str, str]:
    """(digest, words) of the engine's build on this node; the digest is empty where it cannot run, and the words say why."""
    from trimtab.engines.registry import engine_class

    try:
        build = engine_class(engine).build()
    except TrimtabError as error:
        return "", str(error)
    return build.digest, f"{build.version} ({build.details})" if build.details else build.version


def _check(node: str, versions: tuple[str, int, str]) -> None:
    """A node that joined after the start was not asked then. Raises MissingError."""
    if own_versions() != tuple(versions):
        raise MissingError(
            f"Node {node} has {versions_text(own_versions())}, and the asking side {versions_text(versions)}.",
            f"install trimtab=={versions[0]} under Python {versions[2]} there",
        )


def _made(target: str) -> Hands:
    if target not in _hands:
        module, _, name = target.partition(":")
        _hands[target] = getattr(importlib.import_module(module), name)()
    return _hands[target]


def _running() -> asyncio.AbstractEventLoop:
    """A loop that lives as long as this process: engines are spoken to from one loop only."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        threading.Thread(target=_loop.run_forever, daemon=True).start()
    return _loop


def _cpu() -> str:
    """What the processor calls itself: scores of one deployment may differ by rounding between two kinds."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _node_name(ray: Any) -> str:
    """`192.0.2.7 (a1b2c3)`: several nodes may have one address."""
    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:6]})"
