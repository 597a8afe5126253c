"""What `trimtab export` is given, made ready to leave: the run it rests on, the deployment as it was measured, its weights."""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.compress.base import is_as_shipped
from trimtab.core.errors import InputError
from trimtab.core.model import Snapshot
from trimtab.core.release import Release, Serving
from trimtab.decide.release_rules import Rules
from trimtab.describe.card import model_card
from trimtab.engines.registry import SHIPPED
from trimtab.flows.parts.locked import build_locked, found_source, read_lock
from trimtab.flows.parts.opening import open_model
from trimtab.flows.parts.packed import packed_candidate
from trimtab.flows.parts.released import enforced
from trimtab.package.cargo import LOCK, Cargo
from trimtab.record.deploy import DeployLock, read_deploy_toml
from trimtab.record.home import cache_dir, state_dir
from trimtab.record.run import read_decision
from trimtab.serve.site import measured_bytes, model_name
from trimtab.sources.open import read_header

DEFAULT_SLOTS = 1
_EVIDENCE = re.compile(
    r"deploy\.toml|(decision|run|release|statement\.dsse|bom\.cdx)\.json|candidates\.jsonl|(report|items|card)\.html"
    r"|(README|technical-file)\.md|items/[^/]+\.(parquet|json)"
)


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """One lock and what lies beside it. folder: of the run; decision: decision.json as read, empty if there is none

    rules: that the release was made under
    """

    lock_path: Path
    lock: DeployLock
    text: str
    decision: Mapping[str, Any]
    release: Release | None = None
    rules: Rules | None = None

    @property
    def folder(self) -> Path:
        return self.lock_path.parent


def shipment_of(path: Path, *, allow_uncertified: bool, release: Release | None = None, rules: Rules | None = None) -> Shipment:
    """What a deploy.toml or the folder of a run stands for.

    Raises InputError: no lock there, edited, one whose decision is no pass and of which nobody said that this is meant.
    """
    lock_path = path / LOCK if path.is_dir() else path
    if path.is_dir() and not lock_path.exists():
        raise InputError(f"{path} has no {LOCK}; only what passed has one, and `trimtab runs show {path}` says what came of the run.")
    lock = read_deploy_toml(lock_path)
    if lock.verdict != "pass" and not allow_uncertified:
        raise InputError(
            f"{lock_path}: its decision is {lock.verdict}, not pass; to export it all the same, say so with --allow-uncertified, "
            "which the package will say too."
        )
    beside = lock_path.parent / "decision.json"
    decision = read_decision(beside) if beside.is_file() else {}
    text = lock_path.read_text(encoding="utf-8")
    return Shipment(lock_path=lock_path, lock=lock, text=text, decision=decision, release=release, rules=rules)


def serving_of(
    shipment: Shipment, *, weights_bytes: int | None = None, image: str = "", port: int = 8080, extras: tuple[str, ...] = ()
) -> Serving:
    """The deployment as it was measured. weights_bytes: where they are at hand; else what the run says of them

    extras: of trimtab, that it is to have beside those that it needs
    """
    lock, release = shipment.lock, shipment.release
    row: Mapping[str, Any] = next((row for row in shipment.decision.get("candidates", ()) if row.get("id") == lock.id), {})
    measured = row.get("measurement") or {}
    cold_ms = measured.get("cold_ttft_ms")
    model = release.name if release is not None else model_name(lock)
    guards, unguarded = enforced(release.use, shipment.rules) if release is not None and shipment.rules is not None else ((), ())
    needed = (lock.build.engine, "serve", *(("guard",) if guards else ()))
    return Serving(
        name=dns_label(model),
        model=model,
        engine=lock.build.engine,
        source=lock.source,
        weights_format=lock.format if is_as_shipped(lock.recipe) else lock.recipe.family,
        weights_sha256=lock.weights_sha256,
        weights_bytes=_size(shipment, row) if weights_bytes is None else weights_bytes,
        cpus=int(shipment.decision.get("machine", {}).get("n_cores") or os.cpu_count() or 1),
        slots=lock.settings.slots or DEFAULT_SLOTS,
        lock=shipment.text,
        release_id=release.id if release is not None else "",
        extras=(*(name for name in needed if name in ("serve", "guard", *SHIPPED)), *extras),
        memory_bytes=measured_bytes(shipment.lock_path, lock),
        cold_start_s=None if cold_ms is None else cold_ms / 1000,
        context_tokens=lock.settings.context_tokens,
        image=image,
        port=port,
        guards=guards,
        unguarded=unguarded,
    )


def _size(shipment: Shipment, row: Mapping[str, Any]) -> int:
    """Bytes of the weights that the engine opens, as the run counted them; of the source, where no run lies beside the lock."""
    counted = (row.get("details") or {}).get("size_bytes")
    return int(counted) if counted is not None else sum(file.size_bytes for file in shipment.lock.source_files)


def dns_label(name: str) -> str:
    """A name as Kubernetes and DNS take it: small letters, digits and hyphens, 63 at most."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (label if label[:1].isalpha() else f"model-{label}")[:63].strip("-")


async def cargo_of(shipment: Shipment, *, image: str = "", port: int = 8080, extras: tuple[str, ...] = (), offline: bool) -> Cargo:
    """The shipment with its weights, made if they are not there. Raises InputError (not those that were certified), MissingError."""
    lock = shipment.lock
    weights = await _weights(shipment, offline=offline)
    card = model_card(read_header(weights), weights)
    licences = tuple(one.licence for one in shipment.release.licences[:1] if one.licence) if shipment.release is not None else ()
    packed = "" if is_as_shipped(lock.recipe) else lock.recipe.name
    return Cargo(
        serving=serving_of(shipment, weights_bytes=weights.size_bytes, image=image, port=port, extras=extras),
        weights=weights,
        evidence=_evidence(shipment.lock_path),
        made=_made(lock),
        revision=lock.revision,
        licences=licences,
        architecture=card.architecture if card.architecture != "unknown" else "",
        n_params=card.n_params,
        precision=max(card.bytes_by_type, key=lambda name: card.bytes_by_type[name], default=""),
        quantization=packed or (card.quantization if card.quantization != "none" else ""),
        keys=_public_keys(),
    )


async def _weights(shipment: Shipment, *, offline: bool) -> Snapshot:
    caches = cache_dir()
    lock = read_lock(shipment.lock_path)
    candidate = packed_candidate(lock, shipment.lock_path, caches=caches)
    if candidate is None:
        opened = open_model(found_source(lock.source, shipment.lock_path), cache_dir=caches, offline=offline)
        candidate = await build_locked(opened, lock, shipment.lock_path, caches=caches, offline=offline)
    if candidate.snapshot.digest != lock.weights_sha256:
        what, says = str(shipment.lock_path), f"`trimtab check {shipment.lock_path}` says"
        if shipment.release is not None:  # whose lock may lie in a folder that is gone when this is read
            what = shipment.release.id
            says = f"`trimtab release site {what} --out DIR` and `trimtab check DIR/{LOCK}` say"
        raise InputError(f"{what}: its weights, made of {lock.source}, are not what was certified; {says} what changed.")
    return dataclasses.replace(candidate.snapshot, adapters=())


def _evidence(lock_path: Path) -> dict[str, Path]:
    """The lock, and of the run beside it what others can check; not its journal, its cache, nor what somebody else put there."""
    folder = lock_path.parent
    found = {path.relative_to(folder).as_posix(): path for path in (*folder.iterdir(), *folder.glob("items/*")) if path.is_file()}
    return {**{name: path for name, path in found.items() if _EVIDENCE.fullmatch(name)}, LOCK: lock_path}


def _made(lock: DeployLock) -> str:
    """The time that packages name: SOURCE_DATE_EPOCH where it is set, else that of the lock. Raises InputError."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        return lock.made
    try:
        return datetime.fromtimestamp(int(given), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        raise InputError(f"SOURCE_DATE_EPOCH is {given!r}; it must be a number of seconds since 1970.") from None


def _public_keys() -> dict[str, bytes]:
    """The public key of this installation, by which its signatures are checked elsewhere; none where nothing was signed yet."""
    path = state_dir() / "keys" / "signing.pub.pem"
    return {"signing.pub.pem": path.read_bytes()} if path.is_file() else {}
