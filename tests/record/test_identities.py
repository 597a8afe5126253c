"""API keys: secrets shown once, scopes, rotation with an overlap, and a running keyring that sees every change."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.record import identities
from trimtab.record.identities import Keyring, add_key, list_keys, revoke_key, rotate_key


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock, in one cell that a test may move."""
    cell = [1_800_000_000.0]
    monkeypatch.setattr(identities.time, "time", lambda: cell[0])
    monkeypatch.setattr(identities, "LOOK_S", -1.0)
    return cell


def test_a_secret_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    key, secret = add_key("web", models=["chat"], verbs=["chat"], rpm=60, tokens_per_day=1000, home=tmp_path)
    path = tmp_path / "access" / "keys.json"
    assert secret.startswith("tt-")
    assert len(secret) == 3 + 43  # 256 bits in base64
    assert secret[3:] not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert list_keys(tmp_path) == [key]
    assert "sha256" not in json.dumps(key.plain())
    assert Keyring(tmp_path).find(secret) == key
    for wrong in ("", "tt-", secret[:-1], secret + "x", secret.upper(), "é\ud800"):
        assert Keyring(tmp_path).find(wrong) is None
    assert add_key("other", home=tmp_path)[1] != secret


def test_scopes(tmp_path: Path) -> None:
    narrow = add_key("narrow", models=["chat", "embed", "chat"], verbs=["chat"], home=tmp_path)[0]
    wide = add_key("wide", home=tmp_path)[0]
    assert narrow.models == ("chat", "embed")
    assert [narrow.allows_model(name) for name in ("chat", "embed", "other", "*", "")] == [True, True, False, False, False]
    assert [narrow.allows_verb(verb) for verb in identities.VERBS] == [True, False, False, False]
    assert wide.allows_model("anything")
    assert all(wide.allows_verb(verb) for verb in identities.VERBS)


def test_a_key_expires(now: list[float], tmp_path: Path) -> None:
    _, secret = add_key("web", expires_unix_s=now[0] + 10, home=tmp_path)
    ring = Keyring(tmp_path)
    assert ring.find(secret) is not None
    assert len(ring) == 1
    now[0] += 10
    assert ring.find(secret) is None
    assert len(ring) == 0
    with pytest.raises(InputError, match="expired"):
        rotate_key(list_keys(tmp_path)[0].id, overlap_s=1, home=tmp_path)
    add_key("web", home=tmp_path)


def test_rotation_overlaps(now: list[float], tmp_path: Path) -> None:
    key, first = add_key("web", rpm=5, home=tmp_path)
    ring = Keyring(tmp_path)
    rotated, second = rotate_key("web", overlap_s=100, home=tmp_path)
    assert (rotated.id, rotated.rpm) == (key.id, 5)
    assert ring.find(first) == ring.find(second) == rotated
    now[0] += 50
    _, third = rotate_key("web", overlap_s=1000, home=tmp_path)
    now[0] += 50
    assert ring.find(first) is None  # a later rotation does not give an old secret more time
    assert ring.find(second) is not None
    assert ring.find(third) is not None
    now[0] += 951
    assert [ring.find(secret) is not None for secret in (first, second, third)] == [False, False, True]
    rotate_key(key.id, overlap_s=0, home=tmp_path)
    assert ring.find(third) is None
    assert len(list_keys(tmp_path)[0].secrets) == 2


def test_revoked_is_for_good(tmp_path: Path) -> None:
    key, secret = add_key("web", home=tmp_path)
    revoke_key("web", home=tmp_path)
    assert Keyring(tmp_path).find(secret) is None
    assert list_keys(tmp_path)[0].state(time.time()) == "revoked"
    for change in (lambda: rotate_key(key.id, overlap_s=1, home=tmp_path), lambda: revoke_key(key.id, home=tmp_path)):
        with pytest.raises(InputError, match="was revoked"):
            change()
    again, _ = add_key("web", home=tmp_path)
    assert again.id != key.id
    assert revoke_key("web", home=tmp_path).id == again.id


def test_keys_may_lie_where_nobody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cluster mounts a secret: read by the gateway from there, while its home is elsewhere."""
    _, secret = add_key("web", home=tmp_path / "made")
    mounted = tmp_path / "mounted" / "keys.json"
    mounted.parent.mkdir()
    mounted.write_bytes((tmp_path / "made" / "access" / "keys.json").read_bytes())
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    assert Keyring().find(secret) is None
    monkeypatch.setenv("TRIMTAB_KEYS_FILE", str(mounted))
    found = Keyring().find(secret)
    assert found is not None
    assert [key.name for key in list_keys()] == [found.name] == ["web"]
    assert Keyring(tmp_path / "home").find(secret) is None
    assert not (tmp_path / "home" / "access").exists()


def test_another_process_is_seen_within_a_second(tmp_path: Path) -> None:
    _, secret = add_key("web", home=tmp_path)
    ring = Keyring(tmp_path)
    assert ring.find(secret) is not None
    code = (
        "import sys; from pathlib import Path; from trimtab.record.identities import revoke_key; revoke_key('web', home=Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert identities.LOOK_S < 1
    time.sleep(identities.LOOK_S + 0.01)
    assert ring.find(secret) is None


def test_looking_at_the_file_is_not_done_on_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = add_key("web", home=tmp_path)
    ring = Keyring(tmp_path)
    looks: list[Any] = []
    monkeypatch.setattr(ring, "_look", lambda: looks.append(1))
    monkeypatch.setattr(identities.time, "monotonic", lambda: ring._looked_s + 0.1)
    assert all(ring.find(secret) for _ in range(100))
    assert looks == []


def test_a_file_that_is_removed_lets_nobody_in_and_a_damaged_one_changes_nothing(now: list[float], tmp_path: Path) -> None:
    _, secret = add_key("web", home=tmp_path)
    ring = Keyring(tmp_path)
    path = tmp_path / "access" / "keys.json"
    good = path.read_text()
    for bad in ("{", '{"schema": "trimtab.keys/9"}', '{"schema": "trimtab.keys/1"}', '{"schema": "trimtab.keys/1", "keys": [{"id": "x"}]}'):
        path.write_text(bad)
        assert ring.find(secret) is not None
        assert ring.problem
        with pytest.raises(InputError):
            Keyring(tmp_path)
    path.write_text(good)
    assert ring.find(secret) is not None
    assert not ring.problem
    path.write_text(good.replace('"rpm":null', '"rpm":null,"only_on_mondays":true'))
    ring.find(secret)
    assert "lacks something" in ring.problem
    path.unlink()
    assert ring.find(secret) is None


def test_changes_at_once_lose_none(tmp_path: Path) -> None:
    names = [f"key{number}" for number in range(12)]
    threads = [threading.Thread(target=add_key, args=(name,), kwargs={"home": tmp_path}) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in list_keys(tmp_path)) == sorted(names)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"name": ""}, "no name"),
        ({"name": "a b"}, "no name"),
        ({"name": "x" * 65}, "no name"),
        ({"name": "web\n"}, "no name"),
        ({"name": "a", "verbs": ["chat", "train"]}, "'train'"),
        ({"name": "a", "models": []}, "at least one"),
        ({"name": "a", "models": [""]}, "at least one"),
        ({"name": "a", "expires_unix_s": 1.0}, "expired already"),
        ({"name": "taken"}, "already"),
    ],
)
def test_wrong_input_is_one_sentence(given: dict[str, Any], match: str, tmp_path: Path) -> None:
    add_key("taken", home=tmp_path)
    with pytest.raises(InputError, match=match) as caught:
        add_key(**given, home=tmp_path)
    assert "\n" not in str(caught.value)
    assert len(list_keys(tmp_path)) == 1
