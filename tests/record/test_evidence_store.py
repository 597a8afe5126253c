"""Evidence comes out as it went in, from wherever it is kept, or not at all."""

import hashlib
import os
import secrets
import subprocess
import threading
from pathlib import Path

import pytest

from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.release import Blob
from trimtab.record import evidence_store
from trimtab.record.evidence_store import EvidenceStore

DATA = os.urandom(300_000)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(params=["", "path", "file://", "memory://"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> EvidenceStore:
    places = {
        "": "",
        "path": str(tmp_path / "e v"),
        "file://": f"file://{tmp_path}/e%20v",
        "memory://": f"memory://{secrets.token_hex(8)}/deep",
    }
    return EvidenceStore.open(places[request.param], home=tmp_path / "home")


def path_of(store: EvidenceStore, sha256: str = SHA) -> Path:
    return Path(store.where) / sha256[:2] / sha256[2:]


def test_what_goes_in_comes_out(store: EvidenceStore, tmp_path: Path) -> None:
    source = tmp_path / "text.parquet"
    source.write_bytes(DATA)
    blob = store.put(source, name="items/text.parquet")
    assert blob == Blob(name="items/text.parquet", sha256=SHA, size_bytes=len(DATA))
    assert store.put(source).name == "text.parquet"
    assert store.get(SHA) == DATA
    assert store.check(blob) == ""
    store.fetch(SHA, tmp_path / "out" / "text.parquet")
    assert (tmp_path / "out" / "text.parquet").read_bytes() == DATA
    empty = store.put_bytes(b"", name="empty")
    assert (store.get(empty.sha256), store.check(empty)) == (b"", "")


def test_what_is_missing_or_wrong_is_one_sentence(store: EvidenceStore, tmp_path: Path) -> None:
    blob = Blob(name="decision.json", sha256=SHA, size_bytes=len(DATA))
    assert store.check(blob).startswith(f"decision.json: The evidence {SHA[:16]}... is not in {store.where}")
    with pytest.raises(InputError, match="is not in"):
        store.get(SHA)
    with pytest.raises(InputError, match="is not in"):
        store.fetch(SHA, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for name in ("../../etc/passwd", SHA.upper(), SHA[:-1], ""):
        with pytest.raises(InputError, match="no sha256 of 64 hex digits"):
            store.get(name)
    store.put_bytes(DATA, name="decision.json")
    assert "where 7 were noted" in store.check(Blob(name="decision.json", sha256=SHA, size_bytes=7))
    with pytest.raises(TrimtabError, match="nosuch"):
        store.put(tmp_path / "nosuch")


@pytest.mark.parametrize("change", ["flip", "cut", "add", "empty"])
def test_damage_is_found_and_made_good(change: str, tmp_path: Path) -> None:
    store = EvidenceStore.open(home=tmp_path)
    blob = store.put_bytes(DATA, name="run.json")
    path = path_of(store)
    assert path.stat().st_mode & 0o222 == 0
    path.chmod(0o644)
    path.write_bytes({"flip": bytes([DATA[0] ^ 1]) + DATA[1:], "cut": DATA[:-1], "add": DATA + b"\n", "empty": b""}[change])
    assert "is damaged" in store.check(blob)
    with pytest.raises(InputError, match="is damaged; put it back"):
        store.get(SHA)
    with pytest.raises(InputError, match="is damaged"):
        store.fetch(SHA, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert store.put_bytes(DATA, name="run.json") == blob
    assert store.get(SHA) == DATA
    assert [found.name for found in path.parent.iterdir()] == [SHA[2:]]


def test_damage_elsewhere_is_made_good_too(tmp_path: Path) -> None:
    import fsspec

    url = f"memory://{secrets.token_hex(8)}"
    store = EvidenceStore.open(url, home=tmp_path)
    blob = store.put_bytes(DATA, name="run.json")
    files = fsspec.filesystem("memory")
    files.pipe_file(f"{url}/{SHA[:2]}/{SHA[2:]}", b"other")
    assert "is damaged" in store.check(blob)
    store.put_bytes(DATA, name="run.json")
    assert store.check(blob) == ""
    assert files.find(f"{url}/incoming") == []


@pytest.mark.parametrize("moves_over", [True, False])
def test_what_somebody_else_put_in_meanwhile_is_never_gone(moves_over: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    url = f"memory://{secrets.token_hex(8)}"
    place = f"{url.removeprefix('memory:/')}/{SHA[:2]}/{SHA[2:]}"
    write, move, remove = MemoryFileSystem.pipe_file, MemoryFileSystem.mv, MemoryFileSystem.rm_file
    removed: list[str] = []

    def meanwhile(self: MemoryFileSystem, path: str, data: bytes) -> None:
        write(self, path, data)
        write(self, place, data)

    def strict(self: MemoryFileSystem, source: str, to: str) -> None:
        if not moves_over and self.exists(to):
            raise FileExistsError(to)
        move(self, source, to)

    def noted(self: MemoryFileSystem, path: str) -> None:
        removed.append(path)
        remove(self, path)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", meanwhile)
    monkeypatch.setattr(MemoryFileSystem, "mv", strict)
    monkeypatch.setattr(MemoryFileSystem, "rm_file", noted)
    store = EvidenceStore.open(url, home=tmp_path)
    blob = store.put_bytes(DATA, name="run.json")
    assert store.check(blob) == ""
    assert not [path for path in removed if path.endswith(SHA[2:])]
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", write)
    MemoryFileSystem().pipe_file(place, b"other")
    store.put_bytes(DATA, name="run.json")
    assert store.check(blob) == ""
    assert MemoryFileSystem().find(f"{url}/incoming") == []


def test_many_put_the_same_at_once(store: EvidenceStore) -> None:
    blobs: list[Blob] = []
    threads = [threading.Thread(target=lambda: blobs.append(store.put_bytes(DATA, name="x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(blobs)) == 1
    assert len(blobs) == 8
    assert store.get(SHA) == DATA


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path, tmp_path: Path) -> None:
    store = EvidenceStore.open(str(small_disk / "evidence"), home=tmp_path)
    with pytest.raises(MissingError, match="No space left"):
        store.put_bytes(DATA, name="x")
    assert [path for path in (small_disk / "evidence").rglob("*") if path.is_file()] == []
    small = store.put_bytes(b"small", name="y")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert store.get(small.sha256) == b"small"
    assert store.put_bytes(b"small", name="y") == small
    with pytest.raises(InputError, match="No permission to write"):
        store.put_bytes(b"other", name="z")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nosuch://user:s3cret@host/x", "nosuch://host/x is no place that evidence can be kept in"),
        ("oss://key:s3cret@bucket/x", "oss://bucket/x needs another package"),
        ("~nobodysuch/evidence", "home that does not exist"),
    ],
)
def test_a_wrong_address_is_one_sentence(url: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match=sentence) as caught:
        EvidenceStore.open(url, home=tmp_path)
    assert "s3cret" not in str(caught.value)


def test_what_a_far_place_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EvidenceStore.open("memory://user:s3cret@far/x", home=tmp_path)
    files = store._files
    assert isinstance(files, evidence_store.RemoteFiles)

    def refuse(error: Exception) -> None:
        def fails(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(type(files._files), "pipe_file", fails)
        monkeypatch.setattr(type(files._files), "cat_file", fails)

    refuse(PermissionError("no"))
    with pytest.raises(InputError, match="No permission to read evidence"):
        store.put_bytes(DATA, name="x")
    refuse(RuntimeError("https://user:s3cret@far timed out"))
    with pytest.raises(MissingError, match=r"RuntimeError: https://user:\.\.\.@far timed out") as caught:
        store.get(SHA)
    assert "s3cret" not in str(caught.value)
    refuse(FileNotFoundError("no bucket"))
    with pytest.raises(MissingError, match=r"Cannot write evidence .* no bucket"):
        store.put_bytes(DATA, name="x")
