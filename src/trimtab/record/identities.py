"""API keys: who may ask which model for what, how much, and until when. They lie in one file, TRIMTAB_KEYS_FILE, else
`TRIMTAB_HOME/access/keys.json`; where gateways share a state (TRIMTAB_STATE), in its database, unless TRIMTAB_KEYS_FILE is given.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.files import canonical_json, to_plain, write_atomic
from trimtab.record.disk import read_json, sentences
from trimtab.record.home import state_dir

if TYPE_CHECKING:
    from trimtab.record.shared_state import SharedState

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
        return _found(self._by_digest, secret)

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


class SharedKeyring:
    """The keys of a shared state as a running gateway sees them: told of each change by `take`. seen_revision: of the newest one"""

    def __init__(self) -> None:
        self.seen_revision = 0
        self._by_digest: dict[str, tuple[Key, Secret]] = {}
        self._digests: dict[str, tuple[str, ...]] = {}

    def find(self, secret: str) -> Key | None:
        """The key that a secret belongs to; None if there is none that is active."""
        return _found(self._by_digest, secret)

    def take(self, changed: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """What changed, (revision, key) each. Raises InputError for a key of a newer trimtab: a limit must not be passed over."""
        for revision, row in changed:
            try:
                key = _key(row)
            except (KeyError, TypeError, AttributeError):
                raise InputError(
                    f"The key {row.get('id')} in the shared state has a field that this trimtab does not know; upgrade it."
                ) from None
            for digest in self._digests.get(key.id, ()):
                del self._by_digest[digest]
            self._digests[key.id] = tuple(secret.sha256 for secret in key.secrets)
            self._by_digest |= {secret.sha256: (key, secret) for secret in key.secrets}
            self.seen_revision = revision


def _found(by_digest: Mapping[str, tuple[Key, Secret]], secret: str) -> Key | None:
    # What is looked up is a digest: how long a miss takes tells nothing about the secrets that exist.
    digest = _digest(secret)
    key, kept = by_digest.get(digest, (None, None))
    if key is None or kept is None or not hmac.compare_digest(digest, kept.sha256):
        return None
    now_unix_s = time.time()
    is_past = kept.expires_unix_s is not None and kept.expires_unix_s <= now_unix_s
    return None if is_past or key.state(now_unix_s) != "active" else key


def are_shared(home: Path | None = None) -> bool:
    """Whether keys lie in the shared state's database, not in a file."""
    return home is None and bool(os.environ.get("TRIMTAB_STATE")) and not os.environ.get("TRIMTAB_KEYS_FILE")


def list_keys(home: Path | None = None) -> list[Key]:
    """All keys ever made, revoked ones too, in the order they were made. Raises InputError, MissingError."""
    if not are_shared(home):
        return _read(_path(home))
    with shared_state() as state:
        return [_key(row) for row in state.all_keys()]


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
    with _changing(home) as (keys, put):
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
        put(key)
    return key, secret


def rotate_key(which: str, *, overlap_s: float, home: Path | None = None) -> tuple[Key, str]:
    """Give a key another secret; those from before stay good for `overlap_s`. Returns key and new secret.

    Raises InputError, MissingError.
    """
    now_unix_s = time.time()
    with _changing(home) as (keys, put):
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
        put(changed)
    return changed, secret


def revoke_key(which: str, *, home: Path | None = None) -> Key:
    """End a key with all its secrets, for good. It stays in the list. Raises InputError, MissingError."""
    now_unix_s = time.time()
    with _changing(home) as (keys, put):
        key = _chosen(keys, which, now_unix_s)
        changed = replace(key, revoked_unix_s=now_unix_s, secrets=())
        put(changed)
    return changed


@contextlib.contextmanager
def _changing(home: Path | None) -> Iterator[tuple[list[Key], Callable[[Key], None]]]:
    """All keys, and what writes one of them or a new one. One change at a time."""
    if are_shared(home):
        with shared_state() as state, state.changing_keys() as (rows, put):
            yield [_key(row) for row in rows], lambda key: put(to_plain(key))
        return
    path = _path(home)
    with _locked(path):
        keys = _read(path)

        def write(key: Key) -> None:
            is_new = all(one.id != key.id for one in keys)
            _write(path, [key if one.id == key.id else one for one in keys] + [key] * is_new)

        yield keys, write


def shared_state() -> "SharedState":
    """What TRIMTAB_STATE names, opened. Raises InputError, MissingError."""
    try:
        from trimtab.record.shared_state import SharedState
    except ModuleNotFoundError as error:
        raise MissingError(f"State in PostgreSQL needs the package {error.name}.", "pip install 'trimtab[release,postgres]'") from None
    return SharedState.open()


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
