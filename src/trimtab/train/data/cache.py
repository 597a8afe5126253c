"""The folder that shards are kept in between runs.

<cache>/prepared/<key>/            shards of text, made by `prepare`
<cache>/shards/<content>.arrays    a shard as it is read, made from Parquet wherever that lies
<cache>/incoming/<sha256>          what has come of a file behind an address

Of what is in it, the least recently used goes first when there is more than the limit; what a process has open stays, so a run needs
room for its own prepared text and for two windows of shards.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from trimtab.record.disk import sentences

PREPARED, SHARDS, INCOMING = "prepared", "shards", "incoming"
IN_USE = ".in-use"
STALE_S = 24 * 3600.0
"""After so long, half of a file that nobody has locked is waste."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file alone; waits for who has it. The kernel frees it when its holder dies. The file is removed afterwards."""
    handle = _locked(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep a file, empty if it is not there, from being cleared."""
    handle = _locked(path, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(handle)


def _locked(path: Path, how: int) -> int:
    """The open file at a path, made if it is not there, once it is locked. Raises MissingError where files cannot be locked."""
    with sentences(path, "lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, how)
                if is_at(handle, path):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # whoever had it removed it when done: take the new one


def use(folder: Path) -> int | None:
    """Lock prepared data against clearing (shared) until the handle is closed, and note the use. None if they are gone."""
    try:
        handle = os.open(folder / IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    with sentences(folder, "lock"):
        fcntl.flock(handle, fcntl.LOCK_SH)
    if not is_at(handle, folder / IN_USE):
        os.close(handle)
        return None
    os.utime(folder / IN_USE)
    return handle


def clear(cache: Path, limit_bytes: int) -> None:
    """Remove what was used least recently until no more than `limit_bytes` are left; leaves what is open. Never raises for the disk."""
    entries = sorted(_entries(cache))
    total = sum(n_bytes for _, n_bytes, _ in entries)
    for _, n_bytes, path in entries:
        if total <= limit_bytes:
            return
        if remove(path):
            total -= n_bytes


def _entries(cache: Path) -> Iterator[tuple[float, int, Path]]:
    """(last use, bytes, path) of everything that may go; halves of files that are stale are removed on the way."""
    for kind in (PREPARED, SHARDS, INCOMING):
        for path in (cache / kind).glob("*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.name.startswith("."):
                    if time.time() - status.st_mtime > STALE_S and path.suffix != ".lock":
                        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
                elif path.is_dir():
                    files = [file.stat() for file in path.iterdir()]
                    yield max((file.st_mtime for file in files), default=status.st_mtime), sum(file.st_size for file in files), path
                else:
                    yield status.st_mtime, status.st_size, path


def remove(path: Path) -> bool:
    """Whether an entry is gone; False if somebody has it open."""
    try:
        handle = os.open(path / IN_USE if path.is_dir() else path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if path.is_dir() else 0), 0o644)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            aside = path.with_name(f".{path.name}.gone-{os.getpid()}")
            path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
