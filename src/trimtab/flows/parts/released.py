"""Releases as the ledger has them: opened, written to by its rules, and told as rows. What several verbs share."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.core.release import Blob, Entry, EntryKind, IntendedUse, Person
from trimtab.core.site import GuardUse
from trimtab.decide.release import read_book
from trimtab.decide.release_book import Book, Record, Said, effective, moment, standing
from trimtab.decide.release_guards import Sides, guards_of, unguarded
from trimtab.decide.release_may import Wish, refusals
from trimtab.decide.release_rules import Rules
from trimtab.guard.registry import guard_class, guard_names
from trimtab.record.evidence_store import EvidenceStore
from trimtab.record.home import state_dir
from trimtab.record.ledger import Ledger, NoLedger
from trimtab.record.people_keys import signer_of

log = logging.getLogger("trimtab.flows")

Draft = Callable[[Book, str], tuple[str, Mapping[str, Any]]]
"""From the ledger as it is and the time to what an entry is about and its body. May raise InputError."""


class Refused(InputError):
    """The rules do not allow it. reasons: each a sentence."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(" ".join(reasons))
        self.reasons = tuple(reasons)


@contextlib.contextmanager
def opened_ledger(url: str, *, must_exist: bool = False) -> Iterator[Ledger]:
    """The ledger of TRIMTAB_HOME, or of a URL; what it warns of goes to stderr. Raises InputError (NoLedger), MissingError."""
    ledger = Ledger.open(url, home=state_dir(), must_exist=must_exist)
    try:
        yield ledger
    finally:
        ledger.close()
        for warning in ledger.warnings:
            log.warning("%s", warning)


def entries_of(url: str) -> tuple[Entry, ...]:
    """All entries of a ledger, whose chain was followed. Raises InputError where there is none yet; it is not begun for that."""
    with opened_ledger(url, must_exist=True) as ledger:
        entries = ledger.entries()
    if not entries:
        raise NoLedger(f"The ledger {ledger.where} is empty; begin with `trimtab release people add NAME`.")
    return entries


def entries_if_any(url: str) -> tuple[Entry, ...]:
    """As `entries_of`, and none where there is no ledger."""
    try:
        return entries_of(url)
    except NoLedger:
        return ()


def write_entry(url: str, kind: EntryKind, *, by: str, draft: Draft) -> Entry:
    """Judge an entry by the ledger as it is and write it, with nothing written in between; signed where `by` has a key.

    Raises Refused, InputError, MissingError.
    """
    with opened_ledger(url) as ledger, ledger.writing() as (entries, append):
        book = read_book(entries)
        at = now_after(entries)
        about, body = draft(book, at)
        reasons = refusals(book, Wish(kind=kind, by=by, about=about, body=to_plain(body), at=at))
        if reasons:
            raise Refused(reasons)
        key = book.people[by].public_key if by in book.people else Person(**{**body, "roles": ()}).public_key
        return append(kind, by=by, about=about, body=body, signer=signer_of(state_dir(), by, key) if key else None)


def now_after(entries: Sequence[Entry]) -> str:
    """This moment, or that of the last entry where the clock stands earlier; UTC, ISO 8601."""
    now = datetime.now(UTC)
    return (max(now, moment(entries[-1].at)) if entries else now).isoformat(timespec="microseconds")


def who(book: Book, by: str) -> str:
    """The person who is meant: as named, else the only one there is. Raises InputError."""
    if by:
        return by
    if len(book.people) == 1:
        return next(iter(book.people))
    if not book.people:
        raise InputError("There is nobody in the ledger yet; begin with `trimtab release people add NAME`.")
    raise InputError(f"Say who you are with --as NAME or TRIMTAB_AS; the ledger knows {', '.join(book.people)}.")


def opened_store() -> EvidenceStore:
    """The evidence store of this installation. Raises InputError, MissingError."""
    return EvidenceStore.open("", home=state_dir())


def evidence_faults(store: EvidenceStore, blobs: Sequence[Blob]) -> list[str]:
    """What of a release's evidence is no longer what was proposed and approved, one sentence each."""
    return [f"Its evidence is not what was proposed. {fault}" for blob in blobs if (fault := store.check(blob))]


def standing_row(book: Book, record: Record, at: str) -> dict[str, Any]:
    """A release as it stands, as JSON types."""
    release, now = record.release, standing(book, record, at)
    guards, open_uses = enforced(release.use, record.rules)
    body = record.entry.body
    return {
        "release": release.id,
        "state": now.state,
        "live_on": list(now.live_on),
        "missing": list(now.missing) if now.state not in ("retired", "revoked") else [],
        "proposed_by": release.by,
        "made": release.made,
        "source": body.get("source", ""),
        "revision": body.get("revision", ""),
        "verdict": release.verdict,
        "gates": dict(record.gates),
        "rules": record.rules.name,
        "rules_sha256": record.rules.digest,
        "approvals_needed": effective(book, record).approvals,
        "approvals": [said_row(one) for one in now.approvals],
        "waivers": [said_row(one) for one in now.waivers],
        "release_sha256": record.sha256,
        **{key: getattr(release, key) for key in ("policy", "policy_sha256", "decision_sha256", "deployment_sha256")},
        **{key: getattr(release, key) for key in ("weights_sha256", "lock_sha256")},
        "evidence": to_plain(release.evidence),
        "licences": to_plain(release.licences),
        "use": to_plain(release.use),
        "guards": to_plain(guards),
        "unguarded": list(open_uses),
        **_ending(record),
    }


def _ending(record: Record) -> dict[str, Any]:
    last = record.revoked or record.retired
    return {"ended": None if last is None else {"by": last.by, "at": last.at, "reason": last.body.get("reason", "")}}


def said_row(said: Said) -> dict[str, Any]:
    """An approval or a waiver, and whether it counts."""
    entry = said.entry
    own = (
        {"gate": said.gate, "reason": entry.body["reason"], "expires": entry.body["expires"]} if said.gate else {"note": entry.body["note"]}
    )
    return {"by": entry.by, "at": entry.at, "entry": entry.seq, **own, "counts": not said.why_not, "why_not": said.why_not}


def enforced(use: IntendedUse, rules: Rules) -> tuple[tuple[GuardUse, ...], tuple[str, ...]]:
    """The guards that a gateway must put before a release, and the prohibited uses that no guard stands behind."""
    known = known_guards(use.prohibited)
    return guards_of(use.prohibited, rules.guards, known), unguarded(use.prohibited, known)


def known_guards(prohibited: Sequence[str]) -> dict[str, Sides]:
    """Guards of the gateway that prohibited uses begin with, and what they read."""
    names = sorted({one.partition(":")[0].strip() for one in prohibited if ":" in one})
    return {name: sides for name in names if (sides := _sides(name)) is not None}


@lru_cache(maxsize=256)  # to look for the guards of other packages takes milliseconds, and a list asks for every release
def _sides(name: str) -> Sides | None:
    """What a guard of this name reads, None where there is none."""
    if name not in guard_names():
        return None
    sides = guard_class(name).sides
    return "both" if len(sides) > 1 else next(iter(sides))
