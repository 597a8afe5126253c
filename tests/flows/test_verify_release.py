"""`trimtab verify` on releases and folders: right where nothing changed, and a sentence for whatever did."""

import base64
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trimtab.cli.main import main
from trimtab.core.errors import InputError
from trimtab.core.files import sha256_file
from trimtab.decide.release import find, read_book
from trimtab.flows.parts.release_folder import cards_of, write_release_folder
from trimtab.flows.people import add_person
from trimtab.flows.release import approve, complete, create, promote
from trimtab.flows.verify import verify_ledger, verify_release
from trimtab.record.evidence_store import EvidenceStore
from trimtab.record.ledger import Ledger
from trimtab.record.statements import signed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "parts"))
from sample_run import USE, write_sample_run

ID = "support-chat@1"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an approved and promoted release, its run and its weights. Never changed: tests take copies."""
    root = tmp_path_factory.mktemp("released")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "home"))
        write_sample_run(root / "run", root / "weights" / "tiny.gguf")
        (root / "use.toml").write_text(USE)
        add_person("alice")
        add_person("bob", roles=["approver"], by="alice")
        create(root / "run", name="support-chat", use=root / "use.toml", by="alice")
        approve(ID, note="read", by="bob")
        assert promote(ID, by="alice")["promoted"]
    return root


@pytest.fixture
def home(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = Path(shutil.copytree(kept / "home", tmp_path / "home"))
    monkeypatch.setenv("TRIMTAB_HOME", str(found))
    monkeypatch.setenv("COLUMNS", "160")
    return found


@pytest.fixture
def folder(home: Path, kept: Path, tmp_path: Path) -> Path:
    """The release as it is exported, with its weights."""
    with Ledger.open("", home=home) as ledger:
        entries = ledger.entries()
        record = find(read_book(entries), ID)
        write_release_folder(tmp_path / "out", record, entries, EvidenceStore.open("", home=home))
    shutil.copytree(kept / "weights", tmp_path / "out" / "packed")
    return tmp_path / "out"


def sentences(found: dict[str, Any], state: str) -> str:
    return "\n".join(check["sentence"] for check in found["checks"] if check["state"] == state)


def names(found: dict[str, Any], state: str) -> list[str]:
    return [check["name"] for check in found["checks"] if check["state"] == state]


def stored(home: Path, name: str) -> Path:
    """Where the evidence of this name lies in the store."""
    with Ledger.open("", home=home) as ledger:
        release = find(read_book(ledger.entries()), ID)
    blobs = (*release.release.evidence, *cards_of(release.entry.body))
    named = {blob.name: blob.sha256 for blob in blobs} | {"statement": release.entry.body["statement_sha256"]}
    return home / "evidence" / named[name][:2] / named[name][2:]


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_release_that_nobody_touched_is_right(home: Path, kept: Path) -> None:
    found = verify_release(ID, weights=str(kept / "weights" / "tiny.gguf"))
    assert (found["verdict"], found["reasons"]) == ("pass", [])
    assert sorted(names(found, "right")) == ["approvals", "decision", "files", "items", "ledger", "signature", "weights"]
    assert "8 gates computed again" in sentences(found, "right")
    assert "Approved by bob, for exactly this evidence" in sentences(found, "right")
    assert "this installation" in sentences(found, "right")
    assert names(found, "unknown") == ["timings"]
    assert verify_release("support-chat@production")["verdict"] == "pass"


def test_weights_that_are_not_here_are_said_to_be_unchecked(home: Path) -> None:
    found = verify_release(ID)
    assert found["verdict"] == "pass"
    assert any("weights are not here" in sentence for sentence in found["unchecked"])


def test_other_weights_are_told(home: Path, kept: Path, tmp_path: Path) -> None:
    shutil.copy(kept / "weights" / "tiny.gguf", tmp_path / "tiny.gguf")
    flip(tmp_path / "tiny.gguf")
    found = verify_release(ID, weights=str(tmp_path / "tiny.gguf"))
    assert (found["verdict"], names(found, "wrong")) == ("fail", ["weights"])


@pytest.mark.parametrize("name", ["decision.json", "deploy.toml", "run.json", "candidates.jsonl", "README.md", "card.html", "statement"])
def test_a_changed_byte_of_the_evidence_is_told(home: Path, name: str) -> None:
    flip(stored(home, name))
    found = verify_release(ID)
    assert found["verdict"] == "fail"
    assert "damaged" in found["reasons"][0]


def test_evidence_that_is_gone_is_told(home: Path) -> None:
    stored(home, "decision.json").unlink()
    found = verify_release(ID)
    assert found["verdict"] == "fail"
    assert "decision.json: The evidence" in found["reasons"][0]


def sql(home: Path, statement: str) -> None:
    with sqlite3.connect(home / "ledger" / "ledger.db") as connection:
        for trigger in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger[0]}")
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trimtab_ledger SET body = replace(body, 'read', 'seen') WHERE kind = 'approval'",
        "DELETE FROM trimtab_ledger WHERE kind = 'approval'",
        "DELETE FROM trimtab_ledger WHERE seq > 4",
        "UPDATE trimtab_ledger SET at = '2020-01-01T00:00:00.000000+00:00' WHERE seq = 3",
    ],
)
def test_a_changed_ledger_is_told(home: Path, statement: str) -> None:
    sql(home, statement)
    found = verify_release(ID)
    assert found["verdict"] == "fail"
    assert "ledger" in names(found, "wrong")
    assert verify_ledger()["verdict"] == "fail"


def test_an_entry_that_the_rules_do_not_allow_is_told(home: Path) -> None:
    with Ledger.open("", home=home) as ledger:
        ledger.append("approval", by="mallory", about=ID, body={"note": "", "release_sha256": "0" * 64})
    found = verify_release(ID)
    assert found["verdict"] == "pass"
    assert found["unchecked"][0].startswith("Entry 7, approval by mallory, is not allowed and counts for nothing: There is nobody called")


def test_an_entry_of_a_kind_that_does_not_exist_changes_nothing(home: Path) -> None:
    with Ledger.open("", home=home) as ledger:
        entries = [replace(entry, kind=f"{entry.kind}x") if entry.kind == "promotion" else entry for entry in ledger.entries()]  # type: ignore[arg-type]
    book = read_book(entries)
    assert [one.reasons for one in book.irregular] == [("There is no entry of kind 'promotionx'.",)]
    assert book.live_on(ID) == ()


def test_a_ledger_whose_release_is_gone_fails_all_the_same(home: Path) -> None:
    sql(home, "DELETE FROM trimtab_ledger WHERE kind = 'release'")
    found = verify_release(ID)
    assert (found["verdict"], set(names(found, "wrong"))) == ("fail", {"ledger"})


def test_an_older_copy_of_the_checkpoint_still_binds(home: Path, tmp_path: Path) -> None:
    [anchor] = (home / "anchors").glob("*.json")
    copy = Path(shutil.copy(anchor, tmp_path / "copy.json"))
    add_person("carol", by="alice")
    assert verify_release(ID, anchor=str(copy))["verdict"] == "pass"
    assert verify_ledger(anchor=str(copy))["verdict"] == "pass"


def test_a_key_that_did_not_sign_fails(home: Path, tmp_path: Path) -> None:
    own = home / "keys" / "signing.pub.pem"
    assert verify_release(ID, keys=[str(own)])["verdict"] == "pass"
    found = verify_release(ID, keys=[str(home / "keys" / "people" / "bob.pem")])
    assert found["verdict"] == "fail"
    assert {"ledger", "signature"} <= set(names(found, "wrong"))
    with pytest.raises(InputError, match="no-such"):
        verify_release(ID, keys=[str(tmp_path / "no-such.pem")])


def test_an_approval_given_before_the_release_was_completed_does_not_count(home: Path, kept: Path, tmp_path: Path) -> None:
    create(kept / "run", name="other", use=kept / "use.toml", by="alice")
    approve("other@1", by="bob")
    (tmp_path / "use.toml").write_text(USE.replace("customers", "customers and guests"))
    complete("other@1", use=tmp_path / "use.toml", by="alice")
    found = verify_release("other@1")
    assert found["verdict"] == "pass"
    assert "4 cards are as named" in sentences(found, "right")
    assert "Nobody has approved it as it is" in sentences(found, "unknown")
    assert "The approval by bob" in sentences(found, "unknown")


def test_what_was_never_released_is_one_sentence(home: Path, tmp_path: Path) -> None:
    for what in ("nothing@1", "support-chat@9"):
        with pytest.raises(InputError, match="There is no"):
            verify_release(what)
    with pytest.raises(InputError, match="no alias 'canary'"):
        verify_release("support-chat@canary")
    with pytest.raises(InputError, match="is not the folder of a run"):
        verify_release(str(tmp_path / "nowhere" / "run"))
    with pytest.raises(InputError, match=r"holds no decision\.json"):
        verify_release(str(tmp_path))


def test_an_exported_folder_is_right_by_itself(home: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stranger has: the folder and the public key, no ledger and no evidence store."""
    key = Path(shutil.copy(home / "keys" / "signing.pub.pem", tmp_path / "signing.pub.pem"))
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "strangers-home"))
    found = verify_release(str(folder), keys=[str(key)])
    assert (found["verdict"], found["reasons"]) == ("pass", [])
    assert sorted(names(found, "right")) == ["approvals", "decision", "files", "items", "signature", "weights"]
    assert "signing.pub.pem" in sentences(found, "right")
    assert "approved by bob" in sentences(found, "right")
    assert "was not checked" in sentences(found, "unknown")
    bare = verify_release(str(folder))
    assert bare["verdict"] == "inconclusive"
    assert "--key" in bare["reasons"][0]
    assert not (tmp_path / "strangers-home" / "ledger").exists()


def test_cards_may_be_left_out_of_a_folder(home: Path, folder: Path) -> None:
    for name in ("README.md", "card.html", "bom.cdx.json", "technical-file.md"):
        (folder / name).unlink()
    found = verify_release(str(folder))
    assert found["verdict"] == "pass"
    assert "Not here, and so not checked: README.md" in sentences(found, "unknown")


def test_a_bundle_is_looked_into(home: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle" / "keys").mkdir(parents=True)
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    shutil.move(folder, tmp_path / "bundle" / "package")
    assert verify_release(str(tmp_path / "bundle"))["verdict"] == "pass"


def change_file(folder: Path) -> None:
    flip(folder / "candidates.jsonl")


def change_card(folder: Path) -> None:
    flip(folder / "technical-file.md")


def add_items(folder: Path) -> None:
    source = next((folder / "items").glob("choice-*"))
    shutil.copy(source, source.with_name(f"more-{source.name.rpartition('-')[2]}"))


def remove_statement(folder: Path) -> None:
    (folder / "statement.dsse.json").unlink()


def change_weights(folder: Path) -> None:
    flip(folder / "packed" / "tiny.gguf")


def change_release(folder: Path) -> None:
    path = folder / "release.json"
    path.write_text(path.read_text().replace('"customers"', '"nobody"'))


def change_digest_too(folder: Path) -> None:
    """The file and what the release says of it, as somebody would who knows what is checked."""
    path, before = folder / "candidates.jsonl", sha256_file(folder / "candidates.jsonl")
    flip(path)
    release = folder / "release.json"
    release.write_text(release.read_text().replace(before, sha256_file(path)))


def sign_anew(folder: Path) -> None:
    """A statement of the forger's own, with the forger's key."""
    key = Ed25519PrivateKey.generate()
    document = json.loads((folder / "statement.dsse.json").read_text())
    statement = json.loads(base64.b64decode(document["payload"]))
    raw = signed(statement, {key.public_key().public_bytes_raw().hex(): lambda data: key.sign(data).hex()})
    (folder / "statement.dsse.json").write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_file, "files"),
        (change_card, "files"),
        (add_items, "files"),
        (remove_statement, ""),
        (change_weights, "weights"),
        (change_release, "ledger"),
        (change_digest_too, "ledger"),
        (sign_anew, "signature"),
    ],
)
def test_a_changed_folder_is_told(home: Path, folder: Path, change: Callable[[Path], None], name: str) -> None:
    assert verify_release(str(folder))["verdict"] == "pass"
    change(folder)
    found = verify_release(str(folder))
    assert found["verdict"] == ("fail" if name else "inconclusive")
    assert name in (*names(found, "wrong"), "")


def test_a_run_is_computed_again_and_said_to_be_unsigned(kept: Path, tmp_path: Path, home: Path) -> None:
    run = Path(shutil.copytree(kept / "run", tmp_path / "run"))
    found = verify_release(str(run))
    assert (found["verdict"], names(found, "wrong")) == ("inconclusive", [])
    assert "Nothing here is signed" in found["reasons"][0]
    decision = json.loads((run / "decision.json").read_text())
    decision["reasons"] = ["because"]
    (run / "decision.json").write_text(json.dumps(decision))
    assert "not the one that deploy.toml rests on" in verify_release(str(run))["reasons"][0]
    (run / "decision.json").write_text("[")
    assert verify_release(str(run))["verdict"] == "fail"


@pytest.mark.parametrize("args", [(ID,), ("release", ID), ("ledger",)])
def test_the_command_ends_with_the_verdict(home: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    assert main(["verify", *args]) == 0
    assert "✓" in capsys.readouterr().out
    assert main(["verify", *args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
    sql(home, "DELETE FROM trimtab_ledger WHERE kind = 'approval'")
    assert main(["verify", *args]) == 1
    assert "ledger" in capsys.readouterr().out


def test_what_cannot_be_told_ends_with_4(kept: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(kept / "run")]) == 4
    out = capsys.readouterr().out
    assert "cannot be told" in out
    assert "8 gates computed again from the items" in out
    assert main(["verify", "nothing@1"]) == 2
    assert os.linesep not in capsys.readouterr().err.strip()
