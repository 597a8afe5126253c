"""The tables of a ledger, in SQLite or PostgreSQL: transactions that wait for their turn, are whole, and are on the disk once they end."""

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from sqlalchemy import BigInteger, Column, Connection, Engine, MetaData, String, Table, create_engine, event, inspect, select
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import sync_folder
from trimtab.core.release import Entry
from trimtab.record.disk import sentences
from trimtab.record.ledger_entries import BEGINNING, COLUMNS, DamagedLedger, Head, Row, row_of
from trimtab.record.ledger_errors import LOCK_S, is_locked, is_lost, removed_error, sentence
from trimtab.record.ledger_migrations import MIGRATIONS, Dialect
from trimtab.record.ledger_place import Place, place_of

_TABLES = MetaData()
_ENTRIES = Table("trimtab_ledger", _TABLES, *(Column(name, BigInteger if name == "seq" else String) for name in COLUMNS))
_IDS = Table("trimtab_ledger_id", _TABLES, Column("id", String))
_VERSIONS = Table("trimtab_ledger_versions", _TABLES, Column("version", BigInteger), Column("made", String))
_LOCK = 0x7472696D746162  # "trimtab": PostgreSQL's advisory locks are numbers
_ANSWER_S = LOCK_S + 15  # a server that says nothing for so long is gone
_ASK_MS = 20  # within it SQLite asks four times, at growing distances; after it the distances begin anew


class Database:
    """One ledger's tables. id: the ledger's own name"""

    def __init__(self, place: Place, engine: Engine) -> None:
        self.place = place
        self._engine = engine
        self._file = _identity(place.path)
        self.id = ""

    @classmethod
    def open(cls, url: str, *, default: Path, may_begin: Callable[[str], None]) -> Self:
        """Open a ledger and bring its tables up to date, or begin one.

        may_begin: called with where it would be before one is begun; raises to prevent it
        Raises InputError, MissingError.
        """
        place = place_of(url, default)
        if place.path is not None and not place.path.exists():
            may_begin(place.shown)
            _make_file(place.path)
        database = cls(place, _engine(place))
        try:
            database._migrate(may_begin)
            with database.reading() as connection:
                names = connection.execute(select(_IDS.c.id)).scalars().all()
            if len(names) != 1 or not re.fullmatch(r"[0-9a-f]{32}", names[0] or ""):
                raise DamagedLedger(f"The ledger {place.shown} has no name of its own; put it back from a backup.")
            database.id = names[0]
        except BaseException:
            database.close()
            raise
        return database

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One state of the ledger, whatever is written meanwhile. Raises InputError, MissingError."""
        try:
            with self._engine.connect() as connection:
                if self.place.path is None:
                    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                yield connection
        except SQLAlchemyError as error:
            raise sentence(error, self.place.shown, "read") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """The one writer's turn: what is written in the block is on the disk when it ends, or not there at all if it raises.

        Raises InputError, MissingError.
        """
        self._see_that_it_is_there()
        connection: Connection | None = None
        is_ending = False
        try:
            connection = self._engine.connect().execution_options(trimtab_writes=True)
            transaction = connection.begin()
            if self.place.path is None:
                _take_turn(connection)
            yield connection
            is_ending = True
            transaction.commit()
        except BaseException as error:
            if connection is not None:
                with contextlib.suppress(SQLAlchemyError):
                    connection.invalidate()  # in whatever state it is: the next turn begins on another
            if not isinstance(error, SQLAlchemyError):
                raise
            if is_ending and is_lost(error):
                raise MissingError(
                    f"The ledger {self.place.shown} went away while an entry was being written: it may be there or not.",
                    "look for it once the server answers again, before it is written anew.",
                ) from error
            raise sentence(error, self.place.shown, "write") from error
        finally:
            if connection is not None:
                with contextlib.suppress(SQLAlchemyError):
                    connection.close()
        self._see_that_it_is_there()

    def close(self) -> None:
        """Idempotent."""
        self._engine.dispose()

    def _see_that_it_is_there(self) -> None:
        """SQLite would go on writing to a file that somebody has removed."""
        if self.place.path is not None and _identity(self.place.path) != self._file:
            raise removed_error(self.place.shown)

    def _migrate(self, may_begin: Callable[[str], None]) -> None:
        with self.reading() as connection:
            version = _version(connection, self.place.shown)
        if version == MIGRATIONS[-1].version:
            return
        dialect: Dialect = "sqlite" if self.place.path is not None else "postgresql"
        with self.writing() as connection:
            version = _version(connection, self.place.shown)
            if version == 0:
                may_begin(self.place.shown)
            for step in MIGRATIONS:
                if step.version > version:
                    for statement in step.statements[dialect]:
                        connection.exec_driver_sql(statement)
                    made = datetime.now(UTC).isoformat(timespec="seconds")
                    connection.execute(_VERSIONS.insert().values(version=step.version, made=made))


def rows(connection: Connection, shown: str, *, about: str | None = None, since_seq: int = 0) -> Iterator[Row]:
    """Entries after a number, in order; about: only those about it. Raises InputError, MissingError."""
    query = select(*(_ENTRIES.c[name] for name in COLUMNS)).where(_ENTRIES.c.seq > since_seq).order_by(_ENTRIES.c.seq)
    try:
        for row in connection.execute(query if about is None else query.where(_ENTRIES.c.about == about)):
            yield tuple(row)
    except SQLAlchemyError as error:
        raise sentence(error, shown, "read") from error


def last_row(connection: Connection, *, kind: str, about: str) -> Row | None:
    """The newest entry of a kind about something."""
    query = select(*(_ENTRIES.c[name] for name in COLUMNS)).where(_ENTRIES.c.about == about, _ENTRIES.c.kind == kind)
    found = connection.execute(query.order_by(_ENTRIES.c.seq.desc()).limit(1)).first()
    return None if found is None else tuple(found)


def head(connection: Connection) -> Head:
    """What the next entry is bound to."""
    query = select(_ENTRIES.c.seq, _ENTRIES.c.hash, _ENTRIES.c.at).order_by(_ENTRIES.c.seq.desc()).limit(1)
    found = connection.execute(query).first()
    return BEGINNING if found is None else Head(found.seq, found.hash, found.at)


def hash_at(connection: Connection, seq: int) -> str:
    """The hash of an entry, empty if there is none."""
    return connection.execute(select(_ENTRIES.c.hash).where(_ENTRIES.c.seq == seq)).scalar() or ""


def insert(connection: Connection, entry: Entry) -> None:
    """Write the next entry."""
    connection.execute(_ENTRIES.insert().values(**row_of(entry)))


def is_whole(connection: Connection) -> bool:
    """Whether SQLite finds its own file, the indices too, in order. PostgreSQL looks at what it reads as it reads it."""
    if connection.dialect.name != "sqlite":
        return True
    try:
        return connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar() == "ok"
    except DatabaseError:
        return False


def _version(connection: Connection, shown: str) -> int:
    """The last step that was taken, 0 if none was. Raises InputError for a ledger of a newer trimtab."""
    if not inspect(connection).has_table(_VERSIONS.name):
        return 0
    taken = connection.execute(select(_VERSIONS.c.version)).scalars().all()
    version = len(taken)
    if not taken or set(taken) != set(range(1, version + 1)):
        raise DamagedLedger(f"The ledger {shown} does not say of which version it is; put it back from a backup.")
    if version > MIGRATIONS[-1].version:
        raise InputError(
            f"The ledger {shown} was written by a newer trimtab (version {version}, this one knows up to {MIGRATIONS[-1].version}); "
            "upgrade trimtab."
        )
    return version


def _take_turn(connection: Connection) -> None:
    """PostgreSQL: wait for the writer before, see all that it wrote, and have the commit on the disk whatever the default is."""
    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_S}s'")
    connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _engine(place: Place) -> Engine:
    # No bound on connections: writers wait for their turn at the database, where a lock has a time limit and a sentence.
    pool: dict[str, Any] = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": -1, "hide_parameters": True}
    if place.path is not None:
        path = place.path
        engine = create_engine("sqlite://", creator=lambda: _sqlite(path), **pool)
        event.listen(engine, "begin", _begin)
        return engine
    assert place.url is not None
    try:
        return create_engine(
            place.url,
            pool_pre_ping=True,
            connect_args={**place.connect_args, "timeout": _ANSWER_S, "application_name": "trimtab"},
            **pool,
        )
    except ModuleNotFoundError as error:
        raise MissingError(f"A ledger in PostgreSQL needs the package {error.name}.", "pip install 'trimtab[postgres]'") from None


def _begin(connection: Connection) -> None:
    """Begins a transaction of SQLite, whose own way of waiting lets those who have waited long ask ever more seldom."""
    # A writer waits here, not at its first INSERT: what it has read is then what it writes after.
    if not connection.get_execution_options().get("trimtab_writes"):
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {_ASK_MS}")
    ends = time.monotonic() + LOCK_S
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            break
        except OperationalError as error:
            if not is_locked(error) or time.monotonic() > ends:
                raise
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(LOCK_S * 1000)}")


def _sqlite(path: Path) -> sqlite3.Connection:
    may_write = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    log = path.with_name(f"{path.name}-wal")
    # Without the right to write beside it, a file in WAL mode opens only as one that nobody changes: so it is, unless a log lies there.
    options = "mode=rw" if may_write else "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{options}", uri=True, timeout=LOCK_S, isolation_level=None, check_same_thread=False
    )
    try:
        if may_write:
            _use_log(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1")
    except BaseException as error:
        connection.close()
        if isinstance(error, UnicodeDecodeError):  # a damaged table of contents, which stands in SQLite's message
            raise sqlite3.DatabaseError("Could not decode to UTF-8") from error
        raise
    return connection


def _use_log(connection: sqlite3.Connection) -> None:
    """WAL: readers and the writer do not wait for each other. SQLite does not wait for its turn when several switch to it at once."""
    ends = time.monotonic() + LOCK_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > ends:
                raise
            time.sleep(0.01)
        else:
            return


def _make_file(path: Path) -> None:
    """An empty file, which SQLite takes for an empty database, whose name survives a power cut."""
    with sentences(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)


def _identity(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
