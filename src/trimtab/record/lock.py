"""One process at a time in a folder. The kernel frees the lock when its holder dies, however it dies: it cannot go stale."""

import errno
import os
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.record.disk import sentences

NAME = ".lock"


class FolderLock:
    """Held from construction to `release`. Raises InputError if another process holds it, MissingError without file locks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / NAME
        with sentences(folder, "write"):
            while True:
                folder.mkdir(parents=True, exist_ok=True)
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    _lock(handle, folder)
                    if _is_at(handle, path):
                        break
                except BaseException:
                    os.close(handle)
                    raise
                os.close(handle)  # the folder was moved aside between opening and locking: take the new one
            self._handle: int | None = handle
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the folder free. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _lock(handle: int, folder: Path) -> None:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise InputError(f"{folder} is in use by {who}; wait for it to end, or choose another folder.") from None


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
