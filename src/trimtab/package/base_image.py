"""What an image stands on: a root file system as a tar, or an OCI layout. Which Python and which packages of the system are in it."""

import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from trimtab.core.errors import InputError
from trimtab.package.oci import Descriptor, is_layout, put_file, read_json_blob, read_manifest, table, tar_entries, unpack_blob

LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
DPKG_STATUS = "var/lib/dpkg/status"
_PYTHON = re.compile(r"(?:usr/(?:local/)?)?bin/python(3\.\d+)")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base, its layers kept as blobs of the layout that is being written.

    diff_ids: digests of the layers uncompressed; config: of its image configuration, such as Env
    python: `3.11`, empty if there is none; packages: of the system, name -> version, where dpkg keeps a list
    """

    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = ""
    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)


def is_base(path: Path) -> bool:
    """Whether a path is something that `put_base` takes, and no name of an image elsewhere."""
    return path.is_file() or is_layout(path)


def put_base(base: Path, layout: Path) -> Base:
    """Keep a base's layers in a layout. Raises InputError: neither a tar nor a layout, damaged, compressed in a way that is not read."""
    if is_layout(base):
        return _of_layout(base, layout)
    try:
        with tarfile.open(base) as tar:
            python, packages = _looked_at((entry.name, tar.extractfile(entry) if entry.isreg() else None) for entry in tar)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{base} is not a tar archive of a root file system ({error}).") from None
    kept = put_file(layout, base, LAYER_TAR)
    with base.open("rb") as file:
        if not _is_plain(file):
            raise InputError(f"{base} is compressed; give it as a plain .tar, as `mmdebstrap ... root.tar` writes it.")
    return Base(layers=(kept,), diff_ids=(kept.digest,), python=python, packages=packages)


def _is_plain(file: IO[bytes]) -> bool:
    return file.read(512)[257:262] == b"ustar"


def _of_layout(base: Path, layout: Path) -> Base:
    manifest = read_manifest(base)
    document = read_json_blob(base, manifest.config)
    diff_ids = table(document, "rootfs").get("diff_ids")
    diff_ids = diff_ids if isinstance(diff_ids, list) else []
    if len(diff_ids) != len(manifest.layers):
        raise InputError(f"{base} is not the layout of an image: it has {len(manifest.layers)} layers and {len(diff_ids)} diff_ids.")
    python, packages = "", dict[str, str]()
    for layer in manifest.layers:
        target = layout / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")
        if not target.exists():
            unpack_blob(base, layer, target)
        found, listed = _looked_at((entry.name, content) for entry, content in tar_entries(base, layer))
        python, packages = found or python, listed or packages
    return Base(
        layers=manifest.layers,
        diff_ids=tuple(map(str, diff_ids)),
        config=table(document, "config"),
        architecture=str(document.get("architecture", "")),
        python=python,
        packages=packages,
    )


def _looked_at(entries: Iterable[tuple[str, IO[bytes] | None]]) -> tuple[str, dict[str, str]]:
    """The Python among the files of a layer, and dpkg's list of packages."""
    python, packages = "", dict[str, str]()
    for given, content in entries:
        name = given.removeprefix("./")
        if found := _PYTHON.fullmatch(name):
            python = found[1]
        elif name == DPKG_STATUS and content is not None:
            packages = dpkg_packages(content.read().decode("utf-8", "replace"))
    return python, packages


def dpkg_packages(status: str) -> dict[str, str]:
    """Installed packages by name, with their versions, from dpkg's status file."""
    found = {}
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", paragraph, re.M))
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            found[fields["Package"]] = fields.get("Version", "")
    return found
