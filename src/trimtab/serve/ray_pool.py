"""A version's replicas on a Ray cluster, which the scheduler sees as one replica with many places. See serve.base.Pool.

Serve places replicas, starts more of them for the requests that wait, and stops them when nobody asks. Up to `max_replicas` times the
places of one replica are given to requests, so that all that could be worked on is in Serve's queue, where it scales by it; the rest wait
in the gateway, under its limits.
"""

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from trimtab.core.errors import InfeasibleError, InputError, TrimtabError
from trimtab.core.site import ServedModel
from trimtab.serve.base import Call, Frame, Ready, Refusal, ReplicaState
from trimtab.serve.ray_link import RayLink
from trimtab.serve.ray_memory import MemoryNotes
from trimtab.serve.ray_wire import AppSpec, Lost, Said, error_from, frames_from, refusal_from

TRIES = 4
"""For a request without a token. A question that kills whoever answers it must end somewhere."""
HEADLESS_WAIT_S = 3.0
"""While the head does not answer, nobody can start a replica: a request that gets no place in this time is not going to."""
GRACE_S = 15.0
"""A cluster that was lost just now may be back in this time, as when only the link's process died: requests wait for it. Later they are
told at once."""
RETRY_S = 5.0
PREFIX_CHARS = 1000
STATES: Mapping[str, str] = {"RUNNING": "ready", "STARTING": "loading", "UPDATING": "loading", "RECOVERING": "loading"}
"""Serve's words for a replica's state, in those of the scheduler; all others are on their way out."""


class RayPool:
    """See serve.base.Pool.

    spec: what is deployed; memory: where what replicas were seen to take is kept; wait_s: a request's longest wait for a place
    n_retried: requests that were sent to another replica because theirs was gone
    """

    def __init__(self, link: RayLink, spec: AppSpec, memory: MemoryNotes, *, wait_s: float) -> None:
        self._link, self._spec, self._memory, self._wait_s = link, spec, memory, wait_s
        self._running: Counter[str] = Counter()
        self._seen: dict[str, dict[str, Any]] = {}
        self._has_started = False
        self.n_retried = 0

    async def start(self) -> Ready:
        began_s = time.monotonic()
        if not self._has_started:
            self._has_started = True
            try:
                facts = await self._link.deploy(self._spec)
            except Lost as error:
                raise InfeasibleError(f"The cluster is gone: {error}") from error
            if facts:
                self._note(facts)
        return Ready(load_s=time.monotonic() - began_s, memory_bytes=None, slots=self._slots)

    async def rescale(self, model: ServedModel) -> int:
        self._wait_s = model.queue_wait_s
        spec = self._spec.scaled(model)
        if spec != self._spec and self._has_started:
            try:
                await self._link.deploy(spec)
            except Lost as error:
                raise InfeasibleError(f"The cluster is gone: {error}") from error
        self._spec = spec
        return self._slots

    @property
    def _slots(self) -> int:
        return self._spec.slots * self._spec.max_replicas

    async def answer(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Frames, from whichever replica lives. A request without a token is asked again of another one when its own is gone."""
        until_s = time.monotonic() + self._wait_s
        for attempt in range(1, TRIES + 1):
            has_begun = False
            try:
                async with contextlib.aclosing(self._tried(call, until_s)) as frames:
                    async for frame in frames:
                        has_begun = True
                        yield frame
                return
            except Lost as error:
                if has_begun:
                    raise InfeasibleError(f"the replica that answered is gone ({error})") from error
                if attempt == TRIES:
                    raise Refusal(
                        503, f"{TRIES} replicas were lost over this request: {error}", code="replica_failed", retry_after_s=RETRY_S
                    ) from error
                if not await self._link.until_up(self._spec.app, until_s - time.monotonic()):
                    raise self._unreachable() from error
                self.n_retried += 1

    async def _tried(self, call: Call, until_s: float) -> AsyncGenerator[Frame, None]:
        """Frames of one try. Raises Lost, Refusal, InfeasibleError."""
        if not self._link.can_answer(self._spec.app):
            left_s = min(until_s - time.monotonic(), self._link.since_s + GRACE_S - time.monotonic())
            if not await self._link.until_up(self._spec.app, left_s):
                raise self._unreachable()
        replica = ""
        try:
            async with contextlib.aclosing(self._link.answer(self._spec.app, call, session_of(call))) as said:
                replica = await self._placed(said, until_s)
                async for one in said:
                    if one.refusal is not None:
                        raise refusal_from(one.refusal)
                    if one.failed is not None:
                        raise _died(error_from(one.failed))
                    for frame in frames_from(one.frames, parsed=call.parsed):
                        yield frame
        finally:
            if replica:
                self._running[replica] -= 1

    async def _placed(self, said: AsyncGenerator[Said, None], until_s: float) -> str:
        """The replica that has taken the call, once one has. Raises Refusal where none does in time."""
        limit_s = HEADLESS_WAIT_S if self._link.state == "headless" else max(0.0, until_s - time.monotonic())
        try:
            async with asyncio.timeout(limit_s):
                first = await anext(said)
        except TimeoutError:
            if self._link.state != "up":
                raise self._unreachable() from None
            raise self._late(limit_s) from None
        assert first.placed is not None
        self._note(first.placed)
        name = str(first.placed["replica"])
        self._running[name] += 1
        return name

    async def probe(self) -> None:
        """Serve asks each replica for its known answer; that the cluster is gone is not the deployment's fault."""

    def memory_bytes(self) -> int | None:
        return None

    async def stop(self) -> None:
        if self._has_started:
            self._has_started = False
            with contextlib.suppress(TrimtabError, Lost):
                await self._link.delete(self._spec.app)

    # For whoever looks

    @property
    def state(self) -> ReplicaState:
        """The best state of its replicas; sleeping: there is none, since nobody asks."""
        if not self._link.can_answer(self._spec.app):
            return "failed"
        found = {row["status"] for row in self.replicas()}
        return "ready" if "ready" in found else "loading" if "loading" in found else "sleeping"

    def replicas(self) -> list[dict[str, Any]]:
        """Its replicas with node and state, as `Lane.facts` tells of others."""
        app = self._link.apps.get(self._spec.app) or {}
        rows = []
        for number, one in enumerate(app.get("replicas", ()), 1):
            seen = self._seen.get(one["replica"], {})
            rows.append(
                {
                    "number": number,
                    "status": STATES.get(one["state"], "stopping"),
                    "running": max(0, self._running[one["replica"]]),
                    "slots": self._spec.slots,
                    "memory_bytes": int(seen.get("memory_bytes") or 0),
                    "node": one["node"],
                    "node_id": one["node_id"],
                    "replica": one["replica"],
                    "pid": one["pid"],
                }
            )
        return rows

    def facts(self) -> dict[str, Any]:
        """What the cluster does for this version."""
        app = self._link.apps.get(self._spec.app) or {}
        return {
            "cluster": self._link.state,
            "cluster_why": self._link.why,
            "serve_app": self._spec.app,
            "serve_status": app.get("status", ""),
            "serve_message": app.get("message", ""),
            "target_replicas": app.get("target", 0),
            "reserved_bytes": self._spec.memory_bytes,
            "reserved_cpus": self._spec.n_cpus,
            "retried": self.n_retried,
        }

    def _note(self, facts: Mapping[str, Any]) -> None:
        """Remember what a replica says of itself; what it takes counts at the next start."""
        self._seen[str(facts["replica"])] = dict(facts)
        self._memory.saw(self._spec.content, int(facts["memory_bytes"]))

    def _unreachable(self) -> Refusal:
        why = self._link.missing.get(self._spec.app) or self._link.why or "it is being joined"
        return Refusal(
            503,
            f"The cluster that serves {self._spec.model!r} cannot be reached: {why}.",
            code="cluster_unreachable",
            retry_after_s=RETRY_S,
        )

    def _late(self, limit_s: float) -> Refusal:
        message = str((self._link.apps.get(self._spec.app) or {}).get("message", ""))
        told = f" Serve says: {message}" if message else ""
        return Refusal(
            503,
            f"{self._spec.model!r} had no free place in the cluster within {limit_s:.3g} s.{told}",
            code="overloaded",
            retry_after_s=RETRY_S,
        )


def _died(error: TrimtabError) -> Exception:
    """A worker that crashed or hung takes its replica along: another one may answer."""
    return Lost(str(error)) if not isinstance(error, InputError) else error


def session_of(call: Call) -> str:
    """What routes a request: the client's own word for a conversation, else a hash of how its prompt begins; empty for none.

    `prompt_cache_key` is OpenAI's field for this; `user` and `safety_identifier` name who asks. Else the first message, or two where the
    first is the system's, of a chat: they stay the same as it goes on.
    """
    body = call.body
    for name in ("prompt_cache_key", "user", "safety_identifier"):
        if body.get(name):
            return f"{name}:{body[name]}"
    begins: Any = body.get("prompt")
    if "messages" in body:
        n_first = 2 if body["messages"] and body["messages"][0].get("role") in ("system", "developer") else 1
        begins = [(message.get("role"), message.get("content")) for message in body["messages"][:n_first]]
    if not begins:
        return ""
    raw = msgspec.json.encode(begins)[:PREFIX_CHARS]
    return f"prompt:{call.adapter}:{hashlib.blake2b(raw, digest_size=12).hexdigest()}"
