"""What the gateway, its link to a Ray cluster and the replicas there say to each other. Plain JSON; nothing here knows Ray.

An answer's way: `ray_pool` gives a call to `ray_link`, which writes it to the process of `ray_desk`, which is the cluster's driver; Serve
takes it to a `ray_replica`, whose worker answers. Frames come back as the replica wrote them: nobody between reads them.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Self

import msgspec

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused, InfeasibleError, InputError, MissingError, TrimtabError
from trimtab.core.files import digest_of, to_plain
from trimtab.core.model import Adapter, Snapshot
from trimtab.core.site import ServedModel
from trimtab.serve.base import Call, Frame, Refusal, Usage

RAY_LINE = "2.60"
"""The releases of Ray that this was tested with. Serve's routers and details are young: another line may name them otherwise."""
WIRE_VERSION = 1
DEPLOYMENT = "replica"
FAULT = "trimtab-fault "
KINDS: Mapping[str, type[TrimtabError]] = {
    "refused": EngineRefused,
    "infeasible": InfeasibleError,
    "input": InputError,
    "missing": MissingError,
}

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, kw_only=True)
class AppSpec:
    """One version as a Serve application with one deployment.

    app: its name in the cluster, the same however it is scaled; model, engine, snapshot, settings, adapters: of the worker in each replica
    slots: requests that one replica works on at once; target: requests a replica that the cluster scales for
    initial_replicas: when it is deployed; idle_s: replicas above the minimum leave after so long
    n_cpus, memory_bytes: that a replica reserves on its node; drain_s: so long a replica that is to go may end what it has
    release: of trimtab, which nodes must have too
    """

    app: str
    model: str
    engine: str
    snapshot: Snapshot
    settings: Settings
    adapters: tuple[Adapter, ...]
    slots: int
    target: float = 1.0
    min_replicas: int = 0
    initial_replicas: int = 1
    max_replicas: int = 1
    idle_s: float = 0.0
    n_cpus: int
    memory_bytes: int
    drain_s: float
    release: str

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **plain,
                "snapshot": Snapshot.parse(plain["snapshot"]),
                "settings": Settings.parse({key: value for key, value in plain["settings"].items() if value is not None}),
                "adapters": Snapshot.parse({**plain["snapshot"], "adapters": plain["adapters"]}).adapters,
            }
        )

    def scaled(self, model: ServedModel) -> Self:
        """With the number of replicas that a model asks for. One is there when deployed, so that what cannot load is known at once."""
        return dataclasses.replace(
            self,
            target=model.target_queue or float(self.slots),
            min_replicas=model.min_replicas,
            initial_replicas=max(1, model.min_replicas),
            max_replicas=model.max_replicas,
            idle_s=model.idle_s,
        )

    def reserving(self, memory_bytes: int) -> Self:
        return dataclasses.replace(self, memory_bytes=memory_bytes)

    @property
    def content(self) -> str:
        """Identity of what a replica takes memory for: weights, adapters, engine and settings."""
        return digest_of([self.engine, dataclasses.replace(self.snapshot, adapters=self.adapters).digest, self.settings.identity()])


def why_no_room(spec: AppSpec, nodes: Sequence[Mapping[str, Any]]) -> str:
    """Why no node, were it empty, could hold a replica: Serve would wait for one for ever. Empty if one could."""
    if any(one["cpus"] >= spec.n_cpus and one["memory_bytes"] >= spec.memory_bytes for one in nodes):
        return ""
    have = ", ".join(f"{one['node']} ({one['cpus']:g} CPUs, {one['memory_bytes'] / 2**20:,.0f} MiB)" for one in nodes)
    return (
        f"No node of the cluster can hold a replica of {spec.model!r}, which takes {spec.n_cpus} CPUs and "
        f"{spec.memory_bytes / 2**20:,.0f} MiB; its nodes: {have or 'none'}."
    )


def release_here() -> str:
    """What must be equal here and on the nodes: trimtab's version, and that of this protocol."""
    return f"{version('trimtab')}/{WIRE_VERSION}"


class Lost(Exception):
    """What was to answer is gone: a replica, its node, the head, or the link to it. Another one may answer."""


# One line of JSON each way


def line(message: Mapping[str, Any]) -> bytes:
    """A message as one line."""
    return _encoder.encode(message) + b"\n"


def told_frames(call_id: int, raw: bytes) -> bytes:
    """The line that passes on what a replica wrote, unread."""
    return b'{"id":%d,"said":%b}\n' % (call_id, raw)


def call_plain(call: Call) -> dict[str, Any]:
    return to_plain(call)  # type: ignore[no-any-return]


def call_from(plain: Mapping[str, Any]) -> Call:
    return Call(**plain)


def frames_plain(frames: Sequence[Frame]) -> bytes:
    """Frames as a replica tells them, a call's bytes passed through."""
    rows = [(msgspec.Raw(one.body) if isinstance(one.body, bytes) else one.body, one.n_tokens, _usage_plain(one.usage)) for one in frames]
    return _encoder.encode({"frames": rows})


def frames_from(rows: Sequence[tuple[msgspec.Raw, int, Sequence[int] | None]], *, parsed: bool) -> list[Frame]:
    """The frames of a replica's message. parsed: bodies are wanted as dicts, else as the bytes that they came in"""
    return [
        Frame(
            body=msgspec.json.decode(body) if parsed else bytes(body),
            n_tokens=n_tokens,
            usage=Usage(prompt=usage[0], completion=usage[1], cached=usage[2]) if usage else None,
        )
        for body, n_tokens, usage in rows
    ]


def _usage_plain(usage: Usage | None) -> tuple[int, int, int] | None:
    return (usage.prompt, usage.completion, usage.cached) if usage is not None else None


def refusal_plain(refusal: Refusal) -> dict[str, Any]:
    return {"message": str(refusal), **{name: getattr(refusal, name) for name in ("status", "kind", "code", "param", "retry_after_s")}}


def refusal_from(plain: Mapping[str, Any]) -> Refusal:
    return Refusal(
        plain["status"],
        plain["message"],
        kind=plain["kind"],
        code=plain["code"],
        param=plain["param"],
        retry_after_s=plain["retry_after_s"],
    )


def error_plain(error: BaseException) -> dict[str, str]:
    """An error as one of ours, with the sentence that a person reads."""
    kind = next((name for name, one in KINDS.items() if isinstance(error, one)), "infeasible")
    return {"kind": kind, "why": str(error) or type(error).__name__}


def error_from(plain: Mapping[str, str]) -> TrimtabError:
    return KINDS[plain["kind"]](plain["why"])


def fault_text(error: BaseException) -> str:
    """What a replica that cannot start raises: Serve passes it on among lines of its own, `fault_in` finds it there."""
    return FAULT + json.dumps(error_plain(error))


def fault_in(text: str) -> TrimtabError | None:
    """The error of ours in what Serve says of a deployment that failed, None if there is none."""
    place = text.find(FAULT)
    if place < 0:
        return None
    try:
        plain, _ = json.JSONDecoder().raw_decode(text, place + len(FAULT))
        return error_from(plain)
    except (ValueError, KeyError, TypeError):
        return InfeasibleError(text[place + len(FAULT) :][:300])


class Said(msgspec.Struct):
    """What a replica wrote of one call: where it is answered, first of all; frames; and how it ended, last of all.

    placed: the replica's facts; refusal: the request's own; failed: the answer's; over: nothing more comes
    """

    placed: dict[str, Any] | None = None
    frames: list[tuple[msgspec.Raw, int, tuple[int, int, int] | None]] = []
    refusal: dict[str, Any] | None = None
    failed: dict[str, str] | None = None
    over: bool = False


class Told(msgspec.Struct):
    """One line of the desk.

    id: the call or command that it is about, 0 = none; said: of a replica; ok: the outcome of a command; failed: a command's error
    lost: the replica is gone before the call's end, and why; up: the cluster's facts, once it is joined; apps: what runs, by name
    head: why the cluster's head does not answer, empty = it does
    """

    id: int = 0
    said: Said | None = None
    ok: dict[str, Any] | None = None
    failed: dict[str, str] | None = None
    lost: str | None = None
    up: dict[str, Any] | None = None
    apps: dict[str, Any] | None = None
    head: str | None = None


told = msgspec.json.Decoder(Told)
