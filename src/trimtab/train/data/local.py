"""A shard as a process reads it: plain arrays in a file that is mapped into memory, so that processes of one machine share its pages.

One line of JSON, blanks up to `HEAD_BYTES`, then tokens, starts, learnt and weights, each from a multiple of 64 bytes.
"""

import contextlib
import fcntl
import json
import mmap
import os
from pathlib import Path
from typing import Any, Self

import numpy as np

from trimtab.core.files import write_atomic
from trimtab.train.data.cache import is_at
from trimtab.train.data.packing import ShardArrays
from trimtab.train.data.shards import content_digest

HEAD_BYTES = 256
_ALIGN = 64


class LocalShard:
    """Mapped until `close`. While it is open its file is locked (shared): who clears the cache leaves it."""

    def __init__(self, handle: int, arrays: ShardArrays) -> None:
        self._handle: int | None = handle
        self.arrays = arrays

    @classmethod
    def opened(cls, path: Path, content: str) -> Self | None:
        """The shard of a content digest, None if there is none or it is damaged (then it is removed)."""
        while True:
            try:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            fcntl.flock(handle, fcntl.LOCK_SH)
            if is_at(handle, path):
                break
            os.close(handle)  # it was cleared away before the lock was there
        try:
            arrays = _mapped(handle)
        except (ValueError, KeyError, TypeError):
            arrays = None
        if arrays is None or content_digest(arrays) != content:
            os.close(handle)
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # a read-only cache still serves
            os.utime(path)  # it is cleared by last use
        return cls(handle, arrays)

    def close(self) -> None:
        """Idempotent. Arrays that somebody still holds stay valid."""
        if self._handle is not None:
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # the mapping has a handle of its own on the same lock
            os.close(self._handle)
            self._handle = None


def _mapped(handle: int) -> ShardArrays:
    mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    head = json.loads(mapped[:HEAD_BYTES])
    found: dict[str, Any] = {}
    place = HEAD_BYTES
    for name, kind, size in head:
        dtype = np.dtype(kind)
        found[name] = np.frombuffer(mapped, dtype, count=size, offset=place)
        place += -(-dtype.itemsize * size // _ALIGN) * _ALIGN
    return ShardArrays(**found)


def write_local(path: Path, shard: ShardArrays) -> None:
    """Write the file, whole or not at all. Raises OSError."""
    arrays = {name: array for name, array in vars(shard).items() if array is not None}
    head = json.dumps([[name, array.dtype.str, array.size] for name, array in arrays.items()]).encode()
    pieces = [head.ljust(HEAD_BYTES)]
    for array in arrays.values():
        raw = array.tobytes()
        pieces += [raw, b"\0" * (-len(raw) % _ALIGN)]
    write_atomic(path, b"".join(pieces))
