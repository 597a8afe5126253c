"""Is a log still what was written? Every record is read again, and the whole held against its last signed checkpoint.

What can be told by what: a changed, missing, inserted or moved record by the chain itself; records cut off at the end, and an end that was
written anew with right hashes, by the checkpoint; a cut that its maker hid by an older checkpoint, by a copy that lies elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimtab.record.chain import START, BadRecord, Link, read_line, segment_name, segments
from trimtab.record.checkpoints import Checkpoint
from trimtab.record.disk import sentences


@dataclass(frozen=True, kw_only=True)
class BadPlace:
    """The first record that is not as it was written. line: of the file, from 1; reason: a phrase that follows `record N`."""

    record: int
    file: str
    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class LogCheck:
    """What a log is found to be.

    n_records: whole and in their place, from the first on; n_torn_bytes: a half-written record at the end, as a killed writer leaves it
    verdict: inconclusive where something could not be checked; reasons: sentences
    """

    verdict: Literal["pass", "fail", "inconclusive"]
    reasons: tuple[str, ...]
    n_records: int
    n_segments: int
    head: str
    n_torn_bytes: int
    bad: BadPlace | None
    checkpoint: Checkpoint | None


@dataclass(kw_only=True)
class _Walk:
    """What reading a log from its first byte to its last has found."""

    at: int
    head: Link = START
    head_at: str | None = None
    n_segments: int = 0
    n_torn_bytes: int = 0
    bad: BadPlace | None = None


def check_log(folder: Path, checkpoint: Checkpoint | None, *, trusted_key: str, is_copy: bool, is_in_use: bool) -> LogCheck:
    """Read a log and judge it.

    checkpoint: what it must hold, None if there is none; trusted_key: whose signature counts, empty if that is not known
    is_copy: the checkpoint is an older copy, more records may have followed; is_in_use: a writer has the log open
    """
    walk = _walk(folder, checkpoint.size if checkpoint else 0)
    failed, unsure = _judged(walk, checkpoint, trusted_key, may_go_on=is_copy or is_in_use)
    return LogCheck(
        verdict="fail" if failed else "inconclusive" if unsure else "pass",
        reasons=(*failed, *unsure),
        n_records=walk.head.seq,
        n_segments=walk.n_segments,
        head=walk.head.hash,
        n_torn_bytes=walk.n_torn_bytes,
        bad=walk.bad or _missing(walk, checkpoint, folder),
        checkpoint=checkpoint,
    )


def _judged(walk: _Walk, checkpoint: Checkpoint | None, trusted_key: str, *, may_go_on: bool) -> tuple[list[str], list[str]]:
    """Why the log is not what was written, and why that cannot be told."""
    failed, unsure = [], []
    if walk.bad is not None:
        failed.append(f"Record {walk.bad.record} {walk.bad.reason} ({walk.bad.file}, line {walk.bad.line}).")
    if checkpoint is None:
        unsure.append("There is no checkpoint for this log, so that nobody can tell whether records were cut off at its end.")
        return failed, unsure
    if not checkpoint.is_signed_by(trusted_key or checkpoint.key):
        failed.append("The checkpoint's signature is wrong, or of another key than the one that is trusted here.")
    elif not trusted_key:
        unsure.append(
            f"The checkpoint is signed by a key that is not known here ({checkpoint.key[:16]}...); give the right one with --key."
        )
    n_more = walk.head.seq - checkpoint.size
    if walk.bad is None and n_more < 0:
        failed.append(
            f"The end was cut off, {_records(-n_more)}: {checkpoint.size} were signed on {checkpoint.at}, {walk.head.seq} are there."
        )
    elif walk.head_at is not None and walk.head_at != checkpoint.head:
        failed.append(
            f"Record {checkpoint.size} is not the one that was signed on {checkpoint.at}: it or a record before it was written anew."
        )
    elif n_more > 0 and not may_go_on:
        by_whom = "after the log was closed" if checkpoint.is_closed else "by a writer that was killed, or by another hand"
        sentence = f"From record {checkpoint.size + 1} on nothing is signed: {_records(n_more)}, added {by_whom}."
        (failed if checkpoint.is_closed else unsure).append(sentence)
    if walk.n_torn_bytes and checkpoint.is_closed and not may_go_on:
        failed.append(f"{walk.n_torn_bytes} bytes that are no record were added at the end after the log was closed.")
    return failed, unsure


def _records(n: int) -> str:
    return f"{n} record{'' if n == 1 else 's'}"


def _missing(walk: _Walk, checkpoint: Checkpoint | None, folder: Path) -> BadPlace | None:
    """The first record that a checkpoint knows and the log does not hold as it was signed."""
    if checkpoint is None:
        return None
    if walk.head.seq < checkpoint.size:
        file = segments(folder)[-1].name if walk.n_segments else segment_name(1)
        return BadPlace(record=walk.head.seq + 1, file=file, line=0, reason="was cut off")
    if walk.head_at is not None and walk.head_at != checkpoint.head:
        return BadPlace(record=checkpoint.size, file="", line=0, reason="or one before it was written anew")
    return None


def _walk(folder: Path, at: int) -> _Walk:
    """Reads until the first bad record. head_at: the hash of record `at`."""
    walk = _Walk(at=at, head_at=START.hash if at == 0 else None)
    found = segments(folder)
    for path in found:
        if path.stat().st_size == 0 and path == found[-1]:
            break  # a segment that was begun, no more
        walk.n_segments += 1
        if path.name != segment_name(walk.head.seq + 1):
            walk.bad = BadPlace(
                record=walk.head.seq + 1, file=path.name, line=0, reason="is missing: the file that begins with it is not there"
            )
            break
        for number, line in enumerate(_lines(path), start=1):
            if not line.endswith(b"\n") and path == found[-1]:
                walk.n_torn_bytes = len(line)
                break
            try:
                walk.head, _ = read_line(line[:-1] if line.endswith(b"\n") else line + b"?", walk.head)
            except BadRecord as error:
                walk.bad = BadPlace(record=walk.head.seq + 1, file=path.name, line=number, reason=str(error))
                break
            if walk.head.seq == at:
                walk.head_at = walk.head.hash
        if walk.bad is not None:
            break
    return walk


def _lines(path: Path) -> Iterator[bytes]:
    with sentences(path, "read"), path.open("rb") as file:
        yield from file
