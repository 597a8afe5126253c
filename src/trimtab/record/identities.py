"""API keys: who may ask which model for what, how much, and until when. One file: TRIMTAB_KEYS_FILE, else `TRIMTAB_HOME/access/keys.json`.

A secret is 256 random bits, shown once and kept as its sha256. A slow hash, as passwords need it, would buy nothing: it makes guessing
dear, and 256 random bits cannot be guessed at any price; it would only be paid on every request.

Every change replaces the file as a whole under a lock. A running gateway looks at the file several times a second, so that a key that was
revoked here is refused there within a second.
"""

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.files import canonical_json, write_atomic
from trimtab.record.disk import read_json, sentences
from trimtab.record.home import state_dir

log = logging.getLogger("trimtab.record")

SCHEMA = "trimtab.keys/1"
VERBS = ("chat", "completion", "response", "embedding")
ANY = "*"
LOOK_S = 0.25
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Secret:
    """One secret of a key, as its sha256. expires_unix_s: None = as long as the key; set when another has taken its place."""

    sha256: str
    created_unix_s: float
    expires_unix_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Key:
    """Somebody's right to use the gateway.

    id: public, in logs and metrics; name: chosen, of one living key at a time
    models, verbs: what it may be used for; `*` = all
    rpm: requests a minute; tokens_per_day: prompt and answer together, by day in UTC; None = no limit
    """

    id: str
    name: str
    models: tuple[str, ...] = (ANY,)
    verbs: tuple[str, ...] = (ANY,)
    rpm: int | None = None
    tokens_per_day: int | None = None
    created_unix_s: float
    expires_unix_s: float | None = None
    revoked_unix_s: float | None = None
    secrets: tuple[Secret, ...] = ()

    def allows_model(self, model: str) -> bool:
        """Whether it may be used for a model, by the model's own name."""
        return ANY in self.models or model in self.models

    def allows_verb(self, verb: str) -> bool:
        """Whether it may be used for a kind of request."""
        return ANY in self.verbs or verb in self.verbs

    def state(self, now_unix_s: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_unix_s is not None:
            return "revoked"
        return "expired" if self.expires_unix_s is not None and self.expires_unix_s <= now_unix_s else "active"

    def plain(self) -> dict[str, Any]:
        """As people and programs may see it: all but the secrets' hashes."""
        named = {name: value for name, value in vars(self).items() if name != "secrets"}
        return {**named, "models": list(self.models), "verbs": list(self.verbs)}


class Keyring:
    """The keys of a home as a running gateway sees them.

    problem: why the file could not be read when it last changed, empty if it could; until then the keys from before count
    """

    def __init__(self, home: Path | None = None) -> None:
        self._path = _path(home)
        self._by_digest: dict[str, tuple[Key, Secret]] = {}
        self._seen: tuple[int, int, int] | None = None
        self._looked_s = float("-inf")
        self.problem = ""
        self._look()
        if self.problem:
            raise InputError(self.problem)

    def __len__(self) -> int:
        """How many keys can be used now."""
        now_unix_s = time.time()
        return len({key.id for key, _ in self._by_digest.values() if key.state(now_unix_s) == "active"})

    def find(self, secret: str) -> Key | None:
        """The key that a secret belongs to; None if there is none that is active."""
        if time.monotonic() - self._looked_s > LOOK_S:
            self._look()
        # What is looked up is a digest: how long a miss takes tells nothing about the secrets that exist.
        digest = _digest(secret)
        key, kept = self._by_digest.get(digest, (None, None))
        if key is None or kept is None or not hmac.compare_digest(digest, kept.sha256):
            return None
        now_unix_s = time.time()
        is_past = kept.expires_unix_s is not None and kept.expires_unix_s <= now_unix_s
        return None if is_past or key.state(now_unix_s) != "active" else key

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            seen = (0, 0, 0)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            keys = _read(self._path)
        except TrimtabError as error:
            # A revocation never leaves a damaged file, so this was another hand: nobody is locked out for its sake.
            self.problem = str(error)
            log.error("API keys stay as they were: %s", error)
            return
        self.problem = ""
        self._by_digest = {secret.sha256: (key, secret) for key in keys for secret in key.secrets}


def list_keys(home: Path | None = None) -> list[Key]:
    """All keys ever made, revoked ones too, in the order they were made. Raises InputError, MissingError."""
    return _read(_path(home))


def add_key(
    name: str,
    *,
    models: Sequence[str] = (ANY,),
    verbs: Sequence[str] = (ANY,),
    rpm: int | None = None,
    tokens_per_day: int | None = None,
    expires_unix_s: float | None = None,
    home: Path | None = None,
) -> tuple[Key, str]:
    """Make a key. Returns it and its secret, which is kept nowhere. Raises InputError, MissingError."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a key; take letters, digits and . _ @ -, 64 at most.")
    for verb in verbs:
        if verb not in (*VERBS, ANY):
            raise InputError(f"{verb!r} is nothing a key can be for; choose from {', '.join(VERBS)}.")
    if not models or not verbs or not all(models):
        raise InputError("A key must be for at least one model and one verb; leave the option out to allow all.")
    now_unix_s = time.time()
    if expires_unix_s is not None and expires_unix_s <= now_unix_s:
        raise InputError("The key would have expired already; choose a later time.")
    path = _path(home)
    with _locked(path):
        keys = _read(path)
        if any(key.name == name and key.state(now_unix_s) == "active" for key in keys):
            raise InputError(f"There is a key named {name!r} already; revoke or rotate it, or choose another name.")
        key = Key(
            id=_new_id(keys),
            name=name,
            models=tuple(dict.fromkeys(models)),
            verbs=tuple(dict.fromkeys(verbs)),
            rpm=rpm,
            tokens_per_day=tokens_per_day,
            created_unix_s=now_unix_s,
            expires_unix_s=expires_unix_s,
        )
        key, secret = _with_secret(key, now_unix_s)
        _write(path, [*keys, key])
    return key, secret


def rotate_key(which: str, *, overlap_s: float, home: Path | None = None) -> tuple[Key, str]:
    """Give a key another secret; those from before stay good for `overlap_s`. Returns key and new secret.

    Raises InputError, MissingError.
    """
    path = _path(home)
    now_unix_s = time.time()
    with _locked(path):
        keys = _read(path)
        key = _chosen(keys, which, now_unix_s)
        if key.state(now_unix_s) == "expired":
            raise InputError(f"The key {which} has expired; make a new one with `trimtab keys add`.")
        ends_unix_s = now_unix_s + overlap_s
        kept = tuple(
            replace(secret, expires_unix_s=min(ends_unix_s, secret.expires_unix_s or ends_unix_s))
            for secret in key.secrets
            if secret.expires_unix_s is None or secret.expires_unix_s > now_unix_s
        )
        changed, secret = _with_secret(replace(key, secrets=kept), now_unix_s)
        _write(path, [changed if one.id == key.id else one for one in keys])
    return changed, secret


def revoke_key(which: str, *, home: Path | None = None) -> Key:
    """End a key with all its secrets, for good. It stays in the list. Raises InputError, MissingError."""
    path = _path(home)
    now_unix_s = time.time()
    with _locked(path):
        keys = _read(path)
        key = _chosen(keys, which, now_unix_s)
        changed = replace(key, revoked_unix_s=now_unix_s, secrets=())
        _write(path, [changed if one.id == key.id else one for one in keys])
    return changed


def _path(home: Path | None) -> Path:
    """Of a home that is named; else what TRIMTAB_KEYS_FILE names, which may be read-only, as a cluster mounts it; else of TRIMTAB_HOME."""
    given = os.environ.get("TRIMTAB_KEYS_FILE", "") if home is None else ""
    return Path(given).expanduser() if given else (home or state_dir()) / "access" / "keys.json"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _with_secret(key: Key, now_unix_s: float) -> tuple[Key, str]:
    secret = f"tt-{secrets.token_urlsafe(32)}"
    kept = Secret(sha256=_digest(secret), created_unix_s=now_unix_s)
    return replace(key, secrets=(*key.secrets, kept)), secret


def _new_id(keys: Sequence[Key]) -> str:
    taken = {key.id for key in keys}
    while (made := f"k_{secrets.token_hex(4)}") in taken:
        pass
    return made


def _chosen(keys: Sequence[Key], which: str, now_unix_s: float) -> Key:
    """The living key of this name, or the key of this id."""
    for key in keys:
        if key.id == which or (key.name == which and key.state(now_unix_s) == "active"):
            if key.state(now_unix_s) == "revoked":
                raise InputError(f"The key {which} was revoked; make a new one with `trimtab keys add`.")
            return key
    raise InputError(f"There is no key {which!r}; `trimtab keys list` shows them.")


def _read(path: Path) -> list[Key]:
    if not path.exists():
        return []
    document = read_json(path, SCHEMA)
    try:
        return [_key(row) for row in document["keys"]]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged: a key in it lacks something; put it back from a backup.") from None


def _key(row: Mapping[str, Any]) -> Key:
    """From JSON. A field that a later trimtab knows is an error: a limit that is not understood must not be passed over."""
    kept = tuple(Secret(**secret) for secret in row["secrets"])
    return Key(**{**row, "models": tuple(row["models"]), "verbs": tuple(row["verbs"]), "secrets": kept})


def _write(path: Path, keys: Sequence[Key]) -> None:
    with sentences(path, "write"):
        write_atomic(path, canonical_json({"schema": SCHEMA, "keys": keys}) + "\n", mode=0o600)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One change at a time; others wait. The kernel frees the lock of a process that dies."""
    with sentences(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_name(".keys.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
