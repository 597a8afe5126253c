"""`trimtab incident` as a user meets it, on a real ledger."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import main
from trimtab.core.watching import Action
from trimtab.flows.parts.incidents import note_action
from trimtab.flows.parts.released import entries_of
from trimtab.flows.people import add_person

pytest.importorskip("sqlalchemy")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("TRIMTAB_LEDGER", "TRIMTAB_EVIDENCE", "TRIMTAB_AS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


def ask(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["incident", *args])
    out, err = capsys.readouterr()
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    code, out, err = ask(capsys, *args, "--json")
    assert code == 0, err
    return json.loads(out)


def test_from_open_to_closed_with_its_effect(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "list") == []
    assert "There are no open incidents" in ask(capsys, "list")[1]
    add_person("alice")
    opened = answer(
        capsys, "open", "Answers in English", "--about", "demo", "--severity", "high", "--affected", "Germans", "--serious", "rights"
    )
    assert (opened["id"], opened["state"], opened["by"], opened["deadline"]["days"]) == ("incident-1", "open", "alice", 15)
    answer(capsys, "update", "1", "--state", "contained", "--owner", "alice", "--note", "rolled back")
    effect = answer(
        capsys,
        *("impact", "add", "Germans wait for a person", "--about", "demo", "--severity", "moderate", "--source", "incident-1"),
        *("--group", "Germans"),
    )
    assert (effect["id"], effect["state"], effect["intended"]) == ("impact-1", "suspected", False)
    answer(capsys, "impact", "update", "impact-1", "--state", "mitigated", "--mitigation", "a person answers")
    code, out, _ = ask(capsys, "show", "incident-1")
    assert code == 0
    for text in (
        "incident-1: Answers in English",
        "contained, high",
        "alice: state contained",
        "impact-1, mitigated",
        "Article 73(2)",
        "no legal advice",
    ):
        assert text in " ".join(out.split())
    closed = answer(capsys, "close", "incident-1", "--note", "the template")
    assert closed["state"] == "closed"
    assert answer(capsys, "list") == []
    assert [one["id"] for one in answer(capsys, "list", "--all")] == ["incident-1"]
    assert "Answers in English" in ask(capsys, "list", "--all", "--about", "demo")[1]
    assert "Germans wait" in ask(capsys, "impact", "list")[1]
    assert all(entry.signature for entry in entries_of("")[1:])  # alice has a key, so every step is signed with it


def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ask(capsys, "open", "x", "--about", "demo", "--severity", "low")
    assert code == 2
    assert "trimtab release people add NAME" in err
    add_person("alice")
    add_person("vic", by="alice")
    answer(capsys, "open", "x", "--about", "demo", "--severity", "low", "--as", "alice")
    for args, said in (
        (("open", "x", "--about", "demo@1", "--severity", "low", "--as", "alice"), "There is no release called 'demo'"),
        (("open", "x", "--about", "demo", "--severity", "low"), "Say who you are with --as"),
        (("open", "x", "--about", "demo", "--severity", "low", "--as", "eve"), "nobody called 'eve'"),
        (("open", "x", "--about", "demo", "--severity", "low", "--as", "vic"), "vic may not do this"),
        (("update", "7", "--note", "x", "--as", "alice"), "There is no incident '7'; the last one is incident-1."),
        (("update", "1", "--as", "alice"), "Say what is new about incident-1"),
        (("close", "1", "--note", "x", "--as", "alice"), "Nobody answers for incident-1"),
        (("show", "9"), "There is no incident '9'"),
        (("impact", "update", "1", "--note", "x", "--as", "alice"), "There is no impact '1'; there is none yet"),
        (("list", "--about", "demo@1"), "There is no release called 'demo'"),
    ):
        code, out, err = ask(capsys, *args)
        assert (code, out) == (2, "")
        assert said in err
        assert "Traceback" not in err


def test_an_action_is_told_with_what_came_of_it() -> None:
    add_person("alice")
    action = Action(kind="stop-canary", rule="canary-worse", why="a1", at_s=1.0, done=True, result="the canary is stopped")
    assert note_action("", by="alice", about="demo", action=action) == 2
    assert entries_of("")[-1].body["result"] == "the canary is stopped"
