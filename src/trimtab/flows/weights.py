"""Weights signed in the OpenSSF's form, and checked: `trimtab release sign-weights` and `trimtab verify weights`."""

from pathlib import Path
from typing import Any

from trimtab.record.home import state_dir
from trimtab.record.signed_weights import NAME, public_half, sign_weights, weights_key, wrong_weights


def sign(weights: str | Path, *, out: str | Path = "") -> dict[str, Any]:
    """Sign a folder of weights, or one file, with this installation's key for weights, made if there is none.

    out: the signature, default `model.sig` beside. Raises InputError, MissingError.
    """
    path = Path(weights).expanduser().absolute()
    signature = Path(out).expanduser().absolute() if out else path.parent / NAME
    key = weights_key(state_dir())
    sign_weights(path, signature, private_key=key)
    return {"weights": str(path), "signature": str(signature), "public_key": str(public_half(key))}


def verify(weights: str | Path, *, signature: str | Path = "", key: str | Path = "") -> dict[str, Any]:
    """Whether weights are what was signed. signature: default `model.sig` beside; key: PEM file, default this installation's for weights

    Returns verdict and reasons. Raises InputError, MissingError.
    """
    path = Path(weights).expanduser().absolute()
    signed = Path(signature).expanduser().absolute() if signature else path.parent / NAME
    public = Path(key).expanduser().absolute() if key else public_half(state_dir() / "keys" / "weights.pem")
    wrong = wrong_weights(path, signed, public_key=public)
    return {
        "weights": str(path),
        "signature": str(signed),
        "public_key": str(public),
        "verdict": "fail" if wrong else "pass",
        "reasons": [wrong] if wrong else [],
    }
