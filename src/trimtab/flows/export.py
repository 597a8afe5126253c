"""`trimtab export`: a decision as something that a registry, a cluster or a colleague can run."""

import asyncio
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.release import ClusterWish, Serving
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.flows.parts.card_facts import card_facts
from trimtab.flows.parts.shipment import Shipment, cargo_of, serving_of
from trimtab.flows.parts.shipped import shipped
from trimtab.package.base_image import is_base
from trimtab.package.bundle import write_bundle
from trimtab.package.cargo import Cargo
from trimtab.package.folder import check_free, fresh_folder, inside
from trimtab.package.formats import CARDS, MANIFESTS, card_files, check_wish, format_lines, manifest_files
from trimtab.package.image import write_context, write_image
from trimtab.package.manifests.text import image_of
from trimtab.package.modelpack import write_modelpack

SCHEMA = "trimtab.export/1"
_RANGE = re.compile(r"(\d{1,6})(?:\.\.(\d{1,6}))?")
_ADDRESS = re.compile(r"[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?:(?:[1-9]\d{0,4})")
_LABEL = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
DEFAULT_BASE = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


def export(
    what: str,
    *,
    form: str,
    out: Path,
    base: str = "",
    image: str = "",
    port: int = 8080,
    ledger: str = "",
    cluster: ClusterWish | None = None,
    extras: tuple[str, ...] = (),
    allow_uncertified: bool = False,
    offline: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Write one format of a release or a run into a folder.

    what: `support-chat@3` or an alias, a deploy.toml, or the folder of a run; ledger: its URL, empty = that of TRIMTAB_HOME
    form: a name of package.formats; base: of an image, a root file system (.tar), an OCI layout, or the name of an image elsewhere
    image: reference that manifests name; port: of the gateway; cluster: for the formats that ask for it, None = nothing was said
    extras: of trimtab, whose packages an image holds too, such as `ray`
    Returns what was written: digest (of a manifest or a list of digests, empty for manifests and cards), files, size_bytes.
    Raises InputError (format, lock, folder), MissingError, InfeasibleError.
    """
    if form not in format_lines():
        raise InputError(f"There is no format {form!r}; the formats are {', '.join(format_lines())}.")
    if base and form != "image":
        raise InputError(f"--base is for images; {form} has none.")
    if extras and form != "image":
        raise InputError(f"--extra is for images; {form} has none.")
    wish = cluster or ClusterWish()
    check_wish(form, wish)
    check_free(out)
    with shipped(what, ledger=ledger, allow_uncertified=allow_uncertified) as shipment:
        serving = replace(serving_of(shipment, image=image, port=port), cluster=wish)
        if form in MANIFESTS:
            digest = _write(out, manifest_files(form, serving))
        elif form in CARDS:
            digest = _write(out, card_files(form, card_facts(shipment)))
        else:
            on_event(Event(phase="weights", message=f"making the weights of {what}, unless they are there"))
            cargo = asyncio.run(cargo_of(shipment, image=image, port=port, extras=extras, offline=offline))
            digest = _package(form, cargo, out, base, on_event)
    return _told(what, form, out, shipment, serving, digest)


def cluster_wish(*, replicas: str = "", redis: str = "", gateway_class: str = "", weights_uri: str = "") -> ClusterWish:
    """What was said of a cluster, as the command line takes it. replicas: `3` or `0..8`. Raises InputError."""
    found = _RANGE.fullmatch(replicas) if replicas else None
    if replicas and (found is None or int(found[2] or found[1]) < max(1, int(found[1]))):
        raise InputError(f"--replicas {replicas!r} is no number of replicas; write 3, or the least and the most, 0..8.")
    if redis and not _ADDRESS.fullmatch(redis):
        raise InputError(
            f"--redis {redis!r} is no address; write HOST:PORT, such as redis.state.svc:6379. Its password is a secret of the cluster."
        )
    if gateway_class and not _LABEL.fullmatch(gateway_class):
        raise InputError(f"--gateway-class {gateway_class!r} is no name of a GatewayClass; `kubectl get gatewayclass` lists them.")
    range_ = (int(found[1]), int(found[2] or found[1])) if found is not None else None
    return ClusterWish(replicas=range_, redis=redis, gateway_class=gateway_class, weights_uri=weights_uri)


def _told(what: str, form: str, out: Path, shipment: Shipment, serving: Serving, digest: str) -> dict[str, Any]:
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
        "next": _next(form, out, serving, bool(digest)),
    }


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
            return write_bundle(cargo, folder, verify=_verify(cargo), on_step=say)
        say(f"{cargo.size_bytes / 1e6:,.0f} MB of weights and evidence, and the packages that serve them")
        if base and is_base(Path(base).expanduser()):
            return write_image(cargo, Path(base).expanduser(), folder)
        if base.endswith(".tar") or base.startswith((".", "/", "~")):
            raise InputError(f"{base} is neither a root file system in a .tar nor an OCI layout.")
        write_context(cargo, base or DEFAULT_BASE, folder)
        return ""


_VERIFY = """\
code=0
TRIMTAB_HOME="$target/home" "$target/bin/trimtab" verify "$here"{keys} || code=$?
case $code in 0 | 4) ;; *) stop "what was packed is not what was released." ;; esac
"""


def _verify(cargo: Cargo) -> str:
    """Lines of sh that check a bundle: 4 means that something could not be checked, which is said and is no fault."""
    keys = "".join(f' --key "$here/keys/{name}"' for name in sorted(cargo.keys))
    return _VERIFY.format(keys=keys)


def _say(on_event: OnEvent, message: str) -> None:
    on_event(Event(phase="package", message=message))


def _next(form: str, out: Path, serving: Serving, has_digest: bool) -> str:
    """The command that does something with it, empty where there is no one such."""
    if form == "image" and not has_digest:
        return f"docker build -t {image_of(serving)} -f {out / 'Containerfile'} {out}"
    to = f"docker://{serving.image}" if serving.image else f"containers-storage:{image_of(serving)}"
    commands = {
        "modelpack": f"skopeo copy oci:{out} docker://REGISTRY/{serving.name}:TAG",
        "image": f"skopeo copy oci:{out} {to}",
        "bundle": f"sh {out / 'install.sh'}",
    }
    return commands.get(form, "")
