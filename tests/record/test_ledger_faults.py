"""What goes wrong around a ledger is one sentence, without the password in it, and nothing that was acknowledged is lost."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import USER, Server
from sqlalchemy import event

from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.release import Entry
from trimtab.record import ledger_database
from trimtab.record.ledger import Ledger
from trimtab.record.ledger_place import place_of

SECRET = "s3cret%2Fpass"


def add(ledger: Ledger, n: int = 1) -> Entry:
    return ledger.append("incident", by="a", about="x", body={"n": n})


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"mysql://u:{SECRET}@h/d", "mysql:// is no database that a ledger can be in"),
        (f"u:{SECRET}@h://x", "This address is no database|is not a database's URL"),
        (f"postgresql://u:{SECRET}@h:port/d", "is not a database's URL"),
        (f"postgresql://u:{SECRET}@h", "names no database"),
        ("postgresql://h/d", "names no user"),
        (f"postgresql+asyncpg://u:{SECRET}@h/d", "is no database that a ledger can be in"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=always", "sslmode=always .* is unknown"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=require&options=x", "unknown part, options"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=verify-full&sslrootcert=/none.pem", "none.pem"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite:///a.db?mode=ro", "needs a file and nothing else"),
        ("~nobodysuch/ledger.db", "home that does not exist"),
    ],
)
def test_a_wrong_address_is_one_sentence(url: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match=sentence) as caught:
        Ledger.open(url, home=tmp_path)
    assert "s3cret" not in str(caught.value)


def test_addresses_that_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = tmp_path / "ledger.db"
    assert place_of("", default).path == default
    assert place_of("sqlite:////srv/l.db", default).path == Path("/srv/l.db")
    assert place_of("l.db", default).path == Path.cwd() / "l.db"
    monkeypatch.setenv("PGPASSWORD", "from the environment")
    place = place_of("postgres://u@[::1]/d", default)
    assert place.shown == "postgresql://[::1]:5432/d"
    assert place.url is not None
    assert place.url.password == "from the environment"
    assert "environment" not in repr(place.shown)
    assert place_of(f"postgresql://u:{SECRET}@h:7/d?sslmode=disable", default).connect_args == {"ssl_context": False}
    assert place_of("postgresql://u@h/d?sslmode=verify-full", default).connect_args["ssl_context"].check_hostname


def test_the_setting_names_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_LEDGER", f"sqlite:///{tmp_path / 'there' / 'l.db'}")
    with Ledger.open(home=tmp_path / "home") as ledger:
        add(ledger)
        assert ledger.where == str(tmp_path / "there" / "l.db")
    assert not (tmp_path / "home" / "ledger").exists()


# SQLite


def test_a_lock_that_lasts_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_database, "LOCK_S", 0.2)
    path = tmp_path / "ledger.db"
    with Ledger.open(str(path), home=tmp_path) as ledger:
        add(ledger)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MissingError, match="was locked by others"):
            add(ledger)
        assert len(ledger.entries()) == 1  # whoever reads does not wait
        other.execute("ROLLBACK")
        other.close()
        assert add(ledger).seq == 2


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    with Ledger.open(str(small_disk / "ledger.db"), home=tmp_path) as ledger:
        written = [add(ledger)]
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * 60_000)

        def fill() -> None:
            while True:
                written.append(ledger.append("incident", by="a", about="x", body={"text": "x" * 9000}))

        with pytest.raises(MissingError, match=r"No space left|disk of the ledger"):
            fill()
        assert ledger.entries() == tuple(written)
        filler.unlink()
        written.append(add(ledger))
        assert ledger.entries() == tuple(written)
        assert ledger.check().verdict == "pass"


def test_a_read_only_disk_reads_and_does_not_write(small_disk: Path, tmp_path: Path) -> None:
    path = small_disk / "ledger.db"
    with Ledger.open(str(path), home=tmp_path) as ledger:
        written = (add(ledger), add(ledger))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with Ledger.open(str(path), home=tmp_path) as ledger:
        assert ledger.entries() == written
        assert ledger.check().verdict == "pass"
        with pytest.raises(InputError, match="No permission to write the ledger"):
            add(ledger)
    with pytest.raises(InputError, match="No permission to write"):
        Ledger.open(str(small_disk / "new" / "ledger.db"), home=tmp_path)


def test_a_file_that_is_taken_away_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger.open(str(path), home=tmp_path) as ledger:
        add(ledger)
        path.rename(tmp_path / "aside.db")
        with pytest.raises(MissingError, match="was removed or replaced"):
            add(ledger)

        def taken_within_a_turn() -> None:
            with ledger.writing() as (_, append):
                append("incident", by="a", about="x", body={})
                path.rename(tmp_path / "aside.db")

        (tmp_path / "aside.db").rename(path)
        with pytest.raises(MissingError, match="was removed or replaced"):
            taken_within_a_turn()


def test_what_is_no_ledger_is_one_sentence(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, only a text that is longer than SQLite's head of a file\n" * 9)
    with pytest.raises(InputError, match=r"notes\.txt is damaged or is no ledger"):
        Ledger.open(str(text), home=tmp_path)
    with pytest.raises(InputError, match=r"Cannot open the ledger|is a directory"):
        Ledger.open(str(tmp_path), home=tmp_path)
    path = tmp_path / "ledger.db"
    with Ledger.open(str(path), home=tmp_path) as ledger:
        add(ledger)
        other = sqlite3.connect(path)
        other.execute("DROP TABLE trimtab_ledger")
        other.commit()
        other.close()
        with pytest.raises(InputError, match="lacks a table"):
            add(ledger)
        with pytest.raises(InputError, match="lacks a table"):
            ledger.entries()
        assert ledger.check().verdict == "fail"


def test_keys_that_cannot_be_used_stop_an_entry_before_it_is_written(tmp_path: Path) -> None:
    with Ledger.open(home=tmp_path) as ledger:
        add(ledger)
        key = tmp_path / "keys" / "signing.pem"
        key.chmod(0o644)
        with pytest.raises(InputError, match="may be read by others"):
            add(ledger)
        assert len(ledger.entries()) == 1
        key.unlink()
        (tmp_path / "keys" / "signing.pub.pem").unlink()
        with pytest.raises(InputError, match="not signed by this installation's key"):
            add(ledger)  # a new key was made, which signed nothing yet
        assert len(ledger.entries()) == 1


NOBODY = """
import os, sys
from pathlib import Path
from trimtab.core.errors import TrimtabError
from trimtab.record.ledger import Ledger
import trimtab.record.ledger_database, sqlalchemy.dialects.sqlite
import cryptography.exceptions, cryptography.hazmat.primitives.asymmetric.ed25519, cryptography.hazmat.primitives.serialization
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
home = Path(sys.argv[1])
with Ledger.open(home=home) as ledger:
    print(len(ledger.entries()))
    try:
        ledger.append("incident", by="a", about="x", body={})
    except TrimtabError as error:
        print(type(error).__name__, error)
"""


def test_somebody_without_rights_reads_and_is_told(tmp_path: Path) -> None:
    with Ledger.open(home=tmp_path) as ledger:
        add(ledger)
    (tmp_path / "ledger" / "ledger.db").chmod(0o444)
    for folder in [tmp_path / "ledger", tmp_path, *tmp_path.parents]:
        if "pytest-of-" in str(folder):
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", NOBODY, str(tmp_path)], capture_output=True, text=True, check=False)
    count, sentence = done.stdout.splitlines() or ["", done.stderr]
    assert count == "1"
    assert sentence.startswith("InputError No permission to write")


# PostgreSQL


def test_a_server_that_refuses_is_one_sentence(postgres: Server, tmp_path: Path) -> None:
    database = postgres.new_database()
    cases = {
        postgres.url(database, password="wrong-s3cret"): "does not let this user in",
        postgres.url(database, user="mallory"): "does not let this user in",
        postgres.url("nosuch"): "There is no database postgresql://127.0.0.1:.*/nosuch",
        f"postgresql://{USER}:{postgres.password}@127.0.0.1:1/{database}": "does not answer",
        f"postgresql://{USER}:{postgres.password}@host.invalid/{database}": "does not answer",
        postgres.url(database) + "?sslmode=require": "does not answer|Server refuses SSL",
    }
    for url, sentence in cases.items():
        with pytest.raises(TrimtabError, match=sentence) as caught:
            Ledger.open(url, home=tmp_path)
        assert postgres.password not in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_rights_in_postgresql(postgres: Server, tmp_path: Path) -> None:
    """Who may add but not change needs no more than SELECT and INSERT."""
    database = postgres.new_database()
    with Ledger.open(postgres.url(database), home=tmp_path) as ledger:
        add(ledger)
    for role, rights in ((f"w{database}", "SELECT, INSERT"), (f"r{database}", "SELECT")):
        postgres.run(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
        postgres.run(f"GRANT {rights} ON trimtab_ledger, trimtab_ledger_id, trimtab_ledger_versions TO {role}", database)
    with Ledger.open(postgres.url(database, user=f"w{database}", password="pw"), home=tmp_path) as ledger:
        assert add(ledger).seq == 2
    with Ledger.open(postgres.url(database, user=f"r{database}", password="pw"), home=tmp_path) as ledger:
        assert len(ledger.entries()) == 2
        with pytest.raises(InputError, match="No permission to write the ledger"):
            add(ledger)
    postgres.run(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with Ledger.open(postgres.url(database), home=tmp_path) as ledger:
        with pytest.raises(InputError, match="No permission to write the ledger"):
            add(ledger)
        assert ledger.check().verdict == "pass"


def test_defaults_of_the_server_do_not_weaken_a_write(postgres: Server, tmp_path: Path) -> None:
    database = postgres.new_database()
    postgres.run(f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'")
    postgres.run(f"ALTER DATABASE {database} SET synchronous_commit = off")
    with Ledger.open(postgres.url(database), home=tmp_path) as ledger, ledger._database.writing() as connection:
        settings = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("transaction_isolation", "synchronous_commit")]
        assert settings == ["read committed", "on"]


def test_a_turn_that_lasts_is_one_sentence(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_database, "LOCK_S", 1)
    url = postgres.url(postgres.new_database())
    with Ledger.open(url, home=tmp_path) as ledger, Ledger.open(url, home=tmp_path) as other:
        with ledger.writing() as (_, append):
            append("incident", by="a", about="x", body={})
            with pytest.raises(MissingError, match="was locked by others"):
                add(other)
        assert add(other).seq == 2


@pytest.fixture
def mortal(postgres: Server) -> Iterator[Server]:
    """The server, for a test that kills it."""
    yield postgres
    postgres.kill()
    postgres.start()


@pytest.mark.slow
def test_a_server_that_dies_loses_nothing(mortal: Server, tmp_path: Path) -> None:
    url = mortal.url(mortal.new_database())
    with Ledger.open(url, home=tmp_path) as ledger:
        written = [add(ledger, n) for n in range(3)]

        def killed_within_a_turn() -> None:
            with ledger.writing() as (_, append):
                append("incident", by="a", about="x", body={})
                mortal.kill()
                append("incident", by="a", about="x", body={})

        with pytest.raises(MissingError, match="does not answer; nothing was written") as caught:
            killed_within_a_turn()
        assert mortal.password not in str(caught.value)
        with pytest.raises(MissingError, match="does not answer"):
            add(ledger)
        with pytest.raises(MissingError, match="does not answer"):
            ledger.entries()
        mortal.start()
        assert ledger.entries() == tuple(written)
        written.append(add(ledger))
        # Killed as the commit is on its way: nobody knows, and it says so.
        event.listen(ledger._database._engine, "commit", lambda _: mortal.kill(), once=True)
        with pytest.raises(MissingError, match="it may be there or not"):
            add(ledger)
        mortal.start()
        assert ledger.entries() == tuple(written)
        assert add(ledger).seq == 5
        assert ledger.check().verdict == "pass"


def test_a_server_that_is_stopped_in_order_loses_nothing(mortal: Server, tmp_path: Path) -> None:
    """Connections end with a message then, not by themselves."""
    with Ledger.open(mortal.url(mortal.new_database()), home=tmp_path) as ledger:
        written = [add(ledger)]

        def stopped_within_a_turn() -> None:
            with ledger.writing() as (_, append):
                append("incident", by="a", about="x", body={})
                assert mortal._process is not None
                mortal._process.send_signal(signal.SIGINT)
                mortal._process.wait()
                append("incident", by="a", about="x", body={})

        with pytest.raises(MissingError, match="does not answer; nothing was written"):
            stopped_within_a_turn()
        mortal.start()
        assert ledger.entries() == tuple(written)
        assert add(ledger).seq == 2
