"""The way of one request through the gateway, from its bytes to its answer. Sockets are in `app`, replicas behind `dispatch`.

Before the first byte of an answer goes out, the audit log durably holds that the request began: who, what, which version, what guards
said. How it ended is noted behind it. The note is made while the model works, so as a rule nobody waits for the disk.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from trimtab.core.errors import InfeasibleError, TrimtabError
from trimtab.core.files import to_plain
from trimtab.core.groups import groups_of, without_groups
from trimtab.core.model import Adapter
from trimtab.core.site import ServedModel, Site
from trimtab.guard.pipeline import Guards
from trimtab.record.captures import Captures
from trimtab.record.identities import Key
from trimtab.serve.base import Call, Frame, Refusal, Usage
from trimtab.serve.dispatch import Dispatcher
from trimtab.serve.door import Admitted, Door, Incoming
from trimtab.serve.errors import internal_error
from trimtab.serve.feedback import FeedbackDesk
from trimtab.serve.journey import Journey, Texts, began_record, ended_record
from trimtab.serve.meter import Meter
from trimtab.serve.notes import Notes
from trimtab.serve.responses import response_object
from trimtab.serve.rollout import pick
from trimtab.serve.sampling import Sampler
from trimtab.serve.screening import AnswerScreen
from trimtab.serve.sse import DONE, KEEP_ALIVE, encode, sse_error
from trimtab.serve.traffic import keep, kept, shifted, with_rollout
from trimtab.serve.writer import Writer

OnEnded = Callable[[Mapping[str, Any], Journey], None]

HEAD_WAIT_S = 5.0
"""So long a stream's status is held back: what fails in this time gets a status of its own, what takes longer is kept alive by comments."""
KEEP_ALIVE_S = 10.0
SHADOWS_AT_ONCE = 4

log = logging.getLogger("trimtab.serve")


class Digest(Protocol):
    """What `hashlib.sha256()` and `hmac.new(...)` have."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Whole:
    """An answer in one piece."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Stream:
    """An answer as server-sent events. Whoever takes it must run `events` to its end, or close it."""

    headers: Mapping[str, str]
    events: AsyncGenerator[bytes, None]


@dataclass(kw_only=True)
class Gateway:
    """Everything a request meets on its way.

    declared: the site as its file says; site: with what was done to its traffic since; guards: by model name
    digester: makes a running digest for what the log must not show; captures: a sample of texts for review
    sampler: a sample of answers for the watch, None = none
    on_ended: told how each request ended, as the audit log is; wants_texts: whether one of them wants to read a request's texts then
    feedback: where clients tell of answers, None = nowhere
    """

    declared: Site
    site: Site
    guards: Mapping[str, Guards]
    door: Door
    dispatcher: Dispatcher
    meter: Meter
    notes: Notes
    digester: Callable[[], Digest]
    captures: Captures
    traffic_path: Path
    on_ended: Sequence[OnEnded] = ()
    sampler: Sampler | None = None
    wants_texts: Callable[[str], bool] = lambda request: False
    feedback: FeedbackDesk | None = None
    is_draining: bool = False
    _shadows: set["asyncio.Task[None]"] = field(default_factory=set)

    async def answer(self, incoming: Incoming) -> Whole | Stream:
        """The answer to one request of `/v1/...`. Raises Refusal where it gets an error; the meter and the log know of it by then."""
        journey = Journey(
            id=incoming.id,
            path=incoming.path,
            output=self.digester(),
            traceparent=incoming.headers.get("traceparent", ""),
            is_late=incoming.is_late,
        )
        self.meter.request_began()
        try:
            if self.is_draining:
                raise Refusal(503, "The server is shutting down.", code="shutting_down", retry_after_s=5)
            digest = self.digester()
            digest.update(incoming.raw)
            journey.input_digest = digest.hexdigest()
            admitted = await self.door.admit(self.site, self.guards, incoming, journey)
            call = self._begun(admitted, journey)
            noted = self.notes.begin(began_record(journey))
            work = self._streamed if call.stream else self._whole
            return await work(call, admitted, journey, noted)
        except BaseException as error:
            self._end(journey, error)
            if isinstance(error, Refusal) or not isinstance(error, Exception):
                raise
            raise internal_error() from error  # the log has been told of it

    def _begun(self, admitted: Admitted, journey: Journey) -> Call:
        """Pick who answers; a copy goes to the shadow."""
        parsed = admitted.parsed
        journey.is_stream = parsed.stream
        for_review, for_watch = self.captures.wants(journey.id), self.wants_texts(journey.id)
        if for_review or for_watch:
            journey.texts = Texts(parsed=parsed, is_for_review=for_review, is_for_watch=for_watch)
        body: Mapping[str, Any] = parsed.body
        if self.site.watch:
            journey.groups, body = groups_of(parsed.request.get("metadata")), without_groups(body)
        journey.version, shadow = pick(admitted.model.rollout, journey.id, parsed.user or journey.key_id)
        if journey.adapter is None:
            journey.decision = next((one.decision_sha256 for one in admitted.model.versions if one.id == journey.version), "")
        if self.sampler is not None:
            journey.sampled = self.sampler.begin(admitted.model, parsed, journey)
        call = Call(
            id=journey.id,
            kind="chat" if parsed.kind == "response" else parsed.kind,
            body=body,
            stream=parsed.stream,
            parsed=parsed.kind == "response" or admitted.guards.reads_output,
            adapter=journey.adapter.name if journey.adapter is not None else "",
        )
        if shadow:
            self._mirror(shadow, call, journey.model)
        return call

    def _headers(self, journey: Journey) -> dict[str, str]:
        """What answered, and what the key may still ask."""
        return {**journey.provenance, **self.door.quota.headers(journey.key)}

    # Answers

    async def _whole(self, call: Call, admitted: Admitted, journey: Journey, noted: "asyncio.Future[None] | None") -> Whole:
        parsed, guards = admitted.parsed, admitted.guards
        body: Mapping[str, Any] | bytes = b""
        async with contextlib.aclosing(self._frames(call, admitted.model, journey)) as frames:
            async for frame in frames:
                body = frame.body
        if not isinstance(body, bytes):
            if guards.reads_output:
                screen = AnswerScreen(guards.stream)
                body = await asyncio.to_thread(screen.whole, body) if guards.waits_on_output else screen.whole(body)
                journey.verdicts.extend(screen.verdicts)
            body = encode(response_object(parsed, body) if parsed.kind == "response" else body)
        await self.notes.settled(noted)
        journey.sends(body)
        asyncio.get_running_loop().call_soon(self._close(journey))  # once the answer is out
        return Whole(status=200, headers=self._headers(journey), body=body)

    async def _streamed(self, call: Call, admitted: Admitted, journey: Journey, noted: "asyncio.Future[None] | None") -> Stream:
        """The stream once its first event is there, or once the wait for it has become long."""
        frames = self._frames(call, admitted.model, journey)
        first = asyncio.ensure_future(anext(frames))
        try:
            await asyncio.wait({first}, timeout=HEAD_WAIT_S)
            if first.done():
                first.result()  # a refusal gets its own status
            await self.notes.settled(noted)
        except BaseException:
            first.cancel()
            await asyncio.wait({first})
            await frames.aclose()
            raise
        return Stream(headers=self._headers(journey), events=self._events(first, frames, admitted, journey))

    async def _events(
        self, first: "asyncio.Future[Frame]", frames: AsyncGenerator[Frame, None], admitted: Admitted, journey: Journey
    ) -> AsyncGenerator[bytes, None]:
        try:
            while not first.done():
                yield KEEP_ALIVE
                await asyncio.wait({first}, timeout=KEEP_ALIVE_S)
            writer = Writer(admitted.parsed, admitted.guards)
            try:
                frame: Frame | None = first.result()
                while frame is not None:
                    events = await asyncio.to_thread(writer.push, frame.body) if writer.waits else writer.push(frame.body)
                    if events:
                        journey.sends(events)
                        yield events
                    frame = None if writer.is_blocked else await anext(frames, None)
                if last := writer.end():
                    journey.sends(last)
                    yield last
            finally:
                journey.verdicts.extend(writer.verdicts)
        except Exception as error:
            self._end(journey, error)
            yield sse_error(_refusal_of(error))
            yield DONE
        except BaseException as error:
            self._end(journey, error)
            raise
        finally:
            first.cancel()
            await asyncio.wait({first})
            await frames.aclose()
            self._end(journey)

    async def _frames(self, call: Call, model: ServedModel, journey: Journey) -> AsyncGenerator[Frame, None]:
        """Frames of the answer. A replica that dies before its first frame is replaced once; later the answer ends with the reason."""
        for attempt in (1, 2):
            has_begun = False
            asked_s = time.monotonic()
            try:
                async with (
                    self.dispatcher.lease(journey.version, wait_s=model.queue_wait_s, again=attempt == 2) as replica,
                    contextlib.aclosing(replica.answer(call)) as frames,
                ):
                    journey.queue_s = time.monotonic() - asked_s
                    async for frame in frames:
                        if not has_begun:
                            has_begun = True
                            journey.first_token_s = time.monotonic()
                        journey.n_tokens += frame.n_tokens
                        journey.usage = frame.usage or journey.usage
                        yield frame
                return
            except InfeasibleError as error:
                if has_begun or attempt == 2:
                    raise Refusal(502, f"The model stopped while it answered: {error}", code="replica_failed", retry_after_s=1) from error
                log.warning("request %s is tried again: %s", call.id, error)

    def _mirror(self, version: str, call: Call, model: str) -> None:
        """Send a copy to the shadow version, whose answer is counted and thrown away. No one ever waits for it."""
        if len(self._shadows) >= SHADOWS_AT_ONCE:
            self.meter.shadow_skipped(model, version)
            return
        copy = dataclasses.replace(call, id=f"{call.id}-shadow", parsed=False)
        task = asyncio.create_task(self._shadow(version, copy, model))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, version: str, call: Call, model: str) -> None:
        began_s, usage, status = time.monotonic(), None, 200
        try:
            async with self.dispatcher.lease(version, wait_s=1.0) as replica:
                async for frame in replica.answer(call):
                    usage = frame.usage or usage
        except (Refusal, InfeasibleError) as error:
            status = error.status if isinstance(error, Refusal) else 502
        self.meter.shadow_ended(model, version, status, usage or Usage(prompt=0, completion=0), time.monotonic() - began_s)

    # Endings

    def _end(self, journey: Journey, error: BaseException | None = None) -> None:
        """Tell the limits, the meter and the log, once a request."""
        if not journey.is_over:
            self._close(journey, error)()

    def _close(self, journey: Journey, error: BaseException | None = None) -> Callable[[], None]:
        """End a journey and tell the limits, whose next headers say it. What is returned tells the meter and the log."""
        journey.is_over = True
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            journey.status, journey.error = (504, "timeout") if journey.is_late() else (499, "client_gone")
        elif error is not None:
            refusal = _refusal_of(error)
            journey.status, journey.error = refusal.status, refusal.code or refusal.kind
            if refusal is not error:
                log.error("request %s failed", journey.id, exc_info=error)
        usage = journey.usage or Usage(prompt=0, completion=journey.n_tokens)
        seconds = time.monotonic() - journey.began_s
        first_s = None if journey.first_token_s is None else journey.first_token_s - journey.began_s
        self.door.quota.ended(journey.key, journey.hold, usage.prompt + usage.completion)
        return partial(self._tell, journey, usage, seconds, first_s)

    def _tell(self, journey: Journey, usage: Usage, seconds: float, first_s: float | None) -> None:
        self.meter.request_ended(
            model=journey.model,
            version=journey.version,
            key_id=journey.key_id,
            status=journey.status,
            usage=usage,
            seconds=seconds,
            first_token_s=first_s,
            verdicts=journey.verdicts,
            is_stream=journey.is_stream,
            queue_s=journey.queue_s,
        )
        record = ended_record(journey, usage, seconds, first_s)
        self.notes.begin(record, soon=True)
        for tell in self.on_ended:
            tell(record, journey)
        if journey.texts is not None and journey.texts.is_for_review:
            self.captures.keep(journey.id, journey.texts.parsed.texts(), b"".join(journey.texts.sent).decode(errors="replace"))
        if self.sampler is not None and journey.sampled is not None:
            asyncio.get_running_loop().run_in_executor(None, self.sampler.keep, journey.sampled, journey)

    # What may be asked of it and done to it

    def models(self, key: Key | None) -> dict[str, Any]:
        """The list of `/v1/models` for a key. Asking wakes nothing. An adapter has its model as `parent`, as in vLLM's list."""
        states = self.dispatcher.states()
        rows: list[dict[str, Any]] = []
        for model in self.site.models:
            shared = {"object": "model", "created": 0, "owned_by": "trimtab", "state": states[model.name], "alias_of": None, "parent": None}
            if self.door.access.may_use(key, model.name):
                rows.append({"id": model.name, **shared})
                rows += ({"id": alias, **shared, "alias_of": model.name} for alias in model.aliases)
            adapters = (one for one in model.adapters if self.door.access.may_use(key, one.name))
            rows += ({"id": one.name, **shared, "parent": model.name, **_evidence_of(one)} for one in adapters)
        return {"object": "list", "data": rows}

    def state(self) -> dict[str, Any]:
        """Traffic, replicas, queues and memory, for whoever runs it."""
        traffic = {model.name: to_plain(model.rollout) for model in self.site.models}
        adapters = {one.name: {"parent": model.name, **_evidence_of(one)} for model in self.site.models for one in model.adapters}
        return {"draining": self.is_draining, "traffic": traffic, "adapters": adapters, **self.dispatcher.snapshot()}

    async def shift(self, name: str, action: str, percent: Any = None) -> None:
        """Do one of traffic.ACTIONS to a model. Kept on disk before it takes effect. Raises Refusal."""
        model = self._named(name)
        rollout = shifted(model, action, percent)
        site = with_rollout(self.site, model.name, rollout)
        await self._prepared(site)
        keep(self.traffic_path, self.declared, site)
        note = self.notes.begin(
            {"event": "traffic", "model": model.name, "action": action, "before": to_plain(model.rollout), "after": to_plain(rollout)}
        )
        self.site = site
        await self.dispatcher.reconfigure(site)
        await self.notes.settled(note)

    async def tighten(self, name: str) -> None:
        """Have the guards of a model block what they flag or redact, until the site's file is read again. Raises Refusal."""
        model = self._named(name)
        strict = tuple(dataclasses.replace(use, on_hit="block") for use in model.guards)
        if not strict:
            raise Refusal(409, f"{model.name!r} has no guards.", code="no_guards")
        guards = await asyncio.to_thread(Guards, strict)
        note = self.notes.begin({"event": "guards", "model": model.name, "action": "tighten"})
        self.guards = {**self.guards, model.name: guards}
        await self.notes.settled(note)

    async def scale(self, name: str, more: int) -> int:
        """Keep so many replicas more of each version of a model ready, until the site's file is read again. Returns how many then.

        Raises Refusal: its `max_replicas` are ready already.
        """
        model = self._named(name)
        if self.site.cluster and any(version.lock for version in model.versions):
            raise Refusal(409, f"The cluster itself scales {model.name!r}.", code="scaled_by_cluster")
        least = min(model.max_replicas, model.min_replicas + more)
        if least == model.min_replicas:
            raise Refusal(409, f"{model.name!r} has its max_replicas of {least} ready already.", code="at_most_replicas")
        note = self.notes.begin({"event": "replicas", "model": model.name, "before": model.min_replicas, "after": least})
        changed = dataclasses.replace(model, min_replicas=least)
        self.site = dataclasses.replace(self.site, models=tuple(changed if one.name == model.name else one for one in self.site.models))
        await self.dispatcher.reconfigure(self.site)
        await self.notes.settled(note)
        return least

    async def _prepared(self, site: Site) -> None:
        """Have a cluster bring up what another site needs, before anything is changed. Raises Refusal if it cannot."""
        try:
            await self.dispatcher.prepare(site)
        except (TrimtabError, TimeoutError) as error:
            raise Refusal(503, f"Nothing was changed, because what is to answer does not come up: {error}", code="not_ready") from error

    def _named(self, name: str) -> ServedModel:
        model = self.site.model_called(name)
        if model is None:
            raise Refusal(404, f"The model {name!r} does not exist.", code="model_not_found", param="model")
        return model

    async def reconfigure(self, declared: Site, guards: Mapping[str, Guards]) -> None:
        """Take another configuration. Requests under way end as they began; listening addresses stay. Raises Refusal: nothing changed."""
        await self._prepared(kept(self.traffic_path, declared))
        self.site = kept(self.traffic_path, declared)
        self.declared, self.guards = declared, guards
        self.notes.refuses = declared.audit == "refuse"
        self.captures.pct = declared.capture_pct
        if self.sampler is not None:
            self.sampler.pct = declared.watch_sample_pct
        await self.dispatcher.reconfigure(self.site)

    async def finish(self) -> None:
        """End the shadows, and wait until everything that was to be noted is."""
        for task in self._shadows:
            task.cancel()
        if self._shadows:
            await asyncio.wait(self._shadows)
        await self.notes.finish()


def _evidence_of(adapter: Adapter) -> dict[str, Any]:
    """What is known of an adapter: its bytes. The lock that it is served with was certified without it."""
    return {"adapter_sha256": adapter.sha256, "certified": False}


def _refusal_of(error: BaseException) -> Refusal:
    return error if isinstance(error, Refusal) else internal_error()
