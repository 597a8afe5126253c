"""What a set of weights is, byte for byte: files, cut into chunks of one length, each with its sha256.

A chunk is what one node asks another for, and all that needs to be trusted of it is its digest. Chunks never span two files, so the last
one of a file may be shorter. The digest of the manifest names the whole: whoever knows it needs to trust no peer.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json
from trimtab.record.disk import check_schema, sentences

SCHEMA = "trimtab.weights/1"
MOST_CHUNK_BYTES, LEAST_CHUNK_BYTES = 4 * 2**20, 128 * 2**10
CHUNKS_WANTED = 256
MOST_BYTES = 256 * 2**20
"""Of a manifest as JSON: about 3.5 million chunks."""


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """name: relative, with `/`; chunks: sha256 of each, in order"""

    name: str
    size_bytes: int
    sha256: str
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies: the number of its file, and its place in it."""

    file: int
    offset: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All files, in the order of their names."""

    chunk_bytes: int
    files: tuple[WeightFile, ...]

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """All chunks of all files, in order; a chunk's number is its place here."""
        return tuple(
            Chunk(number, at * self.chunk_bytes, min(self.chunk_bytes, file.size_bytes - at * self.chunk_bytes), sha256)
            for number, file in enumerate(self.files)
            for at, sha256 in enumerate(file.chunks)
        )

    @cached_property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @cached_property
    def text(self) -> str:
        """As it is sent: canonical JSON."""
        return canonical_json({"schema": SCHEMA, "chunk_bytes": self.chunk_bytes, "files": self.files})

    @cached_property
    def digest(self) -> str:
        """sha256 of `text`, 64 hex digits: the name of these weights."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def chunk_bytes_for(size_bytes: int) -> int:
    """How long the chunks of weights should be: many enough that nodes have something to give each other soon. A power of two."""
    chunk_bytes = MOST_CHUNK_BYTES
    while chunk_bytes > LEAST_CHUNK_BYTES and size_bytes < CHUNKS_WANTED * chunk_bytes:
        chunk_bytes //= 2
    return chunk_bytes


def manifest_of(root: Path, names: Sequence[str], *, chunk_bytes: int) -> Manifest:
    """Read files below a folder and digest them. Raises InputError, MissingError."""
    if not names:
        raise InputError(f"{root} holds no files to serve.")
    return Manifest(chunk_bytes=chunk_bytes, files=tuple(_read(root, name, chunk_bytes) for name in sorted(names)))


def read_manifest(text: str, where: str, *, digest: str = "") -> Manifest:
    """The manifest that a peer sent. where: for people; digest: that it must have, empty = any. Raises InputError."""
    found = hashlib.sha256(text.encode()).hexdigest()
    if digest and found != digest:
        raise InputError(f"{where} has other weights ({found[:16]}...) than those that are wanted ({digest[:16]}...).")
    try:
        plain = json.loads(text)
        check_schema(plain, SCHEMA, where)
        manifest = Manifest(
            chunk_bytes=plain["chunk_bytes"], files=tuple(WeightFile(**{**one, "chunks": tuple(one["chunks"])}) for one in plain["files"])
        )
        if manifest.text != text or not _is_sound(manifest):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"What {where} sent is no manifest of weights.") from None
    return manifest


def _read(root: Path, name: str, chunk_bytes: int) -> WeightFile:
    whole, chunks, size = hashlib.sha256(), [], 0
    path = root / name
    with sentences(path, "read"), path.open("rb") as file:
        while data := file.read(chunk_bytes):
            whole.update(data)
            chunks.append(hashlib.sha256(data).hexdigest())
            size += len(data)
    return WeightFile(name=PurePosixPath(name).as_posix(), size_bytes=size, sha256=whole.hexdigest(), chunks=tuple(chunks))


def _is_sound(manifest: Manifest) -> bool:
    """Whether sizes fit the chunks, and every name stays inside the folder that it will be written to."""
    if type(manifest.chunk_bytes) is not int or not 1 <= manifest.chunk_bytes <= 2**30 or not manifest.files:
        return False
    names = [file.name for file in manifest.files]
    return names == sorted(set(names)) and all(_is_sound_file(file, manifest.chunk_bytes) for file in manifest.files)


def _is_sound_file(file: WeightFile, chunk_bytes: int) -> bool:
    path = PurePosixPath(file.name)
    is_inside = not path.is_absolute() and ".." not in path.parts and str(path) == file.name and "\0" not in file.name and bool(path.parts)
    fits = type(file.size_bytes) is int and file.size_bytes >= 0 and len(file.chunks) == -(-file.size_bytes // chunk_bytes)
    return is_inside and fits and all(_is_sha256(one) for one in (file.sha256, *file.chunks))


def _is_sha256(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")
