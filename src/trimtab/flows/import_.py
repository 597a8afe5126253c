"""`trimtab import`: a package as a folder again, each byte held against its digest, the lock against decision and weights."""

from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.flows.parts.packed import packed_snapshot
from trimtab.package.bundle import is_bundle, read_bundle
from trimtab.package.cargo import LOCK, PACKED
from trimtab.package.folder import fresh_folder
from trimtab.package.image import is_image, read_image
from trimtab.package.modelpack import is_modelpack, read_modelpack
from trimtab.package.oci import is_layout, read_manifest
from trimtab.record.deploy import read_deploy_toml
from trimtab.record.home import cache_dir
from trimtab.record.run import read_decision

SCHEMA = "trimtab.import/1"


def import_package(path: Path, *, out: Path, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Unpack a ModelPack, an image or a bundle that lies here into a folder as its run had it, with the weights in `packed/`.

    A ModelPack of another tool gives its weights alone; nothing is claimed for them.
    Returns what it was, and what of it is whole. Raises InputError: none of the three, damaged, a name that leads out of the folder,
    weights or a decision other than the lock names. Nothing is left behind then.
    """
    with fresh_folder(out) as folder:
        on_event(Event(phase="unpack", message=str(path)))
        try:
            form, digest = _unpack(path, folder)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise InputError(f"{path} holds two files where there can be one ({Path(error.filename or '').name}); make it anew.") from None
        found = _checked(folder, path)
    return {"schema": SCHEMA, "path": str(path), "format": form, "digest": digest, "out": str(out), **found}


def _unpack(path: Path, folder: Path) -> tuple[str, str]:
    if is_bundle(path):
        read_bundle(path, folder)
        return "bundle", ""
    if not is_layout(path):
        raise InputError(f"{path} is neither an OCI layout (a folder with oci-layout and index.json) nor a bundle that trimtab made.")
    manifest = read_manifest(path)
    if is_modelpack(manifest):
        read_modelpack(manifest, folder)
        return "modelpack", manifest.digest
    if is_image(manifest):
        read_image(manifest, folder)
        return "image", manifest.digest
    raise InputError(f"{path} holds {manifest.artifact_type or manifest.config.media_type}; ModelPacks and images are what is imported.")


def _checked(folder: Path, path: Path) -> dict[str, Any]:
    """What the folder is, held against its own lock. Raises InputError."""
    if not (folder / PACKED).is_dir():
        raise InputError(f"{path} holds no weights; there is nothing to import.")
    if not (folder / LOCK).is_file():
        return {"lock": "", "verdict": "", "weights_sha256": "", "decision": False}
    lock = read_deploy_toml(folder / LOCK)
    weights = packed_snapshot(folder, caches=cache_dir())
    if weights.digest != lock.weights_sha256:
        raise InputError(f"{path}: its weights (digest {weights.digest}) are not those that its lock names ({lock.weights_sha256}).")
    has_decision = (folder / "decision.json").is_file()
    if has_decision and digest_of(read_decision(folder)) != lock.decision_sha256:
        raise InputError(f"{path}: its decision.json is not the one that its lock rests on (digest {lock.decision_sha256}).")
    return {"lock": LOCK, "verdict": lock.verdict, "weights_sha256": lock.weights_sha256, "decision": has_decision}
