"""The ledger: who decided what, on which evidence, and when. Each entry is bound to the one before; none is ever changed.

where       TRIMTAB_HOME/ledger/ledger.db (SQLite), or what TRIMTAB_LEDGER or `url` names: sqlite:///FILE, postgresql://USER@HOST/DATABASE
turns       any number of processes and machines may write; each waits for its turn, and judges and writes in one transaction
durable     an entry is on the disk when `append` returns (SQLite: WAL, synchronous=FULL; PostgreSQL: synchronous_commit=on)
checkpoint  then the number of entries and the last hash are signed and kept under TRIMTAB_HOME/anchors (record/checkpoints.py), out of
            reach of whoever can write the database alone: a chain by itself cannot tell that its end was cut or written anew

A ledger that does not hold what was signed here last is neither read from nor written to; `check` says what it lacks.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from trimtab.core.errors import InputError, MissingError
from trimtab.core.release import Entry, EntryKind
from trimtab.record.checkpoints import Checkpoint, Signer, anchor_of_log, anchors_of_folder, new_anchor, own_public_key, read_anchor
from trimtab.record.disk import sentences
from trimtab.record.ledger_check import LedgerCheck, check_rows
from trimtab.record.ledger_entries import (
    BEGINNING,
    BadEntry,
    Head,
    Row,
    Sign,
    clock_warning,
    drafted,
    follow,
    head_of,
    key_in,
    read_row,
    sealed,
    signature_fault,
    signed,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from trimtab.record.ledger_database import Database

_SETTLE_S = 0.3  # so long may a writer need between its commit and its checkpoint


class NoLedger(InputError):
    """There is none in that place yet."""


class Append(Protocol):
    """Writes the next entry within a turn. It counts once the turn has ended."""

    def __call__(self, kind: EntryKind, *, by: str, about: str, body: Mapping[str, Any], signer: Sign | None = None) -> Entry: ...


class Ledger:
    """An open ledger. Any thread may use it.

    where: for people, without user and password; id: its own name, 32 hex digits
    warnings: sentences about the writer's clock, for the user's stderr; whoever opened the ledger shows them
    """

    def __init__(self, database: "Database", home: Path) -> None:
        self.where = database.place.shown
        self.id = database.id
        self.warnings: list[str] = []
        self._database = database
        self._home = home

    @classmethod
    def open(cls, url: str = "", *, home: Path, must_exist: bool = False) -> Self:
        """Open a ledger, or begin one. url: empty = TRIMTAB_LEDGER, else SQLite under `home`, where keys and checkpoints lie in any case

        must_exist: begin none and raise NoLedger instead: whoever only reads leaves nothing behind
        Raises InputError (wrong address, no permission, another ledger than the one that was signed there, a newer trimtab's),
        MissingError (not reachable, disk full, package).
        """
        try:
            from trimtab.record.ledger_database import Database
        except ModuleNotFoundError as error:
            raise MissingError(f"The ledger needs the package {error.name}.", "pip install 'trimtab[release]'") from None

        def may_begin(place: str) -> None:
            if (last := _last_kept(home, place)) is not None and last.size:
                raise InputError(
                    f"There is no ledger in {place}, but one of {last.size} entries was signed there on {last.at}; put it back from a "
                    f"backup, or move {home / 'anchors' / last.log}.json aside to begin a new one."
                )
            if must_exist:
                raise NoLedger(f"There is no ledger in {place} yet; begin with `trimtab release people add NAME`.")

        url = url or os.environ.get("TRIMTAB_LEDGER", "")
        database = Database.open(url, default=home / "ledger" / "ledger.db", may_begin=may_begin)
        return cls(database, home)

    def append(self, kind: EntryKind, *, by: str, about: str, body: Mapping[str, Any], signer: Sign | None = None) -> Entry:
        """Write an entry. It is on the disk when this returns, and not there at all if this raises (but for what the message says).

        signer: signs bytes with the key of `by`, hex; needed where the ledger knows a key of that person
        Raises InputError (wrong key, not signed, wrong content, no permission, a cut ledger), MissingError (not reachable, locked, full).
        """
        with self._turn() as turn:
            return turn.append(kind, by=by, about=about, body=body, signer=signer)

    @contextlib.contextmanager
    def writing(self) -> Iterator[tuple[tuple[Entry, ...], Append]]:
        """All entries and a function to append: a rule that is judged on the entries still holds when its entry is written.

        Nobody else writes within the block. What was appended is on the disk when it ends, and gone if it raises.
        """
        with self._turn() as turn:
            yield turn.entries(), turn.append

    def entries(self, *, about: str | None = None, since_seq: int = 0) -> tuple[Entry, ...]:
        """Entries in order. about: only those about it; since_seq: only those after this number

        Raises InputError for an entry that was changed, for one that is missing (where all are asked for), for a ledger that was cut or
        written anew since its last checkpoint here; MissingError.
        """
        from trimtab.record.ledger_database import head, rows

        last = self._kept()  # before: what is written meanwhile is then no cut
        with self._database.reading() as connection:
            self._hold(connection, head(connection), last)
            found = rows(connection, self.where, about=about, since_seq=since_seq)
            return self._read(found, is_whole=about is None and since_seq == 0)

    def check(self, anchor: Path | None = None, *, key: str = "") -> LedgerCheck:
        """Read everything again and hold it against the last signed checkpoint.

        anchor: a copy of the checkpoint that was kept elsewhere, default the one under TRIMTAB_HOME
        key: 64 hex digits, whose signature the checkpoint must have, default this installation's
        Raises InputError, MissingError.
        """
        ends = time.monotonic() + _SETTLE_S
        while True:
            checkpoint = read_anchor(anchor) if anchor else self._kept()
            found = self._checked(checkpoint, key or own_public_key(self._home), is_copy=anchor is not None)
            if found.verdict == "pass" or anchor or time.monotonic() > ends:
                return found
            time.sleep(0.05)
            if self._kept() == checkpoint and (found.verdict == "fail" or checkpoint is None):
                return found  # nobody is writing

    def close(self) -> None:
        """Idempotent."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, found: Iterator[Row], *, is_whole: bool) -> tuple[Entry, ...]:
        """is_whole: from the first entry on, so that each must follow the one before."""
        entries: list[Entry] = []
        for row in found:
            try:
                entry = read_row(row)
                if is_whole:
                    follow(entry, head_of(entries[-1]) if entries else BEGINNING)
            except BadEntry as error:
                number = len(entries) + 1 if is_whole else row[0]
                raise InputError(f"Entry {number} of the ledger {self.where} {error}; see `trimtab verify ledger`.") from None
            entries.append(entry)
        return tuple(entries)

    @contextlib.contextmanager
    def _turn(self) -> Iterator["_Turn"]:
        from trimtab.record.ledger_database import head

        with self._database.writing() as connection:
            turn = _Turn(self, connection, head(connection))
            key = Signer.of(self._home).public_hex  # one that cannot be used is found before anything is written
            self._hold(connection, turn.head, self._kept(), key)
            yield turn
        if turn.n_written:
            self._sign(turn.head)
            self.warnings += turn.warnings

    def _hold(self, connection: "Connection", end: Head, last: Checkpoint | None, key: str = "") -> None:
        """Hold the end against the last checkpoint. key: whose that must be, empty = that is not looked at. Raises InputError."""
        from trimtab.record.ledger_database import hash_at

        if last is None or not last.size:
            return
        why = ""
        if key and not last.is_signed_by(key):
            raise InputError(
                f"The checkpoint of the ledger {self.where} is not signed by this installation's key; put it back from a backup."
            )
        if last.log != self.id:
            why = f"is another one ({self.id}) than the one that was signed there on {last.at} ({last.log})"
        elif end.seq < last.size:
            why = f"was cut: {last.size} entries were signed on {last.at}, {end.seq} are there"
        elif hash_at(connection, last.size) != last.head:
            why = f"was written anew: its entry {last.size} is not the one that was signed on {last.at}"
        if why:
            raise InputError(
                f"The ledger {self.where} {why}; put it back from a backup, "
                f"or move {self._home / 'anchors' / last.log}.json aside to go on."
            )

    def _sign(self, end: Head) -> None:
        """Keeps a checkpoint, unless another writer has signed for more already. Raises InputError, MissingError: the entry is written."""
        folder = self._home / "anchors"
        try:
            with sentences(folder, "write"), _alone(folder / f"{self.id}.lock"):
                anchor = anchor_of_log(self._home, self.id, self.where) or new_anchor(self._home, self.where, log=self.id)
                try:
                    if anchor.last.size < end.seq:
                        anchor.write(end.seq, end.hash)
                finally:
                    anchor.close()
        except (InputError, MissingError) as error:
            raise type(error)(f"Entry {end.seq} is written, but no checkpoint of it could be signed: {error}") from error

    def _kept(self) -> Checkpoint | None:
        """The checkpoint of the ledger that was last in this place, else of this one; None if there is none. Raises InputError."""
        if (last := _last_kept(self._home, self.where)) is not None:
            return last
        path = self._home / "anchors" / f"{self.id}.json"
        return read_anchor(path) if path.exists() else None

    def _checked(self, checkpoint: Checkpoint | None, trusted_key: str, *, is_copy: bool) -> LedgerCheck:
        from trimtab.record.ledger_database import is_whole, rows

        with self._database.reading() as connection:
            found = check_rows(rows(connection, self.where), self.id, checkpoint, trusted_key=trusted_key, is_copy=is_copy)
            if found.verdict != "fail" and not is_whole(connection):
                return replace(found, verdict="fail", reasons=(f"The file {self.where} is damaged.", *found.reasons))
        return found


class _Turn:
    """What one writer does while no other writes. head: the last entry so far"""

    def __init__(self, ledger: Ledger, connection: "Connection", head: Head) -> None:
        self.head = head
        self.n_written = 0
        self.warnings: list[str] = []
        self._ledger = ledger
        self._connection = connection

    def entries(self) -> tuple[Entry, ...]:
        from trimtab.record.ledger_database import rows

        return self._ledger._read(rows(self._connection, self._ledger.where), is_whole=True)

    def append(self, kind: EntryKind, *, by: str, about: str, body: Mapping[str, Any], signer: Sign | None = None) -> Entry:
        from trimtab.record.ledger_database import insert

        now = _now()
        entry = drafted(kind, after=self.head, now=now, by=by, about=about, body=body)
        known_key = self._key_of(by)
        if signer is not None:
            entry = signed(entry, signer, known_key)
        elif signature_fault(entry, known_key):
            raise InputError(f"{by} has a key in the ledger ({known_key[:16]}...); what is written in that name must be signed with it.")
        entry = sealed(entry)
        insert(self._connection, entry)
        self.head = head_of(entry)
        self.n_written += 1
        if warning := clock_warning(entry, now):
            self.warnings.append(warning)
        return entry

    def _key_of(self, person: str) -> str:
        from trimtab.record.ledger_database import last_row

        row = last_row(self._connection, kind="person", about=person)
        return key_in(self._ledger._read(iter([row]), is_whole=False)[0]) if row is not None else ""


def _now() -> datetime:
    return datetime.now(UTC)


def _last_kept(home: Path, place: str) -> Checkpoint | None:
    found = anchors_of_folder(home, place)
    return found[-1][1] if found else None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process or thread at a time; the kernel frees the lock when its holder dies. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
