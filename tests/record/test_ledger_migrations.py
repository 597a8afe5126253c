"""Ledgers of every version open, steps of a release never change, and a newer ledger is left alone."""

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from trimtab.core.errors import InputError
from trimtab.record import ledger_database
from trimtab.record.checkpoints import read_anchor
from trimtab.record.ledger import Ledger
from trimtab.record.ledger_entries import COLUMNS
from trimtab.record.ledger_migrations import MIGRATIONS, Migration

KEPT = Path(__file__).parent / "ledgers"
RELEASED = {1: "e3d008091d69d76633af7990a822c4366fbf56bdda74631e06c5143ff0a81350"}
"""sha256 of the steps that were released: they stay as they are, a change is a new step."""

NEXT = Migration(
    version=2,
    statements={
        "sqlite": ("ALTER TABLE trimtab_ledger ADD COLUMN place TEXT NOT NULL DEFAULT ''",),
        "postgresql": ("ALTER TABLE trimtab_ledger ADD COLUMN place TEXT NOT NULL DEFAULT ''",),
    },
)


def test_released_steps_stay_as_they_are() -> None:
    digests = {step.version: hashlib.sha256(json.dumps(dict(step.statements)).encode()).hexdigest() for step in MIGRATIONS}
    assert digests == RELEASED
    assert [step.version for step in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def restored(url: str, version: int) -> None:
    """Puts the kept ledger of a version in its place."""
    kept = KEPT / f"v{version}.db"
    if url.startswith("sqlite:///"):
        shutil.copy(kept, url.removeprefix("sqlite:///"))
        return
    # The steps of a version are what it was (see above); so are the rows.
    source = sqlite3.connect(kept)
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    rows = source.execute(f"SELECT {columns} FROM trimtab_ledger ORDER BY seq").fetchall()
    name = source.execute("SELECT id FROM trimtab_ledger_id").fetchone()[0]
    source.close()
    engine = create_engine(url.replace("postgresql://", "postgresql+pg8000://"))
    with engine.begin() as connection:
        for step in MIGRATIONS[:version]:
            for statement in step.statements["postgresql"]:
                given = "INSERT INTO trimtab_ledger_id"
                connection.exec_driver_sql(f"{given} (id) VALUES ('{name}')" if statement.startswith(given) else statement)
            connection.exec_driver_sql("INSERT INTO trimtab_ledger_versions (version, made) VALUES (%s, '')", (step.version,))
        for row in rows:
            connection.exec_driver_sql(f"INSERT INTO trimtab_ledger ({columns}) VALUES ({', '.join(['%s'] * len(row))})", row)
    engine.dispose()


@pytest.mark.parametrize("version", [step.version for step in MIGRATIONS])
def test_a_ledger_of_an_earlier_version_opens(version: int, ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As this trimtab does, and as one will that has a step more."""
    restored(ledger_url, version)
    anchor = KEPT / f"v{version}.json"
    key = read_anchor(anchor).key
    with Ledger.open(ledger_url, home=tmp_path) as ledger:
        entries = ledger.entries()
        assert [entry.kind for entry in entries] == ["person", "run", "approval"]
        assert entries[1].body == {"verdict": "pass", "decision_sha256": "0" * 64, "folder_name": "dämo"}
        found = ledger.check(anchor, key=key)
        assert (found.verdict, found.n_signed) == ("pass", 2)
    monkeypatch.setattr(ledger_database, "MIGRATIONS", (*MIGRATIONS, NEXT))
    with Ledger.open(ledger_url, home=tmp_path) as ledger:
        assert ledger.entries() == entries
        assert ledger.append("incident", by="bob", about="chat@1", body={}).seq == 4
        assert ledger.check().verdict == "pass"
        assert ledger.check(anchor, key=key).verdict == "pass"
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"written by a newer trimtab \(version 2, this one knows up to 1\)"):
        Ledger.open(ledger_url, home=tmp_path)


def test_a_step_that_fails_leaves_the_ledger_as_it_was(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restored(ledger_url, 1)
    broken = Migration(
        version=2, statements={name: (*steps, "CREATE TABLE trimtab_ledger (x TEXT)") for name, steps in NEXT.statements.items()}
    )
    monkeypatch.setattr(ledger_database, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(Exception, match="The ledger"):
        Ledger.open(ledger_url, home=tmp_path)
    monkeypatch.undo()
    with Ledger.open(ledger_url, home=tmp_path) as ledger:
        assert len(ledger.entries()) == 3
        assert ledger.append("incident", by="bob", about="chat@1", body={}).seq == 4
