"""What the parts of the gateway say to each other: calls, frames of an answer, replicas, and refusals in the OpenAI form.

A request's way: `access` knows the key, `api` reads the body, `limits` admits it, guards read it, `rollout` picks a version,
`dispatch` waits for a replica that has room, the replica answers in frames, guards read those, the meter and the audit log take note.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from trimtab.core.errors import TrimtabError
from trimtab.core.site import ServedModel

Kind = Literal["chat", "completion", "embedding"]
ReplicaState = Literal["unloaded", "loading", "ready", "sleeping", "failed"]
"""sleeping: it was ready, and left when nobody asked for it. unloaded: not loaded since the start, or gone for another reason."""


class Refusal(TrimtabError):
    """A request that gets an error in place of an answer, in the form that OpenAI's clients read.

    status: HTTP status; kind: OpenAI's error `type`, such as `invalid_request_error`; code, param: of its error object
    retry_after_s: when another try makes sense; None = never with the same request. Clients of OpenAI retry 408, 409, 429 and 5xx
        unless told not to by `x-should-retry: false`, which is sent where this is None
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request for a replica: a body of the OpenAI API as the client sent it, guards' redactions made.

    stream: the replica answers in chunks; else in one whole answer
    parsed: frames must hold dicts (somebody reads or changes them); else a replica may pass bytes through as they came
    adapter: name of the adapter of the replica's model that answers; empty = none
    """

    id: str
    kind: Kind
    body: Mapping[str, Any]
    stream: bool
    parsed: bool = True
    adapter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a request. cached: how many of the prompt's were not computed again."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One piece of an answer: an object of the OpenAI API (`chat.completion.chunk` ..., or the whole answer), as dict or as JSON bytes.

    n_tokens: new tokens in it; usage: of the whole request, in the last frame that has it
    """

    body: Mapping[str, Any] | bytes
    n_tokens: int = 0
    usage: Usage | None = None


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A replica that can answer. load_s: from asking for it to here; memory_bytes: measured, None if it cannot be."""

    load_s: float
    memory_bytes: int | None
    slots: int


class Replica(Protocol):
    """One running copy of a version. All methods are of one event loop.

    A replica that died raises EngineCrashed or EngineHung (core.errors) from `answer` and `probe`, every time. A request that it refuses
    for good reason (too long a prompt, a field it cannot honour) raises Refusal, before the first frame.
    """

    async def start(self) -> Ready:
        """Bring it up. Raises InfeasibleError, MissingError, InputError; nothing is left running then."""

    def answer(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Frames of one answer; many calls may run at once. Closing the iterator early cancels the request in the engine."""

    async def probe(self) -> None:
        """A small question whose answer is known. Returns if it is as it was when the replica started; raises InfeasibleError if not."""

    def memory_bytes(self) -> int | None:
        """Resident memory now; None where it cannot be known (a server elsewhere). May be called from another thread."""

    async def stop(self) -> None:
        """End it at once and give everything back. Idempotent, never raises. Draining is the caller's affair."""


@runtime_checkable
class Pool(Replica, Protocol):
    """Replicas that a cluster starts and stops, behind one `answer`. The scheduler sees one replica with the places of all of them.

    That a replica, its node or the cluster is lost is no error of the pool's: it asks another one, or raises Refusal.
    """

    @property
    def state(self) -> ReplicaState:
        """The best state of its replicas; `sleeping` while there is none because nobody asks, `failed` while the cluster is lost."""

    async def rescale(self, model: ServedModel) -> int:
        """Have as many replicas as a model that was configured anew asks for; those that stay go on. Returns the places of all of them.

        Raises TrimtabError: the cluster takes no orders now.
        """

    def replicas(self) -> list[dict[str, Any]]:
        """Its replicas as `Lane.facts` tells of others, with the node of each."""

    def facts(self) -> dict[str, Any]:
        """What else whoever looks should know, as plain values."""
