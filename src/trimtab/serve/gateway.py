"""The way of one request through the gateway, from its bytes to its answer. Sockets are in `app`, replicas behind `dispatch`.

Before the first byte of an answer goes out, the audit log durably holds that the request began: who, what, which version, what guards
said. How it ended is noted behind it. The note is made while the model works, so as a rule nobody waits for the disk.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trimtab.core.errors import InfeasibleError
from trimtab.core.files import to_plain
from trimtab.core.guarding import Verdict
from trimtab.core.site import ServedModel, Site
from trimtab.guard.abuse import AbuseWatch
from trimtab.guard.pipeline import Guards
from trimtab.record.audit import AuditLog, AuditUnavailable
from trimtab.record.captures import Captures
from trimtab.record.identities import Key
from trimtab.serve.access import Access
from trimtab.serve.base import Call, Frame, Refusal, Usage
from trimtab.serve.dispatch import Dispatcher
from trimtab.serve.journey import Journey, began_record, ended_record
from trimtab.serve.limits import Limits
from trimtab.serve.meter import Meter
from trimtab.serve.responses import response_object
from trimtab.serve.rollout import pick
from trimtab.serve.schema import Parsed, parse
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
class Incoming:
    """A request as it came. headers: names in lower case."""

    id: str
    path: str
    headers: Mapping[str, str]
    raw: bytes


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

    declared: the site as its file says; site: with what was done to its traffic since
    guards: by model name
    audit: None where the site keeps no log; digester: makes a running digest for what the log must not show
    abuse: patterns over many requests of a key; captures: a sample of texts for review
    on_ended: told how each request ended, as the audit log is
    """

    declared: Site
    site: Site
    access: Access
    limits: Limits
    meter: Meter
    dispatcher: Dispatcher
    guards: Mapping[str, Guards]
    audit: AuditLog | None
    digester: Callable[[], Digest]
    traffic_path: Path
    captures: Captures
    abuse: AbuseWatch = field(default_factory=AbuseWatch)
    on_ended: Sequence[OnEnded] = ()
    is_draining: bool = False
    _shadows: set["asyncio.Task[None]"] = field(default_factory=set)
    _notes: set["asyncio.Task[None]"] = field(default_factory=set)

    async def answer(self, incoming: Incoming) -> Whole | Stream:
        """The answer to one request of `/v1/...`. Raises Refusal where it gets an error; the meter and the log know of it by then."""
        journey = Journey(id=incoming.id, path=incoming.path, output=self.digester(), traceparent=incoming.headers.get("traceparent", ""))
        self.meter.request_began()
        try:
            journey.input_digest = self._digest(incoming.raw)
            parsed, model = await self._admitted(incoming, journey)
            journey.is_stream = parsed.stream
            noted = self._note(began_record(journey))
            call = Call(
                id=journey.id,
                kind="chat" if parsed.kind == "response" else parsed.kind,
                body=parsed.body,
                stream=parsed.stream,
                parsed=parsed.kind == "response" or self.guards[model.name].reads_output,
            )
            work = self._streamed if parsed.stream else self._whole
            return await work(call, parsed, model, journey, noted)
        except BaseException as error:
            self._end(journey, error)
            raise

    async def _admitted(self, incoming: Incoming, journey: Journey) -> tuple[Parsed, ServedModel]:
        """Who asks, for what, and whether they may. Raises Refusal."""
        if self.is_draining:
            raise Refusal(503, "The server is shutting down.", code="shutting_down", retry_after_s=5)
        journey.key = key = self.access.check(incoming.headers, need_key=self.site.need_keys)
        self._refuse_throttled(key)
        parsed = parse(incoming.path, incoming.raw)
        model = self.site.model_called(parsed.model)
        if model is None or not self.access.may_use(key, model.name):
            raise Refusal(
                404, f"The model {parsed.model!r} does not exist or this key may not use it.", code="model_not_found", param="model"
            )
        self.access.check_verb(key, parsed.kind)
        journey.model = model.name
        self.limits.admit(key, time.time())
        guards = self.guards[model.name]
        if guards.reads_input:
            parsed = await self._inspected(guards, parsed, journey)
        if self.captures.wants(journey.id):
            journey.captured = parsed.texts(), []
        user = parsed.user or (key.id if key is not None else "")
        journey.version, shadow = pick(model.rollout, journey.id, user)
        if shadow:
            self._mirror(shadow, parsed, journey)
        return parsed, model

    async def _inspected(self, guards: Guards, parsed: Parsed, journey: Journey) -> Parsed:
        """The request as guards let it pass. Raises Refusal."""
        if parsed.has_unread:
            raise Refusal(400, "The request holds parts that the guards of this model cannot read; send text.", code="content_filter")
        texts = parsed.texts()
        inspected = await asyncio.to_thread(guards.inspect, texts) if guards.waits_on_input else guards.inspect(texts)
        journey.verdicts.extend(inspected.verdicts)
        self._watch(journey.key, texts, inspected.verdicts)
        if inspected.blocked is not None:
            rules = ", ".join(sorted({finding.rule for finding in inspected.blocked.findings})) or inspected.blocked.error
            raise Refusal(400, f"The request was blocked by the guard {inspected.blocked.guard} ({rules}).", code="content_filter")
        return parsed.with_texts(inspected.texts)

    def _refuse_throttled(self, key: Key | None) -> None:
        if key is None or self.site.abuse != "throttle":
            return
        wait_s = self.abuse.throttled_s(key.id, now_s=time.time())
        if wait_s > 0:
            raise Refusal(
                429,
                "This key is slowed down because of what it asked for; a person will look at it.",
                code="abuse_suspected",
                retry_after_s=wait_s,
            )

    def _watch(self, key: Key | None, texts: Sequence[str], verdicts: Sequence[Verdict]) -> None:
        """Look at a request beside the earlier ones of its key; a suspicion becomes a case, noted in the log."""
        if key is None or self.site.abuse == "off":
            return
        for case in self.abuse.observe(key.id, texts, verdicts, now_s=time.time()).cases:
            log.warning("case %s is opened: key %s, %s: %s", case.id, case.key_id, case.kind, case.reason)
            self._note({"event": "case", **to_plain(case)}, soon=True)

    async def review(self, case_id: str, state: Any) -> dict[str, Any]:
        """A person's decision about a case. Raises Refusal."""
        if state not in ("confirmed", "dismissed"):
            raise Refusal(400, f"`state` must be confirmed or dismissed, not {state!r}.", param="state")
        case = self.abuse.review(case_id, state)
        if case is None:
            raise Refusal(404, f"There is no case {case_id!r}.", code="case_not_found", param="id")
        note = self._note({"event": "case", **to_plain(case)})
        if note is not None:
            await note
        found: dict[str, Any] = to_plain(case)
        return found

    def _headers(self, journey: Journey) -> dict[str, str]:
        """What answered, and what the key may still ask."""
        return {**journey.provenance, **self.limits.headers(journey.key, time.time())}

    def _digest(self, raw: bytes) -> str:
        digest = self.digester()
        digest.update(raw)
        return digest.hexdigest()

    # Answers

    async def _whole(self, call: Call, parsed: Parsed, model: ServedModel, journey: Journey, noted: "asyncio.Future[None] | None") -> Whole:
        body: Mapping[str, Any] | bytes = b""
        async with contextlib.aclosing(self._frames(call, model, journey)) as frames:
            async for frame in frames:
                body = frame.body
        if not isinstance(body, bytes):
            if self.guards[model.name].reads_output:
                guards = self.guards[model.name]
                screen = AnswerScreen(guards.stream)
                body = await asyncio.to_thread(screen.whole, body) if guards.waits_on_output else screen.whole(body)
                journey.verdicts.extend(screen.verdicts)
            body = encode(response_object(parsed, body) if parsed.kind == "response" else body)
        if noted is not None:
            await noted
        journey.sends(body)
        self._end(journey)
        return Whole(status=200, headers=self._headers(journey), body=body)

    async def _streamed(
        self, call: Call, parsed: Parsed, model: ServedModel, journey: Journey, noted: "asyncio.Future[None] | None"
    ) -> Stream:
        """The stream once its first event is there, or once the wait for it has become long."""
        frames = self._frames(call, model, journey)
        first = asyncio.ensure_future(anext(frames))
        try:
            await asyncio.wait({first}, timeout=HEAD_WAIT_S)
            if first.done():
                first.result()  # a refusal gets its own status
            if noted is not None:
                await noted
        except BaseException:
            first.cancel()
            await asyncio.wait({first})
            await frames.aclose()
            raise
        return Stream(headers=self._headers(journey), events=self._events(first, frames, parsed, model, journey))

    async def _events(
        self, first: "asyncio.Future[Frame]", frames: AsyncGenerator[Frame, None], parsed: Parsed, model: ServedModel, journey: Journey
    ) -> AsyncGenerator[bytes, None]:
        try:
            while not first.done():
                yield KEEP_ALIVE
                await asyncio.wait({first}, timeout=KEEP_ALIVE_S)
            writer = Writer(parsed, self.guards[model.name])
            try:
                async for frame in _with_first(first.result(), frames):
                    for event in await asyncio.to_thread(writer.push, frame.body) if writer.waits else writer.push(frame.body):
                        journey.sends(event)
                        yield event
                    if writer.is_blocked:
                        break
                for event in writer.end():
                    journey.sends(event)
                    yield event
            finally:
                journey.verdicts.extend(writer.verdicts)
        except Exception as error:
            refusal = self._end(journey, error)
            yield sse_error(refusal)
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

    def _mirror(self, version: str, parsed: Parsed, journey: Journey) -> None:
        """Send a copy to the shadow version, whose answer is counted and thrown away. No one ever waits for it."""
        if len(self._shadows) >= SHADOWS_AT_ONCE:
            self.meter.shadow_skipped(journey.model, version)
            return
        kind = "chat" if parsed.kind == "response" else parsed.kind
        call = Call(id=f"{journey.id}-shadow", kind=kind, body=parsed.body, stream=parsed.stream, parsed=False)
        task = asyncio.create_task(self._shadow(version, call, journey.model))
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

    def _note(self, record: Mapping[str, Any], *, soon: bool = False) -> "asyncio.Task[None] | None":
        """Begin to write a record. Awaited, it says by a Refusal that the policy refuses what cannot be noted. soon: nobody awaits it."""
        if self.audit is None:
            return None
        task = asyncio.ensure_future(self._noted(self.audit.append(record, soon=soon)))
        self._notes.add(task)
        task.add_done_callback(self._forget_note)
        return task

    def _forget_note(self, task: "asyncio.Task[None]") -> None:
        self._notes.discard(task)
        if not task.cancelled():
            task.exception()  # told where it was awaited, and by the meter

    async def _noted(self, writing: Awaitable[None]) -> None:
        try:
            await writing
        except AuditUnavailable as error:
            self.meter.audit_failed()
            if self.site.audit == "refuse":
                raise Refusal(
                    503, "The audit log cannot be written; nothing is served until it can.", code="audit_unavailable", retry_after_s=10
                ) from error
            log.error("served without a record in the audit log: %s", error)

    def _end(self, journey: Journey, error: BaseException | None = None) -> Refusal:
        """Tell the meter, the limits and the log, once a request. Returns the error as what the client is told."""
        refusal = (
            error
            if isinstance(error, Refusal)
            else Refusal(500, "The server met an error of its own.", code="internal_error", retry_after_s=1)
        )
        if journey.is_over:
            return refusal
        journey.is_over = True
        if error is not None:
            is_gone = isinstance(error, (asyncio.CancelledError, GeneratorExit))
            journey.status, journey.error = (499, "client_gone") if is_gone else (refusal.status, refusal.code or refusal.kind)
            if not is_gone and not isinstance(error, Refusal):
                log.error("request %s failed", journey.id, exc_info=error)
        usage = journey.usage or Usage(prompt=0, completion=journey.n_tokens)
        seconds = time.monotonic() - journey.began_s
        first_s = None if journey.first_token_s is None else journey.first_token_s - journey.began_s
        self.meter.request_ended(
            model=journey.model,
            version=journey.version,
            key_id=journey.key.id if journey.key is not None else "",
            status=journey.status,
            usage=usage,
            seconds=seconds,
            first_token_s=first_s,
            verdicts=journey.verdicts,
            is_stream=journey.is_stream,
            queue_s=journey.queue_s,
        )
        self.limits.spend(journey.key, usage.prompt + usage.completion, time.time())
        record = ended_record(journey, usage, seconds, first_s)
        self._note(record, soon=True)
        for tell in self.on_ended:
            tell(record, journey)
        if journey.captured is not None:
            texts, sent = journey.captured
            self.captures.keep(journey.id, texts, b"".join(sent).decode(errors="replace"))
        return refusal

    # What may be asked of it and done to it

    def models(self) -> dict[str, Any]:
        """The list of `/v1/models`. Asking wakes nothing."""
        states = self.dispatcher.states()
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "trimtab", "state": states[model.name], "alias_of": alias_of}
            for model in self.site.models
            for name, alias_of in ((model.name, None), *((alias, model.name) for alias in model.aliases))
        ]
        return {"object": "list", "data": rows}

    def state(self) -> dict[str, Any]:
        """Traffic, replicas, queues and memory, for whoever runs it."""
        traffic = {model.name: to_plain(model.rollout) for model in self.site.models}
        return {"draining": self.is_draining, "traffic": traffic, **self.dispatcher.snapshot()}

    async def shift(self, name: str, action: str, percent: Any = None) -> None:
        """Do one of traffic.ACTIONS to a model. Kept on disk before it takes effect. Raises Refusal."""
        model = self.site.model_called(name)
        if model is None:
            raise Refusal(404, f"The model {name!r} does not exist.", code="model_not_found", param="model")
        rollout = shifted(model, action, percent)
        site = with_rollout(self.site, model.name, rollout)
        keep(self.traffic_path, self.declared, site)
        note = self._note(
            {"event": "traffic", "model": model.name, "action": action, "before": to_plain(model.rollout), "after": to_plain(rollout)}
        )
        self.site = site
        await self.dispatcher.reconfigure(site)
        if note is not None:
            await note

    async def reconfigure(self, declared: Site, guards: Mapping[str, Guards]) -> None:
        """Take another configuration. Requests under way end as they began; listening addresses stay."""
        self.site = kept(self.traffic_path, declared)
        self.declared, self.guards = declared, guards
        await self.dispatcher.reconfigure(self.site)

    async def finish_notes(self) -> None:
        """Wait until everything that was to be noted is."""
        for task in self._shadows:
            task.cancel()
        waiting = self._notes | self._shadows
        if waiting:
            await asyncio.wait(waiting)


async def _with_first(first: Frame, rest: AsyncIterator[Frame]) -> AsyncIterator[Frame]:
    yield first
    async for frame in rest:
        yield frame
