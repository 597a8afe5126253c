"""Data behind addresses: memory://, and a server of HTTP that breaks off, forgets and lies."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError, MissingError
from trimtab.train.data import places
from trimtab.train.data.places import RemotePlace
from trimtab.train.data.stream import Stream

fsspec = pytest.importorskip("fsspec")
TEXTS = [{"text": f"Document {n} says {n * n} things."} for n in range(40)]
Opened = Callable[..., Stream]
Write = Callable[..., str]


class Server:
    """Serves a folder. ranges: whether it knows them; refuse: paths answered 503 so many times; swap: path to other bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ranges = folder, True
        self.refuse: dict[str, int] = {}
        self.swap: dict[str, list[bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def do_GET(self, body: bool = True) -> None:
                name = self.path.lstrip("/")
                span = self.headers.get("Range", "")
                if body:
                    server.asked.append((name, span))
                if server.refuse.get(name, 0) and body:
                    server.refuse[name] -= 1
                    self.send_error(503)
                    return
                path = server.folder / name
                if not path.is_file():
                    self.send_error(404)
                    return
                raw = server.swap[name].pop(0) if body and server.swap.get(name) else path.read_bytes()
                if span and server.ranges:
                    begin, end = (int(part) for part in span.removeprefix("bytes=").split("-"))
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {begin}-{end}/{len(raw)}")
                    raw = raw[begin : end + 1]
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(raw)))
                if server.ranges:
                    self.send_header("Accept-Ranges", "bytes")
                self.end_headers()
                if body:
                    self.wfile.write(raw)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=partial(self._http.serve_forever, poll_interval=0.01), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(places, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(places, "BLOCK_BYTES", 500)
    (tmp_path / "served").mkdir()
    found = Server(tmp_path / "served")
    yield found
    found.close()


@pytest.fixture
def shards(opened: Opened, write_lines: Write, small_shards: None, tmp_path: Path, server: Server) -> Stream:
    """A stream whose shards the server serves."""
    stream = opened(write_lines(TEXTS), cache=tmp_path / "made")
    (folder,) = (tmp_path / "made" / "prepared").iterdir()
    folder.rename(server.folder / "shards")
    return stream


def an_epoch(stream: Stream) -> bytes:
    steps = stream.steps(first_step=0, rank=0, world=1, micro_batch_seqs=stream.n_sequences, grad_accum=1)
    (batch,) = next(iter(steps))
    return batch.input_ids.tobytes() + batch.target_ids.tobytes()


def test_shards_of_a_server_give_what_shards_here_give(opened: Opened, shards: Stream, server: Server, tmp_path: Path) -> None:
    there = opened(f"{server.address}/shards")
    assert there.digest == shards.digest
    whole = an_epoch(there)
    assert len(whole) > 1000
    n_bytes, fetch_s = there.fetched()
    assert n_bytes == sum(path.stat().st_size for path in (server.folder / "shards").glob("*.parquet"))
    assert fetch_s > 0
    there.close()
    server.asked.clear()
    assert an_epoch(opened(f"{server.address}/shards/manifest.json")) == whole
    assert [name for name, _ in server.asked if name.endswith(".parquet")] == []  # they are in the cache
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []


def test_what_fails_in_passing_is_tried_again(opened: Opened, shards: Stream, server: Server) -> None:
    server.refuse = {"shards/manifest.json": 2, "shards/shard-00001.parquet": 3}
    assert len(an_epoch(opened(f"{server.address}/shards"))) > 1000
    assert set(server.refuse.values()) == {0}


def test_a_broken_off_shard_goes_on_where_it_ended(opened: Opened, shards: Stream, server: Server, tmp_path: Path) -> None:
    there = opened(f"{server.address}/shards")
    original = RemotePlace.download

    def cut(self: RemotePlace, name: str, part: Path, n_bytes: int) -> None:
        original(self, name, part, min(n_bytes, 700))
        raise MissingError("The line is down.")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RemotePlace, "download", cut)
        with pytest.raises(MissingError, match="The line is down"):
            an_epoch(there)
    there.close()
    kept = {path.name: path.stat().st_size for path in (tmp_path / "cache" / "incoming").iterdir()}
    assert set(kept.values()) == {700}
    server.asked.clear()
    assert len(an_epoch(opened(f"{server.address}/shards"))) > 1000
    assert len({name for name, span in server.asked if span.startswith("bytes=700-")}) == len(kept)


def test_a_damaged_shard_is_brought_once_more_and_then_told(opened: Opened, shards: Stream, server: Server, tmp_path: Path) -> None:
    name = "shards/shard-00001.parquet"
    good = (server.folder / name).read_bytes()
    bad = good[:-1] + bytes([good[-1] ^ 1])
    n_blocks = -(-len(good) // 500)
    server.swap = {name: [bad] * n_blocks}
    assert len(an_epoch(opened(f"{server.address}/shards"))) > 1000
    server.swap = {name: [bad] * 2 * n_blocks}
    with pytest.raises(InputError, match=r"shard-00001\.parquet does not have the digest that its manifest says; put it there again\.$"):
        an_epoch(opened(f"{server.address}/shards", cache=tmp_path / "empty"))
    (server.folder / name).write_bytes(good[:700])
    with pytest.raises(InputError, match=r"shard-00001\.parquet ends after 700 bytes|does not have the digest"):
        an_epoch(opened(f"{server.address}/shards", cache=tmp_path / "empty"))


def test_a_server_without_ranges_serves_too(opened: Opened, shards: Stream, server: Server, write_lines: Write) -> None:
    server.ranges = False
    assert len(an_epoch(opened(f"{server.address}/shards"))) > 1000


def test_a_server_that_has_nothing_or_is_away_is_told(opened: Opened, server: Server) -> None:
    with pytest.raises(InputError, match=r"There is no http://127\.0\.0\.1:\d+/none/manifest\.json; check the address"):
        opened(f"{server.address}/none")
    with pytest.raises(MissingError, match=r"^Cannot read http://127\.0\.0\.1:9/x/manifest\.json: "):
        opened("http://127.0.0.1:9/x")


def test_text_behind_an_address_is_brought_once(opened: Opened, write_lines: Write, server: Server, tmp_path: Path) -> None:
    local = opened(write_lines(TEXTS), cache=tmp_path / "made")
    Path(write_lines(TEXTS)).rename(server.folder / "text.jsonl")
    address = f"{server.address}/text.jsonl"
    assert opened(address).digest == local.digest
    asked = [span for name, span in server.asked if name == "text.jsonl"]
    assert len(asked) > 2
    assert opened(address).digest == local.digest
    assert len([span for name, span in server.asked if name == "text.jsonl"]) <= len(asked) + 1  # no more than a look
    assert list((tmp_path / "cache" / "incoming").glob("[!.]*")) == []


def test_memory_and_patterns(opened: Opened, write_lines: Write, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        for number in range(3):
            memory.pipe_file(f"/place/{number}.jsonl", b'{"text": "Text number %d of the place."}\n' % number)
        memory.pipe_file("/place/other.txt", b"Other.")
        there = opened("memory://place/*.jsonl", shuffle=False)
        here = opened(write_lines([{"text": f"Text number {number} of the place."} for number in range(3)]), shuffle=False)
        assert there.digest == here.digest
        with pytest.raises(InputError, match=r"No file matches memory://place/\*\.parquet"):
            opened("memory://place/*.parquet")
        folder = next((tmp_path / "cache" / "prepared").iterdir())  # of the three files or of the one: they hold the same
        memory.put(str(folder), "/shards", recursive=True)
        assert opened("memory://shards", shuffle=False, cache=tmp_path / "else").digest == here.digest
    finally:
        memory.store.clear()


def test_a_password_in_an_address_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "FIRST_PAUSE_S", 0.001)
    pytest.importorskip("aiohttp")
    place = RemotePlace("http://user:hush@127.0.0.1:9/x")
    with pytest.raises(MissingError) as raised:
        place.read("manifest.json")
    assert "hush" not in str(raised.value)
