"""A replica that is a server of the OpenAI API: an engine's own, started and kept by us, or one that runs already.

The proxy is thin: a request goes out as it came, with the name that the server knows the model by, and its answer comes back in the pieces
in which it was sent. Bytes are read only where a call asks for it, but for the last piece, which says what was counted.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
import msgspec

from trimtab.core.errors import EngineCrashed, EngineHung, InfeasibleError, InputError, TrimtabError
from trimtab.core.site import ServedModel, Version
from trimtab.serve.base import Call, Frame, Ready, Refusal
from trimtab.serve.server_process import ServerProcess, free_port
from trimtab.serve.upstream import data_lines, decoded, frames_of, refusal_of, usage_of

PATHS = {"chat": "/chat/completions", "completion": "/completions", "embedding": "/embeddings"}
SLOTS = 64
"""Of a server that does not say how many requests it works on at once."""
KEEP_S = 4.0
"""An idle connection is kept so long: less than servers keep it (uvicorn 5 s, cpp-httplib 5 s), or a request would meet a closed one."""
URL_LIMIT_S = 5.0
LOOK_S = 0.05
CONNECT_LIMIT_S = 10.0
SMALL_LIMIT_S = 30.0
QUESTION: Mapping[str, Any] = {
    "messages": [{"role": "user", "content": "Which day comes after Monday, Tuesday, Wednesday? Answer with one word."}],
    "temperature": 0,
    "seed": 1,
    "max_tokens": 4,
}


class HttpReplica:
    """A server behind the gateway. See serve.base.Replica.

    silence_limit_s: a server that sends nothing for so long, where it was asked for a stream, hangs. A whole answer takes what it takes:
        how long a request may last is its caller's affair, and a server that hangs is found by its probe.
    """

    def __init__(self, model: ServedModel, version: Version, *, silence_limit_s: float = 600.0) -> None:
        self._version = version
        self._name = model.name
        self._upstream = version.upstream_model or model.name
        self._silence_limit_s = silence_limit_s
        self._base = version.url.rstrip("/")
        self._process: ServerProcess | None = None
        self._session: aiohttp.ClientSession | None = None
        self._known: str | None = None
        names = (_quoted(self._upstream), _quoted(self._name))
        self._renames = [tuple(f'"model":{gap}{name}'.encode() for name in names) for gap in ("", " ")]

    @property
    def pids(self) -> list[int]:
        """The processes of its server; none where it runs elsewhere."""
        return self._process.pids if self._process is not None else []

    async def start(self) -> Ready:
        """Start the server, or find the one that runs, and wait until it answers. Raises InputError, MissingError, InfeasibleError."""
        began_s = time.monotonic()
        headers = {"Content-Type": "application/json", "User-Agent": "trimtab"}
        if self._version.key_variable:
            headers["Authorization"] = f"Bearer {_key_in(self._version.key_variable)}"
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_S)
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar())
        try:
            if self._version.command:
                port = free_port()
                self._process = await ServerProcess.start([part.replace("{port}", str(port)) for part in self._version.command])
                self._base = f"http://127.0.0.1:{port}/v1"
                await self._until_up()
                self._known = await self._first_answer()
            else:
                await self._until_found()
            slots = self._version.slots or await self._slots() or SLOTS
        except BaseException:
            await self.stop()
            raise
        return Ready(load_s=time.monotonic() - began_s, memory_bytes=self.memory_bytes(), slots=slots)

    async def answer(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Frames as they come. Closed early, it closes the connection, which ends the request there."""
        options = dict(call.body.get("stream_options") or {})
        body = {**call.body, "model": self._upstream}
        if call.stream:
            body |= {"stream": True, "stream_options": {**options, "include_usage": True}}
        silence_limit_s = self._silence_limit_s if call.stream else None
        response = await self._post(PATHS[call.kind], msgspec.json.encode(body), silence_limit_s)
        is_whole = False
        try:
            if not call.stream:
                raw = self._renamed(await response.read())
                whole = decoded(raw, self._base) if call.parsed or raw[:1] != b"{" else raw
                usage, _ = usage_of(whole)
                is_whole = True
                yield Frame(body=whole, n_tokens=usage.completion if usage else 0, usage=usage)
                return
            if "event-stream" not in response.headers.get("Content-Type", ""):
                raise Refusal(502, f"The server behind does not stream: {self._base}.", code="bad_upstream")
            lines = (self._renamed(line) async for line in data_lines(response.content.iter_any()))
            frames = frames_of(lines, parsed=call.parsed, with_usage=bool(options.get("include_usage")), where=self._base)
            async for frame in frames:
                yield frame
            with contextlib.suppress(TimeoutError):  # its last bytes, so that the connection can be used again
                async with asyncio.timeout(0.2):
                    await response.read()
                is_whole = True
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise await self._broken(error) from error
        finally:
            if not is_whole:
                response.close()

    async def probe(self) -> None:
        """See serve.base.Replica. A server elsewhere, and one without a chat, is only asked whether it is there."""
        self._check_process()
        try:
            if self._known is None:
                await self._get(f"{self._base}/models")
                return
            answer = await self._small_answer()
            if answer != self._known and (answer := await self._small_answer()) != self._known:
                raise InfeasibleError(f"It answers {answer!r} to a question that it answered {self._known!r} before.")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise await self._broken(error) from error

    def memory_bytes(self) -> int | None:
        process = self._process
        return process.memory_bytes() if process is not None else None

    async def stop(self) -> None:
        process, self._process = self._process, None
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if process is not None:
            await process.stop()

    # Coming up

    async def _until_up(self) -> None:
        """Wait for our server: its /health where it has one, else its list of models. Whoever waits for us sets the limit."""
        root = self._base.removesuffix("/v1")
        while True:
            self._check_process()
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                status = await self._get(f"{root}/health")
                if status in (404, 405, 501):
                    status = await self._get(f"{self._base}/models")
                if status == 200:
                    return
            await asyncio.sleep(LOOK_S)

    async def _until_found(self) -> None:
        """Find the server that runs already. Raises InputError for a refused key, EngineCrashed if nothing is there."""
        ends_s = time.monotonic() + URL_LIMIT_S
        while True:
            why = ""
            try:
                status = await self._get(f"{self._base}/models")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                why = str(error) or type(error).__name__
            else:
                if status in (401, 403):
                    raise InputError(f"{self._base} refuses the key ({status}); `key_variable` names the variable that holds it.")
                if status < 500:
                    return
                why = f"it answers with status {status}"
            if time.monotonic() > ends_s:
                raise EngineCrashed(f"No server answers at {self._base}: {why}.")
            await asyncio.sleep(10 * LOOK_S)

    async def _first_answer(self) -> str | None:
        """What it answers to the small question, None where it has no chat. It also warms the server up."""
        try:
            return await self._small_answer()
        except Refusal:
            return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise await self._broken(error) from error

    async def _small_answer(self) -> str:
        response = await self._post(PATHS["chat"], msgspec.json.encode({**QUESTION, "model": self._upstream}))
        body = decoded(await response.read(), self._base)
        message = (body.get("choices") or [{}])[0].get("message") or {}
        return f"{message.get('reasoning_content') or ''}{message.get('content') or ''}"

    async def _slots(self) -> int | None:
        """How many requests it works on at once, where it says so (llama.cpp does)."""
        if self._process is None:
            return None
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, TrimtabError, TypeError, ValueError):
            timeout = aiohttp.ClientTimeout(total=SMALL_LIMIT_S)
            async with self._open.get(f"{self._base.removesuffix('/v1')}/props", timeout=timeout) as response:
                if response.status == 200:
                    return max(0, int(decoded(await response.read(), self._base).get("total_slots") or 0)) or None
        return None

    # Exchanges

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EngineCrashed("The server was stopped.")
        return self._session

    async def _get(self, url: str) -> int:
        """The status that a small question of no cost gets."""
        async with self._open.get(url, timeout=aiohttp.ClientTimeout(total=SMALL_LIMIT_S), allow_redirects=False) as response:
            await response.read()
            return response.status

    async def _post(self, path: str, raw: bytes, silence_limit_s: float | None = None) -> aiohttp.ClientResponse:
        """The response to a request, its head read. A connection that breaks before that is tried anew once. Raises Refusal."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S, sock_read=silence_limit_s)
        for is_second in (False, True):
            self._check_process()
            try:
                response = await self._open.post(self._base + path, data=raw, allow_redirects=False, timeout=timeout)
                break
            except TimeoutError as error:
                raise await self._broken(error) from error
            except (aiohttp.ClientError, OSError) as error:
                if is_second:
                    raise await self._broken(error) from error
        if response.status == 200:
            return response
        try:
            said = await response.read()
        except (aiohttp.ClientError, OSError):
            said = b""
        raise refusal_of(response.status, said, response.headers.get("Retry-After"), self._base)

    def _renamed(self, raw: bytes) -> bytes:
        """The answer with the name that clients know the model by. No string of JSON holds such text: its quotes are escaped."""
        if self._upstream != self._name:
            for before, after in self._renames:
                raw = raw.replace(before, after)
        return raw

    def _check_process(self) -> None:
        """Raises EngineCrashed if our server has ended."""
        if self._process is not None and not self._process.is_running:
            raise EngineCrashed(self._process.said())

    async def _broken(self, error: Exception) -> TrimtabError:
        """What a broken exchange means: the server is dead, it hangs, or only this one exchange has failed."""
        if self._process is not None and await self._process.ended(0.5):
            return EngineCrashed(self._process.said())
        if isinstance(error, TimeoutError):
            return EngineHung(f"{self._base} did not answer in time.")
        if self._session is not None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                if await self._get(f"{self._base}/models") < 500:
                    return Refusal(502, "The server behind broke off its answer.", code="bad_upstream", retry_after_s=1)
        return EngineCrashed(f"{self._base} does not answer any more: {error or type(error).__name__}.")


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _key_in(variable: str) -> str:
    """The key that an environment variable holds. Raises InputError if it holds none."""
    key = os.environ.get(variable, "")
    if not key:
        raise InputError(f"The environment variable {variable} holds no key; `key_variable` names it.")
    return key
