"""The worker process and its client, with an engine that has no model."""

import asyncio
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineCrashed, EngineHung, EngineRefused, InputError
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.engines.base import GenerateRequest, ScoreRequest, TokenEvent
from trimtab.engines.client import WorkerClient, WorkerEngine
from trimtab.engines.protocol import decode, encode, event_line
from trimtab.testing.fake_engine import CRASH_ID, FAIL_ID, HANG_ID, FakeEngine

SNAPSHOT = Snapshot(
    source="fake", format="gguf", root=Path("/nowhere"), files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256="0" * 64),)
)


@pytest.fixture(autouse=True)
def fake_engine_installed(tmp_path, monkeypatch):
    """What an installed third-party package looks like to the worker: a dist-info with an entry point on the path."""
    info = tmp_path / "fake_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trimtab.engines]\nfake = trimtab.testing.fake_engine:FakeEngine\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def with_client(scenario, **options):
    async def run():
        client = await WorkerClient.start("fake", SNAPSHOT, Settings(), **options)
        try:
            return await scenario(client)
        finally:
            await client.close()
            assert client.process.returncode is not None

    return asyncio.run(run())


def token(request_id, token_id):
    return TokenEvent(request_id=request_id, token_id=token_id, logprob=-0.5, time_ns=1)


async def collect(client, request):
    return [event async for event in client.generate(request)]


def test_worker_scores_like_the_engine_itself():
    request = ScoreRequest(
        prefix_ids=(3, 4), continuations=((5, 6), (7,)), watch=(((1, 2), (3,)), ((9,),)), top_k=3, logit_bias=((5, 1.5),)
    )
    direct = FakeEngine(SNAPSHOT, Settings()).score([request])
    assert with_client(lambda client: client.score([request])) == direct


def test_many_requests_stream_at_once_and_keep_their_own_tokens():
    async def scenario(client):
        alone = await collect(
            client, GenerateRequest(request_id=99, prompt_ids=(5,), max_tokens=20, temperature=1.0, seed=3, ignore_end=True)
        )
        together = await asyncio.gather(
            *(
                collect(client, GenerateRequest(request_id=n, prompt_ids=(5,), max_tokens=20, temperature=1.0, seed=n, ignore_end=True))
                for n in range(8)
            )
        )
        return alone, together

    alone, together = with_client(scenario)
    assert [len(events) for events in together] == [20] * 8
    assert [event.token_id for event in together[3]] == [event.token_id for event in alone]
    assert all(events[-1].done == "length" and not any(event.done for event in events[:-1]) for events in together)
    assert all(event.time_ns > 0 and event.logprob is not None and math.isfinite(event.logprob) for events in together for event in events)


def test_leaving_a_stream_cancels_the_request():
    async def scenario(client):
        stream = client.generate(GenerateRequest(request_id=1, prompt_ids=(5,), max_tokens=400, ignore_end=True))
        async for _ in stream:
            break
        await stream.aclose()
        return await client.score([ScoreRequest(prefix_ids=(1,), continuations=((2,),))])  # waits until nothing runs

    assert len(with_client(scenario)) == 1


def test_a_refusal_is_one_sentence_and_the_worker_goes_on():
    async def scenario(client):
        with pytest.raises(EngineRefused, match="refuses token 62"):
            await client.score([ScoreRequest(prefix_ids=(FAIL_ID,), continuations=((1,),))])
        with pytest.raises(EngineRefused, match="context of 512"):
            await collect(client, GenerateRequest(request_id=1, prompt_ids=(1,), max_tokens=4000))
        with pytest.raises(EngineRefused, match="refuses token 62"):
            await collect(client, GenerateRequest(request_id=2, prompt_ids=(FAIL_ID,), max_tokens=4))
        return await client.tokenize(["ab c"])

    assert with_client(scenario) == [[1, 2, 27, 3]]


def test_a_crash_ends_every_pending_call_and_names_the_signal():
    async def scenario(client):
        doomed = ScoreRequest(prefix_ids=(CRASH_ID,), continuations=((1,),))
        results = await asyncio.gather(client.score([doomed]), client.tokenize(["later"]), return_exceptions=True)
        assert isinstance(results[0], EngineCrashed)
        assert "SIGSEGV" in str(results[0])
        with pytest.raises(EngineCrashed):
            await client.info()

    with_client(scenario)


def test_a_killed_worker_says_so():
    async def scenario(client):
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineCrashed, match="was killed"):
            await client.info()

    with_client(scenario)


def test_a_call_to_a_worker_whose_pipe_is_closed_is_a_crash_and_no_other_error(monkeypatch):
    """uvloop, which serves, may close the pipe of a killed worker some moments before the reader knows why it died."""

    class Closed:
        def write(self, data):
            raise RuntimeError("unable to perform operation on <WriteUnixTransport closed=True>; the handler is closed")

    async def scenario(client):
        os.kill(client.pid, signal.SIGKILL)
        with monkeypatch.context() as patch:
            patch.setattr(client.process, "stdin", Closed())
            with pytest.raises(EngineCrashed, match="was killed"):
                await client.info()

    with_client(scenario)


def test_a_hang_is_found_and_the_process_is_gone():
    async def scenario(client):
        with pytest.raises(EngineHung, match="did not answer within 1 s"):
            await client.score([ScoreRequest(prefix_ids=(HANG_ID,), continuations=((1,),))])
        assert client.process.returncode == -signal.SIGKILL

    async def run():
        client = await WorkerClient.start("fake", SNAPSHOT, Settings())
        client.silence_limit_s = 1.0
        try:
            await scenario(client)
        finally:
            await client.close()

    asyncio.run(run())


class Scripted:
    """A process that says what a test feeds it, and hears nothing. It has ended, so nothing is killed."""

    pid, returncode, stdin = 0, 0, type("Stdin", (), {"write": lambda self, data: None, "drain": lambda self: asyncio.sleep(0)})()

    def __init__(self):
        self.stdout = asyncio.StreamReader()

    async def wait(self):
        return 0


def with_scripted(tmp_path, scenario, silence_limit_s):
    async def run():
        process = Scripted()
        with (tmp_path / "log").open("w+b") as log:
            client = WorkerClient(process, log, silence_limit_s)
            await scenario(client, process.stdout.feed_data)
            process.stdout.feed_eof()
            await client._reader

    asyncio.run(run())


def test_a_call_may_wait_for_longer_than_the_limit_while_the_worker_speaks(tmp_path):
    """A request that waits for a slot, or for its adapter's turn, hears nothing of its own."""

    async def scenario(client, feed):
        call = asyncio.create_task(client.tokenize(["a"]))
        for _ in range(6):
            await asyncio.sleep(0.25)
            feed(encode({"id": 77, "event": {}}))
        feed(encode({"id": 1, "ok": [[1]]}))
        assert await call == [[1]]

    with_scripted(tmp_path, scenario, 1.0)


def test_who_takes_tokens_slowly_is_not_taken_for_a_hang(tmp_path):
    async def scenario(client, feed):
        stream = client.generate_groups(GenerateRequest(request_id=5, prompt_ids=(1,), max_tokens=4))
        first = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        feed(event_line(1, token(5, 7)))
        assert [event.token_id for event in await first] == [7]
        await asyncio.sleep(0.5)
        feed(event_line(1, token(5, 8)) + event_line(1, token(5, 9)) + encode({"id": 1, "ok": None}))
        assert [[event.token_id for event in group] async for group in stream] == [[8, 9]]
        hung = asyncio.create_task(client.tokenize(["a"]))
        await asyncio.sleep(0.5)
        assert client._dead is not None, "who waits is told"
        feed(encode({"id": 2, "ok": [[1]]}))
        assert await hung == [[1]]

    with_scripted(tmp_path, scenario, 0.2)


def test_messages_come_in_any_pieces(tmp_path):
    async def scenario(client, feed):
        calls = [asyncio.create_task(client.tokenize(["a"])) for _ in range(3)]
        await asyncio.sleep(0)
        said = b"".join(encode({"id": number, "ok": [[number] * 50]}) for number in (2, 1, 3))
        for start in range(0, len(said), 97):
            feed(said[start : start + 97])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert await asyncio.gather(*calls) == [[[number] * 50] for number in (1, 2, 3)]

    with_scripted(tmp_path, scenario, 5.0)


def test_unknown_engine_and_unknown_setting():
    async def start(engine, settings):
        await (await WorkerClient.start(engine, SNAPSHOT, settings)).close()

    with pytest.raises(InputError, match="Unknown engine 'nope'"):
        asyncio.run(start("nope", Settings()))
    with pytest.raises(EngineRefused, match="no setting device_layers"):
        asyncio.run(start("fake", Settings(device_layers=3)))


def test_a_worker_and_its_threads_keep_to_the_cores_given():
    core = max(os.sched_getaffinity(0))

    async def scenario():
        client = await WorkerClient.start("fake", SNAPSHOT, Settings(cpu_affinity=str(core)))
        await collect(client, GenerateRequest(request_id=1, prompt_ids=(1,), max_tokens=3, ignore_end=True))
        cores = os.sched_getaffinity(client.pid)
        await client.close()
        return cores

    assert asyncio.run(scenario()) == {core}
    assert len(os.sched_getaffinity(0)) >= 1

    async def elsewhere():
        await (await WorkerClient.start("fake", SNAPSHOT, Settings(cpu_affinity="0-9999"))).close()

    with pytest.raises(EngineRefused, match=r"names core .*; the cores that can be used here are"):
        asyncio.run(elsewhere())


def test_worker_ends_with_its_parent():
    """The parent is killed -9 while the worker is hung in a computation; the worker must not stay behind."""
    script = f"""
import asyncio, sys
from pathlib import Path
from trimtab.core.deployment import Settings
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.engines.base import ScoreRequest
from trimtab.engines.client import WorkerClient
async def main():
    snapshot = Snapshot(source="x", format="gguf", root=Path("/"), files=(SnapshotFile(name="m", size_bytes=1, sha256="0"*64),))
    client = await WorkerClient.start("fake", snapshot, Settings())
    print(client.pid, flush=True)
    await client.score([ScoreRequest(prefix_ids=({HANG_ID},), continuations=((1,),))])
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker_pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker_pid}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{worker_pid}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{worker_pid}").exists()


def test_synchronous_face():
    engine = WorkerEngine(SNAPSHOT, Settings(), engine="fake")
    try:
        for request_id in range(3):
            engine.submit(GenerateRequest(request_id=request_id, prompt_ids=(5,), max_tokens=10, ignore_end=True))
        with pytest.raises(EngineRefused):
            engine.submit(GenerateRequest(request_id=9, prompt_ids=(5,), max_tokens=10_000))
        events = []
        while engine.n_running:
            events += engine.step()
        assert sorted(event.request_id for event in events if event.done) == [0, 1, 2]
        assert len(events) == 30
        assert engine.step() == []
    finally:
        engine.close()
        engine.close()


def test_protocol_lines_are_single_objects():
    assert decode(encode({"id": 1, "ok": "line\nbreak"})) == {"id": 1, "ok": "line\nbreak"}
    with pytest.raises(ValueError):
        decode(b"[1]\n")
