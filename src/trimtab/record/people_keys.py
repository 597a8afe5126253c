"""Private keys of people, `TRIMTAB_HOME/keys/people/NAME.pem`: Ed25519, readable by their owner only; the ledger has the public halves."""

import contextlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import write_once
from trimtab.record.checkpoints import public_key_of
from trimtab.record.disk import sentences
from trimtab.record.ledger_entries import Sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def key_path(home: Path, name: str) -> Path:
    """Where the private key of a person lies, whether it does or not. name: checked by whoever takes it from a user."""
    return home / "keys" / "people" / f"{name}.pem"


def made_key(home: Path, name: str) -> str:
    """The public half (64 hex digits) of a person's key here, made if there is none. Raises InputError, MissingError."""
    path = key_path(home, name)
    if not path.exists():
        try:
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        except ImportError as error:
            raise MissingError("Signing needs the package cryptography.", "pip install 'trimtab[release]'") from error
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with sentences(path, "write"):
            write_once(path, pem)
    return public_key_of(path)


def remove_key(home: Path, name: str) -> None:
    """Remove a key that was made a moment ago and that nobody came to know."""
    with contextlib.suppress(OSError):
        key_path(home, name).unlink()


def signer_of(home: Path, name: str, public_key: str) -> Sign:
    """What signs in a person's name. public_key: as the ledger has it. Raises InputError: no key here, another's, readable by others."""
    path = key_path(home, name)
    if not path.exists():
        raise InputError(f"The key of {name} is not here ({path}); run this where it is, or put it there.")
    with sentences(path, "read"):
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError(f"{path} may be read by others; run `chmod 600 {path}`, and get a new key if others had access.")
    if public_key_of(path) != public_key:
        raise InputError(
            f"{path} is not the key of {name} that the ledger knows; put the right one there, or have an approver add the new one."
        )
    key = _private(path)
    return lambda data: key.sign(data).hex()


def _private(path: Path) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is not an Ed25519 key; put the right one back from a backup.")
    return key
