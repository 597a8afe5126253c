"""What somebody does to a ledger behind its back is found, and the first bad entry is named."""

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine

from trimtab.core.errors import InputError
from trimtab.core.release import Entry
from trimtab.record.checkpoints import Signer, read_anchor
from trimtab.record.ledger import Ledger
from trimtab.record.ledger_check import check_rows
from trimtab.record.ledger_entries import BEGINNING, COLUMNS, Row, drafted, head_of, read_row, row_of, sealed, signed

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw().hex()


def sign(data: bytes) -> str:
    return KEY.sign(data).hex()


def chained(n: int = 12) -> list[Entry]:
    """A whole ledger: alice has a key, bob has none; every second entry is alice's."""
    entries: list[Entry] = []
    for number in range(n):
        after = head_of(entries[-1]) if entries else BEGINNING
        by = "alice" if number % 2 == 0 else "bob"
        body = {"name": "alice", "roles": [], "public_key": PUBLIC} if number == 0 else {"note": f"ä{number}"}
        kind: Any = "person" if number == 0 else "approval"
        entry = drafted(kind, after=after, now=datetime.now(UTC), by=by, about="alice" if number == 0 else "chat@1", body=body)
        entries.append(sealed(signed(entry, sign, PUBLIC if number else "") if by == "alice" else entry))
    return entries


def rows(entries: list[Entry]) -> list[Row]:
    return [tuple(row_of(entry)[name] for name in COLUMNS) for entry in entries]


def resealed(entries: list[Entry], start: int) -> list[Entry]:
    """All hashes made right again from one entry on, as whoever can write the database would."""
    new = entries[:start]
    for entry in entries[start:]:
        after = head_of(new[-1]) if new else BEGINNING
        new.append(sealed(replace(entry, seq=after.seq + 1, prev=after.hash)))
    return new


Tampered = tuple[list[Row], int | None]
"""Rows, and the entry that must be named (None = it is enough that something is)."""


def change_a_character(entries: list[Entry], chance: random.Random) -> Tampered:
    found = rows(entries)
    at, column = chance.randrange(len(found)), chance.randrange(1, len(COLUMNS))
    text = list(found[at][column]) or ["x"]
    place = chance.randrange(len(text))
    text[place] = chr((ord(text[place]) + chance.randrange(1, 90)) % 0xD800)
    found[at] = (*found[at][:column], "".join(text), *found[at][column + 1 :])
    return found, at + 1


def reformat_a_body(entries: list[Entry], chance: random.Random) -> Tampered:
    found = rows(entries)
    at = chance.randrange(len(found))
    found[at] = (*found[at][:5], json.dumps(json.loads(found[at][5]), indent=1), *found[at][6:])
    return found, at + 1


def change_a_type(entries: list[Entry], chance: random.Random) -> Tampered:
    found = rows(entries)
    at, column = chance.randrange(len(found)), chance.randrange(len(COLUMNS))
    found[at] = (*found[at][:column], chance.choice([None, b"x", 1.5]), *found[at][column + 1 :])
    return found, at + 1


def drop(entries: list[Entry], chance: random.Random) -> Tampered:
    found = rows(entries)
    at = chance.randrange(len(found))
    return found[:at] + found[at + chance.randrange(1, 4) :], at + 1


def cut(entries: list[Entry], chance: random.Random) -> Tampered:
    left = chance.randrange(len(entries))
    return rows(entries)[:left], left + 1


def swap(entries: list[Entry], chance: random.Random) -> Tampered:
    found = rows(entries)
    one, other = sorted(chance.sample(range(len(found)), 2))
    found[one], found[other] = found[other], found[one]
    return found, one + 1


def swap_numbers_too(entries: list[Entry], chance: random.Random) -> Tampered:
    found = rows(entries)
    one, other = sorted(chance.sample(range(len(found)), 2))
    found[one], found[other] = (one + 1, *found[other][1:]), (other + 1, *found[one][1:])
    return found, one + 1


def insert_a_copy(entries: list[Entry], chance: random.Random) -> Tampered:
    found = rows(entries)
    at = chance.randrange(len(found))
    return [*found[: at + 1], found[at], *found[at + 1 :]], at + 2 if at + 1 < len(found) else None


def forge_one(entries: list[Entry], chance: random.Random) -> Tampered:
    at = chance.randrange(1, len(entries), 2)  # bob's: no key protects it
    forged = [*entries[:at], sealed(replace(entries[at], body={"note": "forged"})), *entries[at + 1 :]]
    return rows(forged), at + 2 if at + 1 < len(entries) else at + 1


def forge_an_end(entries: list[Entry], chance: random.Random) -> Tampered:
    """From one of bob's on everything is written anew, hashes and all; what alice signed does not fit there any more."""
    at = chance.randrange(1, len(entries), 2)
    forged = resealed([*entries[:at], replace(entries[at], body={"note": "forged"}), *entries[at + 1 :]], at)
    return rows(forged), at + 2 if at + 2 < len(entries) else at + 1


def forge_without_signatures(entries: list[Entry], chance: random.Random) -> Tampered:
    at = chance.randrange(2, len(entries), 2)
    forged = [*entries[:at], *(replace(entry, signature="") for entry in entries[at:])]
    return rows(resealed(forged, at)), at + 1


def leave_alice_out(entries: list[Entry], chance: random.Random) -> Tampered:
    """The whole ledger anew, without the entry that says which key alice has."""
    return rows(resealed([replace(entry, signature="") for entry in entries[1:]], 0)), None


def append_one(entries: list[Entry], chance: random.Random) -> Tampered:
    after = head_of(entries[-1])
    by = chance.choice(["alice", "bob"])
    return rows([*entries, sealed(drafted("approval", after=after, now=datetime.now(UTC), by=by, about="chat@1", body={}))]), None


TAMPERINGS: list[Callable[[list[Entry], random.Random], Tampered]] = [
    *(change_a_character, change_a_character, reformat_a_body, change_a_type, drop, cut, swap, swap_numbers_too, insert_a_copy),
    *(forge_one, forge_an_end, forge_without_signatures, leave_alice_out, append_one),
]


def test_changes_of_rows_are_found_and_named(tmp_path: Path) -> None:
    entries = chained()
    signer = Signer.of(tmp_path)
    kept = signer.signed(log="1" * 32, folder="ledger.db", size=len(entries), head=entries[-1].hash, is_closed=False)
    chance = random.Random(6)
    for attempt in range(280):
        tamper = TAMPERINGS[attempt % len(TAMPERINGS)]
        changed, expected = tamper(entries, chance)
        if changed == rows(entries):
            continue
        found = check_rows(changed, "1" * 32, kept, trusted_key=signer.public_hex, is_copy=False)
        what = f"{tamper.__name__}, attempt {attempt}: {found}"
        assert found.verdict == ("fail" if found.n_entries <= 12 else "inconclusive"), what
        assert found.reasons, what
        if expected is not None:
            assert found.bad is not None, what
            assert found.bad.seq == expected, what
    found = check_rows(rows(entries), "1" * 32, kept, trusted_key=signer.public_hex, is_copy=False)
    assert (found.verdict, found.reasons, found.bad, found.n_entries, found.n_signed) == ("pass", (), None, 12, 6)


def test_what_checkpoints_can_tell(tmp_path: Path) -> None:
    entries = chained()
    signer, other = Signer.of(tmp_path / "one"), Signer.of(tmp_path / "other")
    old = signer.signed(log="1" * 32, folder="x", size=5, head=entries[4].hash, is_closed=False)

    def verdict(checkpoint: Any, *, key: str = signer.public_hex, is_copy: bool = True, ledger: str = "1" * 32) -> tuple[str, str]:
        found = check_rows(rows(entries), ledger, checkpoint, trusted_key=key, is_copy=is_copy)
        return found.verdict, " ".join(found.reasons)

    assert verdict(old) == ("pass", "")
    assert verdict(old, is_copy=False)[0] == "inconclusive"
    assert "From entry 6" in verdict(old, is_copy=False)[1]
    assert verdict(None)[0] == "inconclusive"
    assert "no checkpoint" in verdict(None)[1]
    assert verdict(old, key="")[0] == "inconclusive"
    assert "not known here" in verdict(old, key="")[1]
    assert verdict(old, key=other.public_hex)[0] == "fail"
    assert verdict(replace(old, size=6))[0] == "fail"
    assert verdict(old, ledger="2" * 32)[0] == "fail"
    assert "another ledger" in verdict(old, ledger="2" * 32)[1]


# On the databases themselves.


def filled(url: str, home: Path, n: int = 6) -> list[Entry]:
    with Ledger.open(url, home=home) as ledger:
        return [ledger.append("incident", by="a", about="x", body={"n": number}) for number in range(n)]


def tampered(url: str, *statements: str) -> None:
    """As the owner of the database, who can do away with its triggers."""
    engine = create_engine(url.replace("postgresql://", "postgresql+pg8000://"))
    names = ("trimtab_ledger_next", "trimtab_ledger_no_update", "trimtab_ledger_no_delete")
    off = ["ALTER TABLE trimtab_ledger DISABLE TRIGGER ALL"] if "postgresql" in url else [f"DROP TRIGGER {name}" for name in names]
    with engine.begin() as connection:
        for statement in (*off, *statements):
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("UPDATE trimtab_ledger SET body = '{\"n\":7}' WHERE seq = 3", 3),
        ("DELETE FROM trimtab_ledger WHERE seq = 2", 2),
        ("DELETE FROM trimtab_ledger WHERE seq > 4", 5),
        ("UPDATE trimtab_ledger SET seq = -seq", 1),
    ],
)
def test_a_changed_table_is_found_and_not_written_on(statement: str, bad: int, ledger_url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    filled(ledger_url, home)
    tampered(ledger_url, statement)
    with Ledger.open(ledger_url, home=home) as ledger:
        found = ledger.check()
        assert (found.verdict, found.bad and found.bad.seq) == ("fail", bad)
        was_cut = "seq > 4" in statement or "-seq" in statement
        with pytest.raises(InputError, match="was cut: 6 entries were signed" if was_cut else f"Entry {bad} of the ledger"):
            ledger.entries()
        if was_cut:
            with pytest.raises(InputError, match="was cut: 6 entries were signed"):
                ledger.append("incident", by="a", about="x", body={})
        assert ledger.check().n_entries == bad - 1


def test_an_end_that_was_written_anew_is_found(ledger_url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    entries = filled(ledger_url, home)
    copy = tmp_path / "copy.json"
    with Ledger.open(ledger_url, home=home) as ledger:
        shutil.copy(home / "anchors" / f"{ledger.id}.json", copy)
    forged = resealed([*entries[:4], replace(entries[4], body={"n": 99}), entries[5]], 4)
    values = [row_of(entry) for entry in forged[4:]]
    tampered(
        ledger_url,
        *(
            f"UPDATE trimtab_ledger SET body='{row['body']}', prev='{row['prev']}', hash='{row['hash']}' WHERE seq={row['seq']}"
            for row in values
        ),
    )
    with Ledger.open(ledger_url, home=home) as ledger:
        for about in (None, "x"):
            with pytest.raises(InputError, match="was written anew"):
                ledger.entries(about=about)
        found = ledger.check()
        assert (found.verdict, found.bad and found.bad.seq) == ("fail", 6)
        assert ledger.check(copy).verdict == "fail"
        with pytest.raises(InputError, match="was written anew"):
            ledger.append("incident", by="a", about="x", body={})
        # Without the checkpoint nobody could tell, and it says so; the copy that lies elsewhere still does.
        (home / "anchors" / f"{ledger.id}.json").unlink()
        assert ledger.entries() == tuple(forged)
        assert ledger.check().verdict == "inconclusive"
        assert ledger.check(copy).verdict == "fail"


def test_an_old_copy_of_the_checkpoint_stays_good(ledger_url: str, tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy.json"
    filled(ledger_url, home)
    with Ledger.open(ledger_url, home=home) as ledger:
        shutil.copy(home / "anchors" / f"{ledger.id}.json", copy)
        ledger.append("incident", by="a", about="x", body={})
        assert (ledger.check().verdict, ledger.check(copy).verdict) == ("pass", "pass")
        assert ledger.check(copy, key="0" * 64).verdict == "fail"
        # Another machine, which has another key: it knows what it reads, and cannot tell whose checkpoint it is until it is told.
        key = read_anchor(copy).key
    with Ledger.open(ledger_url, home=tmp_path / "elsewhere") as ledger:
        assert ledger.check().verdict == "inconclusive"
        assert ledger.check(copy).verdict == "inconclusive"
        assert ledger.check(copy, key=key).verdict == "pass"
        ledger.append("incident", by="a", about="x", body={})
        assert ledger.check().verdict == "pass"
    with Ledger.open(ledger_url, home=home) as ledger:
        assert ledger.check().verdict == "inconclusive"  # the eighth was signed elsewhere
        ledger.append("incident", by="a", about="x", body={})
        assert ledger.check().verdict == "pass"


def test_another_ledger_in_its_place_is_refused(tmp_path: Path) -> None:
    home, path = tmp_path / "home", tmp_path / "ledger.db"
    url = f"sqlite:///{path}"
    filled(url, home)
    filled(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other_home")
    path.rename(tmp_path / "kept.db")
    with pytest.raises(InputError, match=r"no ledger in .*, but one of 6 entries was signed there"):
        Ledger.open(url, home=home)
    assert not path.exists()
    (tmp_path / "other.db").rename(path)
    with Ledger.open(url, home=home) as ledger:
        assert ledger.check().verdict == "fail"
        with pytest.raises(InputError, match="is another one"):
            ledger.append("incident", by="a", about="x", body={})
    path.unlink()
    (tmp_path / "kept.db").rename(path)
    with Ledger.open(url, home=home) as ledger:
        assert ledger.append("incident", by="a", about="x", body={}).seq == 7
    # A ledger may move; its checkpoint goes by its name.
    path.rename(tmp_path / "moved.db")
    with Ledger.open(str(tmp_path / "moved.db"), home=home) as ledger:
        assert ledger.check().verdict == "pass"
        assert ledger.append("incident", by="a", about="x", body={}).seq == 8
        assert ledger.check().verdict == "pass"


def test_flipped_bytes_of_the_file_change_no_entry_unseen(tmp_path: Path) -> None:
    home, path = tmp_path / "home", tmp_path / "ledger.db"
    entries = tuple(filled(f"sqlite:///{path}", home, n=8))
    raw = path.read_bytes()
    used = [at for at in range(len(raw)) if raw[at]]
    chance = random.Random(3)
    n_found = 0
    for _ in range(40):
        changed = bytearray(raw)
        at = chance.choice(used)
        changed[at] ^= 1 << chance.randrange(8)
        path.unlink()
        path.write_bytes(changed)
        try:
            with Ledger.open(f"sqlite:///{path}", home=home) as ledger:
                if ledger.check().verdict == "fail":
                    n_found += 1
                else:
                    assert ledger.entries() == entries
                    assert ledger.entries(about="x") == entries
        except InputError:
            n_found += 1
        for leftover in (path.with_name("ledger.db-wal"), path.with_name("ledger.db-shm")):
            leftover.unlink(missing_ok=True)
    assert n_found > 15


def test_a_damaged_index_is_found(tmp_path: Path) -> None:
    """Entries about one thing are found by an index; one that leaves some out would hide them."""
    home, path = tmp_path / "home", tmp_path / "ledger.db"
    filled(f"sqlite:///{path}", home)
    connection = sqlite3.connect(path)
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'trimtab_ledger_about'").fetchone()[0]
    page = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    raw = bytearray(path.read_bytes())
    at = raw.index(b"x", (root - 1) * page)
    assert at < root * page
    raw[at] = ord("y")
    path.write_bytes(raw)
    with Ledger.open(str(path), home=home) as ledger:
        found = ledger.check()
        assert found.verdict == "fail"
        assert "is damaged" in found.reasons[0]


def test_rows_read_as_they_were_written() -> None:
    entries = chained()
    assert [read_row(row) for row in rows(entries)] == entries
