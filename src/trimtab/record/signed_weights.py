"""Weights signed in the form of the OpenSSF's model-signing: a Sigstore bundle that lists every file of a folder with its sha256.

Made and read by that library itself (extra `sign`), with a local key and no network. Its keys are ECDSA P-256, so that they are other keys
than those of record/checkpoints.py: TRIMTAB_HOME/keys/weights.pem, weights.pub.pem beside it.
"""

from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import write_atomic, write_once
from trimtab.record.disk import sentences

NAME = "model.sig"
"""The library's own name for a signature; it lies beside the folder, or in it, where it is left out of what is signed."""


def weights_key(home: Path) -> Path:
    """The private key under `home`, made if there is none. Raises InputError or MissingError."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = home / "keys" / "weights.pem"
    with sentences(path, "write"):
        if not path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            if write_once(path, private):
                form = serialization.PublicFormat.SubjectPublicKeyInfo
                write_atomic(public_half(path), key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return path


def public_half(private: Path) -> Path:
    """Where the public key of a private one lies."""
    return private.with_name(f"{private.stem}.pub.pem")


def sign_weights(folder: Path, signature: Path, *, private_key: Path) -> None:
    """Sign every file of a folder, or one file. Raises InputError (no such folder, a link in it, a wrong key), MissingError."""
    signing, hashing, _ = _library()
    if not folder.exists():
        raise InputError(f"There is no {folder}.")
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=_inside(folder, signature)))
        with sentences(signature, "write"):
            config.sign(folder, signature)
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder} cannot be signed: {_one_line(error)}") from error


def wrong_weights(folder: Path, signature: Path, *, public_key: Path) -> str:
    """Why a folder is not what was signed, empty if it is. Raises InputError (files that are not there), MissingError."""
    from cryptography.exceptions import InvalidSignature

    _, _, verifying = _library()
    for path in (folder, signature, public_key):
        if not path.exists():
            raise InputError(f"There is no {path}.")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, TypeError) as error:
        raise InputError(f"{public_key} is not an ECDSA key in PEM form: {_one_line(error)}") from error
    try:
        config.verify(folder, signature)
    except InvalidSignature:
        return f"{signature} is not signed by {public_key}."
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        return _one_line(error)
    return ""


def _inside(folder: Path, signature: Path) -> list[Path]:
    """The signature's own place, relative to the folder, if it lies in it."""
    folder, signature = folder.absolute(), signature.absolute()
    return [signature.relative_to(folder)] if signature.is_relative_to(folder) else []


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _library() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ModuleNotFoundError as error:
        raise MissingError(f"Signed weights need the package {error.name}.", "pip install 'trimtab[sign]'") from error
    return signing, hashing, verifying
