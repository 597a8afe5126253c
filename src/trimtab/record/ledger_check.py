"""Is a ledger still what was written? Every entry is read again, and the whole held against its last signed checkpoint.

What can be told by what: a changed, missing, inserted or moved entry by the chain itself; entries cut off at the end, and an end that was
written anew with right hashes, by the checkpoint; an entry that was written in somebody's name without the key, by its signature.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trimtab.record.checkpoints import Checkpoint
from trimtab.record.ledger_entries import BEGINNING, BadEntry, DamagedLedger, Head, Row, follow, head_of, key_in, read_row, signature_fault


@dataclass(frozen=True, kw_only=True)
class BadPlace:
    """The first entry that is not as it was written. reason: a phrase that follows `entry N`"""

    seq: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class LedgerCheck:
    """What a ledger is found to be.

    verdict: inconclusive where something could not be checked; reasons: sentences
    n_entries: whole and in their place, from the first on; n_signed: of these, with a person's signature, which was checked
    head: hash of the last of these; bad: the first that is not so
    """

    verdict: Literal["pass", "fail", "inconclusive"]
    reasons: tuple[str, ...]
    n_entries: int
    n_signed: int
    head: str
    bad: BadPlace | None
    checkpoint: Checkpoint | None


@dataclass(kw_only=True)
class _Walk:
    """What reading a ledger from its first entry on has found. hash_at: of the entry that the checkpoint is of"""

    head: Head = BEGINNING
    hash_at: str | None = None
    n_signed: int = 0
    bad: BadPlace | None = None


def check_rows(rows: Iterable[Row], ledger: str, checkpoint: Checkpoint | None, *, trusted_key: str, is_copy: bool) -> LedgerCheck:
    """Read a ledger's rows and judge them.

    ledger: its own name; checkpoint: what it must hold, None if there is none
    trusted_key: whose checkpoints count, empty if that is not known; is_copy: an older checkpoint, after which more may have followed
    """
    walk = _walked(rows, checkpoint.size if checkpoint else 0)
    failed, unsure = _judged(walk, ledger, checkpoint, trusted_key, is_copy=is_copy)
    return LedgerCheck(
        verdict="fail" if failed else "inconclusive" if unsure else "pass",
        reasons=(*failed, *unsure),
        n_entries=walk.head.seq,
        n_signed=walk.n_signed,
        head=walk.head.hash,
        bad=walk.bad or _missing(walk, checkpoint),
        checkpoint=checkpoint,
    )


def _walked(rows: Iterable[Row], at: int) -> _Walk:
    """Reads until the first bad entry."""
    walk = _Walk(hash_at=BEGINNING.hash if at == 0 else None)
    keys: dict[str, str] = {}
    try:
        for row in rows:
            entry = read_row(row)
            follow(entry, walk.head)
            if fault := signature_fault(entry, keys.get(entry.by, "")):
                raise BadEntry(fault)
            if entry.kind == "person":
                keys[entry.about] = key_in(entry)
            walk.head = head_of(entry)
            walk.n_signed += bool(entry.signature)
            if walk.head.seq == at:
                walk.hash_at = walk.head.hash
    except (BadEntry, DamagedLedger) as error:
        reason = str(error) if isinstance(error, BadEntry) else "cannot be read any more"
        walk.bad = BadPlace(seq=walk.head.seq + 1, reason=reason)
    return walk


def _judged(walk: _Walk, ledger: str, checkpoint: Checkpoint | None, trusted_key: str, *, is_copy: bool) -> tuple[list[str], list[str]]:
    """Why the ledger is not what was written, and why that cannot be told."""
    failed, unsure = [], []
    if walk.bad is not None:
        failed.append(f"Entry {walk.bad.seq} {walk.bad.reason}.")
    if checkpoint is None:
        unsure.append("There is no checkpoint of this ledger here, so that nobody can tell whether entries were cut off at its end.")
        return failed, unsure
    if checkpoint.log != ledger:
        failed.append(f"This is another ledger ({ledger}) than the one that was signed ({checkpoint.log}).")
        return failed, unsure
    if not checkpoint.is_signed_by(trusted_key or checkpoint.key):
        failed.append("The checkpoint's signature is wrong, or of another key than the one that is trusted here.")
    elif not trusted_key:
        unsure.append(f"The checkpoint is signed by a key that is not known here ({checkpoint.key[:16]}...); give the right one.")
    n_more = walk.head.seq - checkpoint.size
    if walk.bad is None and n_more < 0:
        failed.append(
            f"The end was cut off, {_entries(-n_more)}: {checkpoint.size} were signed on {checkpoint.at}, {walk.head.seq} are there."
        )
    elif walk.hash_at is not None and walk.hash_at != checkpoint.head:
        failed.append(
            f"Entry {checkpoint.size} is not the one that was signed on {checkpoint.at}: it or an entry before it was written anew."
        )
    elif n_more > 0 and not is_copy:
        unsure.append(
            f"From entry {checkpoint.size + 1} on nothing is signed here: {_entries(n_more)}, written from another machine, by a writer "
            "that was killed, or by another hand."
        )
    return failed, unsure


def _missing(walk: _Walk, checkpoint: Checkpoint | None) -> BadPlace | None:
    """The first entry that a checkpoint knows and the ledger does not hold as it was signed."""
    if checkpoint is None:
        return None
    if walk.head.seq < checkpoint.size:
        return BadPlace(seq=walk.head.seq + 1, reason="was cut off")
    if walk.hash_at is not None and walk.hash_at != checkpoint.head:
        return BadPlace(seq=checkpoint.size, reason="or one before it was written anew")
    return None


def _entries(n: int) -> str:
    return f"{n} entr{'y' if n == 1 else 'ies'}"
