"""Files of evidence by their content: what was put in comes out byte for byte, or not at all.

where  TRIMTAB_HOME/evidence, or what TRIMTAB_EVIDENCE or `url` names: a folder, or any URL that fsspec knows (s3://bucket/trimtab, memory://...)
files  ab/cdef...: the sha256 of the content, its first two digits as the folder; never changed, and shared by all runs that hold it

A file is written beside its place, moved there, then read back and compared. What is read is given out once its digest is right. A
damaged one is made good by the next `put` of the same content. Files are read as a whole: this is a place for records, not for weights.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import unquote, urlsplit

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import sync_folder, write_atomic
from trimtab.core.release import Blob
from trimtab.record.disk import disk_error, sentences


class _Files(Protocol):
    """Files in one place. where: for people; name: relative, with `/`. Errors are sentences, but for FileNotFoundError."""

    where: str

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all, and lasting when this returns."""


class EvidenceStore:
    """An open store. where: for people, without user and password"""

    def __init__(self, files: _Files) -> None:
        self.where = files.where
        self._files = files

    @classmethod
    def open(cls, url: str = "", *, home: Path) -> Self:
        """url: empty = TRIMTAB_EVIDENCE, else `home`/evidence; nothing is made before the first `put`.

        Raises InputError (wrong URL), MissingError (package).
        """
        url = url or os.environ.get("TRIMTAB_EVIDENCE", "") or str(home / "evidence")
        if url.startswith("file://"):
            url = unquote(urlsplit(url).path)
        return cls(RemoteFiles(url) if "://" in url else _LocalFiles(Path(url)))

    def put(self, path: Path, *, name: str = "") -> Blob:
        """Keep a file. name: in the run folder, default the file's own. Raises InputError, MissingError."""
        with sentences(path, "read"):
            data = path.read_bytes()
        return self.put_bytes(data, name=name or path.name)

    def put_bytes(self, data: bytes, *, name: str) -> Blob:
        """Keep bytes under a name of a run folder. Raises InputError, MissingError."""
        blob = Blob(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        if self.check(blob):  # not there, or damaged
            self._files.write(_name_of(blob.sha256), data)
            if fault := self.check(blob):
                raise MissingError(f"What was just written reads back otherwise. {fault}", "check the disk.")
        return blob

    def get(self, sha256: str) -> bytes:
        """A file's bytes. Raises InputError for one that is missing or damaged, MissingError."""
        data, fault = self._read(sha256)
        if fault:
            raise InputError(fault)
        return data

    def fetch(self, sha256: str, to: Path) -> None:
        """Copy a file out; `to` is whole or absent. Raises InputError for one that is missing or damaged, MissingError."""
        data = self.get(sha256)
        with sentences(to, "write"):
            write_atomic(to, data)

    def check(self, blob: Blob) -> str:
        """Why a file is not what it was, one sentence; empty if it is whole. Raises InputError (no permission) or MissingError."""
        data, fault = self._read(blob.sha256)
        if not fault and len(data) != blob.size_bytes:
            fault = f"The evidence {blob.sha256[:16]}... has {len(data):,} bytes where {blob.size_bytes:,} were noted."
        return f"{blob.name}: {fault}" if fault else ""

    def _read(self, sha256: str) -> tuple[bytes, str]:
        """A file's bytes, or why they cannot be given out."""
        try:
            data = self._files.read(_name_of(sha256))
        except FileNotFoundError:
            return b"", f"The evidence {sha256[:16]}... is not in {self.where}; put it back from a backup or a copy."
        if hashlib.sha256(data).hexdigest() != sha256:
            return b"", f"The evidence {sha256[:16]}... in {self.where} is damaged; put it back from a backup or a copy."
        return data, ""


def _name_of(sha256: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InputError(f"{sha256[:80]!r} is no sha256 of 64 hex digits, by which evidence is kept.")
    return f"{sha256[:2]}/{sha256[2:]}"


class _LocalFiles:
    def __init__(self, folder: Path) -> None:
        try:
            self._folder = folder.expanduser().absolute()
        except RuntimeError:
            raise InputError(f"{folder} names a user's home that does not exist; give the full path of the evidence.") from None
        self.where = str(self._folder)

    def read(self, name: str) -> bytes:
        path = self._folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk_error(path, error, "read") from error

    def write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        with sentences(path, "write"):
            is_new = not path.parent.exists()
            write_atomic(path, data, mode=0o444)
            if is_new:
                sync_folder(self._folder)


class RemoteFiles:
    """Anything that fsspec reaches. Written beside and moved: not every protocol writes whole files at once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._secret = parts.password or ""
        self._files, self._root = self._opened(url)

    def read(self, name: str) -> bytes:
        with self._sentences("read"):
            return bytes(self._files.cat_file(f"{self._root}/{name}"))

    def write(self, name: str, data: bytes) -> None:
        path, part = f"{self._root}/{name}", f"{self._root}/incoming/{secrets.token_hex(16)}"
        with self._sentences("write"):
            for folder in (path.rpartition("/")[0], part.rpartition("/")[0]):
                self._files.makedirs(folder, exist_ok=True)
            try:
                self._files.pipe_file(part, data)
                self._move(part, path, data)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._files.rm_file(part)
                raise

    def remove(self, name: str) -> None:
        with self._sentences("write"):
            self._files.rm_file(f"{self._root}/{name}")

    def _move(self, part: str, path: str, data: bytes) -> None:
        """Move over what is there, where the protocol does that; else what is damaged is removed first, and what is whole stays.

        Others may put the same content in at the same time: it is never gone in between.
        """
        try:
            self._files.mv(part, path)
        except Exception:
            if not self._files.exists(path):
                raise
            if self._files.cat_file(path) == data:
                self._files.rm_file(part)
                return
            self._files.rm_file(path)
            self._files.mv(part, path)

    def _opened(self, url: str) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError as error:
            raise MissingError(
                "Evidence elsewhere than on this disk needs the package fsspec.", "pip install 'trimtab[release]'"
            ) from error
        try:
            files, root = url_to_fs(url)
        except ImportError as error:
            raise MissingError(f"Evidence in {self.where} needs another package: {self._words(error)}.", "install it.") from None
        except ValueError as error:
            raise InputError(f"{self.where} is no place that evidence can be kept in: {self._words(error)}.") from None
        return files, root.rstrip("/")

    @contextlib.contextmanager
    def _sentences(self, doing: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise InputError(f"No permission to {doing} evidence in {self.where}; change it, or give another place.") from error
        except Exception as error:  # every protocol has its own
            if isinstance(error, FileNotFoundError) and doing == "read":
                raise
            raise MissingError(f"Cannot {doing} evidence in {self.where}: {self._words(error)}.", "see that it can be reached.") from error

    def _words(self, error: Exception) -> str:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return (text.replace(self._secret, "...") if self._secret else text)[:200].rstrip(".")
