"""How fast a folder's disk writes and reads what no cache holds."""

import contextlib
import mmap
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from trimtab.core.errors import MissingError

CHUNK_BYTES = 8 << 20
MOST_BYTES = 1 << 30
LEAST_BYTES = 32 << 20
SHARE_OF_FREE = 0.1


@dataclass(frozen=True, kw_only=True)
class DiskRates:
    """Sequential rates of one file. direct: reads went past the page cache (O_DIRECT), else it was asked to forget the file.

    n_bytes: of the file; a virtual disk may still answer from its host's cache, which nothing here can empty
    """

    read_bytes_s: float
    write_bytes_s: float
    n_bytes: int
    direct: bool


def disk_rates(folder: Path, seconds: float = 3.0) -> DiskRates:
    """Write one file (random bytes, up to 1 GiB or about `seconds`), fsync it, and read it back past the cache. The file is removed.

    Raises MissingError where there is no room, OSError for what else a disk refuses.
    """
    most = min(MOST_BYTES, int(shutil.disk_usage(folder).free * SHARE_OF_FREE) // CHUNK_BYTES * CHUNK_BYTES)
    if most < LEAST_BYTES:
        raise MissingError(
            f"Too little space is free on the disk of {folder} to measure it.", "free some, or name a folder on another disk."
        )
    handle, name = tempfile.mkstemp(dir=folder, prefix=".trimtab-disk-")
    try:
        n_bytes, write_s = _write(handle, most, seconds)
        read_s, direct = _read(Path(name), handle, n_bytes)
    finally:
        os.close(handle)
        Path(name).unlink(missing_ok=True)
    return DiskRates(read_bytes_s=n_bytes / read_s, write_bytes_s=n_bytes / write_s, n_bytes=n_bytes, direct=direct)


def _write(handle: int, most: int, seconds: float) -> tuple[int, float]:
    """(bytes, seconds), fsync included. Random bytes: a disk that compresses gains nothing."""
    chunk = os.urandom(CHUNK_BYTES)
    start, n_bytes = time.perf_counter(), 0
    while n_bytes < most and (n_bytes < LEAST_BYTES or time.perf_counter() - start < seconds):
        n_bytes += os.write(handle, chunk)
        if n_bytes % (64 << 20) == 0:
            os.fsync(handle)  # else all of it could be taken by the cache in the time there is
    os.fsync(handle)
    return n_bytes, time.perf_counter() - start


def _read(path: Path, handle: int, n_bytes: int) -> tuple[float, bool]:
    """(seconds, whether the page cache was passed by)."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, n_bytes, os.POSIX_FADV_DONTNEED)
    buffer = mmap.mmap(-1, CHUNK_BYTES)  # aligned to pages, as O_DIRECT wants it
    try:
        with contextlib.suppress(OSError):  # file systems without O_DIRECT refuse to open or to read
            return _timed_read(path, getattr(os, "O_DIRECT", 0), buffer), hasattr(os, "O_DIRECT")
        return _timed_read(path, 0, buffer), False
    finally:
        buffer.close()


def _timed_read(path: Path, flag: int, buffer: mmap.mmap) -> float:
    handle = os.open(path, os.O_RDONLY | flag | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb", buffering=0) as file:
        start = time.perf_counter()
        while file.readinto(buffer):
            pass
        return time.perf_counter() - start
