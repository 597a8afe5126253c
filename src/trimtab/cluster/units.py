"""A unit of work: plain JSON that says what is to be computed and under which key its result lands, and the receipt for it.

A result goes into the results that all places share, under the very key that whoever wants it looks up. It travels neither with the unit
nor with the receipt, so that a lost machine loses nothing that was acknowledged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.core.errors import EngineCrashed, EngineHung, EngineRefused, InfeasibleError, InputError, MissingError, TrimtabError

PROTOCOL = 1
"""Of units, receipts and what nodes say of themselves; both sides must have the same."""

Fault = Literal["", "crashed", "hung", "refused", "infeasible", "input", "missing", "lost", "bug"]
_KINDS: dict[Fault, type[TrimtabError]] = {
    "crashed": EngineCrashed,
    "hung": EngineHung,
    "refused": EngineRefused,
    "infeasible": InfeasibleError,
    "input": InputError,
    "missing": MissingError,
    "lost": MissingError,
}


@dataclass(frozen=True, kw_only=True)
class Unit:
    """what: names the function that does it; title: for people; key: names its result; spec: all that it depends on, as JSON types

    memory_bytes: measured or predicted; pool: name of the hardware pool that it must run in, empty = anywhere
    node: id of the node that it must run on, alone; empty = any
    """

    what: str
    title: str
    key: str
    spec: Mapping[str, Any]
    memory_bytes: int = 0
    pool: str = ""
    node: str = ""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What is told of a unit that was done, or cannot be: its result is where its key says.

    sha256: of the result's JSON; was_known: it was there already; peak_bytes: of the engine's process, 0 = not known
    node: where it was done; is_whole: nothing is missing in it; fault, error: why there is no result, fault empty = there is one
    """

    key: str
    sha256: str = ""
    seconds: float = 0.0
    was_known: bool = False
    is_whole: bool = True
    peak_bytes: int = 0
    node: str = ""
    fault: Fault = ""
    error: str = ""

    def raise_fault(self) -> None:
        """Raise what kept the unit from being done, as the error that it was there; nothing if it was done."""
        if self.fault:
            raise _KINDS.get(self.fault, TrimtabError)(self.error)


def failed(unit: Unit, error: TrimtabError) -> Receipt:
    """The receipt of a unit that cannot be done."""
    fault: Fault = next((name for name, kind in _KINDS.items() if type(error) is kind), "bug")
    return Receipt(key=unit.key, fault=fault, error=str(error))


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What a node says of itself. id: of the cluster's; pools: it belongs to; builds: engine -> its build, or why there is none

    cpus, memory_bytes: what it offers to work; sees_results: it found what the asking side had put into the shared results
    """

    id: str
    name: str
    trimtab: str
    protocol: int
    python: str
    cpu: str
    cpus: float
    memory_bytes: int
    pools: tuple[str, ...] = ()
    sees_results: bool = True
    builds: Mapping[str, str] = field(default_factory=dict)
