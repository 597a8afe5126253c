"""`trimtab keys` and `trimtab verify log` as a user meets them."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import main
from trimtab.record.audit import AuditLog
from trimtab.record.chain import ChainLog, log_id, segments
from trimtab.record.identities import Keyring
from trimtab.serve.limits import Limits, SpendFile


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "home"


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(list(args))
    out, err = capsys.readouterr()
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    code, out, err = run(capsys, *args, "--json")
    assert code == 0, err
    return json.loads(out)


def test_the_life_of_a_key(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    limits = ("--models", "chat, embed", "--verbs", "chat,embedding", "--rpm", "60", "--tokens-per-day", "5000", "--expires", "90d")
    made = answer(capsys, "keys", "add", "web", *limits)
    assert (made["models"], made["verbs"], made["rpm"], made["state"]) == (["chat", "embed"], ["chat", "embedding"], 60, "active")
    assert Keyring(home).find(made["secret"]) is not None
    rotated = answer(capsys, "keys", "rotate", "web", "--overlap", "2d")
    assert rotated["secret"] != made["secret"]
    assert rotated["old_until_unix_s"] > made["created_unix_s"] + 2 * 86400 - 60
    ring = Keyring(home)
    key = ring.find(made["secret"])
    assert key is not None
    assert ring.find(rotated["secret"]) == key
    spent = Limits()
    spent.spend(key, 1234, time.time())
    SpendFile(home).write(spent.take_pending())
    [row] = answer(capsys, "keys", "list")
    assert (row["name"], row["tokens_today"], row["state"]) == ("web", 1234, "active")
    assert "secret" not in row
    code, out, _ = run(capsys, "keys", "list")
    assert code == 0
    assert "1,234" in out
    assert "5,000" in out
    assert made["secret"] not in out
    assert answer(capsys, "keys", "revoke", "web")["state"] == "revoked"
    assert Keyring(home).find(rotated["secret"]) is None
    assert answer(capsys, "keys", "list") == []
    assert len(answer(capsys, "keys", "list", "--all")) == 1
    assert "--all shows them" in run(capsys, "keys", "list")[1]


def test_a_secret_is_shown_whole_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = run(capsys, "keys", "add", "web")
    [secret] = [word for word in out.split() if word.startswith("tt-")]
    assert Keyring(home).find(secret) is not None


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("keys", "add", "a b"), "no name for a key"),
        (("keys", "add", "web", "--verbs", "train"), "'train'"),
        (("keys", "add", "web", "--rpm", "0"), "range"),
        (("keys", "add", "web", "--expires", "soon"), "not an age"),
        (("keys", "rotate", "nobody"), "no key 'nobody'"),
        (("keys", "revoke", "nobody"), "no key 'nobody'"),
        (("verify", "log"), "no log in"),
        (("verify", "log", "nowhere", "--anchor", "missing.json"), "missing.json"),
    ],
)
def test_wrong_input_is_one_sentence(args: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1


# verify log


@pytest.fixture
def log(home: Path) -> Path:
    """The folder of a closed log of 21 records."""

    async def write() -> None:
        async with AuditLog.open() as audit:
            for number in range(20):
                await audit.append({"event": "ended", "request": f"req_{number}"})

    asyncio.run(write())
    return home / "audit"


def verified(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, Any]]:
    code, out, err = run(capsys, "verify", "log", *args, "--json")
    return code, json.loads(out) if out else {"error": err}


def test_a_good_log(capsys: pytest.CaptureFixture[str], log: Path, home: Path) -> None:
    code, found = verified(capsys)
    assert (code, found["verdict"], found["n_records"], found["bad"], found["reasons"]) == (0, "pass", 21, None, [])
    code, out, _ = run(capsys, "verify", "log", str(log), "--key", str(home / "keys" / "signing.pub.pem"))
    assert code == 0
    assert "21 good records" in out


def test_a_changed_record_is_named(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    path = segments(log)[0]
    path.write_text(path.read_text().replace("req_7", "req_8"))
    code, found = verified(capsys)
    assert (code, found["bad"]["record"]) == (1, 9)
    code, out, _ = run(capsys, "verify", "log")
    assert code == 1
    assert "Record 9 was changed" in out


def test_a_cut_and_a_lost_log_are_found(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    path = segments(log)[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:15]))
    code, found = verified(capsys)
    assert (code, found["bad"]["record"]) == (1, 16)
    assert "cut off, 6 records" in found["reasons"][0]
    path.unlink()
    code, found = verified(capsys)
    assert (code, found["bad"]["record"]) == (1, 1)


def test_another_log_in_its_place_is_found(capsys: pytest.CaptureFixture[str], log: Path, home: Path, tmp_path: Path) -> None:
    other = ChainLog.open(tmp_path / "other", home=home)
    other.commit([b'{"event":"ended"}'] * 20)
    other.close()
    path = segments(log)[0]
    path.write_bytes(segments(tmp_path / "other")[0].read_bytes())
    code, found = verified(capsys)
    assert code == 1
    assert "another log" in found["reasons"][0]


def test_a_copy_of_the_checkpoint_and_of_the_log_verify_elsewhere(
    capsys: pytest.CaptureFixture[str], log: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchor = home / "anchors" / f"{log_id(log)}.json"
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "another home"))
    assert verified(capsys, str(log))[0] == 4
    assert verified(capsys, str(log), "--anchor", str(anchor))[0] == 4  # by whose key?
    assert verified(capsys, str(log), "--anchor", str(anchor), "--key", str(home / "keys" / "signing.pub.pem"))[0] == 0
    stranger = ChainLog.open(tmp_path / "other", home=tmp_path / "another home")
    stranger.close()
    assert verified(capsys, str(log), "--anchor", str(anchor))[0] == 1  # this home's key is another


def test_a_log_in_use_is_verified_too(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    writer = ChainLog.open(home / "audit", home=home)
    writer.commit([b'{"event":"ended"}'] * 3)
    assert verified(capsys)[0] == 0
    writer.commit([b'{"event":"ended"}'] * 3)
    writer.close()
    assert verified(capsys)[1]["n_records"] == 7
