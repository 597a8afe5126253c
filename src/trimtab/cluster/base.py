"""The contract of a place where units are done, and what is checked of its nodes before any work starts."""

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Protocol

from trimtab.cluster.units import PROTOCOL, NodeFacts, Receipt, Unit
from trimtab.core.errors import InputError, MissingError
from trimtab.core.phrases import megabytes

OnReceipt = Callable[[Unit, Receipt], None]
Say = Callable[[str], None]


class Place(Protocol):
    """Somewhere to do units. Results are in the shared results when their receipt comes.

    name: for people. n_at_once: units that it does at the same time
    """

    name: str
    n_at_once: int

    async def do(self, units: Sequence[Unit], on_receipt: OnReceipt) -> None:
        """Do all of them, in any order and as many at once as there is room for, and tell each as it is done.

        A unit that cannot be done has a receipt that says so. One whose machine is lost is done again elsewhere.
        Raises MissingError if the place itself is lost, or has no room for a unit at all.
        """
        ...

    async def check_build(self, engine: str, build: str) -> None:
        """Raise MissingError unless all nodes have this build of an engine (`EngineBuild.digest`)."""
        ...

    async def close(self) -> None:
        """Let it go. Idempotent."""
        ...


def own_versions() -> tuple[str, int, str]:
    """trimtab's version, that of units, and Python's minor version: what both sides must have alike."""
    return version("trimtab"), PROTOCOL, ".".join(platform.python_version_tuple()[:2])


def check_versions(nodes: Sequence[NodeFacts]) -> None:
    """Raise MissingError for the first node that has another trimtab, another protocol or another Python than this side."""
    own = own_versions()
    for node in nodes:
        found = (node.trimtab, node.protocol, node.python)
        if found != own:
            raise MissingError(
                f"Node {node.name} has {versions_text(found)}, and this side {versions_text(own)}; "
                "results of different versions are not put together.",
                f"install trimtab=={own[0]} under Python {own[2]} on {node.name}, or start this command from a matching environment",
            )


def versions_text(versions: tuple[str, int, str]) -> str:
    """The same in words."""
    return f"trimtab {versions[0]} (units {versions[1]}) under Python {versions[2]}"


def check_results_seen(nodes: Sequence[NodeFacts], where: str) -> None:
    """Raise InputError for the first node that does not see the shared results."""
    blind = next((node for node in nodes if not node.sees_results), None)
    if blind is not None:
        raise InputError(
            f"Node {blind.name} does not see the results in {where}; give --cluster-store a folder that all nodes see, or a URL such as "
            "s3://bucket/trimtab."
        )


def pools_of(nodes: Sequence[NodeFacts]) -> dict[str, int]:
    """Hardware pools and how many nodes each has."""
    found: dict[str, int] = {}
    for node in nodes:
        for pool in node.pools:
            found[pool] = found.get(pool, 0) + 1
    return found


def check_pools(nodes: Sequence[NodeFacts], wanted: Sequence[str], where: str) -> None:
    """Raise MissingError for the first pool that no node belongs to."""
    there = pools_of(nodes)
    for pool in wanted:
        if pool not in there:
            listed = ", ".join(f"{name} ({n} node{'s' if n > 1 else ''})" for name, n in sorted(there.items()))
            has = f"its pools are {listed}" if listed else "it has no pools"
            raise MissingError(
                f"No node of the cluster at {where} belongs to the hardware pool {pool}; {has}.",
                f"start a node with: ray start --address=HEAD --resources='{{\"pool_{pool}\": 1}}'",
            )


def check_room(nodes: Sequence[NodeFacts], unit: Unit) -> None:
    """Raise MissingError if no node that the unit may run on has the memory it needs."""
    rooms = [node.memory_bytes for node in nodes if not unit.pool or unit.pool in node.pools]
    most = max(rooms, default=0)
    if unit.memory_bytes > most:
        where = f"pool {unit.pool}" if unit.pool else "the cluster"
        raise MissingError(
            f"{unit.title} needs {megabytes(unit.memory_bytes)} of memory, and the largest node of {where} offers {megabytes(most)}.",
            "add a node with more memory, or start its raylet with --memory",
        )
