"""Servers behind the gateway: frames as they were sent, errors as clients can use them, and processes that never outlive us."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import EngineCrashed, EngineHung, InfeasibleError, InputError, MissingError
from trimtab.core.site import Rollout, ServedModel, Version
from trimtab.serve.base import Call, Frame, Refusal, Usage
from trimtab.serve.replica_http import HttpReplica
from trimtab.serve.server_process import free_port
from trimtab.serve.upstream import data_lines, frames_of
from trimtab.testing.fake_server import FakeServer

SERVER = Path(__file__).with_name("server_child.py")
ASK = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "temperature": 0}


def replica_of(url: str = "", *, command: tuple[str, ...] = (), silence_limit_s: float = 30.0, **version: Any) -> HttpReplica:
    only = Version(id="chat@1", url=url, command=command, upstream_model="m", **version)
    return HttpReplica(ServedModel(name="chat", versions=(only,), rollout=Rollout(stable="chat@1")), only, silence_limit_s=silence_limit_s)


def child(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(SERVER), "{port}", *arguments)


def call(*, stream: bool = True, parsed: bool = True, **body: Any) -> Call:
    return Call(id="1", kind="chat", body={**ASK, **body}, stream=stream, parsed=parsed)


async def frames(replica: HttpReplica, asked: Call) -> list[Frame]:
    return [frame async for frame in replica.answer(asked)]


def with_replica(replica: HttpReplica, play: Callable[[HttpReplica], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(30):
            await replica.start()
            try:
                await play(replica)
            finally:
                await replica.stop()

    asyncio.run(whole())


def plain(frame: Frame) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(frame.body) if isinstance(frame.body, bytes) else dict(frame.body)
    return found


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def gone_within(pids: list[int], limit_s: float) -> bool:
    ends_s = time.monotonic() + limit_s
    while alive(pids) and time.monotonic() < ends_s:
        time.sleep(0.02)
    return not alive(pids)


@pytest.mark.parametrize("parsed", [True, False])
@pytest.mark.parametrize("asks_usage", [True, False])
def test_a_stream_comes_through_and_its_usage_is_known(parsed: bool, asks_usage: bool) -> None:
    async def play(replica: HttpReplica) -> None:
        options = {"stream_options": {"include_usage": True}} if asks_usage else {}
        found = await frames(replica, call(parsed=parsed, **options))
        chunks = [plain(frame) for frame in found]
        assert all(isinstance(frame.body, bytes) is not parsed for frame in found)
        assert len("".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]).split()) == 5
        assert {chunk["model"] for chunk in chunks} == {"chat"}, "clients see the name that they asked for"
        assert [frame.usage for frame in found if frame.usage] == [Usage(prompt=8, completion=5)]
        assert found[-1].usage is not None
        assert [chunk for chunk in chunks if not chunk["choices"]] == ([chunks[-1]] if asks_usage else [])
        assert sum(frame.n_tokens for frame in found) == 5

    with FakeServer() as server:
        with_replica(replica_of(server.url), play)
        assert {body["model"] for _, body in server.requests} == {"m"}


@pytest.mark.parametrize("parsed", [True, False])
def test_a_whole_answer_comes_through(parsed: bool) -> None:
    async def play(replica: HttpReplica) -> None:
        (frame,) = await frames(replica, call(stream=False, parsed=parsed))
        assert isinstance(frame.body, bytes) is not parsed
        assert plain(frame)["model"] == "chat"
        assert frame.usage == Usage(prompt=8, completion=5)

    with FakeServer() as server:
        with_replica(replica_of(server.url), play)


@pytest.mark.parametrize(
    ("fault", "stream", "status", "said"),
    [
        ("400", False, 400, "planted 400"),
        ("429", False, 429, "busy: planted 429"),
        ("503", True, 503, "busy: planted 503"),
        ("500", True, 502, "failed: planted 500"),
        ("html", False, 502, "no JSON"),
        ("html", True, 502, "does not stream"),
        ("not-json", False, 502, "no JSON"),
        ("cut-body", False, 502, "broke off"),
        ("cut-stream", True, 502, "broke off"),
        ("no-finish", True, 502, "ended its answer early"),
        ("error-event", True, 502, "out of memory"),
    ],
)
def test_errors_of_the_server_become_errors_that_clients_can_use(fault: str, stream: bool, status: int, said: str) -> None:
    async def play(replica: HttpReplica) -> None:
        with pytest.raises(Refusal) as caught:
            await frames(replica, call(stream=stream))
        assert caught.value.status == status
        assert said in str(caught.value)
        assert (caught.value.retry_after_s is None) == (status == 400 or said == "does not stream")
        assert await frames(replica, call()), "one failed request is no dead server"

    with FakeServer(faults=[fault]) as server:
        with_replica(replica_of(server.url), play)


def test_a_web_page_is_no_answer_though_nobody_reads_it() -> None:
    async def play(replica: HttpReplica) -> None:
        with pytest.raises(Refusal, match="no JSON"):
            await frames(replica, call(stream=False, parsed=False))

    with FakeServer(faults=["html"]) as server:
        with_replica(replica_of(server.url), play)


def test_a_connection_that_breaks_before_any_answer_is_tried_anew_once() -> None:
    async def play(replica: HttpReplica) -> None:
        assert await frames(replica, call())
        with pytest.raises(Refusal, match="broke off"):
            await frames(replica, call())

    with FakeServer(faults=["closed", None, "closed", "closed"]) as server:
        with_replica(replica_of(server.url), play)


def test_a_server_that_says_nothing_hangs() -> None:
    async def play(replica: HttpReplica) -> None:
        with pytest.raises(EngineHung):
            await frames(replica, call())

    with FakeServer(faults=["slow"]) as server:
        with_replica(replica_of(server.url, silence_limit_s=0.2), play)


def test_a_server_that_went_away_is_a_dead_replica() -> None:
    port = free_port()

    async def play(replica: HttpReplica) -> None:
        assert await frames(replica, call())
        server.kill()
        server.wait()
        with pytest.raises(EngineCrashed, match="does not answer any more"):
            await frames(replica, call())
        with pytest.raises(EngineCrashed):
            await replica.probe()

    with subprocess.Popen([sys.executable, SERVER, str(port)], stdout=subprocess.DEVNULL) as server:
        with_replica(replica_of(f"http://127.0.0.1:{port}/v1"), play)


def test_a_url_without_server_or_with_another_key_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.serve.replica_http.URL_LIMIT_S", 0.1)
    with pytest.raises(EngineCrashed, match=r"No server answers at http://127\.0\.0\.1:9/v1"):
        asyncio.run(replica_of("http://127.0.0.1:9/v1").start())
    with pytest.raises(InputError, match="NO_SUCH_KEY holds no key"):
        asyncio.run(replica_of("http://127.0.0.1:9/v1", key_variable="NO_SUCH_KEY").start())
    monkeypatch.setenv("SOME_KEY", "wrong")
    with FakeServer(key="right") as server:
        with pytest.raises(InputError, match="refuses the key"):
            asyncio.run(replica_of(server.url, key_variable="SOME_KEY").start())
        monkeypatch.setenv("SOME_KEY", "right")
        asyncio.run(_start_and_stop(replica_of(server.url, key_variable="SOME_KEY")))


async def _start_and_stop(replica: HttpReplica) -> None:
    await replica.start()
    await replica.stop()
    await replica.stop()


class Upstream:
    """A server in this loop that knows who is connected and who left."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.left = asyncio.Event()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.ports.append(request.transport.get_extra_info("peername")[1])  # type: ignore[union-attr]
        body = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for _ in range(body["max_tokens"]):
                await response.write(b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n')
                await asyncio.sleep(0.005)
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            return response
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    async def serve(self) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


def test_closing_early_ends_the_request_upstream_and_connections_are_used_again() -> None:
    async def play() -> None:
        upstream = Upstream()
        runner, url = await upstream.serve()
        replica = replica_of(url)
        await replica.start()
        for _ in range(3):
            assert len(await frames(replica, call(max_tokens=2))) == 2
        assert len(set(upstream.ports)) == 1
        answer = replica.answer(call(max_tokens=100_000))
        await anext(answer)
        await answer.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(2):
            await upstream.left.wait()
        assert len(await frames(replica, call(max_tokens=2))) == 2
        await replica.stop()
        await runner.cleanup()

    asyncio.run(play())


CHUNKS = [{"id": "é", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in ("a", "\n\ndata: b", "")]
LAST = {"id": "é", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
COUNTED = {"id": "é", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}}
EVENTS = (
    ": hello\n\ndata: {}\n\n",
    "event: chunk\r\ndata: {}\r\n\r\n",
    "data:{}\n\n",
    "data: {}\r\n\r\n",
    "data: {}\n\n",
    "data: [DONE]\n\n",
)
STREAM = "".join(event.replace("{}", json.dumps(one)) for event, one in zip(EVENTS, [*CHUNKS, LAST, COUNTED, None], strict=True)).encode()


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12), parsed=st.booleans(), with_usage=st.booleans())
def test_a_stream_may_come_in_any_pieces(cuts: list[int], parsed: bool, with_usage: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        places = [0, *sorted(cuts), len(STREAM)]
        for start, end in itertools.pairwise(places):
            yield STREAM[start:end]

    async def read() -> list[Frame]:
        return [frame async for frame in frames_of(data_lines(pieces()), parsed=parsed, with_usage=with_usage, where="there")]

    found = asyncio.run(read())
    assert [plain(frame) for frame in found] == [*CHUNKS, LAST, *([COUNTED] if with_usage else [])]
    assert [frame.usage for frame in found][-1] == Usage(prompt=3, completion=2, cached=1)


# Our own child processes


def test_an_engines_server_is_started_waited_for_and_ended_with_all_its_helpers(tmp_path: Path) -> None:
    pids: list[int] = []

    async def play(replica: HttpReplica) -> None:
        pids.extend(int(word) for word in (tmp_path / "pids").read_text().split())
        assert len(alive(pids)) == 3
        assert set(pids) <= set(replica.pids)
        assert (replica.memory_bytes() or 0) > 5 * 2**20
        await replica.probe()
        assert await frames(replica, call())

    with_replica(replica_of(command=child("--after", "0.2", "--pids", str(tmp_path / "pids"))), play)
    assert gone_within(pids, 1.0)


@pytest.mark.slow
def test_a_server_that_does_not_hear_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.serve.server_process.GRACE_S", 0.3)
    pids: list[int] = []

    async def play(replica: HttpReplica) -> None:
        pids.extend(replica.pids)

    with_replica(replica_of(command=child("--deaf")), play)
    assert pids
    assert gone_within(pids, 1.0)


@pytest.mark.parametrize("begun", [True, False])
def test_a_killed_server_is_a_crash_with_its_last_words(begun: bool) -> None:
    async def play(replica: HttpReplica) -> None:
        answer = replica.answer(call())
        if begun:
            await anext(answer)
        os.kill(replica.pids[0], signal.SIGKILL)
        with pytest.raises(EngineCrashed, match=r"was killed.*last words: \S"):
            async for _ in answer:
                pass
        with pytest.raises(EngineCrashed, match="was killed"):
            await replica.probe()

    with_replica(replica_of(command=child("--gap", "0.2")), play)


def test_a_command_that_ends_or_is_not_there_is_one_sentence() -> None:
    failing = (sys.executable, "-c", "import sys; sys.exit('no such model: x {port}')")
    with pytest.raises(EngineCrashed, match=r"exit code 1\. Its last words: no such model: x \d+"):
        asyncio.run(replica_of(command=failing).start())
    with pytest.raises(MissingError, match="'no-such-program' was not found"):
        asyncio.run(replica_of(command=("no-such-program", "{port}")).start())


def test_another_answer_to_the_known_question_is_noticed() -> None:
    async def play(replica: HttpReplica) -> None:
        await replica.probe()
        replica._known = "Friday"
        with pytest.raises(InfeasibleError, match="that it answered 'Friday' before"):
            await replica.probe()

    with_replica(replica_of(command=child()), play)


GATEWAY = """
import asyncio, sys
from trimtab.core.site import Rollout, ServedModel, Version
from trimtab.serve.replica_http import HttpReplica
version = Version(id="v", command=tuple(sys.argv[1:]), upstream_model="m")
async def main():
    replica = HttpReplica(ServedModel(name="chat", versions=(version,), rollout=Rollout(stable="v")), version)
    await replica.start()
    print("up", flush=True)
    await asyncio.sleep(300)
asyncio.run(main())
"""


@pytest.mark.slow
def test_a_killed_gateway_leaves_no_orphan(tmp_path: Path) -> None:
    command = child("--deaf", "--pids", str(tmp_path / "pids"))
    with subprocess.Popen([sys.executable, "-c", GATEWAY, *command], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "up\n"
        pids = [one.pid for one in psutil.Process(gateway.pid).children(recursive=True)]
        assert {int(word) for word in (tmp_path / "pids").read_text().split()} <= set(pids)
        assert len(pids) == 4, "the keeper, the server, and its two helpers"
        gateway.kill()
    assert gone_within(pids, 5.0)
