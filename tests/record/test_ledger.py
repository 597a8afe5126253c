"""The ledger, on both databases: what was acknowledged is there, in one order, as it was written, by whom it says."""

import contextlib
import hashlib
import json
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from trimtab.core.errors import InputError
from trimtab.core.release import Entry, EntryKind
from trimtab.record import ledger as ledger_module
from trimtab.record.ledger import Ledger
from trimtab.record.ledger_entries import Sign, signed_bytes

BODY = {"note": "Grüße, 東京 \u0000 \U0001f511", "numbers": [1, -0.0, 1e-7, 2**70], "nested": {"b": None, "a": [True, {}]}, "1": ""}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def key_pair() -> tuple[str, Sign]:
    key = Ed25519PrivateKey.generate()
    return key.public_key().public_bytes_raw().hex(), lambda data: key.sign(data).hex()


def person(ledger: Ledger, name: str, public_key: str = "", *, by: str = "", signer: Sign | None = None) -> Entry:
    body = {"name": name, "roles": ["approver"], "public_key": public_key}
    return ledger.append("person", by=by or name, about=name, body=body, signer=signer)


def raw(url: str, statement: str, **values: Any) -> list[Any]:
    """What somebody with the database's own tools does."""
    engine = create_engine(url.replace("postgresql://", "postgresql+pg8000://"))
    try:
        with engine.begin() as connection:
            result = connection.exec_driver_sql(statement, tuple(values.values()) or ())
            return list(result) if result.returns_rows else []
    finally:
        engine.dispose()


def test_entries_come_back_as_they_were_written(ledger_url: str, home: Path) -> None:
    with Ledger.open(ledger_url, home=home) as ledger:
        assert ledger.entries() == ()
        written = [ledger.append(kind, by="alice", about=f"chat@{n}", body={**BODY, "n": n}) for n, kind in enumerate(get_args(EntryKind))]
        assert ledger.entries() == tuple(written)
        name = ledger.id
    with Ledger.open(ledger_url, home=home) as ledger:
        assert ledger.id == name
        assert ledger.entries() == tuple(written)
        assert ledger.entries(about="chat@3") == (written[3],)
        assert ledger.entries(since_seq=8) == tuple(written[8:])
        assert ledger.entries(about="chat@3", since_seq=4) == ()
        assert ledger.check().verdict == "pass"
    assert [entry.seq for entry in written] == list(range(1, len(written) + 1))
    assert dict(written[0].body) == {**BODY, "n": 0}
    assert [entry.at for entry in written] == sorted(entry.at for entry in written)


def test_the_hash_is_what_the_documents_say(ledger_url: str, home: Path) -> None:
    with Ledger.open(ledger_url, home=home) as ledger:
        before = "0" * 64
        for n in range(3):
            entry = ledger.append("incident", by="ä", about="chat@1", body=BODY)
            plain = {"about": "chat@1", "at": entry.at, "body": BODY, "by": "ä", "kind": "incident", "prev": before, "seq": n + 1}
            text = json.dumps({**plain, "signature": ""}, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            assert entry.hash == hashlib.sha256(text.encode()).hexdigest()
            before = entry.hash


def test_a_rule_is_judged_and_its_entry_written_in_one_turn(ledger_url: str, home: Path) -> None:
    with Ledger.open(ledger_url, home=home) as ledger:
        with ledger.writing() as (entries, append):
            assert entries == ()
            first = append("incident", by="a", about="x", body={})
            second = append("incident", by="a", about="x", body={})
        assert ledger.entries() == (first, second)

        def forbidden() -> None:
            with ledger.writing() as (entries, append):
                append("incident", by="a", about="x", body={"seen": len(entries)})
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            forbidden()
        assert ledger.entries() == (first, second)
        assert ledger.append("incident", by="a", about="x", body={}).seq == 3
        with ledger.writing() as (entries, _):
            assert len(entries) == 3
        assert ledger.check().verdict == "pass"


def test_a_clock_that_goes_back_leaves_time_in_order(ledger_url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    with Ledger.open(ledger_url, home=home) as ledger:
        monkeypatch.setattr(ledger_module, "_now", lambda: now)
        first = ledger.append("incident", by="a", about="x", body={"n": 1})
        monkeypatch.setattr(ledger_module, "_now", lambda: now - timedelta(seconds=59))
        second = ledger.append("incident", by="a", about="x", body={"n": 2})
        assert ledger.warnings == []
        monkeypatch.setattr(ledger_module, "_now", lambda: now - timedelta(hours=1))
        third = ledger.append("incident", by="a", about="x", body={"n": 3})
        assert first.at == second.at == third.at == "2026-11-01T12:00:00.000000+00:00"
        assert third.body == {"n": 3}
        assert len(ledger.warnings) == 1
        assert "3600 s behind" in ledger.warnings[0]
        assert ledger.check().verdict == "pass"


def test_who_has_a_key_signs_and_nobody_else_can(ledger_url: str, home: Path) -> None:
    key, sign = key_pair()
    other_key, other_sign = key_pair()
    with Ledger.open(ledger_url, home=home) as ledger:
        with pytest.raises(InputError, match="not by alice's key"):
            person(ledger, "alice", key, signer=other_sign)
        person(ledger, "alice", key, signer=sign)
        person(ledger, "bob", by="alice", signer=sign)
        for signer, sentence in ((None, "must be signed"), (other_sign, "not by alice's key"), (lambda _: "zz", "not by alice's key")):
            with pytest.raises(InputError, match=sentence):
                ledger.append("approval", by="alice", about="chat@1", body={}, signer=signer)
        with pytest.raises(InputError, match="bob has no key"):
            ledger.append("approval", by="bob", about="chat@1", body={}, signer=other_sign)
        ledger.append("run", by="bob", about="chat@1", body={})
        seen: list[bytes] = []
        entry = ledger.append(
            "approval", by="alice", about="chat@1", body={"note": "ü"}, signer=lambda data: seen.append(data) or sign(data)
        )
        plain = {"about": "chat@1", "at": entry.at, "body": {"note": "ü"}, "by": "alice", "kind": "approval", "prev": entry.prev, "seq": 4}
        assert seen == [json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()] == [signed_bytes(entry)]
        # A new key counts from the entry after, and is signed for with the old one.
        with pytest.raises(InputError, match="not by alice's key"):
            person(ledger, "alice", other_key, signer=other_sign)
        person(ledger, "alice", other_key, signer=sign)
        with pytest.raises(InputError, match="not by alice's key"):
            ledger.append("approval", by="alice", about="chat@1", body={}, signer=sign)
        ledger.append("approval", by="alice", about="chat@1", body={}, signer=other_sign)
        found = ledger.check()
        assert (found.verdict, found.n_entries, found.n_signed) == ("pass", 6, 5)


def wrong(**changes: Any) -> dict[str, Any]:
    return {"kind": "incident", "by": "a", "about": "x", "body": {}, **changes}


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (wrong(kind="gossip"), "no entry of kind 'gossip'"),
        (wrong(by=""), "name of the person"),
        (wrong(about="a\nb"), "no control characters"),
        (wrong(about="x" * 257), "1 to 256 characters"),
        (wrong(by="\ud800"), "no control characters"),
        (wrong(body=[1]), "JSON object"),
        (wrong(body={"a": object()}), "JSON object"),
        (wrong(body={"a": "\ud800"}), "JSON object"),
        (wrong(body={"a": "x" * 2**20}), "keep it as evidence"),
        (wrong(kind="person", body={"public_key": "alice's"}), "64 hex digits"),
    ],
)
def test_what_is_no_entry_is_one_sentence(entry: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with Ledger.open(home=tmp_path) as ledger:
        with pytest.raises(InputError, match=sentence):
            ledger.append(**entry)
        assert ledger.entries() == ()
        assert ledger.append("incident", by="a", about="x", body={}).seq == 1
    assert (tmp_path / "ledger" / "ledger.db").stat().st_mode & 0o077 == 0


def test_the_database_refuses_every_change(ledger_url: str, home: Path) -> None:
    with Ledger.open(ledger_url, home=home) as ledger:
        written = [ledger.append("incident", by="a", about="x", body={"n": n}) for n in range(3)]
    columns = 'INTO trimtab_ledger (seq, kind, "at", "by", about, body, prev, hash, signature)'
    last = written[-1].hash
    refused = [
        "UPDATE trimtab_ledger SET body = '{}' WHERE seq = 2",
        "UPDATE trimtab_ledger SET seq = 9 WHERE seq = 3",
        "DELETE FROM trimtab_ledger WHERE seq = 3",
        "DELETE FROM trimtab_ledger",
        "DELETE FROM trimtab_ledger_versions",
        "UPDATE trimtab_ledger_id SET id = 'x'",
        "INSERT INTO trimtab_ledger_id (id) VALUES ('x')",
        f"INSERT {columns} VALUES (5, 'run', 'z', 'a', 'x', '{{}}', '{last}', 'h', '')",
        f"INSERT {columns} VALUES (4, 'run', 'z', 'a', 'x', '{{}}', '{written[0].hash}', 'h', '')",
        f"INSERT {columns} VALUES (3, 'run', 'z', 'a', 'x', '{{}}', '{written[1].hash}', 'h', '')",
    ]
    if ledger_url.startswith("sqlite"):
        refused += [statement.replace("INSERT INTO", "INSERT OR REPLACE INTO") for statement in refused[-3:]]
    else:
        refused += ["TRUNCATE trimtab_ledger"]
    for statement in refused:
        with pytest.raises(DBAPIError):
            raw(ledger_url, statement)
    with Ledger.open(ledger_url, home=home) as ledger:
        assert ledger.entries() == tuple(written)
        assert ledger.check().verdict == "pass"


# Several writers, and writers that are killed: real processes.


def forked(work: Callable[[], None]) -> int:
    """A child process that ends with 0 if the work raised nothing."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@pytest.mark.slow
def test_sixteen_writers_take_turns(ledger_url: str, home: Path) -> None:
    Ledger.open(ledger_url, home=home).close()

    def writer() -> None:
        with Ledger.open(ledger_url, home=home) as ledger:
            for _ in range(2):
                with ledger.writing() as (entries, append):
                    append("incident", by="a", about="x", body={"seen": len(entries)})

    children = [forked(writer) for _ in range(16)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 16
    with Ledger.open(ledger_url, home=home) as ledger:
        assert [entry.body["seen"] for entry in ledger.entries()] == list(range(32))
        found = ledger.check()
        assert (found.verdict, found.n_entries) == ("pass", 32)
        assert found.checkpoint is not None
        assert found.checkpoint.size == 32


@pytest.mark.slow
def test_six_begin_it_at_once(ledger_url: str, home: Path) -> None:
    def writer() -> None:
        with Ledger.open(ledger_url, home=home) as ledger:
            ledger.append("incident", by="a", about="x", body={})

    children = [forked(writer) for _ in range(6)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    with Ledger.open(ledger_url, home=home) as ledger:
        assert (len(ledger.entries()), ledger.check().verdict) == (6, "pass")


def test_threads_share_one(ledger_url: str, home: Path) -> None:
    with Ledger.open(ledger_url, home=home) as ledger:

        def writer() -> None:
            for _ in range(3):
                ledger.append("incident", by="a", about="x", body={})

        threads = [threading.Thread(target=writer) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.check().n_entries == 15
        assert ledger.check().verdict == "pass"


def killed_writer(url: str, home: Path, after: int, wait_s: float) -> list[str]:
    """Hashes that a writer acknowledged before it was killed with kill -9."""
    reading, writing = os.pipe()

    def writer() -> None:
        os.close(reading)
        ledger = Ledger.open(url, home=home)
        while True:
            entry = ledger.append("incident", by="a", about="x", body={"text": "ä" * 500})
            os.write(writing, f"{entry.hash}\n".encode())

    child = forked(writer)
    os.close(writing)
    with os.fdopen(reading, encoding="ascii") as pipe:
        acknowledged = [pipe.readline() for _ in range(after)]
        time.sleep(wait_s)
        os.kill(child, signal.SIGKILL)
        acknowledged += pipe.readlines()
    os.waitpid(child, 0)
    return [line.strip() for line in acknowledged if line.endswith("\n")]


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_acknowledged(ledger_url: str, home: Path) -> None:
    chance = random.Random(7)
    n_before = 0
    for _ in range(5):
        acknowledged = killed_writer(ledger_url, home, after=chance.randrange(1, 5), wait_s=chance.random() * 0.02)
        with contextlib.closing(Ledger.open(ledger_url, home=home)) as ledger:
            hashes = [entry.hash for entry in ledger.entries()]
            assert hashes[n_before : n_before + len(acknowledged)] == acknowledged
            assert len(hashes) - n_before - len(acknowledged) in (0, 1)
            found = ledger.check()
            assert found.bad is None
            assert found.verdict == "pass" or "From entry" in found.reasons[0]
        n_before = len(hashes)
    with Ledger.open(ledger_url, home=home) as ledger:
        ledger.append("incident", by="a", about="x", body={})
        assert ledger.check().verdict == "pass"
