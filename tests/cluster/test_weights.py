"""Weights on many nodes: every byte as it was served or not at all, from several peers at once, and on from where a kill cut it off."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.cluster import weights_fetch, weights_folder
from trimtab.cluster.weights_fetch import Fetch, Fetched, manifest_from, peer_of
from trimtab.cluster.weights_folder import Copy, WholeWeights
from trimtab.cluster.weights_manifest import Manifest, manifest_of, read_manifest
from trimtab.cluster.weights_rate import BURST_S, ByteRate
from trimtab.cluster.weights_server import WeightsServer
from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import sha256_file
from trimtab.flows import weights as flow

Serving = Callable[..., WeightsServer]
TOKEN = "a-token-of-these-tests"
CHUNK = 32 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of weights: 40 chunks, the last of each file shorter, one file empty."""
    root = tmp_path / "source"
    (root / "deep").mkdir(parents=True)
    chance = random.Random(1)
    (root / "a.bin").write_bytes(chance.randbytes(30 * CHUNK - 5))
    (root / "deep" / "b.bin").write_bytes(chance.randbytes(9 * CHUNK + 7))
    (root / "empty.json").write_bytes(b"")
    return root


def manifest(root: Path) -> Manifest:
    return manifest_of(root, [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()], chunk_bytes=CHUNK)


@pytest.fixture
def serving() -> Iterator[Serving]:
    """`serving(holding)` starts a node on loopback and ends it with the test."""
    started: list[WeightsServer] = []

    def start(holding: weights_folder.Holding, *, bytes_per_s: float | None = None, token: str = TOKEN) -> WeightsServer:
        server = WeightsServer(holding, token, host="127.0.0.1", port=0, rate=ByteRate(bytes_per_s))
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


def address(server: WeightsServer) -> str:
    return f"127.0.0.1:{server.port}"


def fetched(copy: Copy, *peers: str, own_port: int = 0) -> Fetched:
    return Fetch(copy, peers, TOKEN, own_port=own_port, on_progress=lambda *_: None).run()


def same(a: Path, b: Path) -> bool:
    names = sorted(str(path.relative_to(a)) for path in a.rglob("*") if path.is_file())
    return names == sorted(str(path.relative_to(b)) for path in b.rglob("*") if path.is_file()) and all(
        sha256_file(a / name) == sha256_file(b / name) for name in names
    )


def test_a_manifest_comes_back_as_it_was_and_never_leads_outside(source: Path) -> None:
    found = manifest(source)
    assert len(found.chunks) == 40
    assert read_manifest(found.text, "a peer", digest=found.digest) == found
    with pytest.raises(InputError, match="has other weights"):
        read_manifest(found.text, "a peer", digest="0" * 64)
    for name in ("../x", "/etc/x", "a/../../x", "a//b", ".", ""):
        bad = replace(found, files=(replace(found.files[0], name=name),))
        with pytest.raises(InputError, match="is no manifest of weights"):
            read_manifest(bad.text, "a peer")
    short = replace(found, files=(replace(found.files[0], size_bytes=found.files[0].size_bytes + CHUNK),))
    for text in (short.text, "{}", "[]", "x", found.text + " "):
        with pytest.raises(InputError):
            read_manifest(text, "a peer")


def test_several_nodes_fetch_from_each_other(source: Path, tmp_path: Path, serving: Serving) -> None:
    found, n_nodes = manifest(source), 4
    origin = serving(WholeWeights(source, found), bytes_per_s=20 * found.size_bytes / n_nodes)
    results: list[Fetched] = []

    def node(number: int) -> None:
        copy = Copy(tmp_path / f"node-{number}", manifest_from([address(origin)], TOKEN))
        server = serving(copy)
        results.append(fetched(copy, address(origin), own_port=server.port))
        assert copy.finish() == []

    threads = [threading.Thread(target=node, args=(number,)) for number in range(n_nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(source, tmp_path / f"node-{number}") for number in range(n_nodes))
    assert [one.dropped for one in results] == [{}] * n_nodes
    assert sum(len(one.from_bytes) > 1 for one in results) >= 1
    assert origin.n_sent_bytes < n_nodes * found.size_bytes


class Liar:
    """Has all, and sends something else."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def has(self, number: int) -> bool:
        return True

    def pieces(self, number: int) -> Iterator[bytes]:
        yield b"\0" * self.manifest.chunks[number].size_bytes


def test_a_peer_that_sends_wrong_bytes_is_left_and_named(source: Path, tmp_path: Path, serving: Serving) -> None:
    found = manifest(source)
    honest, liar = serving(WholeWeights(source, found)), serving(Liar(found))
    copy = Copy(tmp_path / "out", found)
    result = fetched(copy, address(liar), address(honest))
    assert list(result.dropped) == [address(liar)]
    assert result.dropped[address(liar)].startswith("sent wrong bytes for chunk ")
    assert copy.finish() == []
    assert same(source, tmp_path / "out")
    alone = Copy(tmp_path / "alone", found)
    with pytest.raises(MissingError, match=r"No peer gives the rest of the weights: 40 of 40 chunks are missing \(127.* sent wrong bytes"):
        fetched(alone, address(liar))


def test_a_source_that_was_changed_since_is_found_out(source: Path, tmp_path: Path, serving: Serving) -> None:
    found = manifest(source)
    origin = serving(WholeWeights(source, found))
    with (source / "a.bin").open("r+b") as file:
        file.seek(5)
        file.write(b"other")
    with pytest.raises(MissingError, match=r"sent wrong bytes for chunk 0 \(a\.bin\)"):
        fetched(Copy(tmp_path / "out", found), address(origin))


def test_what_came_stays_and_is_not_fetched_again(source: Path, tmp_path: Path, serving: Serving) -> None:
    found = manifest(source)
    whole = WholeWeights(source, found)
    copy = Copy(tmp_path / "out", found)
    for number in range(0, 40, 2):
        assert copy.put(number, b"".join(whole.pieces(number)))
    assert not copy.put(1, b"x" * CHUNK)
    copy.save()
    with pytest.raises(InputError, match="is in use by process"):
        Copy(tmp_path / "out", found)
    copy.close()
    again = Copy(tmp_path / "out", found)
    assert (again.n_resumed, again.n_missing, again.has(0), again.has(1)) == (20, 20, True, False)
    origin = serving(whole)
    assert sum(fetched(again, address(origin)).from_bytes.values()) == sum(found.chunks[number].size_bytes for number in range(1, 40, 2))
    path = tmp_path / "out.incoming" / "files" / "a.bin"
    with path.open("r+b") as file:  # a disk that changes what it was given
        file.seek(3 * CHUNK)
        file.write(b"rot")
    assert again.finish() == ["a.bin"]
    assert again.n_missing == 1
    fetched(again, address(origin))
    assert again.finish() == []
    again.close()
    assert same(source, tmp_path / "out")
    assert not (tmp_path / "out.incoming").exists()
    with pytest.raises(InputError, match="is there already"):
        Copy(tmp_path / "out", found)


def test_other_weights_do_not_mix(source: Path, tmp_path: Path) -> None:
    Copy(tmp_path / "out", manifest(source)).close()
    (source / "a.bin").write_bytes(b"new")
    with pytest.raises(InputError, match="holds part of other weights"):
        Copy(tmp_path / "out", manifest(source))


def test_who_has_no_token_or_no_peer_is_told(source: Path, tmp_path: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_fetch, "MOST_FAILURES", 1)
    found = manifest(source)
    origin = serving(WholeWeights(source, found), token="another-token-of-16")
    with pytest.raises(InputError, match="does not take this token"):
        manifest_from([address(origin)], TOKEN)
    with pytest.raises(MissingError, match="does not take this token"):
        fetched(Copy(tmp_path / "out", found), address(origin))
    origin.close()
    with pytest.raises(MissingError, match=r"No peer has the weights: .* does not answer"):
        manifest_from([address(origin)], TOKEN)
    for wrong in ("node", "https://node:1", "node:port", "node:1/x", ""):
        with pytest.raises(InputError, match="is no peer"):
            peer_of(wrong)
    assert (peer_of("http://n:1"), peer_of("n:1"), peer_of("[::1]:1")) == ("n:1", "n:1", "[::1]:1")
    monkeypatch.setenv(flow.TOKEN, "short")
    with pytest.raises(InputError, match="at least 16"):
        flow.fetch(["n:1"], out=tmp_path / "x", digest="", host="127.0.0.1", port=0, limit_bytes_s=None, stay=None)


def test_a_full_disk_is_one_sentence(source: Path, tmp_path: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    found = manifest(source)
    origin = serving(WholeWeights(source, found))
    copy = Copy(tmp_path / "out", found)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(MissingError, match="No space left to write"):
            fetched(copy, address(origin))
    fetched(copy, address(origin))
    assert copy.finish() == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(MissingError, match="bytes are to come, 1,000 are free"):
        Copy(tmp_path / "other", found)


def test_a_rate_is_kept_and_turns_are_fair() -> None:
    now_s, slept = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now_s
        slept.append(seconds)
        now_s += seconds

    rate = ByteRate(1000.0, clock=lambda: now_s, sleep=sleep)
    for _ in range(100):
        rate.take(50)
    assert 5.0 - 2 * BURST_S <= now_s <= 5.0
    assert max(slept) <= 0.05 + BURST_S
    ByteRate(None, sleep=sleep).take(10**12)


CHILD = "import sys; from trimtab.cli.main import main; sys.exit(main())"


@pytest.mark.slow
def test_a_kill_costs_a_second_of_what_came(source: Path, tmp_path: Path, serving: Serving) -> None:
    found = manifest(source)
    origin = serving(WholeWeights(source, found), bytes_per_s=found.size_bytes / 6)
    command = [sys.executable, "-c", CHILD, "weights", "fetch", address(origin), "--host", "127.0.0.1", "--json", "-q"]
    command += ["--out", str(tmp_path / "out"), "--digest", found.digest]
    environment = {**os.environ, flow.TOKEN: TOKEN, "TRIMTAB_HOME": str(tmp_path / "home")}
    child = subprocess.Popen(command, env=environment)
    while not (tmp_path / "out.incoming" / "have.json").exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    n_before, origin.rate = origin.n_sent_bytes, ByteRate(None)
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert same(source, tmp_path / "out")
    assert said["resumed_chunks"] >= 1
    assert origin.n_sent_bytes - n_before < found.size_bytes
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert json.loads(again.stdout)["resumed_chunks"] == 40
