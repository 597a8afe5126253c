"""`trimtab export`: a decision as something that a registry, a cluster or a colleague can run."""

import asyncio
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.flows.parts.card_facts import card_facts
from trimtab.flows.parts.shipment import cargo_of, serving_of, shipment_of
from trimtab.package.base_image import is_base
from trimtab.package.bundle import write_bundle
from trimtab.package.cargo import Cargo
from trimtab.package.folder import check_free, fresh_folder, inside
from trimtab.package.formats import CARDS, MANIFESTS, card_files, format_lines, manifest_files
from trimtab.package.image import write_context, write_image
from trimtab.package.modelpack import write_modelpack

SCHEMA = "trimtab.export/1"
DEFAULT_BASE = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


def export(
    what: str,
    *,
    form: str,
    out: Path,
    base: str = "",
    image: str = "",
    port: int = 8080,
    allow_uncertified: bool = False,
    offline: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Write one format of a release or a run into a folder.

    what: a deploy.toml or the folder of a run
    form: a name of package.formats; base: of an image, a root file system (.tar), an OCI layout, or the name of an image elsewhere
    image: reference that manifests name; port: of the gateway
    Returns what was written: digest (of a manifest or a list of digests, empty for manifests and cards), files, size_bytes.
    Raises InputError (format, lock, folder), MissingError, InfeasibleError.
    """
    if form not in format_lines():
        raise InputError(f"There is no format {form!r}; the formats are {', '.join(format_lines())}.")
    if base and form != "image":
        raise InputError(f"--base is for images; {form} has none.")
    check_free(out)
    shipment = shipment_of(_found(what), allow_uncertified=allow_uncertified)
    if form in MANIFESTS:
        digest = _write(out, manifest_files(form, serving_of(shipment, image=image, port=port)))
    elif form in CARDS:
        digest = _write(out, card_files(form, card_facts(shipment)))
    else:
        on_event(Event(phase="weights", message=f"making the weights that {shipment.lock_path} names, unless they are there"))
        cargo = asyncio.run(cargo_of(shipment, image=image, port=port, offline=offline))
        digest = _package(form, cargo, out, base, on_event)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {
        "schema": SCHEMA,
        "what": what,
        "format": form,
        "out": str(out),
        "release": shipment.release.id if shipment.release is not None else "",
        "verdict": shipment.lock.verdict,
        "digest": digest,
        "n_files": len(files),
        "size_bytes": sum(path.stat().st_size for path in files),
        "files": [path.relative_to(out).as_posix() for path in files[:20]],
        "next": _next(form, out, bool(digest)),
    }


def _found(what: str) -> Path:
    path = Path(what).expanduser()
    if not path.exists():
        raise InputError(f"There is no {what}; give a deploy.toml or the folder of a run (`trimtab runs list` shows them).")
    return path


def _write(out: Path, files: Mapping[str, bytes]) -> str:
    """Write files that were made in memory. They have no digest of their own."""
    with fresh_folder(out) as folder:
        for name, data in files.items():
            path = inside(folder, name, out)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return ""


def _package(form: str, cargo: Cargo, out: Path, base: str, on_event: OnEvent) -> str:
    """Write a package; returns its digest, empty for files that another tool makes an image of."""
    say = partial(_say, on_event)
    with fresh_folder(out, needed_bytes=cargo.size_bytes) as folder:
        if form == "modelpack":
            say(f"{cargo.size_bytes / 1e6:,.0f} MB as an OCI layout")
            return write_modelpack(cargo, folder)
        if form == "bundle":
            return write_bundle(cargo, folder, verify=_VERIFY, on_step=say)
        say(f"{cargo.size_bytes / 1e6:,.0f} MB of weights and evidence, and the packages that serve them")
        if base and is_base(Path(base).expanduser()):
            return write_image(cargo, Path(base).expanduser(), folder)
        if base.endswith(".tar") or base.startswith((".", "/", "~")):
            raise InputError(f"{base} is neither a root file system in a .tar nor an OCI layout.")
        write_context(cargo, base or DEFAULT_BASE, folder)
        return ""


_VERIFY = '"$target/bin/trimtab" import "$here" --out "$target/package" --quiet || stop "the package is not what was packed."'


def _say(on_event: OnEvent, message: str) -> None:
    on_event(Event(phase="package", message=message))


def _next(form: str, out: Path, has_digest: bool) -> str:
    """The command that does something with it, empty where there is no one such."""
    if form == "image" and not has_digest:
        return f"docker build -f {out / 'Containerfile'} {out}"
    commands = {
        "modelpack": f"skopeo copy oci:{out} docker://REGISTRY/NAME:TAG",
        "image": f"skopeo copy oci:{out} docker://REGISTRY/NAME:TAG",
        "bundle": f"sh {out / 'install.sh'}",
    }
    return commands.get(form, "")
