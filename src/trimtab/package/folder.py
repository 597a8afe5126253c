"""Folders that appear whole or not at all, and names in packages of others that must stay inside the folder they are unpacked into."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import sync_folder


def check_free(out: Path) -> None:
    """Raise InputError unless `out` is an empty folder or does not exist yet."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} is not a folder; name one that is empty or does not exist yet.")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; name a folder that is empty or does not exist yet.")


@contextlib.contextmanager
def fresh_folder(out: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when the block ends well and is removed when it does not.

    needed_bytes: about what will be written. Raises InputError (`out` holds something), MissingError (disk space), OSError.
    """
    out = out.absolute()
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < needed_bytes:
        raise MissingError(
            f"This takes about {needed_bytes / 1e6:,.0f} MB, and {out.parent} has {free / 1e6:,.0f} MB free.",
            "free some space or name a folder on another disk.",
        )
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.part-"))
    try:
        yield partial
        partial.chmod(0o755)
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(out.parent)


def inside(folder: Path, name: str, where: Path) -> Path:
    """The path of a package's file in the folder it is unpacked into. where: the package. Raises InputError for a name that leads out."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise InputError(f"{where} holds a file called {name!r}, which would land outside of the folder it is unpacked into; nothing was.")
    return folder.joinpath(*parts)
