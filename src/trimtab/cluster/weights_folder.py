"""Chunks on a disk: those of weights that lie there whole, and those of a copy that is being made and survives kill -9.

A copy grows beside its place, in `NAME.incoming`: files of their full length, and `have.json`, which chunks of them are written. A chunk is
written once its digest was right. `have.json` is written after a sync of the files, so what it names is on the disk; what came after it is
fetched again. At the end every file is read again and held against its own sha256, and the folder is moved to its place.
"""

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from trimtab.cluster.weights_manifest import Chunk, Manifest, read_manifest
from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import canonical_json, sha256_file, sync_folder, write_atomic
from trimtab.record.disk import read_json, sentences
from trimtab.record.lock import FolderLock

HAVE, MANIFEST, FILES = "have.json", "manifest.json", "files"
HAVE_SCHEMA = "trimtab.weights-have/1"
SAVE_S = 1.0
PIECE_BYTES = 64 * 2**10


class Holding(Protocol):
    """Chunks that can be given away. Any thread may use it."""

    manifest: Manifest

    def has(self, number: int) -> bool: ...

    def pieces(self, number: int) -> Iterator[bytes]:
        """A chunk's bytes, in pieces. Raises OSError; may come to an early end where somebody has cut the file."""
        ...


class WholeWeights:
    """Weights that lie in a folder. The files stay open: what is given away is what was digested, whatever their names mean later."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._handles: list[int] = []
        for file in manifest.files:
            with sentences(root / file.name, "read"):
                self._handles.append(os.open(root / file.name, os.O_RDONLY | os.O_CLOEXEC))

    def has(self, number: int) -> bool:
        return True

    def pieces(self, number: int) -> Iterator[bytes]:
        chunk = self.manifest.chunks[number]
        yield from _pieces(self._handles[chunk.file], chunk)

    def close(self) -> None:
        """Idempotent."""
        while self._handles:
            os.close(self._handles.pop())


class Copy:
    """A copy that is being made at `out`. One process at a time; it goes on where one that was killed has stopped.

    n_resumed: chunks that were there from before
    """

    def __init__(self, out: Path, manifest: Manifest) -> None:
        self.out = out.absolute()
        self.manifest = manifest
        self._folder = self.out.with_name(f"{self.out.name}.incoming")
        if self.out.exists():
            raise InputError(f"{out} is there already; name a folder that is not, or remove it.")
        with sentences(self._folder, "write"):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self._folder)
        self._turn = threading.Lock()
        self._saving = threading.Lock()
        self._handles: list[int] = []
        self._saved_s = time.monotonic()
        try:
            self._have = self._resumed()
            self.n_resumed = sum(self._have)
            self._check_space()
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def n_missing(self) -> int:
        """Chunks that are not written yet."""
        return len(self._have) - sum(self._have)

    @property
    def missing_bytes(self) -> int:
        """Of the chunks that are not written yet."""
        return sum(chunk.size_bytes for number, chunk in enumerate(self.manifest.chunks) if not self._have[number])

    def has(self, number: int) -> bool:
        return bool(self._have[number])

    def missing(self) -> bytearray:
        """1 for each chunk that is not written yet, else 0."""
        return bytearray(1 - one for one in self._have)

    def pieces(self, number: int) -> Iterator[bytes]:
        chunk = self.manifest.chunks[number]
        yield from _pieces(self._handles[chunk.file], chunk)

    def put(self, number: int, data: bytes | bytearray) -> bool:
        """Write a chunk if it is the right one; returns whether it is. Raises InputError, MissingError (disk full)."""
        chunk = self.manifest.chunks[number]
        if len(data) != chunk.size_bytes or hashlib.sha256(data).hexdigest() != chunk.sha256:
            return False
        with sentences(self._path(chunk.file), "write"):
            at, left = chunk.offset, memoryview(data)
            while left:
                n = os.pwrite(self._handles[chunk.file], left, at)
                at, left = at + n, left[n:]
            with self._turn:
                self._have[number] = 1
            if time.monotonic() - self._saved_s > SAVE_S:
                self.save()
        return True

    def save(self) -> None:
        """Have the disk hold what was written, then note which it is. Raises InputError, MissingError."""
        with self._saving, sentences(self._folder, "write"):
            self._saved_s = time.monotonic()
            with self._turn:
                have = bytes(self._have)
            for handle in self._handles:
                os.fsync(handle)
            write_atomic(self._folder / HAVE, canonical_json({"schema": HAVE_SCHEMA, "weights": self.manifest.digest, "have": have.hex()}))

    def finish(self) -> list[str]:
        """Hold every file against its digest and move the folder to its place.

        Returns the names of files that are wrong, whose wrong chunks are missing again then; empty once all is in its place.
        Raises InputError, MissingError.
        """
        self.save()
        wrong = [number for number, file in enumerate(self.manifest.files) if self._sha256(number) != file.sha256]
        for number in wrong:
            self._drop_wrong_chunks(number)
        if wrong:
            self.save()
            return [self.manifest.files[number].name for number in wrong]
        with sentences(self.out, "write"):
            for folder in {self._path(number).parent for number in range(len(self.manifest.files))}:
                sync_folder(folder)
            os.rename(self._folder / FILES, self.out)
            sync_folder(self.out.parent)
        return []

    def close(self) -> None:
        """Let go; what was copied stays, or, once all is in its place, what was beside it is removed. Open files can still be read from."""
        if self.out.exists():
            shutil.rmtree(self._folder, ignore_errors=True)
        while self._handles:
            os.close(self._handles.pop())
        self._lock.release()

    def _path(self, number: int) -> Path:
        return self._folder / FILES / self.manifest.files[number].name

    def _sha256(self, number: int) -> str:
        with sentences(self._path(number), "read"):
            return sha256_file(self._path(number))

    def _drop_wrong_chunks(self, file: int) -> None:
        for number, chunk in enumerate(self.manifest.chunks):
            if chunk.file == file and hashlib.sha256(b"".join(self.pieces(number))).hexdigest() != chunk.sha256:
                self._have[number] = 0

    def _resumed(self) -> bytearray:
        nothing = bytearray(len(self.manifest.chunks))
        if (self._folder / MANIFEST).exists():
            with sentences(self._folder / MANIFEST, "read"):
                text = (self._folder / MANIFEST).read_text(encoding="utf-8")
            if (kept := read_manifest(text, str(self._folder / MANIFEST))).digest != self.manifest.digest:
                raise InputError(
                    f"{self._folder} holds part of other weights ({kept.digest[:16]}...) than those that are wanted "
                    f"({self.manifest.digest[:16]}...); remove it, or give another folder."
                )
        else:
            with sentences(self._folder, "write"):
                write_atomic(self._folder / MANIFEST, self.manifest.text)
        if not (self._folder / HAVE).exists():
            return nothing
        with contextlib.suppress(KeyError, ValueError, TypeError):
            have = bytearray.fromhex(read_json(self._folder / HAVE, HAVE_SCHEMA)["have"])
            if len(have) == len(nothing) and set(have) <= {0, 1}:
                return have
        return nothing

    def _check_space(self) -> None:
        there = sum(path.stat().st_blocks * 512 for path in (self._folder / FILES).rglob("*") if path.is_file())
        free = shutil.disk_usage(self._folder).free
        if self.manifest.size_bytes - there > free:
            raise MissingError(
                f"No space left in {self.out.parent}: {self.manifest.size_bytes - there:,} bytes are to come, {free:,} are free.",
                "free some disk space, or choose a folder on another disk.",
            )

    def _open(self) -> None:
        for number, file in enumerate(self.manifest.files):
            path = self._path(number)
            with sentences(path, "write"):
                path.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                self._handles.append(handle)
                os.ftruncate(handle, file.size_bytes)


def _pieces(handle: int, chunk: Chunk) -> Iterator[bytes]:
    at, end = chunk.offset, chunk.offset + chunk.size_bytes
    while at < end and (data := os.pread(handle, min(PIECE_BYTES, end - at), at)):
        yield data
        at += len(data)
