"""Logs of several gateways as one record: a cut is found out by what others hold, even from who has the log's key."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Server

from trimtab.core.errors import InputError
from trimtab.decide.release import read_book
from trimtab.flows.verify import verify_logs
from trimtab.record.audit import AuditLog
from trimtab.record.ledger import Ledger
from trimtab.record.log_anchors import ABOUT, anchor_logs
from trimtab.record.shared_state import SharedState, shared_ledger_url
from trimtab.serve.shared import SharedQuota


@pytest.fixture
def state(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> SharedState:
    monkeypatch.setenv("TRIMTAB_STATE", postgres.url(postgres.new_database()))
    monkeypatch.delenv("TRIMTAB_LEDGER", raising=False)
    return SharedState.open()


def served(state: SharedState, home: Path, n: int) -> None:
    """A gateway that noted n requests and ended in order."""

    async def run() -> None:
        quota = SharedQuota(state=state)
        async with quota.running():
            audit = AuditLog.open(home=home)
            quota.checkpoint = lambda: audit.checkpoint
            for number in range(n):
                await audit.append({"event": "began", "request": number})
            await audit.close()

    asyncio.run(run())


def checked(monkeypatch: pytest.MonkeyPatch, home: Path, *folders: Path) -> dict[str, Any]:
    monkeypatch.setenv("TRIMTAB_HOME", str(home))
    return verify_logs([str(folder) for folder in folders])


def test_several_logs_are_one_record(state: SharedState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        served(state, home, 5)
    unanchored = checked(monkeypatch, homes[0], *(home / "audit" for home in homes))
    assert unanchored["verdict"] == "inconclusive"
    assert "The ledger does not know this log yet" in unanchored["reasons"][0]
    assert anchor_logs(state, homes[0]) == 2
    assert anchor_logs(state, homes[1]) == 0  # nothing new, and not long ago
    found = checked(monkeypatch, homes[0], *(home / "audit" for home in homes))
    assert (found["verdict"], found["reasons"], [row["n_records"] for row in found["logs"]]) == ("pass", [], [6, 6])
    missing = checked(monkeypatch, homes[0], homes[0] / "audit")
    assert missing["verdict"] == "inconclusive"
    assert missing["reasons"][0].endswith("It was not given.")
    served(state, homes[0], 3)
    assert anchor_logs(state, homes[1]) == 0
    assert anchor_logs(state, homes[1], after_s=0.0) == 1
    with Ledger.open(shared_ledger_url(), home=homes[1]) as ledger:
        entries = ledger.entries()
    assert [(entry.kind, entry.about, len(entry.body["logs"])) for entry in entries] == [("anchor", ABOUT, 2), ("anchor", ABOUT, 1)]
    assert read_book(entries).irregular == ()


def test_a_cut_by_whoever_holds_the_log_its_key_and_its_checkpoint_is_found(
    state: SharedState, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, copy = tmp_path / "a", tmp_path / "before"
    served(state, home, 3)
    shutil.copytree(home, copy)
    served(state, home, 4)
    anchor_logs(state, home)
    shutil.rmtree(home)
    shutil.copytree(copy, home)  # log, key and checkpoint as they were once
    found = checked(monkeypatch, home, home / "audit")
    assert found["verdict"] == "fail"
    assert any("By the ledger: The end was cut off" in reason for reason in found["reasons"])
    assert any("By the shared state: The end was cut off" in reason for reason in found["reasons"])
    state._engine.dispose()
    postgres.run("DELETE FROM trimtab_state_logs", state.where.rpartition("/")[2])
    found = checked(monkeypatch, home, home / "audit")  # the shared state was cleaned too: the ledger still knows
    assert (found["verdict"], len(found["reasons"])) == ("fail", 1)


def test_a_log_that_nobody_was_told_of_does_not_pass(state: SharedState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(state, tmp_path / "a", 1)
    anchor_logs(state, tmp_path / "a")

    async def alone() -> None:
        await AuditLog.open(home=tmp_path / "b").close()

    asyncio.run(alone())
    found = checked(monkeypatch, tmp_path / "a", tmp_path / "a" / "audit", tmp_path / "b" / "audit")
    assert found["verdict"] == "fail"
    assert "No gateway ever told the others of this log." in found["reasons"][0] + found["reasons"][-1]
    monkeypatch.delenv("TRIMTAB_STATE")
    with pytest.raises(InputError, match="TRIMTAB_STATE names no shared state"):
        verify_logs()
