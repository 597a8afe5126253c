"""A release as a folder that a stranger can check: its evidence as the run had it, what the ledger says of it, its signature.

release.json          entries of the ledger about it, and of the people in them, as they were written     trimtab.released/1
statement.dsse.json   the signed statement (record/statements.py)
decision.json, deploy.toml, run.json, candidates.jsonl, items/ ...   the evidence
README.md, bom.cdx.json, card.html, technical-file.md                the cards, as they were signed
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, digest_of, to_plain, write_atomic
from trimtab.core.release import Blob, Entry, Release
from trimtab.decide.release_book import Record
from trimtab.record.disk import check_schema, sentences
from trimtab.record.evidence_store import EvidenceStore
from trimtab.record.ledger_entries import BadEntry, key_in, read_row, row_of, signature_fault
from trimtab.record.statements import NAME as STATEMENT

SCHEMA = "trimtab.released/1"
NAME = "release.json"


@dataclass(frozen=True, kw_only=True)
class Released:
    """What release.json says. body: of the `release` entry that counts; approvals: of exactly that body; keys: person -> public key

    cards: that the body names; faults: sentences on entries that are not as they were written
    """

    release: Release
    body: Mapping[str, Any]
    entry: Entry
    approvals: tuple[Entry, ...]
    keys: Mapping[str, str]
    cards: tuple[Blob, ...]
    faults: tuple[str, ...]


def write_release_folder(folder: Path, record: Record, entries: Sequence[Entry], store: EvidenceStore) -> None:
    """Write everything of a release into a folder. entries: the whole ledger.

    Raises InputError (evidence missing or damaged), MissingError.
    """
    release = record.release
    for blob in (*release.evidence, *cards_of(record.entry.body)):
        store.fetch(blob.sha256, place(folder, blob))
    named = str(record.entry.body.get("statement_sha256") or "")
    if named:
        store.fetch(named, folder / STATEMENT)
    own = [entry for entry in entries if entry.about == release.id]
    people = {entry.by for entry in own}
    told = [entry for entry in entries if entry.about == release.id or (entry.kind == "person" and entry.about in people)]
    document = {"schema": SCHEMA, "release": release.id, "entries": to_plain(told)}
    with sentences(folder / NAME, "write"):
        write_atomic(folder / NAME, canonical_json(document) + "\n")


def cards_of(body: Mapping[str, Any]) -> tuple[Blob, ...]:
    """The cards that a `release` entry names. Raises InputError."""
    try:
        return tuple(Blob(**one) for one in body.get("cards") or ())
    except TypeError:
        raise InputError("The release does not name its cards as files.") from None


def place(folder: Path, blob: Blob) -> Path:
    """Where a file of evidence goes. Raises InputError for a name that leads out of the folder."""
    path = folder / blob.name
    if not path.resolve().is_relative_to(folder.resolve()) or path.resolve() == folder.resolve():
        raise InputError(f"{blob.name!r} is no name of a file of a run.")
    with sentences(path.parent, "create"):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def read_released(path: Path) -> Released:
    """release.json, every entry held against its own hash and signature. Raises InputError, MissingError."""
    with sentences(path, "read"):
        raw = path.read_bytes()
    try:
        document = json.loads(raw)
        check_schema(document, SCHEMA, path)
        if (canonical_json(document) + "\n").encode() != raw or document.keys() != {"schema", "release", "entries"}:
            raise ValueError("it is not in the form in which it was written")
        return _released([Entry(**one) for one in document["entries"]], str(document["release"]))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} does not tell of a release ({type(error).__name__}: {error}); it may be damaged.") from None


def _released(entries: Sequence[Entry], release_id: str) -> Released:
    keys: dict[str, str] = {}
    faults = []
    last: Entry | None = None
    approvals: list[Entry] = []
    before = 0
    for entry in entries:
        fault = _fault(entry, keys) or ("does not come after the entry before it" if entry.seq <= before else "")
        before = entry.seq
        if fault:
            faults.append(f"Entry {entry.seq} of the ledger {fault}.")
        if entry.kind == "person":
            keys[entry.about] = key_in(entry)
        elif entry.about == release_id and entry.kind == "release":
            last, approvals = entry, []
        elif entry.about == release_id and entry.kind == "approval" and last is not None:
            approvals.append(entry)
    if last is None:
        raise ValueError(f"no entry is about {release_id}")
    sha256, release = digest_of(last.body), Release.of(last.body)
    if release.id != release_id:
        raise ValueError(f"its entry is of {release.id}")
    counted = tuple(entry for entry in approvals if entry.body.get("release_sha256") == sha256)
    return Released(
        release=release,
        body=last.body,
        entry=last,
        approvals=counted,
        keys=keys,
        cards=cards_of(last.body),
        faults=tuple(faults),
    )


def _fault(entry: Entry, keys: Mapping[str, str]) -> str:
    try:
        read_row(tuple(row_of(entry).values()))
    except BadEntry as error:
        return str(error)
    return signature_fault(entry, keys.get(entry.by, ""))
