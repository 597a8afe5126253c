"""Incidents noted by many at once, on every database a ledger may lie in."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trimtab.flows.incident import list_incidents, open_incident, update_incident
from trimtab.flows.people import add_person


@pytest.mark.slow
def test_many_at_once_get_numbers_without_gaps(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    add_person("alice", ledger=ledger_url)

    def note(n: int) -> str:
        return str(open_incident(f"number {n}", about="demo", severity="low", ledger=ledger_url)["id"])

    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(note, range(8)))
    assert sorted(names) == [f"incident-{n}" for n in range(1, 9)]
    update_incident("incident-8", severity="critical", ledger=ledger_url)
    rows = list_incidents(ledger=ledger_url)
    assert rows[0]["id"] == "incident-8"
    assert {row["id"]: row["title"] for row in rows} == {name: f"number {n}" for n, name in enumerate(names)}
