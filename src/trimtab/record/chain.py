"""A log that can only grow: one JSON line a record, each bound by its hash to the one before it.

line      {"seq":7,"prev":"<hash of record 6>","body":{...},"hash":"<64 hex digits>"}
hash      sha256 over the line's own bytes up to `,"hash":`: no byte can change without it, and no two programs can disagree on a form
files     <folder>/000000000001.jsonl ...: segments, each called after its first record
anchor    after every write, the number of records and the last hash are signed and kept in another folder (record/checkpoints.py): a chain
          alone cannot tell that its end was cut or written anew

A record counts as written when `commit` has returned. `write` returns earlier: then no kill of this process loses the record, but a machine
that stops does, until the next `settle`. What a killed process leaves half-written is cut off when the log is next opened, and
the log says so itself in a record of its own.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import canonical_json, sync_folder
from trimtab.record.checkpoints import Anchor, Checkpoint, anchor_of_folder, anchor_of_log, new_anchor
from trimtab.record.disk import disk_error, sentences
from trimtab.record.lock import FolderLock

SEGMENT_BYTES = 64 * 2**20
_HEAD = re.compile(rb'\{"seq":([1-9][0-9]{0,17}),"prev":"([0-9a-f]{64})","body":')
_TAIL_BYTES = len(b',"hash":""}') + 64
_TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"\}')
_sync = getattr(os, "fdatasync", os.fsync)


class AuditUnavailable(MissingError):
    """A record could not be made durable; the log is as it was before, and the next try may succeed."""


class BadRecord(ValueError):
    """A line that is no record, or not the one that belongs here. The text is a phrase that follows the record's number."""


@dataclass(frozen=True, slots=True)
class Link:
    """A record's number and hash: what the next one is bound to. Number 0 stands before the first."""

    seq: int
    hash: str


START = Link(0, "0" * 64)


def sealed(after: Link, body: bytes) -> tuple[bytes, Link]:
    """The line of a new record, newline included, and its link. body: a JSON object in one line."""
    prefix = b'{"seq":%d,"prev":"%b","body":%b' % (after.seq + 1, after.hash.encode(), body)
    digest = hashlib.sha256(prefix).hexdigest()
    return b'%b,"hash":"%b"}\n' % (prefix, digest.encode()), Link(after.seq + 1, digest)


def read_line(line: bytes, after: Link) -> tuple[Link, bytes]:
    """Link and body of a line (newline cut off) that must follow `after`. Raises BadRecord."""
    head, tail = _HEAD.match(line), _TAIL.fullmatch(line[-_TAIL_BYTES:])
    if head is None or tail is None:
        raise BadRecord("is not a record")
    if hashlib.sha256(line[:-_TAIL_BYTES]).hexdigest().encode() != tail[1]:
        raise BadRecord("was changed: its hash is another")
    if int(head[1]) != after.seq + 1:
        raise BadRecord(f"is not here: record {int(head[1])} stands in its place")
    if head[2].decode() != after.hash:
        raise BadRecord("does not follow the record before it: one of the two was written anew")
    return Link(after.seq + 1, tail[1].decode()), line[head.end() : -_TAIL_BYTES]


def segments(folder: Path) -> list[Path]:
    """The files of a log in order. Raises InputError or MissingError."""
    with sentences(folder, "read"):
        return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdigit()) if folder.is_dir() else []


def segment_name(first_seq: int) -> str:
    """`000000000001.jsonl`"""
    return f"{first_seq:012d}.jsonl"


def log_id(folder: Path) -> str:
    """What a log calls itself in its first record. Raises InputError if there is none, or it is damaged."""
    found = segments(folder)
    if not found:
        raise InputError(f"There is no log in {folder}.")
    with sentences(found[0], "read"), found[0].open("rb") as file:
        line = file.readline()
    try:
        _, body = read_line(line[:-1], START)
        return str(json.loads(body)["log"])
    except BadRecord as error:
        raise InputError(f"{found[0]}: record 1 {error}.") from None
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{found[0]}: record 1 does not name its log.") from None


class ChainLog:
    """The one writer of a log, until `close`. Any thread may call `commit`; calls wait for each other."""

    def __init__(self, folder: Path, lock: FolderLock, anchor: Anchor, *, segment_bytes: int, sign_s: float) -> None:
        self.folder = folder
        self.head = START
        self._lock = lock
        self._anchor = anchor
        self._segment_bytes = segment_bytes
        self._sign_s, self._signed_s = sign_s, float("-inf")
        self._turn = threading.Lock()
        self._path = folder / segment_name(1)
        self._handle: int | None = None
        self._n_bytes = 0
        self._unsettled: list[tuple[int, bytes]] = []  # (number of the last record, lines) written and not yet synced
        self._sync_failed = False
        self._settling = threading.Lock()
        self._is_open = True

    @classmethod
    def open(cls, folder: Path, *, home: Path, segment_bytes: int = SEGMENT_BYTES, sign_s: float = 0.0) -> Self:
        """Open a log for writing, or begin one. home: where keys and anchors lie.

        sign_s: a commit is not signed if one was so shortly before; then `sign` must be called. 0 = every commit is

        A half-written end is cut off. Raises InputError (in use, cut or changed since its last checkpoint, gone, no permission),
        AuditUnavailable (disk full).
        """
        folder = folder.absolute()
        try:
            lock = FolderLock(folder)
            try:
                is_new = not _has_a_line(folder)
                log = cls(folder, lock, _anchor(folder, home, is_new=is_new), segment_bytes=segment_bytes, sign_s=sign_s)
            except BaseException:
                lock.release()
                raise
            try:
                if is_new:
                    log.commit([_note("log begun", log=log.id, key=log._anchor.signer.public_hex)])
                else:
                    log._recover()
            except BaseException:
                log._give_up()
                raise
        except AuditUnavailable:
            raise
        except MissingError as error:
            raise AuditUnavailable(str(error)) from error
        return log

    @property
    def id(self) -> str:
        """The log's own name, 32 hex digits."""
        return self._anchor.log

    @property
    def checkpoint(self) -> Checkpoint:
        """The newest that was signed."""
        return self._anchor.last

    def commit(self, bodies: Sequence[bytes]) -> int:
        """Write records with one write and one sync; returns the number of the first. Durable when it returns.

        Raises AuditUnavailable: then none of them is in the log.
        """
        with self._turn:
            first = self._append(bodies, syncs=True)
            if time.monotonic() - self._signed_s >= self._sign_s:
                self._sign(self.head)
            return first

    def write(self, bodies: Sequence[bytes]) -> int:
        """Write records without waiting for the disk; returns the number of the first. `settle` must be called soon.

        Raises AuditUnavailable: then none of them is in the log.
        """
        with self._turn:
            return self._append(bodies, syncs=False)

    def settle(self, *, signs: bool = True) -> None:
        """Sync what was written, and sign it; others may write meanwhile.

        Raises AuditUnavailable; after a failed sync `write` does too, until one succeeds.
        """
        with self._settling:
            with self._turn:
                if not self._is_open or not (self._unsettled or (signs and self._anchor.last.size < self.head.seq)):
                    return
                try:
                    self._write_again()
                    handle = os.dup(self._handle) if self._handle is not None and self._unsettled else None
                except OSError as error:
                    raise self._unavailable(error, self._path) from error
                head = self.head
            try:
                if handle is not None:
                    _sync(handle)
            except OSError as error:
                self._sync_failed = True
                raise self._unavailable(error, self._path) from error
            finally:
                if handle is not None:
                    os.close(handle)
            with self._turn:
                self._unsettled = [(seq, data) for seq, data in self._unsettled if seq > head.seq]
            if signs:
                self._sign(head)

    def sign(self) -> None:
        """Sign what was committed since the last checkpoint, if anything was. Raises AuditUnavailable."""
        with self._turn:
            if self._is_open and self._anchor.last.size < self.head.seq:
                self._sign(self.head)

    def _sign(self, head: Link, *, is_closed: bool = False) -> None:
        """Raises AuditUnavailable."""
        try:
            self._anchor.write(head.seq, head.hash, is_closed=is_closed)
        except OSError as error:
            raise self._unavailable(error, self._anchor.path) from error
        self._signed_s = time.monotonic()

    def close(self) -> None:
        """Sign that nothing follows, and give the folder free. Idempotent."""
        with self._turn:
            if not self._is_open:
                return
            try:
                self._settle_segment()
                self._sign(self.head, is_closed=True)
            except OSError as error:
                raise self._unavailable(error, self._path) from error
            finally:
                self._give_up()

    def _give_up(self) -> None:
        self._is_open = False
        self._close_file()
        self._anchor.close()
        self._lock.release()

    def _append(self, bodies: Sequence[bytes], *, syncs: bool) -> int:
        if not self._is_open:
            raise AuditUnavailable(f"The log in {self.folder} is closed.")
        head, lines = self.head, []
        for body in bodies:
            line, head = sealed(head, body)
            lines.append(line)
        first = self.head.seq + 1
        try:
            self._write(b"".join(lines), first, syncs=syncs)
        except OSError as error:
            raise self._unavailable(error, self._path) from error
        self.head = head
        if not syncs:
            self._unsettled.append((head.seq, b"".join(lines)))
        return first

    def _unavailable(self, error: OSError, path: Path) -> AuditUnavailable:
        return AuditUnavailable(str(disk_error(Path(error.filename or path), error, "write")))

    def _write(self, data: bytes, first_seq: int, *, syncs: bool) -> None:
        self._write_again()
        if self._handle is None:
            self._open_file()
        if self._n_bytes and self._n_bytes + len(data) > self._segment_bytes:
            self._settle_segment()
            self._close_file()
            self._path, self._n_bytes = self.folder / segment_name(first_seq), 0
            self._open_file()
        handle = self._handle
        assert handle is not None
        status = os.fstat(handle)
        if status.st_size != self._n_bytes or not status.st_nlink:
            raise AuditUnavailable(
                f"{self._path} was changed or removed by somebody else while it is being written; see `trimtab verify log`."
            )
        try:
            _write_all(handle, data)
            if syncs:
                _sync(handle)
        except OSError:
            # After a failed sync the kernel may call unwritten pages clean: only what was cut off and written again is sure.
            try:
                os.ftruncate(handle, self._n_bytes)
            except OSError:
                self._close_file()
            raise
        self._n_bytes += len(data)

    def _settle_segment(self) -> None:
        """Sync what was written to the current segment. Raises OSError."""
        if self._unsettled:
            self._write_again()
            assert self._handle is not None
            _sync(self._handle)
            self._unsettled.clear()

    def _write_again(self) -> None:
        """After a failed sync: cut off what was not synced, write it again and sync it. Raises OSError."""
        if not self._sync_failed:
            return
        data = b"".join(lines for _, lines in self._unsettled)
        self._close_file()
        self._n_bytes -= len(data)
        try:
            self._open_file()
            assert self._handle is not None
            _write_all(self._handle, data)
            _sync(self._handle)
        finally:
            self._n_bytes += len(data)
        self._unsettled.clear()
        self._sync_failed = False

    def _open_file(self) -> None:
        """Opens the current segment and cuts off whatever a failed write has left."""
        is_new = not self._path.exists()
        self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._handle).st_size > self._n_bytes:
            os.ftruncate(self._handle, self._n_bytes)
        if is_new:
            sync_folder(self.folder)

    def _close_file(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _recover(self) -> None:
        """Finds the end of a log that was written before, as its last checkpoint knows it or later."""
        *earlier, last = [path for path in segments(self.folder) if path.stat().st_size]
        after = _last_link(earlier[-1]) if earlier else START
        kept = self._anchor.last
        signed_hash = after.hash if after.seq == kept.size else kept.head
        n_good, why = 0, ""
        with sentences(last, "read"), last.open("rb") as file:
            for line in file:
                try:
                    if not line.endswith(b"\n"):
                        raise BadRecord("is not whole")
                    after, _ = read_line(line[:-1], after)
                except BadRecord as error:
                    why = f"record {after.seq + 1} {error}"
                    break
                n_good += len(line)
                if after.seq == kept.size:
                    signed_hash = after.hash
            n_bytes = os.fstat(file.fileno()).st_size
        if after.seq < kept.size or signed_hash != kept.head:
            raise InputError(
                f"The log in {self.folder} was cut or changed ({why or f'{kept.size} records were signed, {after.seq} are there'}); see "
                f"`trimtab verify log`. To begin a new one, move the folder and {self._anchor.path} aside."
            )
        self._path, self._n_bytes, self.head = last, n_good, after
        if kept.is_closed and n_bytes == n_good and after.seq == kept.size:
            with sentences(self._anchor.path, "write"):
                self._anchor.write(after.seq, after.hash)  # from now on, records may follow
            return
        with sentences(last, "read"), last.open("rb") as file:
            file.seek(n_good)
            torn_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        # The cut comes first: `_open_file` makes it, before this record is written.
        self.commit([_note("log recovered", cut_bytes=n_bytes - n_good, cut_sha256=torn_sha256, unsigned=after.seq - kept.size)])


def _write_all(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _anchor(folder: Path, home: Path, *, is_new: bool) -> Anchor:
    if not is_new:
        log = log_id(folder)
        anchor = anchor_of_log(home, log, folder)
        if anchor is None:
            raise InputError(
                f"There is no checkpoint for the log {log} in {folder}; put back {home / 'anchors'} from where the log comes from, or "
                "move the log aside to begin a new one."
            )
        return anchor
    anchor = anchor_of_folder(home, folder)
    if anchor is not None and anchor.last.size:
        raise InputError(
            f"The log of {anchor.last.size} records that was kept in {folder} is gone. Put it back; or, if it was moved for good, move its "
            f"checkpoint {anchor.path} with it."
        )
    return anchor if anchor is not None else new_anchor(home, folder)


def _has_a_line(folder: Path) -> bool:
    """Whether the first record was ever written whole."""
    found = segments(folder)
    if len(found) != 1:
        return bool(found)
    with sentences(found[0], "read"), found[0].open("rb") as file:
        return file.readline().endswith(b"\n")


def _last_link(segment: Path) -> Link:
    """Number and hash of a segment's last record; of the record itself only its own hash is checked."""
    with sentences(segment, "read"), segment.open("rb") as file:
        line = deque(file, maxlen=1)[0]
    head = _HEAD.match(line)
    try:
        if head is None:
            raise BadRecord("is not a record")
        return read_line(line[:-1], Link(int(head[1]) - 1, head[2].decode()))[0]
    except BadRecord as error:
        raise InputError(f"The last record of {segment} {error}; see `trimtab verify log`.") from None


def _note(event: str, **facts: Any) -> bytes:
    return canonical_json({"event": event, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}).encode()
