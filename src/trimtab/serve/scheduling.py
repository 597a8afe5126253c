"""The words of the scheduler: what it knows of a version, what can happen, and what it asks for.

A replica is named by a number that is never used again: an event about one that has gone finds nobody, so it changes nothing.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from trimtab.core.site import ServedModel, Version

Status = Literal["loading", "ready", "yielding", "retired", "stopping"]
"""yielding: takes no new request because another version waits for its memory. retired: takes none ever again. Both end what they have."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One version as the scheduler sees it.

    memory_bytes: expected of one replica; 0 = nothing of ours (a server elsewhere), or no budget
    min_replicas, max_replicas: of this version; the minimum is 0 for one without traffic
    stays: once up it is not stopped though nobody asks: a cluster's pool, which takes nothing then
    """

    model: ServedModel
    version: Version
    memory_bytes: int
    min_replicas: int
    max_replicas: int
    stays: bool = False

    @property
    def id(self) -> str:
        return self.version.id

    @property
    def idle_s(self) -> float:
        """How long a replica above the minimum waits for a request."""
        return inf if self.stays else self.model.idle_s


# Events. Times are seconds of one monotonic clock and come with `Scheduler.on`.


@dataclass(frozen=True, slots=True)
class Asked:
    """A request wants a replica of a version.

    again: it was admitted before and its replica died: it goes first, whatever the queue's limit and though the server drains
    """

    request: int
    version: str
    wait_s: float
    again: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A request is over, or nobody waits for it any more."""

    request: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A replica can answer."""

    replica: int
    slots: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Rescaled:
    """A replica that stands for several, a pool, has another number of places."""

    replica: int
    slots: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A replica could not be brought up, and nothing of it is left. may_pass: another try may end otherwise."""

    replica: int
    why: str
    may_pass: bool


@dataclass(frozen=True, slots=True)
class Died:
    """A ready replica does not answer any more, or wrongly."""

    replica: int
    why: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """A ready replica should be replaced once its requests have ended: it grew too large."""

    replica: int
    why: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What a replica takes now."""

    replica: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Gone:
    """A replica that was to stop has stopped; its memory is free."""

    replica: int


@dataclass(frozen=True, slots=True)
class Ticked:
    """Nothing but time."""


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """Other versions, limits or memory from now on. Requests admitted under the plans before end under them."""

    plans: tuple[Plan, ...]
    memory_bytes: int | None
    patience_s: float


@dataclass(frozen=True, slots=True)
class Draining:
    """No new request is admitted; those admitted are still served, and whatever has nothing to do stops."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """Draining has lasted long enough: who waits is refused, and every replica stops."""


Event = Asked | Ended | Loaded | Rescaled | LoadFailed | Died | Unfit | Measured | Gone | Ticked | Reconfigured | Draining | Aborted


# Actions, to be carried out in their order.


@dataclass(frozen=True, slots=True)
class Start:
    """Bring up a replica; answer with Loaded or LoadFailed."""

    replica: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Stop:
    """End a replica, loading or not; answer with Gone."""

    replica: int
    why: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A request may use a replica until it is Ended."""

    request: int
    replica: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """A request gets no replica: an HTTP status, a code of the API's error object, one sentence, and when to try again."""

    request: int
    status: int
    code: str
    why: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Prefetch:
    """A version will be started as soon as there is memory: its files can be read ahead."""

    plan: Plan


Action = Start | Stop | Grant | Refuse | Prefetch
