"""What several gateways share: keys, what keys have spent, their rates, and the newest checkpoints of the gateways' logs.

TRIMTAB_STATE names a database of PostgreSQL; empty = none, and everything stays under TRIMTAB_HOME. What the tables hold and how tokens
are granted stands in record/state_tables.py.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import canonical_json
from trimtab.record.ledger_errors import sentence
from trimtab.record.ledger_place import Place, server_of
from trimtab.record.state_tables import STEPS

NOUN = "shared state"
ANSWER_S = 5.0
"""A server that says nothing for so long is gone."""
_TURN = 0x7472696D73746174  # "trimstat": PostgreSQL's advisory locks are numbers
_ANCHOR_TURN = _TURN + 1


@dataclass(frozen=True, kw_only=True)
class SharedLog:
    """A gateway's log as it last told the others. host: where it runs; checkpoint: signed, as JSON (record/checkpoints.py)"""

    host: str
    checkpoint: Mapping[str, Any]


def state_url() -> str:
    """What TRIMTAB_STATE says, empty if nothing is shared."""
    return os.environ.get("TRIMTAB_STATE", "")


class SharedState:
    """An open connection or several. Any thread may use it. where: for people, without user and password"""

    def __init__(self, place: Place, engine: Engine) -> None:
        self.where = place.shown
        self._engine = engine

    @classmethod
    def open(cls, url: str = "") -> Self:
        """Open it, and make its tables where there are none. url: empty = TRIMTAB_STATE. Raises InputError, MissingError."""
        place = server_of(url or state_url(), NOUN)
        assert place.url is not None
        try:
            engine = create_engine(
                place.url,
                poolclass=QueuePool,
                pool_size=2,
                max_overflow=-1,
                hide_parameters=True,
                isolation_level="AUTOCOMMIT",
                connect_args={**place.connect_args, "timeout": ANSWER_S, "application_name": "trimtab-gateway"},
            )
        except ModuleNotFoundError as error:
            raise MissingError(f"State in PostgreSQL needs the package {error.name}.", "pip install 'trimtab[release,postgres]'") from None
        state = cls(place, engine)
        try:
            state._migrate()
        except BaseException:
            state.close()
            raise
        return state

    def close(self) -> None:
        """Idempotent."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Of gateways

    def exchange(self, asked: Mapping[str, Any], *, seen_revision: int) -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]:
        """Settle and ask, in one transaction; told twice under one number, it is done once. Then what is new of the keys.

        asked: gateway, number, lease_s, host, rows, rates, log (record/state_tables.py)
        Returns the answer, and (revision, key) of each key that changed after `seen_revision`. Raises InputError, MissingError.
        """
        with self._used("write") as connection:
            answer = connection.exec_driver_sql("SELECT trimtab_state_exchange(CAST(%s AS JSONB))", (canonical_json(asked),)).scalar_one()
            rows = connection.exec_driver_sql(
                "SELECT revision, body FROM trimtab_state_keys WHERE revision > %s ORDER BY revision", (seen_revision,)
            ).all()
        return dict(answer), [(int(revision), dict(body)) for revision, body in rows]

    @contextlib.contextmanager
    def anchoring(self) -> Iterator[bool]:
        """Whether it is this one's turn to write the checkpoints into the ledger; others do not within the block."""
        with self._used("write") as connection:
            is_mine = bool(connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s)", (_ANCHOR_TURN,)).scalar())
            try:
                yield is_mine
            finally:
                if is_mine:
                    connection.exec_driver_sql("SELECT pg_advisory_unlock(%s)", (_ANCHOR_TURN,))

    # Of people

    def all_keys(self) -> list[dict[str, Any]]:
        """All keys ever made, in the order they were made, as JSON. Raises InputError, MissingError."""
        with self._used("read") as connection:
            return _keys(connection)

    @contextlib.contextmanager
    def changing_keys(self) -> "Iterator[tuple[list[dict[str, Any]], _Put]]":
        """All keys, and what writes one. One change at a time; it is on the disk when the block ends, and not there if it raises."""
        with self._transaction() as connection:
            yield _keys(connection), _Put(connection)

    def spent_of_day(self, day: int) -> dict[str, tuple[int, int]]:
        """Requests and tokens of each key on a day (days since 1970, UTC), as settled. Raises InputError, MissingError."""
        with self._used("read") as connection:
            query = "SELECT key_id, requests, tokens FROM trimtab_state_spent WHERE day = %s"
            return {str(key): (int(requests), int(tokens)) for key, requests, tokens in connection.exec_driver_sql(query, (day,))}

    def logs(self) -> list[SharedLog]:
        """The gateways' logs, by their names. Raises InputError, MissingError."""
        with self._used("read") as connection:
            rows = connection.exec_driver_sql("SELECT host, checkpoint FROM trimtab_state_logs ORDER BY log").all()
        return [SharedLog(host=str(host), checkpoint=dict(kept)) for host, kept in rows]

    @contextlib.contextmanager
    def _used(self, doing: str) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                try:
                    yield connection
                except SQLAlchemyError:
                    connection.invalidate()  # the next one begins on another
                    raise
        except SQLAlchemyError as error:
            raise sentence(error, self.where, doing, noun=NOUN) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """The one writer's turn, whose commit is on the disk whatever the server's default is."""
        with self._used("write") as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
                connection.exec_driver_sql("SET LOCAL lock_timeout = '30s'")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TURN})")
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.invalidate()
                raise

    def _migrate(self) -> None:
        with self._used("read") as connection:
            if _version(connection) == len(STEPS):
                return
        with self._transaction() as connection:
            version = _version(connection)
            if version > len(STEPS):
                raise InputError(
                    f"The {NOUN} {self.where} was made by a newer trimtab (version {version}, this one knows up to {len(STEPS)}); "
                    "upgrade trimtab."
                )
            if not version:
                connection.exec_driver_sql("CREATE TABLE trimtab_state_versions (version INTEGER PRIMARY KEY, made TIMESTAMPTZ NOT NULL)")
            for number, statements in enumerate(STEPS[version:], start=version + 1):
                for statement in statements:
                    connection.exec_driver_sql(statement.replace("%", "%%"))
                connection.exec_driver_sql("INSERT INTO trimtab_state_versions VALUES (%s, clock_timestamp())", (number,))


class _Put:
    """Writes a key within a turn."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, key: Mapping[str, Any]) -> None:
        self._connection.exec_driver_sql(
            "INSERT INTO trimtab_state_keys AS k SELECT %s, coalesce(max(revision), 0) + 1, CAST(%s AS JSONB) FROM trimtab_state_keys"
            " ON CONFLICT (id) DO UPDATE SET revision = EXCLUDED.revision, body = EXCLUDED.body",
            (key["id"], json.dumps(key)),
        )


def _keys(connection: Connection) -> list[dict[str, Any]]:
    query = "SELECT body FROM trimtab_state_keys ORDER BY (body->>'created_unix_s')::DOUBLE PRECISION, id"
    return [dict(body) for (body,) in connection.exec_driver_sql(query)]


def _version(connection: Connection) -> int:
    if connection.exec_driver_sql("SELECT to_regclass('trimtab_state_versions')").scalar() is None:
        return 0
    return int(connection.exec_driver_sql("SELECT coalesce(max(version), 0) FROM trimtab_state_versions").scalar_one())


def shared_ledger_url() -> str:
    """Where the gateways' checkpoints are written down: the ledger that is named if it is a server's, else one beside the shared state."""
    named = os.environ.get("TRIMTAB_LEDGER", "")
    return named if named.startswith(("postgres://", "postgresql")) else state_url()
