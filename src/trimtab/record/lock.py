"""One process at a time in a folder, or many users and one cleaner. The kernel frees a lock when its holder dies: none goes stale."""

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Self

from trimtab.core.errors import InputError
from trimtab.record.disk import sentences

NAME = ".lock"
USE_NAME = ".in-use"
_LOOK_S, _MOST_LOOKS = 0.02, 10  # `is_locked` holds the lock for less than this; so often may it be met by chance


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
            with contextlib.suppress(OSError):  # whose lock it is serves one sentence: a full disk must not keep anybody from locking
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """To hand to a child process: the folder then stays locked until that one has ended too."""
        return () if self._handle is None else (self._handle,)

    def release(self) -> None:
        """Give the folder free. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class UseLock:
    """Users of a folder's contents hold it together; who removes from the folder holds it alone. Held until `release`."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    @classmethod
    def shared(cls, folder: Path) -> Self:
        """For a user. Waits while somebody removes. Raises OSError, e.g. where the file system has no locks."""
        import fcntl

        return cls._taken(folder, fcntl.LOCK_SH)

    @classmethod
    def alone(cls, folder: Path) -> Self | None:
        """For a remover: None while anybody uses the folder, or if that cannot be known."""
        import fcntl

        try:
            return cls._taken(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None

    @classmethod
    def _taken(cls, folder: Path, how: int) -> Self:
        import fcntl

        handle = os.open(folder / USE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, how)
        except OSError:
            os.close(handle)
            raise
        return cls(handle)

    def release(self) -> None:
        """Give the folder free. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def is_locked(folder: Path) -> bool:
    """Whether a process holds the `FolderLock` of a folder. Changes nothing; False where that cannot be known."""
    import fcntl

    try:
        handle = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(handle)
    return False


def _lock(handle: int, folder: Path) -> None:
    import fcntl

    try:
        for _ in range(_MOST_LOOKS):
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOOK_S)  # it may be no more than somebody's look
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
