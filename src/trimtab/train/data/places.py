"""Folders that data lie in: on this disk, or behind any address that fsspec knows (https://, s3://, memory:// ...)."""

import fnmatch
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from trimtab.core.errors import InputError, MissingError
from trimtab.record.disk import sentences

BLOCK_BYTES = 4 << 20
TRIES = 4
FIRST_PAUSE_S = 0.2
T = TypeVar("T")


class Place(Protocol):
    """A folder of files."""

    def where(self, name: str) -> str:
        """A file of it, for messages; the folder itself for ""."""

    def read(self, name: str) -> bytes:
        """A small file. Raises InputError if there is none, MissingError if it cannot be reached."""

    def path(self, name: str) -> Path | None:
        """Where a file lies on this disk, None if it does not."""

    def identity(self, name: str) -> str:
        """Changes when a file does, as far as the place tells."""

    def download(self, name: str, part: Path, n_bytes: int) -> None:
        """Bring a file of so many bytes (-1 = as many as it has) to `part`, going on where a part that is there ends."""


class LocalPlace:
    """A folder on this disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def where(self, name: str) -> str:
        return str(self._folder / name if name else self._folder)

    def read(self, name: str) -> bytes:
        try:
            with sentences(self._folder / name, "read"):
                return (self._folder / name).read_bytes()
        except MissingError:
            if (self._folder / name).exists():
                raise
            raise InputError(f"There is no {self._folder / name}; copy the folder again, or prepare the data again.") from None

    def path(self, name: str) -> Path | None:
        return self._folder / name

    def identity(self, name: str) -> str:
        return ""

    def download(self, name: str, part: Path, n_bytes: int) -> None:
        raise NotImplementedError("a file on this disk is read where it lies")


class RemotePlace:
    """A folder behind an address. What fails in passing is tried `TRIES` times with growing pauses."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._secret = parts.password or ""
        self._files, self._root = self._opened(address)

    def where(self, name: str) -> str:
        return f"{self._shown}/{name}" if name else self._shown

    def read(self, name: str) -> bytes:
        return self._tried(name, lambda: bytes(self._files.cat_file(f"{self._root}/{name}")))

    def path(self, name: str) -> Path | None:
        return None

    def identity(self, name: str) -> str:
        return self._tried(name, lambda: str(self._files.ukey(f"{self._root}/{name}")))

    def download(self, name: str, part: Path, n_bytes: int) -> None:
        path = f"{self._root}/{name}"
        whole = n_bytes if n_bytes >= 0 else self._tried(name, lambda: int(self._files.info(path)["size"] or -1))
        if whole < 0:  # the server does not say how long it is
            raw = self.read(name)
            with sentences(part, "write"):
                part.write_bytes(raw)
            return
        with sentences(part, "write"), part.open("ab") as file:
            if file.tell() > whole:
                file.truncate(0)
            while (at := os.fstat(file.fileno()).st_size) < whole:
                end = min(at + BLOCK_BYTES, whole)
                block = self._tried(name, lambda at=at, end=end: bytes(self._files.cat_file(path, start=at, end=end)))  # type: ignore[misc]
                if len(block) > end - at:  # a server without ranges sends everything
                    block = block[at:]
                if not block:
                    raise InputError(f"{self.where(name)} ends after {at} bytes, and its manifest says {whole}; put it there again.")
                file.write(block)
                file.flush()

    def matching(self, pattern: str) -> list[str]:
        """Names of files that match, sorted. Raises InputError if there is none."""
        listed = self._tried("", lambda: self._files.ls(self._root, detail=False))
        names = sorted(name for name in (str(path).rstrip("/").rpartition("/")[2] for path in listed) if fnmatch.fnmatchcase(name, pattern))
        if not names:
            raise InputError(f"No file matches {self.where(pattern)}; check the address.")
        return names

    def _opened(self, address: str) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError:
            raise MissingError("Data behind an address need the package fsspec.", "pip install 'trimtab[train]'") from None
        try:
            files, root = url_to_fs(address)
        except ImportError as error:
            raise MissingError(f"Data in {self._shown} need another package: {self._words(error)}.", "install it.") from None
        except ValueError as error:
            raise InputError(f"{self._shown} is no address that data can be read from: {self._words(error)}.") from None
        return files, str(root).rstrip("/")

    def _tried(self, name: str, action: Callable[[], T]) -> T:
        pause_s = FIRST_PAUSE_S
        for left in range(TRIES - 1, -1, -1):
            try:
                return action()
            except FileNotFoundError:
                raise InputError(f"There is no {self.where(name)}; check the address.") from None
            except PermissionError:
                raise InputError(f"No permission to read {self.where(name)}; change it, or give another address.") from None
            except ImportError as error:
                raise MissingError(f"{self.where(name)} needs another package: {self._words(error)}.", "install it.") from None
            except Exception as error:  # every protocol has its own
                if not left:
                    reason = self._words(error)
                    raise MissingError(
                        f"Cannot read {self.where(name)}: {reason}.", "see that it can be reached; what came is kept"
                    ) from error
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last try returns or raises")

    def _words(self, error: Exception) -> str:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return (text.replace(self._secret, "...") if self._secret else text)[:200].rstrip(".")
