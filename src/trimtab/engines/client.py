"""Async client of one worker process, and a synchronous face of it with the methods of an Engine.

A crash, a hang or an exhausted memory of the child is a result: the pending call raises EngineCrashed or EngineHung with the cause and
the child's last words, and the caller goes on with the next candidate.
"""

import asyncio
import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.errors import EngineCrashed, EngineHung, EngineRefused, InputError, MissingError, TextTooLong, TrimtabError
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.engines import interpreters
from trimtab.engines.base import Engine, EngineInfo, GenerateRequest, Purpose, ScoreRequest, ScoreResult, TokenEvent
from trimtab.engines.protocol import PROTOCOL_VERSION, decode_all, encode, engine_info_from, score_result_from, token_event_from

READ_BYTES = 2**20
T = TypeVar("T")


class _Inbox:
    """What came for one call. asked_s: since when somebody waits for more, None = nobody does."""

    def __init__(self) -> None:
        self.asked_s: float | None = None
        self._messages: list[dict[str, Any]] = []
        self._came: asyncio.Future[None] | None = None

    def put(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        if self._came is not None and not self._came.done():
            self._came.set_result(None)

    async def take(self) -> list[dict[str, Any]]:
        """All messages that came, waited for if there is none."""
        if not self._messages:
            self.asked_s, self._came = time.monotonic(), asyncio.get_running_loop().create_future()
            try:
                await self._came
            finally:
                self.asked_s = self._came = None
        taken, self._messages = self._messages, []
        return taken


class WorkerClient:
    """One worker process. Use `await WorkerClient.start(...)`; close with `await client.close()`.

    pid: process id of the worker. started_ns: `time.monotonic_ns()` just before the process was made is up to the caller.
    silence_limit_s: a worker that says nothing for this long while a call is pending hangs; it is killed. A call may wait for longer, for
        a slot or for its adapter's turn, as long as others are answered.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, last_words: "tempfile._TemporaryFileWrapper[bytes]", silence_limit_s: float
    ) -> None:
        self.process = process
        self.pid = process.pid
        self.silence_limit_s = silence_limit_s
        self._last_words = last_words
        self._pending: dict[int, _Inbox] = {}
        self._next_id = 0
        self._heard_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._dead: TrimtabError | None = None
        self._reader = asyncio.create_task(self._read_forever())

    @classmethod
    async def start(
        cls,
        engine: str,
        snapshot: Snapshot,
        settings: Settings,
        *,
        purpose: Purpose | None = None,
        python: str = "",
        silence_limit_s: float = 300.0,
    ) -> "WorkerClient":
        """Start a worker, open `snapshot` in `engine` and, if a purpose is given, load it.

        python: the interpreter, empty = the engine's (engines/interpreters.py)
        Raises EngineRefused, EngineCrashed, EngineHung, MissingError, InputError.
        """
        python = python or interpreters.python_of(engine)
        last_words = tempfile.NamedTemporaryFile(prefix="trimtab-worker-", suffix=".log")  # noqa: SIM115 lives as long as the client
        try:
            process = await asyncio.create_subprocess_exec(
                python,
                "-m",
                "trimtab.engines.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=last_words,
                limit=READ_BYTES,
                start_new_session=True,  # Ctrl-C goes to the parent, which closes its workers
            )
        except OSError as error:
            last_words.close()
            if interpreters.is_own(python):
                raise
            raise interpreters.no_interpreter(python, engine, error) from error
        client = cls(process, last_words, silence_limit_s)
        try:
            await client._open(engine, snapshot, settings, python)
            if purpose is not None:
                await client.load(purpose)
        except BaseException:
            await client.kill()
            raise
        return client

    async def _open(self, engine: str, snapshot: Snapshot, settings: Settings, python: str) -> None:
        """Raises as `start`. A process of another interpreter that ends at once lacks something, which is then asked for."""
        try:
            await self._call("open", engine=engine, snapshot=snapshot, settings=settings.given(), protocol=PROTOCOL_VERSION)
        except EngineCrashed:
            if not interpreters.is_own(python):
                await asyncio.to_thread(interpreters.build_in, python, engine)
            raise

    async def load(self, purpose: Purpose) -> None:
        """See Engine.load."""
        await self._call("load", purpose=purpose)

    async def info(self) -> EngineInfo:
        """See Engine.info."""
        return engine_info_from(await self._call("info"))

    async def tokenize(self, texts: Sequence[str], *, parse_special: bool = False, most_tokens: int | None = None) -> list[list[int]]:
        """Token ids of each text. See Engine.tokenize. Raises TextTooLong for one that surely has more than `most_tokens`."""
        ids: list[list[int]] = await self._call("tokenize", texts=list(texts), parse_special=parse_special, most_tokens=most_tokens)
        return ids

    async def detokenize(self, ids: Sequence[int]) -> str:
        """See Engine.detokenize."""
        return str(await self._call("detokenize", ids=list(ids)))

    async def pieces(self, ids: Sequence[int]) -> list[str]:
        """Text of each token alone; half a character shows as the replacement character."""
        texts: list[str] = await self._call("pieces", ids=list(ids))
        return texts

    async def prompt(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), *, most_tokens: int | None = None
    ) -> tuple[list[int], str]:
        """A rendered chat as token ids, markers parsed, and the end of its text: `render` and `tokenize` in one turn of the worker."""
        found = await self._call("prompt", messages=list(messages), tools=list(tools), most_tokens=most_tokens)
        return found["ids"], found["tail"]

    async def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """See Engine.render."""
        return str(await self._call("render", messages=list(messages), tools=list(tools)))

    async def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """See Engine.score."""
        return [score_result_from(plain) for plain in await self._call("score", requests=list(requests))]

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """Tokens of one request as they come; several may run at once. Leaving the iteration early cancels the request."""
        async with contextlib.aclosing(self.generate_groups(request)) as groups:
            async for group in groups:
                for event in group:
                    yield event

    async def generate_groups(
        self, request: GenerateRequest, *, text: bool = False, marks: Mapping[int, str] | None = None
    ) -> AsyncGenerator[list[TokenEvent], None]:
        """As `generate`, all that has come by now at once.

        text: events hold the text that they add; marks: texts of special tokens that are wanted in it
        """
        call_id, inbox = await self._send("generate", request=request, text=text, marks=list((marks or {}).items()))
        end: dict[str, Any] | None = None
        try:
            while end is None:
                messages = await inbox.take()
                end = next((message for message in messages if "event" not in message), None)
                group = [token_event_from(message["event"]) for message in messages if "event" in message]
                if group:
                    yield group
            self._result(end)
        finally:
            self._over(call_id)
            if end is None and self._dead is None:
                await self._call("cancel", request_id=request.request_id)

    async def close(self) -> None:
        """End the worker: asked to, then killed. Idempotent."""
        if self._dead is None:
            with contextlib.suppress(TrimtabError, TimeoutError):
                async with asyncio.timeout(10):
                    await self._call("close")
        await self.kill()

    def _end_process(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def kill(self) -> None:
        """End the worker at once. Idempotent."""
        self._end_process()
        await self.process.wait()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        self._last_words.close()

    async def _call(self, op: str, **arguments: Any) -> Any:
        call_id, inbox = await self._send(op, **arguments)
        try:
            return self._result((await inbox.take())[0])
        finally:
            self._over(call_id)

    async def _send(self, op: str, **arguments: Any) -> tuple[int, _Inbox]:
        if self._dead is not None:
            raise self._dead
        self._next_id += 1
        inbox = self._pending[self._next_id] = _Inbox()
        call_id = self._next_id
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self.silence_limit_s, self._look)
        assert self.process.stdin is not None
        message = encode({"id": call_id, "op": op, **arguments})
        # A broken pipe is noticed by the reader, which knows why. uvloop has a RuntimeError for one that is closed already.
        with contextlib.suppress(ConnectionError, RuntimeError):
            self.process.stdin.write(message)
            await self.process.stdin.drain()
        return call_id, inbox

    def _over(self, call_id: int) -> None:
        del self._pending[call_id]
        if not self._pending and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        """Kill a worker that was silent for too long; the reader then tells all who wait. One timer for all calls: tokens set none."""
        asked_s = min((inbox.asked_s for inbox in self._pending.values() if inbox.asked_s is not None), default=time.monotonic())
        left_s = max(asked_s, self._heard_s) + self.silence_limit_s - time.monotonic()
        if left_s > 0:
            self._watch = asyncio.get_running_loop().call_later(left_s, self._look)
            return
        self._watch = None
        hung = EngineHung(f"The engine did not answer within {self.silence_limit_s:g} s and was stopped.")
        self._dead = self._dead or hung
        self._end_process()

    def _result(self, message: dict[str, Any]) -> Any:
        if "dead" in message:
            assert self._dead is not None
            raise self._dead
        if "error" not in message:
            return message["ok"]
        if message["kind"] == "too_long":
            raise TextTooLong(message["least_tokens"])
        kinds = {"refused": EngineRefused, "missing": MissingError, "input": InputError}
        raise kinds.get(message["kind"], TrimtabError)(message["error"])

    async def _read_forever(self) -> None:
        assert self.process.stdout is not None
        parts: list[bytes] = []  # of a line whose end has not come
        try:
            while data := await self.process.stdout.read(READ_BYTES):
                self._heard_s = time.monotonic()
                lines, newline, rest = data.rpartition(b"\n")
                if newline:
                    for message in decode_all(b"".join((*parts, lines))):
                        inbox = self._pending.get(message.get("id", -1))
                        if inbox is not None:
                            inbox.put(message)
                    parts = []
                parts.append(rest)
        except ValueError:
            pass  # a torn line: the process died while writing
        code = await self.process.wait()
        self._dead = self._dead or EngineCrashed(f"The engine's process {ending(code)}.{self._said()}")
        for inbox in self._pending.values():
            inbox.put({"dead": True})

    def _said(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._last_words.seek(0, os.SEEK_END)
            self._last_words.seek(max(0, self._last_words.tell() - 2000))
            lines = [line.strip() for line in self._last_words.read().decode(errors="replace").splitlines() if line.strip()]
            if lines:
                return f" Its last words: {lines[-1][:300]}"
        return ""


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code == -signal.SIGKILL:
        return "was killed (out of memory, or stopped from outside)"
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


class WorkerEngine(Engine):
    """A worker behind the synchronous Engine methods: what the contract tests run on, and a simple way in for scripts."""

    name = "worker"
    numeric_settings = frozenset()
    speed_settings = frozenset()
    formats = frozenset()

    def __init__(self, snapshot: Snapshot, settings: Settings, *, engine: str = "", silence_limit_s: float = 300.0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._events: list[TokenEvent] = []
        self._came = asyncio.Event()
        self._closed = False
        try:
            self.client = self._run(WorkerClient.start(engine, snapshot, settings, silence_limit_s=silence_limit_s))
        except BaseException:
            self._stop_loop()
            raise

    @classmethod
    def build(cls) -> EngineBuild:
        raise EngineRefused("Ask the engine's own class for its build.")

    @classmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        return ""

    def load(self, purpose: Purpose) -> None:
        self._run(self.client.load(purpose))

    def info(self) -> EngineInfo:
        return self._run(self.client.info())

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        return self._run(self.client.tokenize([text], parse_special=parse_special))[0]

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._run(self.client.detokenize(ids))

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        return self._run(self.client.render(messages, tools))

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        return self._run(self.client.score(requests))

    def submit(self, request: GenerateRequest) -> None:
        self._run(self._start(request))

    def step(self) -> list[TokenEvent]:
        return self._run(self._collect())

    def cancel(self, request_id: int) -> None:
        self._run(self.client._call("cancel", request_id=request_id))

    @property
    def n_running(self) -> int:
        return len(self._running)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._run(self.client.close())
            self._stop_loop()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, request: GenerateRequest) -> None:
        """Raise a refusal here and now, as a direct engine does: wait for the first message of the call."""
        stream = self.client.generate(request)
        self._running[request.request_id] = asyncio.create_task(self._follow(request.request_id, stream))
        await asyncio.sleep(0)
        # The worker answers calls in order: once this one is back, a refusal of the request is too.
        await self.client._call("info")
        task = self._running.get(request.request_id)
        if task is not None and task.done() and task.exception() is not None:
            del self._running[request.request_id]
            await task

    async def _follow(self, request_id: int, stream: AsyncIterator[TokenEvent]) -> None:
        try:
            async for event in stream:
                self._events.append(event)
                self._came.set()
        finally:
            self._came.set()

    async def _collect(self) -> list[TokenEvent]:
        """Events so far; waits for one if requests run and none has come. A failed request raises its error."""
        while self._running and not self._events:
            for request_id, task in list(self._running.items()):
                if task.done():
                    del self._running[request_id]
                    await task
            if self._running and not self._events:
                self._came.clear()
                await self._came.wait()
        events, self._events = self._events, []
        for event in events:
            if event.done:
                self._running.pop(event.request_id, None)
        return events
