"""sha256 of files, remembered by path, size, modification time and inode, so that large weights are read once."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of, sha256_file, write_atomic

_SETTLED_S = 2.0  # a file changed this recently could change again within one tick of its modification time
_SAY_BYTES = 256 << 20


def file_sha256(path: Path, cache_dir: Path, progress: Callable[[str], None] | None = None) -> tuple[int, str]:
    """(size in bytes, sha256) of a file. Raises InputError if it cannot be read or changes meanwhile."""
    try:
        before = path.stat()
        identity = [str(path.resolve()), before.st_size, before.st_mtime_ns, before.st_ino]
        note = cache_dir / "digests" / digest_of(identity)
        known = _known(note)
        if known:
            return before.st_size, known
        if progress is not None and before.st_size >= _SAY_BYTES:
            progress(f"Reading {path.name} once for its digest ({before.st_size / 1e9:.1f} GB)")
        digest = sha256_file(path)
        after = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions.") from error
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise InputError(f"{path} changed while it was read; wait until it is complete and try again.")
    if time.time() - before.st_mtime > _SETTLED_S:
        _remember(note, digest)
    return before.st_size, digest


def _known(note: Path) -> str:
    try:
        text = note.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else ""


def _remember(note: Path, digest: str) -> None:
    try:
        write_atomic(note, digest)
    except OSError:
        return  # a cache that cannot be written costs time, not correctness
