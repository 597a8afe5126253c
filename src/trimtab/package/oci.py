"""OCI image layouts on disk: blobs under their digest, an index, manifests, and tar layers that depend on names and contents alone.

Everything streams: a file of any size takes a MiB of memory. What is read is held against its digest before anybody uses it.
Source: OCI image-spec 1.1, image-layout.md, manifest.md and descriptor.md.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from trimtab.core.errors import InputError
from trimtab.core.files import parsed_json
from trimtab.package.folder import inside

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
CHUNK_BYTES = 1 << 20
MOST_JSON_BYTES = 16 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """What stands for a blob in a manifest. digest: `sha256:` and 64 hex digits"""

    media_type: str
    digest: str
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Its form in JSON."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}
        return {**found, "annotations": dict(self.annotations)} if self.annotations else found


@dataclass(frozen=True, kw_only=True)
class Member:
    """One entry of a tar layer. content: a file's path or its bytes, None = a folder; owner: user and group id"""

    name: str
    content: Path | bytes | None
    mode: int = 0o644
    owner: int = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that was read. digest: its own"""

    layout: Path
    digest: str
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]


class _Hashing:
    """A file that is written, with the digest and the number of bytes so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size_bytes

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


class _Checked(io.RawIOBase):
    """A blob that is read, to be held against its descriptor at its end."""

    def __init__(self, file: IO[bytes], descriptor: Descriptor, layout: Path) -> None:
        self._file = file
        self._descriptor = descriptor
        self._layout = layout
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        return data

    def check(self) -> None:
        """Read what is left. Raises InputError unless all of it is what the digest says."""
        while self.read(CHUNK_BYTES):
            pass
        found = f"sha256:{self._sha256.hexdigest()}"
        if found != self._descriptor.digest:
            raise InputError(
                f"{self._layout} is damaged: the blob {self._descriptor.digest} holds other bytes ({found}); copy or download it again."
            )


def put_bytes(layout: Path, data: bytes, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """Keep bytes as a blob."""
    return _put(layout, lambda file: file.write(data), media_type, annotations)


def put_json(layout: Path, value: Any, media_type: str) -> Descriptor:
    """Keep a JSON value as a blob: keys sorted, so that one value has one digest."""
    return put_bytes(layout, json.dumps(value, sort_keys=True, separators=(",", ":")).encode(), media_type)


def put_file(layout: Path, path: Path, media_type: str, annotations: Mapping[str, str] | None = None, *, sha256: str = "") -> Descriptor:
    """Keep a file's bytes as a blob. sha256: what they must be, empty = anything. Raises InputError if they are not."""

    def copy(file: _Hashing) -> None:
        with path.open("rb") as source:
            shutil.copyfileobj(source, file, CHUNK_BYTES)

    kept = _put(layout, copy, media_type, annotations)
    if sha256 and kept.digest != f"sha256:{sha256}":
        raise InputError(f"{path} changed while it was packed: its sha256 is {kept.digest[7:]}, not {sha256}; run the command again.")
    return kept


def put_tar(layout: Path, members: Iterable[Member], media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """Keep files as one uncompressed tar: sorted by name, folders before what is in them, every time 0, no user names."""
    return _put(layout, lambda file: _write_tar(file, members), media_type, annotations)


def _put(layout: Path, write: Callable[[_Hashing], Any], media_type: str, annotations: Mapping[str, str] | None) -> Descriptor:
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=blobs, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            hashing = _Hashing(file)
            write(hashing)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, blobs / hashing.digest.removeprefix("sha256:"))
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Descriptor(media_type=media_type, digest=hashing.digest, size_bytes=hashing.size_bytes, annotations=annotations or {})


def _write_tar(file: _Hashing, members: Iterable[Member]) -> None:
    named = {member.name: member for member in members}
    for name in list(named):
        for parent in PurePosixPath(name).parents:
            if parent.name and str(parent) not in named:
                named[str(parent)] = Member(name=str(parent), content=None, mode=0o755)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK_BYTES) as tar:  # type: ignore[call-overload]
        for name, member in sorted(named.items()):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.uid, entry.gid = member.mode, member.owner, member.owner
            if member.content is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif isinstance(member.content, bytes):
                entry.size = len(member.content)
                tar.addfile(entry, io.BytesIO(member.content))
            else:
                with member.content.open("rb") as source:
                    entry.size = os.fstat(source.fileno()).st_size
                    tar.addfile(entry, source)


def write_manifest(
    layout: Path,
    config: Descriptor,
    layers: Iterable[Descriptor],
    *,
    name: str,
    artifact_type: str = "",
    annotations: Mapping[str, str] | None = None,
) -> str:
    """Write a layout's only manifest, its index and its mark; returns the manifest's digest. name: what tools call it by, such as a tag"""
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.plain(),
        "layers": [layer.plain() for layer in layers],
    }
    if artifact_type:
        manifest["artifactType"] = artifact_type
    if annotations:
        manifest["annotations"] = dict(annotations)
    kept = put_json(layout, manifest, MANIFEST_TYPE)
    entry = {**kept.plain(), "annotations": {REF_NAME: name}, **({"artifactType": artifact_type} if artifact_type else {})}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
    (layout / "index.json").write_text(json.dumps(index, sort_keys=True, separators=(",", ":")), encoding="utf-8")
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")
    return kept.digest


def is_layout(path: Path) -> bool:
    """Whether a folder says that it is an OCI layout."""
    return (path / "oci-layout").is_file()


def read_manifest(layout: Path) -> Manifest:
    """The only manifest of a layout. Raises InputError: not a layout, damaged, or several manifests."""
    index = _object(_read(layout / "index.json"), layout / "index.json")
    entries = index.get("manifests")
    if not isinstance(entries, list) or len(entries) != 1:
        n = len(entries) if isinstance(entries, list) else 0
        raise InputError(f"{layout} holds {n} manifests, not one; copy the one that is meant into a layout of its own (skopeo copy).")
    found = _descriptor(entries[0], layout)
    if found.media_type == INDEX_TYPE:
        raise InputError(f"{layout} is for several platforms; copy the one that is meant into a layout of its own (skopeo copy).")
    document = read_json_blob(layout, found)
    layers = document.get("layers")
    annotations = document.get("annotations") or {}
    if not isinstance(layers, list) or not isinstance(annotations, dict):
        raise InputError(f"{layout}: the manifest {found.digest} has no list of layers; it is not an image manifest.")
    return Manifest(
        layout=layout,
        digest=found.digest,
        artifact_type=str(document.get("artifactType", "")),
        config=_descriptor(document.get("config"), layout),
        layers=tuple(_descriptor(layer, layout) for layer in layers),
        annotations={str(key): str(value) for key, value in annotations.items()},
    )


def read_json_blob(layout: Path, descriptor: Descriptor) -> dict[str, Any]:
    """A blob that holds a JSON object. Raises InputError."""
    if descriptor.size_bytes > MOST_JSON_BYTES:
        raise InputError(f"{layout}: the blob {descriptor.digest} should be JSON and has {descriptor.size_bytes:,} bytes; it is not read.")
    with open_blob(layout, descriptor) as file:
        data = file.read()
    return _object(data, layout / "blobs" / descriptor.digest.replace(":", "/"))


def table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A table of a JSON document of somebody else's; empty where there is none."""
    found = document.get(key)
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def open_blob(layout: Path, descriptor: Descriptor) -> Iterator[_Checked]:
    """A blob to read from its start. Leaving the block raises InputError if its bytes are not what the digest says."""
    path = layout / "blobs" / "sha256" / descriptor.digest.removeprefix("sha256:")
    try:
        size = path.stat().st_size
        if size != descriptor.size_bytes:
            raise InputError(
                f"{layout} is damaged: the blob {descriptor.digest} has {size:,} bytes, not {descriptor.size_bytes:,}; "
                "copy or download it again."
            )
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{layout} is not whole: the blob {descriptor.digest} is missing; copy or download it again.") from None
    with file:
        checked = _Checked(file, descriptor, layout)
        yield checked
        checked.check()


def unpack_blob(layout: Path, descriptor: Descriptor, path: Path) -> None:
    """Write a blob as a file. Raises InputError if it is damaged; what was written is then for the caller to drop."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_blob(layout, descriptor) as blob, path.open("xb") as file:
        shutil.copyfileobj(blob, file, CHUNK_BYTES)


def unpack_tar(layout: Path, descriptor: Descriptor, folder: Path, *, below: str = "") -> list[str]:
    """Write the files of a tar layer into a folder; a later layer's file takes the place of an earlier one's. Returns their names.

    below: only what lies under this path of the tar, which is cut off their names; what else is there may be of any kind
    Raises InputError: damaged, compressed in a way that is not read, a name that leads out of the folder, a link or a device.
    """
    names = []
    for entry, content in tar_entries(layout, descriptor):
        name = entry.name.removeprefix("./")
        if not name or (below and not name.startswith(f"{below}/")):
            continue
        name = name.removeprefix(f"{below}/") if below else name
        path = inside(folder, name, layout)
        if entry.isdir():
            continue
        if content is None or PurePosixPath(name).name.startswith(".wh."):
            raise InputError(f"{layout} holds {entry.name!r}, which is no plain file, where files are expected; nothing was unpacked.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(content, file, CHUNK_BYTES)
        names.append(name)
    return names


def tar_entries(layout: Path, descriptor: Descriptor) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The entries of a tar layer in their order, with what to read of each regular file. Raises InputError when it comes to damage."""
    mode = "r|gz" if descriptor.media_type.endswith("gzip") else "r|"
    with open_blob(layout, descriptor) as blob:
        try:
            content = _unpacked_zstd(blob) if descriptor.media_type.endswith("zstd") else blob
            with tarfile.open(fileobj=content, mode=mode) as tar:  # type: ignore[call-overload]
                for entry in tar:
                    yield entry, tar.extractfile(entry) if entry.isreg() else None
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{layout}: the layer {descriptor.digest} is not a tar archive that can be read ({error}).") from None


def _unpacked_zstd(blob: _Checked) -> Any:
    """What a blob holds that is compressed with zstd, to read once. What is no zstd is an OSError when it is read."""
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(blob, "r"), "zstd")


def _descriptor(plain: Any, layout: Path) -> Descriptor:
    annotations = plain.get("annotations") or {} if isinstance(plain, dict) else None
    if not isinstance(annotations, dict) or not isinstance(plain.get("size"), int) or not _DIGEST.fullmatch(str(plain.get("digest"))):
        raise InputError(f"{layout} is damaged: {str(plain)[:200]} is not a descriptor with a sha256 digest and a size.")
    return Descriptor(
        media_type=str(plain.get("mediaType", "")),
        digest=str(plain["digest"]),
        size_bytes=plain["size"],
        annotations={str(key): str(value) for key, value in annotations.items()},
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"There is no {path}; {path.parent} is not an OCI layout that is whole.") from None


def _object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        found = parsed_json(data.decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}).") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} does not hold a JSON object.")
    return found
