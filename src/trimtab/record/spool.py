"""What a gateway saw of its requests, for the watch: JSON lines in segments of bounded number, so that neither waits for the other.

line      {"observed":{...}} or {"late":{...}}, fields as in core/watching.py; {"lost":3}: so many before it were not written
files     <folder>/000000000001.jsonl ...: a writer begins a new one at its start, after a write that failed, and when one is full

No text of anybody's is in it. The writer never blocks who appends: a full queue or disk loses lines, which is counted and said. Nothing
is synced: a kill loses the queue (under FLUSH_S), a power cut what the disk had not yet.
"""

import contextlib
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from trimtab.core.files import digest_of
from trimtab.core.watching import Late, Observed
from trimtab.record.disk import disk_error
from trimtab.record.lock import FolderLock

SEGMENT_BYTES = 16 * 2**20
KEPT_SEGMENTS = 8
QUEUE_LIMIT = 16384
FLUSH_S = 0.2
_NAME = re.compile(r"(\d{12})\.jsonl")

log = logging.getLogger("trimtab.record")

Item = Observed | Late
T = TypeVar("T")


class _Line(msgspec.Struct, omit_defaults=True):
    observed: Observed | None = None
    late: Late | None = None
    lost: int = 0


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)


def watch_folder(home: Path, target: Path) -> Path:
    """Where everything about a site's watch lies. target: the file that is served, a site.toml or a deploy.toml."""
    return home / "watch" / digest_of(str(target.absolute()))[:16]


def spool_folder(home: Path, target: Path) -> Path:
    """The spool of a site."""
    return watch_folder(home, target) / "observed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """How far a reader is, and what it could not read so far.

    segment, offset: of the next line, in bytes; segment 0 = the oldest there is
    missed: segments that were removed before they were read; broken: lines that are none; lost: items that the writer did not write
    """

    segment: int = 0
    offset: int = 0
    missed: int = 0
    broken: int = 0
    lost: int = 0


def read_spool(folder: Path, cursor: Cursor | None = None, *, most: int = 10_000) -> tuple[list[Item], Cursor]:
    """The next items, `most` at most, and the cursor behind them. Nothing new: an empty list. Raises OSError for a disk that fails.

    A line without its end is waited for in the newest segment; in an older one it was torn by a kill and counts as broken.
    """
    cursor = cursor or Cursor()
    items: list[Item] = []
    while len(items) < most:
        found = [number for number in _segments(folder) if number >= cursor.segment]
        if not found:
            break
        if cursor.segment and found[0] > cursor.segment:
            cursor = _moved(cursor, found[0], missed=found[0] - cursor.segment)
        elif not cursor.segment:
            cursor = _moved(cursor, found[0])
        before = cursor
        cursor = _read_segment(folder, cursor, items, most, is_complete=len(found) > 1)
        if len(items) >= most:
            break
        if len(found) > 1 and cursor.segment == before.segment:
            cursor = _moved(cursor, found[1])
        elif cursor == before or len(found) == 1:
            break
    return items, cursor


def _read_segment(folder: Path, cursor: Cursor, items: list[Item], most: int, *, is_complete: bool) -> Cursor:
    offset, broken, lost = cursor.offset, cursor.broken, cursor.lost
    with contextlib.suppress(FileNotFoundError), (folder / _name(cursor.segment)).open("rb") as file:
        file.seek(offset)
        while len(items) < most:
            raw = file.readline()
            if not raw.endswith(b"\n"):
                broken += bool(raw) and is_complete
                offset += len(raw) if is_complete else 0
                break
            offset += len(raw)
            try:
                line = _decoder.decode(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                broken += 1
                continue
            lost += line.lost
            if line.observed is not None:
                items.append(line.observed)
            if line.late is not None:
                items.append(line.late)
    return Cursor(segment=cursor.segment, offset=offset, missed=cursor.missed, broken=broken, lost=lost)


def _moved(cursor: Cursor, segment: int, missed: int = 0) -> Cursor:
    return Cursor(segment=segment, missed=cursor.missed + missed, broken=cursor.broken, lost=cursor.lost)


def read_newest(folder: Path, n_segments: int) -> Iterator[Item]:
    """Everything in the newest segments, oldest first."""
    cursor = Cursor(segment=next(iter(_segments(folder)[-n_segments:]), 0))
    while True:
        items, cursor = read_spool(folder, cursor)
        yield from items
        if not items:
            return


def _segments(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def _name(segment: int) -> str:
    return f"{segment:012d}.jsonl"


class SpoolWriter(Generic[T]):
    """Appends from one event loop or thread; one thread of its own prepares, writes and removes. Raises InputError: the folder is in use.

    prepare: what an appended thing becomes, run in the writer's thread; None = things are items. It must not raise.
    n_written, n_lost: items; problem: why the last write failed, empty if it did not
    """

    def __init__(
        self,
        folder: Path,
        prepare: Callable[[T], Iterable[Item]] | None = None,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        kept_segments: int = KEPT_SEGMENTS,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self.folder = folder
        self.n_written = self.n_lost = 0
        self.problem = ""
        self._prepare = prepare
        self._segment_bytes, self._kept_segments, self._queue_limit = segment_bytes, kept_segments, queue_limit
        self._queue: deque[T] = deque()
        self._handle: int | None = None
        self._size = 0
        self._n_untold = 0
        self._ending = threading.Event()
        self._lock = FolderLock(folder)
        self._segment = max(_segments(folder), default=0)
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def append(self, thing: T) -> bool:
        """Have it written soon. Never blocks, never raises; False if the queue is full: it is lost, and counted."""
        if len(self._queue) >= self._queue_limit or self._ending.is_set():
            self.n_lost += 1
            self._n_untold += 1
            return False
        self._queue.append(thing)
        return True

    def close(self) -> None:
        """Write what waits, and give the folder free. Idempotent."""
        self._ending.set()
        self._thread.join()
        self._lock.release()

    def _run(self) -> None:
        # Batches by the clock: waking a thread for each request would cost the event loop more than the request's own line.
        while not self._ending.wait(FLUSH_S):
            self._flush()
        self._flush()
        self._shut()

    def _flush(self) -> None:
        lines: list[bytes] = []
        for _ in range(len(self._queue)):
            thing = self._queue.popleft()
            items: Iterable[Item] = self._prepare(thing) if self._prepare is not None else (thing,)  # type: ignore[assignment]
            lines += map(_encoded, items)
        if lines:
            self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        n_untold, self._n_untold = self._n_untold, 0
        told = [_encoder.encode(_Line(lost=n_untold)) + b"\n"] if n_untold else []
        raw = b"".join((*told, *lines))
        try:
            handle = self._opened(len(raw))
            n_bytes = os.write(handle, raw)
            if n_bytes < len(raw):
                raise OSError(28, "No space left on device")
        except OSError as error:
            self._shut()  # what is torn now stands at the end of its segment
            self.n_lost += len(lines)
            self._n_untold += n_untold + len(lines)
            found = str(disk_error(self.folder, error, "write"))
            if not self.problem:
                log.error("what the watch should see is not written; serving goes on: %s", found)
            self.problem = found
            return
        self._size += len(raw)
        self.n_written += len(lines)
        if self.problem:
            log.warning("what the watch should see is written again; %d items were lost", self.n_lost)
        self.problem = ""

    def _opened(self, n_bytes: int) -> int:
        """The open segment, a new one if these bytes would make it too large."""
        if self._handle is not None and self._size and self._size + n_bytes > self._segment_bytes:
            self._shut()
        if self._handle is None:
            self._segment += 1
            path = self.folder / _name(self._segment)
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._size = 0
            for old in _segments(self.folder)[: -self._kept_segments]:
                (self.folder / _name(old)).unlink(missing_ok=True)
        return self._handle

    def _shut(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _encoded(item: Item) -> bytes:
    line = _Line(observed=item) if isinstance(item, Observed) else _Line(late=item)
    return _encoder.encode(line) + b"\n"
