"""Signed checkpoints of a log: how many records it has and what the last one's hash is, kept outside its folder.

TRIMTAB_HOME/keys/signing.pem      Ed25519, made at the first use, readable by its owner only; signing.pub.pem beside it for everybody
TRIMTAB_HOME/anchors/<log>.json    the last two checkpoints of a log, one a line

Whoever can write the log but not this folder cannot hide a cut. Whoever can write both can, unless a copy of the anchor lies elsewhere
(`trimtab verify log --anchor COPY`): an old copy stays good for the records up to it.

The file has two places of fixed length that are written in turns: a torn write spoils one, and a full disk neither.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import canonical_json, write_atomic, write_once
from trimtab.record.disk import check_schema, sentences

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEMA = "trimtab.checkpoint/1"
PLACE_BYTES = 4096  # one page: written as a whole
SYNC_S = 1.0
"""So old may the anchor on the disk itself be when the power fails; for a killed process it is never old."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """size: records; head: hash of the last; is_closed: the writer ended in order, nothing may follow. key: public, 64 hex digits."""

    log: str
    folder: str
    size: int
    head: str
    at: str
    is_closed: bool
    key: str
    signature: str

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "signature"}
        return canonical_json({"schema": SCHEMA, **plain}).encode()

    def is_signed_by(self, public_hex: str) -> bool:
        """Whether the signature is right and of this key."""
        return self.key == public_hex and is_signature(public_hex, self.signature, self.signed_bytes())


def checkpoint_of(plain: Mapping[str, Any], where: Path | str) -> Checkpoint:
    """From JSON, its signature not looked at. where: for people. Raises InputError."""
    try:
        return _parsed(plain, where)
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{where} holds a checkpoint that is damaged.") from None


def own_public_key(home: Path) -> str:
    """64 hex digits of this installation's key, empty if it has none yet. Raises InputError."""
    path = home / "keys" / "signing.pub.pem"
    return public_key_of(path) if path.exists() else ""


@dataclass(frozen=True)
class Signer:
    """This installation's key for signing."""

    key: "Ed25519PrivateKey"
    public_hex: str

    @classmethod
    def of(cls, home: Path) -> Self:
        """The key under `home`, made if there is none. Raises InputError (readable by others, damaged), MissingError (disk, package)."""
        path = home / "keys" / "signing.pem"
        with _needs_cryptography(), sentences(path, "write"):
            if not path.exists():
                _make_key(path)
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise InputError(f"{path} may be read by others; run `chmod 600 {path}`, and make a new key if others had access.")
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            try:
                key = serialization.load_pem_private_key(path.read_bytes(), password=None)
            except (ValueError, TypeError):
                raise InputError(f"{path} is not a private key in PEM form; put it back from a backup.") from None
            if not isinstance(key, Ed25519PrivateKey):
                raise InputError(f"{path} is not an Ed25519 key; put the right one back from a backup.")
        return cls(key, key.public_key().public_bytes_raw().hex())

    def signed(self, *, log: str, folder: Path | str, size: int, head: str, is_closed: bool) -> Checkpoint:
        """A checkpoint of now."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        bare = Checkpoint(log=log, folder=str(folder), size=size, head=head, at=at, is_closed=is_closed, key=self.public_hex, signature="")
        return Checkpoint(**{**vars(bare), "signature": self.key.sign(bare.signed_bytes()).hex()})


class Anchor:
    """The file of one log's checkpoints, open for writing. last: the newest."""

    def __init__(self, path: Path, signer: Signer, folder: Path | str, last: Checkpoint) -> None:
        self.path = path
        self.signer = signer
        self.folder = folder
        self.last = last
        self._handle: int | None = None
        self._place = 0
        self._synced_s = 0.0

    @property
    def log(self) -> str:
        """The log's own name."""
        return self.last.log

    def write(self, size: int, head: str, *, is_closed: bool = False) -> None:
        """Sign and keep. Reaches the disk within SYNC_S, at once when closed. Raises OSError."""
        checkpoint = self.signer.signed(log=self.log, folder=self.folder, size=size, head=head, is_closed=is_closed)
        if self._handle is None:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            self._place = 1 if _place_of(self.path, self.last) == 0 else 0
        if not os.fstat(self._handle).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "somebody removed or replaced it", str(self.path))
        os.pwrite(self._handle, _padded(checkpoint), self._place * PLACE_BYTES)
        self._place = 1 - self._place
        self.last = checkpoint
        if is_closed or time.monotonic() - self._synced_s > SYNC_S:
            os.fsync(self._handle)
            self._synced_s = time.monotonic()

    def close(self) -> None:
        """Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def new_anchor(home: Path, folder: Path | str, *, log: str = "") -> Anchor:
    """For a log that is about to begin. log: its own name, made here if empty. Raises InputError or MissingError."""
    signer, log = Signer.of(home), log or secrets.token_hex(16)
    first = signer.signed(log=log, folder=folder, size=0, head="0" * 64, is_closed=False)
    path = home / "anchors" / f"{log}.json"
    with sentences(path, "write"):
        write_atomic(path, _padded(first) * 2)
    return Anchor(path, signer, folder, first)


def anchor_of_log(home: Path, log: str, folder: Path | str) -> Anchor | None:
    """The anchor of a log under `home`; None if there is none. Raises InputError (signed by another key, damaged)."""
    path = home / "anchors" / f"{log}.json"
    return _opened(home, path, folder) if log.isalnum() and path.exists() else None


def anchor_of_folder(home: Path, folder: Path) -> Anchor | None:
    """The anchor of the log that was last kept in this folder, whatever became of it."""
    found = anchors_of_folder(home, folder)
    return _opened(home, found[-1][0], folder) if found else None


def anchors_of_folder(home: Path, folder: Path | str) -> list[tuple[Path, Checkpoint]]:
    """Files and newest checkpoints of all logs that were kept in this folder, by time. Raises InputError, MissingError."""
    found = [(path, read_anchor(path)) for path in (home / "anchors").glob("*.json")]
    return sorted(((path, last) for path, last in found if last.folder == str(folder)), key=lambda pair: pair[1].at)


def read_anchor(path: Path) -> Checkpoint:
    """The newest checkpoint in a file, its signature not looked at. Raises InputError, MissingError."""
    try:
        with sentences(path, "read"):
            lines = path.read_bytes().split(b"\n")
    except MissingError:
        raise InputError(f"There is no {path}.") from None
    found = []
    for line in lines:
        if line.strip():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                found.append(_parsed(json.loads(line), path))
    if not found:
        raise InputError(f"{path} holds no checkpoint; it may be damaged.")
    return max(found, key=lambda checkpoint: (checkpoint.size, checkpoint.at))


def public_key_of(path: Path) -> str:
    """The Ed25519 key of a PEM file, public or private, as 64 hex digits of its public half. Raises InputError, MissingError."""
    with _needs_cryptography(), sentences(path, "read"):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

        raw = path.read_bytes()
        try:
            key: Any = (
                serialization.load_pem_private_key(raw, password=None) if b"PRIVATE" in raw else serialization.load_pem_public_key(raw)
            )
        except (ValueError, TypeError):
            key = None
        if isinstance(key, Ed25519PrivateKey):
            key = key.public_key()
        if not isinstance(key, Ed25519PublicKey):
            raise InputError(f"{path} is not an Ed25519 key in PEM form.")
        return key.public_bytes_raw().hex()


def _opened(home: Path, path: Path, folder: Path | str) -> Anchor:
    signer, last = Signer.of(home), read_anchor(path)
    if not last.is_signed_by(signer.public_hex):
        raise InputError(f"The checkpoint {path} is not signed by this installation's key; put {home / 'anchors'} back from a backup.")
    return Anchor(path, signer, folder, last)


def _parsed(value: Mapping[str, Any], path: Path | str) -> Checkpoint:
    check_schema(value, SCHEMA, path)
    plain: dict[str, Any] = {field.name: value[field.name] for field in fields(Checkpoint)}
    kinds = {"size": int, "is_closed": bool}
    if any(type(item) is not kinds.get(name, str) for name, item in plain.items()):
        raise ValueError
    return Checkpoint(**plain)


def _padded(checkpoint: Checkpoint) -> bytes:
    raw = canonical_json({"schema": SCHEMA, **vars(checkpoint)}).encode()
    if len(raw) >= PLACE_BYTES:
        raise InputError(f"The path {checkpoint.folder} is too long for a log; choose a shorter one.")
    return raw.ljust(PLACE_BYTES - 1) + b"\n"


def _place_of(path: Path, checkpoint: Checkpoint) -> int:
    return 0 if path.read_bytes()[:PLACE_BYTES] == _padded(checkpoint) else 1


def _make_key(path: Path) -> None:
    """Writes a new key pair. Of two processes that do so at once, one wins and the other takes its key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    if write_once(path, private):
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        write_atomic(path.with_name("signing.pub.pem"), public)


def is_signature(public_hex: str, signature_hex: str, data: bytes) -> bool:
    """Whether an Ed25519 signature is right, of this key and over these bytes. Raises MissingError without the package."""
    with _needs_cryptography():
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex)).verify(bytes.fromhex(signature_hex), data)
        except (InvalidSignature, ValueError):
            return False
        return True


@contextlib.contextmanager
def _needs_cryptography() -> Any:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingError(f"Signatures need the package {error.name}.", "pip install 'trimtab[serve]'") from error
