"""Evidence in a bucket with S3's interface, on a real server (moto): whole or absent, shared, and clear when the server is away."""

import hashlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from trimtab.core.errors import InputError, MissingError  # noqa: E402
from trimtab.core.release import Blob  # noqa: E402
from trimtab.record.evidence_store import EvidenceStore  # noqa: E402

pytestmark = pytest.mark.slow

SECRET = "a-secret-key-that-nobody-may-see"
DATA = os.urandom(200_000)
SHA = hashlib.sha256(DATA).hexdigest()


@dataclass
class Server:
    """A server in a process of its own."""

    port: int
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{self.port}'])"
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends_s = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < ends_s
                assert self.process.poll() is None
                time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        running = Server(int(probe.getsockname()[1]))
    running.start()
    yield running
    running.kill()


@pytest.fixture
def url(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "an-access-key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"s3://evidence{time.monotonic_ns()}/trimtab"
    s3fs.S3FileSystem.clear_instance_cache()


def objects(url: str) -> list[str]:
    files = s3fs.S3FileSystem()
    files.invalidate_cache()
    return [path.partition("/trimtab/")[2] for path in files.find(url)]


def test_what_goes_in_comes_out_and_what_is_changed_is_found(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trimtab")
    store = EvidenceStore.open(url, home=tmp_path)
    blob = store.put_bytes(DATA, name="items/a.parquet")
    assert (blob, store.check(blob), store.get(SHA) == DATA) == (Blob(name="items/a.parquet", sha256=SHA, size_bytes=len(DATA)), "", True)
    assert objects(url) == [f"{SHA[:2]}/{SHA[2:]}"]
    files = s3fs.S3FileSystem()
    place = f"{url}/{SHA[:2]}/{SHA[2:]}"
    files.pipe_file(place, DATA[:100])  # half of it, as a writer that does not write aside would leave
    assert "is damaged" in store.check(blob)
    with pytest.raises(InputError, match="is damaged"):
        store.fetch(SHA, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert store.put_bytes(DATA, name="items/a.parquet") == blob
    assert store.check(blob) == ""
    files.rm_file(place)
    assert "is not in s3://" in store.check(blob)
    assert SECRET not in caplog.text


def test_writers_of_the_same_content_lose_none(url: str, tmp_path: Path) -> None:
    stores = [EvidenceStore.open(url, home=tmp_path) for _ in range(2)]
    stores[0].put_bytes(b"first", name="bucket")
    errors: list[BaseException] = []

    def put(store: EvidenceStore) -> None:
        try:
            for number in range(4):
                store.put_bytes(b"%d" % number * 1000, name="x")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=put, args=(stores[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(objects(url)) == 5
    assert all(stores[0].get(hashlib.sha256(b"%d" % number * 1000).hexdigest()) for number in range(4))


def test_a_server_that_goes_away_is_one_sentence_and_the_same_put_goes_on(server: Server, url: str, tmp_path: Path) -> None:
    store = EvidenceStore.open(url, home=tmp_path)
    store.put_bytes(b"before", name="x")
    server.kill()
    with pytest.raises(MissingError, match=r"Cannot (read|write) evidence in s3://evidence\d+/trimtab: ") as caught:
        store.put_bytes(DATA, name="x")
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    server.start()  # moto keeps nothing: as a server that comes back empty
    blob = store.put_bytes(DATA, name="x")
    assert store.check(blob) == ""
    assert "is not in" in store.check(Blob(name="x", sha256=hashlib.sha256(b"before").hexdigest(), size_bytes=6))


def test_results_that_a_cluster_shares_lie_in_a_bucket(url: str) -> None:
    from trimtab.cluster.store import open_results

    key = "ab" * 32
    one, another = open_results(url), open_results(url)
    assert another.get_json("scores", key) is None
    one.put_json("scores", key, [1.5, None, "x"])
    assert another.get_json("scores", key) == [1.5, None, "x"]
    assert objects(url) == [f"results/scores/ab/{key}"]
    s3fs.S3FileSystem().pipe_file(f"{url}/results/scores/ab/{key}", b"damaged")
    assert another.get_json("scores", key) is None, "a damaged result is computed again"
    another.put_json("scores", key, [2])
    assert one.get_json("scores", key) == [2]
    another.drop("scores", key)
    assert one.get_json("scores", key) is None


def test_a_release_keeps_its_evidence_in_a_bucket(server: Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sample_run import USE, write_sample_run

    from trimtab.flows.parts.released import entries_of
    from trimtab.flows.people import add_person
    from trimtab.flows.release import create
    from trimtab.flows.verify import verify_release

    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRIMTAB_EVIDENCE", url)
    write_sample_run(tmp_path / "run", tmp_path / "weights" / "tiny.gguf", n_clusters=12, n_templates=12)
    (tmp_path / "use.toml").write_text(USE)
    add_person("alice")
    server.kill()
    with pytest.raises(MissingError, match="evidence in s3://"):
        create(tmp_path / "run", name="support-chat", use=tmp_path / "use.toml", by="alice")
    assert [entry.kind for entry in entries_of("")] == ["person"]
    server.start()
    create(tmp_path / "run", name="support-chat", use=tmp_path / "use.toml", by="alice")
    gone = objects(url)[0]
    s3fs.S3FileSystem().rm_file(f"{url}/{gone}")
    found = verify_release("support-chat@1")
    wrong = [check["sentence"] for check in found["checks"] if check["state"] == "wrong"]
    assert any(f"The evidence {gone.replace('/', '')[:16]}... is not in s3://" in sentence for sentence in wrong)
