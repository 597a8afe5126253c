"""Records of an audit log that somebody looks for, newest first, without reading more of a big log than is asked for.

Nothing is locked: a gateway may write meanwhile. What is read is bounded in bytes; the answer says where to go on.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.record.chain import segments
from trimtab.record.disk import sentences

BLOCK_BYTES = 2**18
MOST_BYTES = 32 * 2**20
"""Read for one answer."""
SLACK_S = 3600.0
"""A clock may be set back: reading stops at a record so much older than what is looked for."""
_TAIL_BYTES = len(b',"hash":""}') + 64


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a record must have; empty = anything. status: `200`, or a class such as `4xx`; rule: of a guard, or a guard's name

    since, until: UTC, ISO 8601, such as `2026-11-27T10:00`
    """

    request: str = ""
    key: str = ""
    model: str = ""
    version: str = ""
    status: str = ""
    rule: str = ""
    event: str = ""
    since: str = ""
    until: str = ""

    def fits(self, body: dict[str, Any]) -> bool:
        at = str(body.get("at", ""))
        if (self.since and at < self.since) or (self.until and at[: len(self.until)] > self.until):
            return False
        if any(
            wanted and str(body.get(name, "")) != wanted
            for name, wanted in (
                ("request", self.request),
                ("key", self.key),
                ("model", self.model),
                ("version", self.version),
                ("event", self.event),
            )
        ):
            return False
        return _fits_status(self.status, body.get("status")) and (not self.rule or self.rule in rules_of(body))


@dataclass(frozen=True, kw_only=True)
class Noted:
    """One record. is_whole: its hash is that of its own bytes (that it follows the one before it is for `verify log` to say)."""

    seq: int
    body: dict[str, Any]
    is_whole: bool


@dataclass(frozen=True, kw_only=True)
class FoundRecords:
    """records: newest first; before: number to go on from, 0 = the beginning of the log was reached; n_read: records looked at"""

    records: tuple[Noted, ...]
    before: int
    n_read: int


def rules_of(body: dict[str, Any]) -> list[str]:
    """Guards and rules that spoke on a request, such as `injection.override`."""
    found: dict[str, None] = {}
    for verdict in body.get("verdicts") or ():
        found[str(verdict.get("guard", ""))] = None
        found.update({str(one.get("rule", "")): None for one in verdict.get("findings") or ()})
    return [name for name in found if name]


def search_log(folder: Path, wanted: Wanted, *, before: int = 0, limit: int = 50, most_bytes: int = MOST_BYTES) -> FoundRecords:
    """Up to `limit` records that fit, from the one before number `before` (0 = the newest) backwards.

    Raises InputError, MissingError where the folder cannot be read; a line that is no record is passed over.
    """
    found: list[Noted] = []
    n_read, seq, n_bytes = 0, 0, 0
    stop = _earlier(wanted.since)
    for seq, line in _backwards(folder, before):
        n_read += 1
        n_bytes += len(line)
        noted = _noted(seq, line)
        if noted is not None:
            if stop and str(noted.body.get("at", "")) < stop:
                return FoundRecords(records=tuple(found), before=0, n_read=n_read)
            if wanted.fits(noted.body):
                found.append(noted)
        if len(found) >= limit or n_bytes >= most_bytes:
            break
    return FoundRecords(records=tuple(found), before=seq if seq > 1 else 0, n_read=n_read)


def log_bytes(folder: Path) -> int:
    """Bytes of a log on the disk; 0 if there is none."""
    with sentences(folder, "read"):
        return sum(path.stat().st_size for path in segments(folder))


def _fits_status(wanted: str, status: Any) -> bool:
    if not wanted:
        return True
    if wanted.endswith("xx"):
        return str(status)[:1] == wanted[:1] and status is not None
    return str(status) == wanted


def _earlier(since: str) -> str:
    """SLACK_S before a time, empty if none was given. Raises InputError for what is no time."""
    from datetime import UTC, datetime, timedelta

    if not since:
        return ""
    try:
        at = datetime.fromisoformat(since)
    except ValueError:
        raise InputError(f"{since!r} is no time; write one such as 2026-11-27T10:00.") from None
    return (at.replace(tzinfo=at.tzinfo or UTC) - timedelta(seconds=SLACK_S)).astimezone(UTC).isoformat()[:19]


def _noted(seq: int, line: bytes) -> Noted | None:
    try:
        whole = json.loads(line)
        body, digest = whole["body"], whole["hash"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    return Noted(seq=seq, body=body, is_whole=hashlib.sha256(line[:-_TAIL_BYTES]).hexdigest() == digest)


def _backwards(folder: Path, before: int) -> Iterator[tuple[int, bytes]]:
    """Number and line of each record before number `before`, the newest first."""
    for path in reversed(segments(folder)):
        if before and int(path.stem) >= before:
            continue
        with sentences(path, "read"), path.open("rb") as file:
            end = file.seek(0, 2)
            if before:
                end = _place_of(file, end, before)
            for line in _lines_backwards(file, end):
                seq = _seq_of(line)
                if seq and (not before or seq < before):
                    yield seq, line


def _lines_backwards(file: Any, end: int) -> Iterator[bytes]:
    """Whole lines before byte `end`, the last first, without their newlines; a torn last line is left out."""
    rest = b""
    at = end
    is_last = True
    while at > 0:
        start = max(0, at - BLOCK_BYTES)
        file.seek(start)
        block = file.read(at - start) + rest
        at = start
        head, *lines = block.split(b"\n")
        rest = head
        for line in reversed(lines):
            if line and not is_last:
                yield line
            is_last = False
    if rest and not is_last:
        yield rest


def _place_of(file: Any, end: int, before: int) -> int:
    """The byte where record `before` begins, or `end`: found by halving, as records stand in order."""
    low, high = 0, end
    while high - low > BLOCK_BYTES:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        start = file.tell()
        seq = _seq_of(file.readline())
        if start >= high or not seq:
            break
        if seq < before:
            low = start
        else:
            high = start
    return high


def _seq_of(line: bytes) -> int:
    """The number a record's line begins with, 0 for another line."""
    head, _, rest = line[:32].partition(b'{"seq":')
    digits = rest.partition(b",")[0]
    return int(digits) if not head and digits.isdigit() else 0
