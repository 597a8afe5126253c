"""How a ledger's tables came to be: numbered steps, each for both databases. A released step is never edited; a change is a new one.

trimtab_ledger           the entries, one a row (record/ledger_entries.py); grows at its end and changes in no other way
trimtab_ledger_id        one row: the name of the ledger in its checkpoints, 32 hex digits
trimtab_ledger_versions  one row a step that was taken

Triggers refuse any UPDATE, DELETE, TRUNCATE and any row that is not the next one. They stop mistakes and foreign programs; whoever may
alter the tables can drop them, and is found out by the chain and its checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Dialect = Literal["sqlite", "postgresql"]


@dataclass(frozen=True, kw_only=True)
class Migration:
    """A step. statements: of each database, run in one transaction together with the row that notes the step."""

    version: int
    statements: Mapping[Dialect, tuple[str, ...]]


_COLUMNS_1 = (
    'kind TEXT NOT NULL, "at" TEXT NOT NULL, "by" TEXT NOT NULL, about TEXT NOT NULL, body TEXT NOT NULL, '
    "prev TEXT NOT NULL, hash TEXT NOT NULL, signature TEXT NOT NULL"
)

_SQLITE_1 = (
    f"CREATE TABLE trimtab_ledger (seq INTEGER PRIMARY KEY, {_COLUMNS_1})",
    "CREATE INDEX trimtab_ledger_about ON trimtab_ledger (about, seq)",
    "CREATE TABLE trimtab_ledger_id (id TEXT NOT NULL)",
    "CREATE TABLE trimtab_ledger_versions (version INTEGER PRIMARY KEY, made TEXT NOT NULL)",
    "INSERT INTO trimtab_ledger_id (id) VALUES (lower(hex(randomblob(16))))",
    "CREATE TRIGGER trimtab_ledger_next BEFORE INSERT ON trimtab_ledger"
    " WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM trimtab_ledger)"
    " OR NEW.prev IS NOT coalesce((SELECT hash FROM trimtab_ledger ORDER BY seq DESC LIMIT 1), printf('%064d', 0))"
    " BEGIN SELECT RAISE(ABORT, 'the ledger only grows at its end'); END",
    *(
        f"CREATE TRIGGER trimtab_{table}_no_{change} BEFORE {change.upper()} ON trimtab_{table}"
        " BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END"
        for table in ("ledger", "ledger_id", "ledger_versions")
        for change in ("update", "delete")
    ),
    "CREATE TRIGGER trimtab_ledger_id_no_insert BEFORE INSERT ON trimtab_ledger_id"
    " BEGIN SELECT RAISE(ABORT, 'the ledger has its name'); END",
)

_POSTGRESQL_1 = (
    f"CREATE TABLE trimtab_ledger (seq BIGINT PRIMARY KEY, {_COLUMNS_1})",
    "CREATE INDEX trimtab_ledger_about ON trimtab_ledger (about, seq)",
    "CREATE TABLE trimtab_ledger_id (id TEXT NOT NULL)",
    "CREATE TABLE trimtab_ledger_versions (version INTEGER PRIMARY KEY, made TEXT NOT NULL)",
    "INSERT INTO trimtab_ledger_id (id) VALUES (replace(gen_random_uuid()::text, '-', ''))",
    "CREATE FUNCTION trimtab_ledger_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " RAISE EXCEPTION 'the ledger only grows' USING ERRCODE = 'restrict_violation'; END $$",
    "CREATE FUNCTION trimtab_ledger_is_next() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE last RECORD; BEGIN"
    " SELECT seq, hash INTO last FROM trimtab_ledger ORDER BY seq DESC LIMIT 1;"
    " IF NEW.seq <> coalesce(last.seq, 0) + 1 OR NEW.prev <> coalesce(last.hash, repeat('0', 64)) THEN"
    " RAISE EXCEPTION 'the ledger only grows at its end' USING ERRCODE = 'restrict_violation'; END IF; RETURN NEW; END $$",
    "CREATE TRIGGER trimtab_ledger_next BEFORE INSERT ON trimtab_ledger FOR EACH ROW EXECUTE FUNCTION trimtab_ledger_is_next()",
    *(
        f"CREATE TRIGGER trimtab_{table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON trimtab_{table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION trimtab_ledger_only_grows()"
        for table in ("ledger", "ledger_id", "ledger_versions")
    ),
    "CREATE TRIGGER trimtab_ledger_id_no_insert BEFORE INSERT ON trimtab_ledger_id"
    " FOR EACH STATEMENT EXECUTE FUNCTION trimtab_ledger_only_grows()",
)

MIGRATIONS: tuple[Migration, ...] = (Migration(version=1, statements={"sqlite": _SQLITE_1, "postgresql": _POSTGRESQL_1}),)
