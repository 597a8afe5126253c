"""Weights on their way: given away to other nodes and fetched from them (`trimtab weights`), signed in the OpenSSF's form and checked
(`trimtab release sign-weights`, `trimtab verify weights`).
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import sha256_file
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.record.disk import sentences
from trimtab.record.home import cache_dir, state_dir
from trimtab.record.signed_weights import NAME, public_half, sign_weights, weights_key, wrong_weights

if TYPE_CHECKING:
    from trimtab.cluster.weights_folder import WholeWeights
    from trimtab.cluster.weights_rate import ByteRate


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


TOKEN = "TRIMTAB_WEIGHTS_TOKEN"
LEAST_TOKEN = 16

OnNode = Callable[[dict[str, Any]], None]


def serve(
    source: str,
    *,
    host: str,
    port: int,
    limit_bytes_s: float | None,
    offline: bool,
    until: threading.Event,
    on_event: OnEvent = ignore,
    on_ready: OnNode = lambda found: None,
) -> dict[str, Any]:
    """Give weights away until `until` is set. source: as every verb takes it; limit_bytes_s: of all that is sent, None = none

    on_ready: told `weights` (their digest), `port`, `files` and `size_bytes` once it listens. Raises InputError, MissingError.
    """
    from trimtab.cluster.weights_folder import WholeWeights
    from trimtab.cluster.weights_manifest import chunk_bytes_for, manifest_of
    from trimtab.cluster.weights_rate import ByteRate
    from trimtab.sources.open import open_source

    token = _token()
    snapshot = open_source(source, cache_dir=cache_dir(), offline=offline)
    on_event(Event(phase="open", message=f"digests of {snapshot.size_bytes / 1e9:.2f} GB"))
    manifest = manifest_of(snapshot.root, [file.name for file in snapshot.files], chunk_bytes=chunk_bytes_for(snapshot.size_bytes))
    found = {"weights": manifest.digest, "files": len(manifest.files), "size_bytes": manifest.size_bytes}
    whole = WholeWeights(snapshot.root, manifest)
    sent_bytes = _given_away(
        whole, token, host, port, ByteRate(limit_bytes_s), until, on_listening=lambda on: on_ready({**found, "port": on})
    )
    return {**found, "sent_bytes": sent_bytes}


def fetch(
    addresses: Sequence[str],
    *,
    out: Path,
    digest: str,
    host: str,
    port: int,
    limit_bytes_s: float | None,
    stay: threading.Event | None,
    on_event: OnEvent = ignore,
    on_ready: OnNode = lambda found: None,
) -> dict[str, Any]:
    """Fetch weights from peers into `out`, and give away meanwhile what has come. A call that was cut off goes on.

    digest: of the weights, as `serve` says it; empty = whatever the first peer has
    stay: give away until it is set, None = end once all is here; on_ready: told what is returned, once `out` is there
    Raises InputError, MissingError.
    """
    from trimtab.cluster.weights_fetch import Fetch, manifest_from, peer_of
    from trimtab.cluster.weights_folder import Copy, WholeWeights
    from trimtab.cluster.weights_rate import ByteRate
    from trimtab.cluster.weights_server import WeightsServer

    token = _token()
    peers = [peer_of(address) for address in addresses]
    manifest = manifest_from(peers, token, digest=digest)
    found: dict[str, Any] = {"weights": manifest.digest, "out": str(out), "size_bytes": manifest.size_bytes}
    if out.exists():
        _check_there(out, {file.name: file.sha256 for file in manifest.files}, manifest.digest)
        found |= {"from_bytes": {}, "dropped": {}, "resumed_chunks": len(manifest.chunks)}
        on_ready(found)
        if stay is not None:
            found["sent_bytes"] = _given_away(WholeWeights(out, manifest), token, host, port, ByteRate(limit_bytes_s), stay)
        return found

    def say(done: int, whole: int, n_peers: int) -> None:
        message = f"{done / 1e9:.2f} of {whole / 1e9:.2f} GB, from {n_peers} peer{'' if n_peers == 1 else 's'}"
        on_event(Event(phase="fetch", message=message, done=done, total=whole))

    copy = Copy(out, manifest)
    try:
        server = WeightsServer(copy, token, host=host, port=port, rate=ByteRate(limit_bytes_s))
        server.start()
        try:
            got = Fetch(copy, peers, token, own_port=server.port, on_progress=say)
            got.run()
            if wrong := copy.finish():
                raise MissingError(
                    f"What came was right, and {', '.join(wrong)} reads back otherwise; what is wrong was thrown away.",
                    "check the disk; the same command then fetches it again.",
                )
            found |= {"from_bytes": got.fetched.from_bytes, "dropped": got.fetched.dropped, "resumed_chunks": copy.n_resumed}
            on_ready(found)
            if stay is not None:
                stay.wait()
        finally:
            server.close()
    finally:
        copy.close()
    return {**found, "sent_bytes": server.n_sent_bytes}


def _given_away(
    whole: "WholeWeights",
    token: str,
    host: str,
    port: int,
    rate: "ByteRate",
    until: threading.Event,
    on_listening: Callable[[int], None] = lambda port: None,
) -> int:
    """Give away until the event is set; returns how many bytes went out. on_listening: told on which port"""
    from trimtab.cluster.weights_server import WeightsServer

    try:
        server = WeightsServer(whole, token, host=host, port=port, rate=rate)
        server.start()
        try:
            on_listening(server.port)
            until.wait()
        finally:
            server.close()
    finally:
        whole.close()
    return server.n_sent_bytes


def _token() -> str:
    """What every node of one distribution knows. Raises InputError."""
    token = os.environ.get(TOKEN, "")
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise InputError(f"{TOKEN} must hold at least {LEAST_TOKEN} printable ASCII characters, the same on every node.")
    return token


def _check_there(out: Path, expected: Mapping[str, str], digest: str) -> None:
    """Raise InputError unless a folder holds the weights already."""
    for name, sha256 in expected.items():
        path = out / name
        with sentences(path, "read"):
            if not path.is_file() or sha256_file(path) != sha256:
                raise InputError(
                    f"{out} is there already and does not hold the weights {digest[:16]}... ({name}); remove it, or give another folder."
                )
