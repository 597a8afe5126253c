"""`trimtab release` as a user meets it, on a real ledger."""

import json
import shutil
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from released_run import finished_run

from trimtab.cli.main import main
from trimtab.core.deployment import Recipe
from trimtab.core.release import IntendedUse
from trimtab.decide.intended_use import parse_use

pytest.importorskip("sqlalchemy")

USE = """\
owner = "the support desk"
intended = ["drafts of answers that a person sends"]
prohibited = ["Legal advice", "topics: betting = casino, bet"]
affected = ["customers who write in"]
[answers]
benefit = "Answers come sooner."
harm = "A wrong answer that somebody sends unread."
errors = "None of the gates failed."
oversight = "Every draft is read; the desk may stop it."
redress = "The complaints address on every letter."
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("TRIMTAB_LEDGER", "TRIMTAB_EVIDENCE", "TRIMTAB_AS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "use.toml").write_text(USE, encoding="utf-8")
    return tmp_path / "home"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finished_run(tmp_path / "runs" / "demo")


def ask(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["release", *args])
    out, err = capsys.readouterr()
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    found, out, err = ask(capsys, *args, "--json")
    assert found == code, err
    return json.loads(out)


def people(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "people", "add", "alice")
    answer(capsys, "people", "add", "bob", "--roles", "approver", "--as", "alice")
    answer(capsys, "people", "add", "carol", "--roles", "operator", "--as", "alice")


def released(capsys: pytest.CaptureFixture[str], run: Path, *more: str) -> Any:
    return answer(capsys, "create", str(run), "--name", "support-chat", "--use", "use.toml", "--as", "alice", *more)


def test_from_a_run_to_production_and_back(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    people(capsys)
    first = released(capsys, run)
    assert (first["release"], first["state"], first["proposed_by"]) == ("support-chat@1", "candidate", "alice")
    assert first["missing"] == ["It needs 1 approval and has 0."]
    assert [(one["licence"], one["source"]) for one in first["licences"]] == [("apache-2.0", "general.license of the GGUF header")]
    assert [blob["name"] for blob in first["evidence"]][:2] == ["decision.json", "deploy.toml"]
    refused = answer(capsys, "promote", "support-chat@1", "--as", "carol", code=1)
    assert (refused["promoted"], refused["reasons"]) == (False, ["It needs 1 approval and has 0."])
    code, out, _ = ask(capsys, "promote", "support-chat@1", "--as", "carol")
    assert code == 1
    assert "support-chat@1 is not promoted to production:" in out
    assert answer(capsys, "approve", "support-chat@1", "--as", "bob", "--note", "read the report")["state"] == "approved"
    promoted = answer(capsys, "promote", "support-chat@1", "--to", "production", "--as", "carol")
    assert (promoted["promoted"], promoted["from"]) == (True, "")
    second = released(capsys, finished_run(tmp_path / "runs" / "next", seed=1))
    assert second["release"] == "support-chat@2"
    answer(capsys, "approve", "support-chat@2", "--as", "bob")
    assert answer(capsys, "promote", "support-chat@2", "--as", "carol")["from"] == "support-chat@1"
    back = answer(capsys, "rollback", "support-chat", "--to", "@1", "--as", "carol", "--note", "slow")
    assert (back["release"], back["alias"], back["from"]) == ("support-chat@1", "production", "support-chat@2")
    rows = answer(capsys, "list")["releases"]
    assert [(row["release"], row["state"], row["live_on"]) for row in rows] == [
        ("support-chat@1", "live", ["production"]),
        ("support-chat@2", "approved", []),
    ]
    history = answer(capsys, "history", "support-chat")
    (now,) = history["serving"]
    assert (now["release"], now["how"], now["note"], now["promoted_by"]) == ("support-chat@1", "rollback", "slow", "carol")
    assert [(one["by"], one["note"]) for one in now["approvals"]] == [("bob", "read the report")]
    assert now["decision_sha256"] == first["decision_sha256"]
    kinds = [change["kind"] for change in history["changes"]]
    assert kinds == ["release", "approval", "promotion", "release", "approval", "promotion", "rollback"]
    then = history["changes"][5]["at"]
    assert answer(capsys, "history", "support-chat", "--at", then)["serving"][0]["release"] == "support-chat@2"
    for words in ("support-chat@1", "rolled back by carol: slow", "read the report", "All changes up to then"):
        assert words in ask(capsys, "history", "support-chat")[1]
    assert answer(capsys, "retire", "support-chat@2", "--as", "carol")["state"] == "retired"
    revoked = answer(capsys, "revoke", "support-chat@1", "--reason", "a leak", "--as", "bob")
    assert (revoked["state"], revoked["taken_from"]) == ("revoked", ["production"])
    code, _, err = ask(capsys, "show", "support-chat@production")
    assert code == 2
    assert "serves nothing now" in err
    assert "revoked" in ask(capsys, "list", "support-chat")[1]


def test_a_draft_is_completed_and_approvals_end_with_it(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    people(capsys)
    draft = answer(capsys, "create", str(run), "--name", "support-chat", "--as", "alice")
    assert draft["state"] == "draft"
    code, _, err = ask(capsys, "approve", "support-chat@1", "--as", "bob")
    assert code == 2
    assert "support-chat@1 is a draft. Its intended use lacks owner" in err
    assert answer(capsys, "use", "support-chat@1", "use.toml", "--as", "alice")["state"] == "candidate"
    answer(capsys, "approve", "support-chat", "--as", "bob")
    assert answer(capsys, "use", "support-chat@1", "use.toml", "--as", "alice")["state"] == "approved", "nothing new was said"
    (tmp_path / "use.toml").write_text(USE.replace("a person sends", "goes out by itself"), encoding="utf-8")
    changed = answer(capsys, "use", "support-chat@1", "use.toml", "--as", "alice")
    assert changed["state"] == "candidate"
    assert "that by bob does not count: the release was changed after it" in changed["missing"][0]
    assert "the release was changed after it" in ask(capsys, "show", "support-chat@1")[1]
    assert [change.get("completes", False) for change in answer(capsys, "history", "support-chat")["changes"]] == [False, True, False, True]
    assert "completed support-chat@1" in ask(capsys, "history", "support-chat")[1]


def test_a_waiver_answers_for_a_gate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    people(capsys)
    failed = finished_run(tmp_path / "runs" / "failed", gates={"text": "fail", "choice": "pass"})
    assert released(capsys, failed)["missing"][0] == "Its gate text failed (it can be waived)."
    for who, words in (("alice", "may not waive its gates"), ("carol", "takes the role approver")):
        code, _, err = ask(capsys, "waive", "support-chat@1", "--gate", "text", "--reason", "known", "--lasts", "5d", "--as", who)
        assert code == 2
        assert words in err
    waived = answer(capsys, "waive", "support-chat@1", "--gate", "text", "--reason", "known and small", "--lasts", "5d", "--as", "bob")
    assert waived["state"] == "candidate"
    assert waived["waivers"][0]["counts"]
    answer(capsys, "approve", "support-chat@1", "--as", "bob")
    assert answer(capsys, "promote", "support-chat@1", "--to", "staging", "--as", "carol")["promoted"]
    code, out, _ = ask(capsys, "site", "support-chat@staging", "--out", "deployed")
    assert code == 0
    assert "allow_uncertified = true" in (tmp_path / "deployed" / "site.toml").read_text(encoding="utf-8")
    assert "No guard stands behind this prohibited use: Legal advice" in out


def test_a_short_waiver_ends(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    people(capsys)
    released(capsys, finished_run(tmp_path / "runs" / "failed", gates={"text": "inconclusive"}))
    answer(capsys, "waive", "support-chat@1", "--gate", "text", "--reason", "known", "--lasts", "0.02s", "--as", "bob")
    time.sleep(0.03)
    lacks = answer(capsys, "promote", "support-chat@1", "--as", "carol", code=1)["reasons"]
    assert "Its gate text is inconclusive, and the waiver by bob does not count: it expired" in lacks[0]


def test_the_site_of_a_release_can_be_served(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    pytest.importorskip("regex")
    from trimtab.serve.site import read_site

    people(capsys)
    released(capsys, run)
    written = answer(capsys, "site", "support-chat@1", "--out", "deployed")
    site = read_site(Path(written["site"]))
    (model,) = site.models
    assert model.name == "support-chat"
    (guard,) = model.guards
    assert (guard.name, guard.side, guard.options) == ("topics", "both", {"deny": {"betting": ["casino", "bet"]}})
    assert (tmp_path / "deployed" / "decision.json").read_bytes() == (run / "decision.json").read_bytes()
    code, _, err = ask(capsys, "site", "support-chat@1", "--out", "deployed")
    assert code == 2
    assert "not an empty folder" in err


def test_weights_that_are_made_otherwise_now_are_told_by_the_release_s_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    people(capsys)
    as_shipped = Recipe(name="llamacpp-as-shipped", family="gguf", engine="llamacpp", parameters={"type": "as-shipped"})
    released(capsys, finished_run(tmp_path / "runs" / "old", recipe=as_shipped, weights_sha256="0" * 64))
    assert main(["export", "support-chat@1", "--format", "modelpack", "--out", "out"]) == 2
    err = capsys.readouterr().err
    assert "support-chat@1: its weights" in err
    assert "`trimtab release site support-chat@1 --out DIR` and `trimtab check DIR/deploy.toml` say what changed" in err
    assert "trimtab-export" not in err


def test_licences_that_nothing_tells_are_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    people(capsys)
    extra = {"general.license": "mit", "general.base_model.0.repo_url": "https://hub.example/org/base"}
    row = released(capsys, finished_run(tmp_path / "runs" / "based", extra=extra))
    assert "The licence of org/base is unknown." in row["missing"]
    said = ("--licence", "org/base=Apache-2.0", "--licence-source", "https://org.example/LICENSE")
    row = answer(capsys, "use", "support-chat@1", *said, "--as", "carol")
    assert row["missing"] == ["It needs 1 approval and has 0."]
    assert row["licences"][1] == {
        "model": "org/base",
        "licence": "Apache-2.0",
        "source": "said by carol: https://org.example/LICENSE",
    }
    assert "said by carol" in ask(capsys, "show", "support-chat@1")[1]


def test_the_template_prints_what_the_rules_require(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = ask(capsys, "use", "--template")
    assert code == 0
    assert "# Who gains what from it? (required)" in out
    assert parse_use(out, "use.toml") == IntendedUse()
    assert out.count("(required)") == 9
    assert ask(capsys, "use", "--template", "--rules", "two-person")[1].count("(required)") == 14


def test_evidence_that_changed_is_neither_approved_nor_promoted(capsys: pytest.CaptureFixture[str], run: Path, home: Path) -> None:
    people(capsys)
    row = released(capsys, run)
    answer(capsys, "approve", "support-chat@1", "--as", "bob")
    sha256 = next(blob["sha256"] for blob in row["evidence"] if blob["name"].startswith("items/"))
    (kept,) = [path for path in (home / "evidence").rglob("*") if path.is_file() and path.parent.name + path.name == sha256]
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    (reason,) = answer(capsys, "promote", "support-chat@1", "--as", "carol", code=1)["reasons"]
    assert "Its evidence is not what was proposed. items/" in reason
    code, _, err = ask(capsys, "approve", "support-chat@1", "--as", "bob")
    assert code == 2
    assert "Its evidence is not what was proposed." in err


# people


def test_people_have_keys_here_that_others_cannot_read(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    first = answer(capsys, "people", "add", "alice", "--roles", "viewer")
    assert first["is_first"]
    assert first["roles"] == ["viewer", "operator", "approver", "auditor"]
    path = home / "keys" / "people" / "alice.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = answer(capsys, "people", "key", "bob")
    assert key["is_new"]
    (home / "keys" / "people" / "bob.pem").rename(home.parent / "bob.pem")
    added = answer(capsys, "people", "add", "bob", "--roles", "approver,viewer", "--public-key", key["public_key"])
    assert (added["added_by"], added["key_file"], added["public_key"]) == ("alice", "", key["public_key"])
    rows = answer(capsys, "people", "list")
    assert [(row["name"], row["key_is_here"]) for row in rows] == [("alice", True), ("bob", False)]
    assert "The first person of a ledger has all roles" not in ask(capsys, "people", "add", "carol", "--as", "alice")[1]


def test_the_key_of_somebody_else_does_not_sign(capsys: pytest.CaptureFixture[str], run: Path, home: Path) -> None:
    people(capsys)
    released(capsys, run)
    keys = home / "keys" / "people"
    shutil.copy(keys / "bob.pem", home / "bob.pem")
    (keys / "bob.pem").unlink()
    code, _, err = ask(capsys, "approve", "support-chat@1", "--as", "bob")
    assert code == 2
    assert "The key of bob is not here" in err
    shutil.copy(keys / "carol.pem", keys / "bob.pem")
    code, _, err = ask(capsys, "approve", "support-chat@1", "--as", "bob")
    assert code == 2
    assert "is not the key of bob that the ledger knows" in err
    shutil.copy(home / "bob.pem", keys / "bob.pem")
    (keys / "bob.pem").chmod(0o644)
    code, _, err = ask(capsys, "approve", "support-chat@1", "--as", "bob")
    assert code == 2
    assert "may be read by others" in err


def test_a_refused_person_leaves_no_key_behind(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    people(capsys)
    code, _, err = ask(capsys, "people", "add", "eve", "--roles", "approver", "--as", "carol")
    assert code == 2
    assert "takes the role approver" in err
    assert not (home / "keys" / "people" / "eve.pem").exists()


# bad input


@pytest.fixture(scope="module")
def settled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three people and support-chat@1, a candidate by alice."""
    folder = tmp_path_factory.mktemp("settled")
    (folder / "use.toml").write_text(USE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(folder / "home"))
        run = finished_run(folder / "runs" / "demo")
        for args in (
            ("people", "add", "alice"),
            ("people", "add", "bob", "--roles", "approver", "--as", "alice"),
            ("people", "add", "carol", "--roles", "operator", "--as", "alice"),
            ("create", str(run), "--name", "support-chat", "--use", str(folder / "use.toml"), "--as", "alice"),
        ):
            assert main(["release", *args, "--json"]) == 0
    return folder


@pytest.fixture
def settled(settled_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(settled_once / "home"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("show", "support-chat@9"), "no release support-chat@9; support-chat has support-chat@1"),
        (("show", "other"), "no release called 'other'; there is support-chat"),
        (("show", "support-chat@canary"), "has no alias 'canary'; nothing was promoted yet"),
        (("approve", "support-chat@1", "--as", "alice"), "alice proposed support-chat@1 and may not approve it"),
        (("approve", "support-chat@1"), "Say who you are with --as NAME or TRIMTAB_AS; the ledger knows alice, bob, carol"),
        (("approve", "support-chat@1", "--as", "carol"), "carol may not do this: it takes the role approver, and carol has operator"),
        (("approve", "support-chat@1", "--as", "mallory"), "nobody called 'mallory'"),
        (("promote", "support-chat@1", "--as", "bob"), "bob may not do this: it takes the role operator"),
        (("promote", "support-chat@1", "--to", "Prod!", "--as", "carol"), "no name for an alias"),
        (("rollback", "support-chat", "--to", "@1", "--as", "carol"), "no alias 'production'; nothing was promoted yet"),
        (("rollback", "support-chat", "--to", "other@1", "--as", "carol"), "is no release of support-chat"),
        (("rollback", "support-chat@1", "--to", "@1", "--as", "carol"), "Name the release without a number"),
        (("history", "support-chat", "--at", "yesterday"), "'yesterday' is no time; write it as '2026-11-01 12:00' (UTC)"),
        (("history", "support-chat", "--at", "2020-01-01"), "Nothing was released as 'support-chat' by 2020-01-01"),
        (("waive", "support-chat@1", "--gate", "text", "--reason", "x", "--lasts", "5d", "--as", "bob"), "'text' passed"),
        (("revoke", "support-chat@1", "--reason", " ", "--as", "bob"), "needs a reason"),
        (("use", "support-chat@1", "none.toml", "--as", "alice"), "There is no none.toml; `trimtab release use --template"),
        (("use", "support-chat@1"), "Name a release and a use.toml"),
        (("use", "support-chat@1", "--licence", "m"), "says no licence"),
        (("people", "add", "b o b", "--as", "alice"), "no name for a person"),
        (("people", "add", "dan", "--roles", "boss", "--as", "alice"), "There is no role 'boss'"),
        (("people", "add", "dan", "--public-key", "xyz", "--as", "alice"), "is no public key"),
        (("create", "nowhere", "--name", "x", "--as", "alice"), "nowhere is not a run directory"),
    ],
)
@pytest.mark.usefixtures("settled")
def test_wrong_input_is_one_sentence(args: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ask(capsys, *args)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_runs_that_cannot_be_released(capsys: pytest.CaptureFixture[str], tmp_path: Path, run: Path) -> None:
    people(capsys)
    model = tmp_path / "runs" / "demo.gguf"
    unfinished = finished_run(tmp_path / "runs" / "half", model=model, finish=False)
    other = finished_run(tmp_path / "runs" / "other", model=model, decision_sha256="0" * 64)
    chose_nothing = finished_run(tmp_path / "runs" / "nothing", model=model)
    (chose_nothing / "deploy.toml").unlink()
    kept = finished_run(tmp_path / "runs" / "kept", model=model, baseline="llamacpp as-shipped")
    for folder, words in (
        (unfinished, "is not finished; run the same command again"),
        (other, "belongs to another decision"),
        (chose_nothing, "chose nothing to deploy (pass)"),
        (kept, "kept its baseline, llamacpp as-shipped, which the gates did not examine"),
    ):
        code, _, err = ask(capsys, "create", str(folder), "--name", "support-chat", "--as", "alice")
        assert code == 2
        assert words in err
    code, _, err = ask(capsys, "create", str(run), "--name", "Support Chat", "--as", "alice")
    assert code == 2
    assert "no name for a release" in err
    assert "Nothing was released yet" in ask(capsys, "list")[1]


def test_before_there_is_a_ledger(capsys: pytest.CaptureFixture[str], run: Path, home: Path) -> None:
    asked = (
        ("release", "list"),
        ("release", "history", "support-chat"),
        ("release", "people", "list"),
        ("release", "create", str(run), "--name", "support-chat"),
        ("release", "people", "add", "alice", "--public-key", "none.pem"),
        ("verify", "ledger"),
        ("verify", "support-chat@1"),
        ("export", "support-chat@1", "--format", "compose", "--out", "out"),
    )
    for args in asked:
        code = main(list(args))
        err = capsys.readouterr().err
        assert code == 2
        assert any(words in err for words in ("trimtab release people add NAME", "is no public key", "There is no release called"))
        assert len(err.strip().splitlines()) == 1
    assert not (home / "ledger").exists(), "whoever only asks begins no ledger"


def test_the_only_person_need_not_be_named(capsys: pytest.CaptureFixture[str], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(capsys, "people", "add", "alice")
    assert answer(capsys, "create", str(run), "--name", "support-chat", "--use", "use.toml")["proposed_by"] == "alice"
    answer(capsys, "people", "add", "bob", "--roles", "approver")
    monkeypatch.setenv("TRIMTAB_AS", "bob")
    assert answer(capsys, "approve", "support-chat@1")["approvals"][0]["by"] == "bob"


def test_the_same_from_python(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    import trimtab as tt

    people(capsys)
    row = tt.release(run, name="support-chat", use="use.toml", by="carol")
    assert (row["release"], row["state"]) == ("support-chat@1", "candidate")
    assert [change["by"] for change in tt.release_history("support-chat")["changes"]] == ["carol"]
    with pytest.raises(tt.InputError, match="bob may not do this"):
        tt.release(run, name="support-chat", by="bob")


def test_a_clock_that_stands_behind_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    from trimtab.record import ledger

    answer(capsys, "people", "add", "alice")
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    monkeypatch.setattr(ledger, "_now", lambda: hour_ago)
    answer(capsys, "people", "add", "bob", "--roles", "approver")
    assert "The clock of this machine is" in caplog.text
