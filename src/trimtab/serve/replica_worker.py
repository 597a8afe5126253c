"""A replica that is an engine in a worker process of ours: OpenAI's requests to tokens, and tokens to OpenAI's answers.

A chat is rendered and tokenized by the engine that serves it, markers parsed, as its answers were made when it was evaluated. A model
whose vocabulary asks for a first token gets it, whether the template writes it or not.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineCrashed, EngineRefused, InfeasibleError, TextTooLong
from trimtab.core.files import digest_of
from trimtab.core.model import Adapter, Snapshot
from trimtab.engines.base import ABILITIES, EngineInfo, GenerateRequest, TokenEvent, with_first
from trimtab.engines.client import WorkerClient
from trimtab.serve.base import Call, Frame, Ready, Refusal, Usage
from trimtab.serve.chat import Envelope
from trimtab.serve.choices import ChoiceReader, Piece
from trimtab.serve.families import BARE, PLAIN, THINK, THOUGHT, AnswerReader, Family, family_of, thinks
from trimtab.serve.wishes import Wish, check_schema, check_tools, plain_messages, wish_of

PROBE_TEXT = "One, two, three, four, five, six,"
PROBE_TOKENS = 12
PROBE_AFTER_S = 2.0
"""The answer to be remembered is asked for so long after the start: the request that woke the replica comes first."""
PROBE_TOLERANCE_NATS = 0.1
"""Other requests beside the probe change how many tokens are computed together, which moves log-probabilities by about 0.01."""
PROBE_TURN_S = 45.0
"""A probe that got no turn in this time while other answers went on says nothing: the worker is slow, or busy with an adapter, but it
does not hang. Shorter than Rhythm.probe_limit_s."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Token ids; in_thought: the template has begun the model's reasoning."""

    ids: tuple[int, ...]
    in_thought: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is known of the opened model. marks: texts of the special tokens that its answers are read by; probe_ids: prompt of the probe"""

    info: EngineInfo
    family: Family
    marks: Mapping[int, str]
    may_think: bool
    probe_ids: tuple[int, ...]


Answer = tuple[tuple[int, float], ...]
"""(token, log-probability) of each token."""
Pieces = AsyncGenerator[tuple[ChoiceReader, Piece], None]


class WorkerReplica:
    """See Replica.

    engine: its name; model: what answers call the model; fingerprint: what they say made them, empty = from weights, engine and settings
    adapters: those that calls may name; an answer under one is called after it, and has a fingerprint of its own
    silence_limit_s: an engine that says nothing for so long hangs
    """

    def __init__(
        self,
        *,
        engine: str,
        snapshot: Snapshot,
        settings: Settings,
        model: str,
        fingerprint: str = "",
        adapters: Sequence[Adapter] = (),
        silence_limit_s: float = 300.0,
    ) -> None:
        self._engine, self._snapshot, self._settings, self._name = engine, snapshot, settings, model
        plain = fingerprint or f"fp_{digest_of([engine, snapshot.digest, settings.identity()])[:12]}"
        self._fingerprints = {"": plain} | {one.name: f"fp_{digest_of([plain, one.sha256])[:12]}" for one in adapters}
        self._adapters = tuple(adapters)
        self._silence_limit_s = silence_limit_s
        self._client: WorkerClient | None = None
        self._model: Model | None = None
        self._known: asyncio.Task[Answer] | None = None
        self._numbers = itertools.count(1)
        self._names: dict[int, str] = {}
        self._n_groups = 0
        """Of tokens, in answers so far."""

    async def start(self) -> Ready:
        began_s = time.monotonic()
        snapshot = dataclasses.replace(self._snapshot, adapters=self._adapters)
        client = await WorkerClient.start(self._engine, snapshot, self._settings, purpose="serve", silence_limit_s=self._silence_limit_s)
        try:
            self._model = model = await self._look(client)
        except BaseException:
            await client.kill()
            raise
        self._client = client
        self._known = asyncio.create_task(self._remembered(client, model))
        self._known.add_done_callback(_told_to_nobody)
        slots = model.info.settings.get("slots") or self._settings.slots or 1
        return Ready(load_s=time.monotonic() - began_s, memory_bytes=self.memory_bytes(), slots=int(slots))

    async def _look(self, client: WorkerClient) -> Model:
        info = await client.info()
        family, may_think = family_of(info.chat_template), thinks(info.chat_template)
        wanted = (*family.marks, *((THINK, THOUGHT) if may_think else ()))
        *found, plain = await client.tokenize((*wanted, PROBE_TEXT), parse_special=True)
        marks = {ids[0]: mark for mark, ids in zip(wanted, found, strict=True) if len(ids) == 1}
        probe_ids = with_first(plain, info.bos_id)[: max(1, info.context_tokens - PROBE_TOKENS)]
        return Model(info=info, family=family, marks=marks, may_think=may_think, probe_ids=probe_ids)

    async def answer(self, call: Call) -> AsyncGenerator[Frame, None]:
        client, model = self._running()
        if call.adapter not in self._fingerprints:  # it went with a reload
            raise Refusal(404, f"The model {call.adapter!r} does not exist any more.", code="model_not_found", param="model")
        wish = wish_of(call.kind, call.body)
        check_tools(wish, model.info.chat_template)
        prompts = await self._prompts(client, model, wish, call)
        n_prompt = sum(len(prompt.ids) for prompt in prompts)
        requests = [self._request(model, wish, prompt, choice, call.adapter) for prompt in prompts for choice in range(wish.n)]
        kind: Literal["chat", "completion"] = "chat" if call.kind == "chat" else "completion"
        readers = [
            ChoiceReader(index, kind, wish, self._reader(model, wish, kind, prompt), self._names, is_whole=not call.stream)
            for index, prompt in enumerate(prompt for prompt in prompts for _ in range(wish.n))
        ]
        envelope = Envelope(
            id=f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{call.id}",
            model=call.adapter or self._name,
            created=int(time.time()),
            fingerprint=self._fingerprints[call.adapter],
            kind=kind,
            usage_follows=wish.include_usage,
        )
        n_told = 0
        has_begun = False
        work = [self._choice_pieces(client, model, request, reader) for request, reader in zip(requests, readers, strict=True)]
        try:
            async with contextlib.aclosing(_together(work) if len(work) > 1 else work[0]) as pieces:
                async for reader, piece in pieces:
                    has_begun = True
                    if not call.stream or (piece.is_empty and n_told):
                        continue
                    n_tokens = sum(one.n_tokens for one in readers)
                    is_last = bool(piece.finish) and not wish.include_usage and all(one.has_ended for one in readers)
                    usage = used(n_prompt, readers) if is_last else None
                    yield Frame(body=envelope.chunk([reader.chunk_choice(piece)]), n_tokens=n_tokens - n_told, usage=usage)
                    n_told = n_tokens
        except EngineRefused as error:
            raise self._refused(error, wish, has_begun=has_begun) from error
        n_tokens, n_reasoning = sum(one.n_tokens for one in readers), sum(one.n_reasoning for one in readers)
        usage = used(n_prompt, readers)
        if not call.stream:
            body = envelope.whole([reader.whole_choice() for reader in readers], usage, n_reasoning)
            yield Frame(body=body, n_tokens=n_tokens, usage=usage)
        elif wish.include_usage:
            yield Frame(body=envelope.usage_chunk(usage, n_reasoning), n_tokens=n_tokens - n_told, usage=usage)

    async def probe(self) -> None:
        client, model = self._running()
        n_groups = self._n_groups
        try:
            async with asyncio.timeout(PROBE_TURN_S):
                known, again = await self._known_answer(), await self._probed(client, model.probe_ids)
        except TimeoutError:
            if self._n_groups > n_groups:
                return
            raise InfeasibleError(f"The engine gave no token within {PROBE_TURN_S:g} s.") from None
        if not same_answer(known, again):
            raise InfeasibleError("The engine no longer gives the answer that it gave when it started.")

    def memory_bytes(self) -> int | None:
        client = self._client
        if client is None:
            return None
        try:
            worker = psutil.Process(client.pid)
            return sum(int(process.memory_info().rss) for process in (worker, *worker.children(recursive=True)))
        except psutil.Error:
            return None

    async def stop(self) -> None:
        client, self._client = self._client, None
        if self._known is not None:
            self._known.cancel()
        if client is not None:
            await client.kill()

    # Steps of an answer

    def _running(self) -> tuple[WorkerClient, Model]:
        if self._client is None or self._model is None:
            raise EngineCrashed("The engine was stopped.")
        return self._client, self._model

    async def _prompts(self, client: WorkerClient, model: Model, wish: Wish, call: Call) -> list[Prompt]:
        """Raises Refusal for what cannot be rendered or is too long."""
        context_tokens, param = model.info.context_tokens, "messages" if call.kind == "chat" else "prompt"
        try:
            if call.kind == "chat":
                prompts = [await self._chat_prompt(client, model, wish, call.body)]
            else:
                prompts = await self._text_prompts(client, model, wish, call.body["prompt"])
        except TextTooLong as error:
            raise too_long(error.least_tokens, wish.max_tokens, context_tokens, param, is_least=True) from error
        for prompt in prompts:
            check_length(len(prompt.ids), wish.max_tokens, context_tokens, param)
        return prompts

    async def _text_prompts(self, client: WorkerClient, model: Model, wish: Wish, given: Any) -> list[Prompt]:
        if not isinstance(given, str) and not isinstance(given[0], str):
            return [Prompt(ids=tuple(ids)) for ids in ([given] if isinstance(given[0], int) else given)]
        texts = [given] if isinstance(given, str) else given
        found = await client.tokenize(texts, parse_special=True, most_tokens=most_tokens(wish, model.info))
        ends = model.info.end_ids[:1]
        return [Prompt(ids=with_first(ids, model.info.bos_id) or ends) for ids in found]

    async def _chat_prompt(self, client: WorkerClient, model: Model, wish: Wish, body: Mapping[str, Any]) -> Prompt:
        template, most = model.info.chat_template, most_tokens(wish, model.info)
        tools = body.get("tools") or () if wish.tools else ()
        try:
            try:
                ids, tail = await client.prompt(plain_messages(body["messages"], template), tools, most_tokens=most)
            except EngineRefused:
                if not any(message.get("tool_calls") for message in body["messages"]):
                    raise
                # Some templates write a call's arguments as they are, and want text.
                texts = plain_messages(body["messages"], template, arguments_as_text=True)
                ids, tail = await client.prompt(texts, tools, most_tokens=most)
        except EngineRefused as error:
            raise Refusal(400, str(error), code="invalid_messages", param="messages") from error
        in_thought = model.may_think and tail.rstrip().endswith(THINK)
        check_schema(wish, model.family, in_thought=in_thought)
        return Prompt(ids=with_first(ids, model.info.bos_id), in_thought=in_thought)

    def _request(self, model: Model, wish: Wish, prompt: Prompt, choice: int, adapter: str) -> GenerateRequest:
        room = model.info.context_tokens - len(prompt.ids)
        return GenerateRequest(
            request_id=next(self._numbers),
            prompt_ids=prompt.ids,
            max_tokens=room if wish.max_tokens is None else wish.max_tokens,
            temperature=wish.temperature,
            top_p=wish.top_p,
            seed=wish.seed_of(choice),
            ignore_end=wish.ignore_end,
            stop_ids=wish.stop_ids,
            top_logprobs=wish.logprobs or 0,
            json_schema=wish.json_schema,
            adapter=adapter,
        )

    def _reader(self, model: Model, wish: Wish, kind: str, prompt: Prompt) -> AnswerReader:
        if kind != "chat":
            return AnswerReader(PLAIN)
        family = BARE if wish.is_forced else model.family
        return AnswerReader(family, tools=wish.tools, in_thought=prompt.in_thought, may_think=model.may_think)

    def _refused(self, error: EngineRefused, wish: Wish, *, has_begun: bool) -> Refusal:
        """An engine's refusal, with the field that asked for it where that is known; later than that it gave up."""
        if has_begun:
            return Refusal(500, f"The engine gave up: {error}", code="engine_error", retry_after_s=1)
        ability = next((name for name in ABILITIES if f"({name}:" in str(error)), "")
        schema = "tool_choice" if wish.is_forced else "response_format"
        param = {"json_schema": schema, "top_logprobs": "top_logprobs", "adapter": "model"}.get(ability)
        return Refusal(400, str(error), code="unsupported_parameter" if param else "invalid_request", param=param)

    async def _choice_pieces(self, client: WorkerClient, model: Model, request: GenerateRequest, reader: ChoiceReader) -> Pieces:
        """Pieces of one choice as they come."""
        marks = model.marks if reader.kind == "chat" else {}
        async with contextlib.aclosing(client.generate_groups(request, text=True, marks=marks)) as groups:
            async for events in groups:
                self._n_groups += 1
                if reader.wants_names:
                    await self._learn_names(client, events)
                yield reader, reader.push(events)
                if reader.has_ended:
                    return

    async def _learn_names(self, client: WorkerClient, events: Sequence[TokenEvent]) -> None:
        """Texts of single tokens, asked for once."""
        seen = {event.token_id for event in events if event.token_id is not None} | {token for event in events for token, _ in event.top}
        unknown = sorted(seen - self._names.keys())
        if unknown:
            self._names.update(zip(unknown, await client.pieces(unknown), strict=True))

    async def _known_answer(self) -> Answer:
        """What was remembered. Raises EngineCrashed if the replica is stopped before that."""
        assert self._known is not None
        try:
            return await asyncio.shield(self._known)
        except asyncio.CancelledError:
            if self._known.cancelled():
                raise EngineCrashed("The engine was stopped.") from None
            raise

    async def _remembered(self, client: WorkerClient, model: Model) -> Answer:
        """The answer that the engine must give again later."""
        await asyncio.sleep(PROBE_AFTER_S)
        return await self._probed(client, model.probe_ids)

    async def _probed(self, client: WorkerClient, ids: tuple[int, ...]) -> Answer:
        request = GenerateRequest(request_id=next(self._numbers), prompt_ids=ids, max_tokens=PROBE_TOKENS, ignore_end=True)
        found: list[tuple[int, float]] = []
        async for event in client.generate(request):
            if event.error:
                raise InfeasibleError(f"The engine cannot answer a prompt of {len(ids)} tokens: {event.error}")
            if event.token_id is not None:
                found.append((event.token_id, float("nan") if event.logprob is None else event.logprob))
        return tuple(found)


def used(n_prompt: int, readers: Sequence[ChoiceReader]) -> Usage:
    """What a request has used. A prompt that several choices begin with is cached once, at most."""
    cached = min(n_prompt, sum(one.n_cached for one in readers))
    return Usage(prompt=n_prompt, completion=sum(one.n_tokens for one in readers), cached=cached)


async def _together(work: Sequence[Pieces]) -> Pieces:
    """Several choices side by side. If one fails all end, and so they do if nobody wants them any more."""
    came: asyncio.Queue[tuple[ChoiceReader, Piece] | BaseException | None] = asyncio.Queue()

    async def follow(choice: Pieces) -> None:
        try:
            async with contextlib.aclosing(choice) as pieces:
                async for one in pieces:
                    came.put_nowait(one)
            came.put_nowait(None)
        except Exception as error:
            came.put_nowait(error)

    tasks = [asyncio.create_task(follow(choice)) for choice in work]
    try:
        n_left = len(tasks)
        while n_left:
            match await came.get():
                case None:
                    n_left -= 1
                case BaseException() as error:
                    raise error
                case one:
                    yield one
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _told_to_nobody(task: "asyncio.Task[Any]") -> None:
    """Whoever probes hears of a failure; until then nobody needs to."""
    if not task.cancelled():
        task.exception()


def check_length(n_prompt: int, max_tokens: int | None, context_tokens: int, param: str) -> None:
    """Raises Refusal if a prompt and its answer do not fit the context: nothing is ever cut."""
    if n_prompt + (max_tokens or 1) > context_tokens:
        raise too_long(n_prompt, max_tokens, context_tokens, param)


def most_tokens(wish: Wish, info: EngineInfo) -> int:
    """A prompt with more tokens does not fit."""
    return max(1, info.context_tokens - (wish.max_tokens or 1))


def too_long(n_prompt: int, max_tokens: int | None, context_tokens: int, param: str, *, is_least: bool = False) -> Refusal:
    """is_least: the prompt has so many tokens or more"""
    asked = (
        f"and {max_tokens} for the answer" if max_tokens is not None and n_prompt < context_tokens else "which leaves none for the answer"
    )
    n_sent = f"at least {n_prompt}" if is_least else str(n_prompt)
    return Refusal(
        400,
        f"This model's maximum context length is {context_tokens} tokens. However, you sent {n_sent} tokens in the {param}, {asked}; "
        "send less, or ask for less.",
        code="context_length_exceeded",
        param=param,
    )


def same_answer(known: Sequence[tuple[int, float]], again: Sequence[tuple[int, float]]) -> bool:
    """Whether an engine gave the same greedy answer, up to rounding.

    Two tokens that are as likely may change places. So log-probabilities are compared, up to the first token that differs: after it the
    contexts do, and the greatest probability is the same there if nothing else has changed.
    """
    if len(known) != len(again):
        return False
    for (token, logprob), (other, other_logprob) in zip(known, again, strict=True):
        if not abs(logprob - other_logprob) <= PROBE_TOLERANCE_NATS:
            return False
        if token != other:
            return True
    return True
