"""What an entry of the ledger is made of: its bytes, what binds it to the entry before, and who signed it.

bytes      canonical JSON (core/files.py: keys sorted, no spaces, UTF-8) of an object with the entry's fields
signature  Ed25519 of the person, over the object without `signature` and `hash`: about, at, body, by, kind, prev, seq, in this order.
           `prev` and `seq` are in it, so that what was signed holds at this place of this ledger and nowhere else
hash       sha256 over the object without `hash`: about, at, body, by, kind, prev, seq, signature
prev       hash of the entry before; 64 zeros before the first
at         the writer's clock, or the time of the entry before if the clock stands earlier: then the body is as it was given, and the
           writer is told where the clock is more than a minute behind

A person whose key is in the ledger writes nothing unsigned: without that, a key would protect nobody. The entry with which a person
introduces itself may be signed with the key that it brings.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, digest_of
from trimtab.core.release import Entry, EntryKind
from trimtab.record.checkpoints import is_signature

Sign = Callable[[bytes], str]
"""Signs an entry's bytes with a person's key: bytes -> 128 hex digits."""

Row = tuple[Any, ...]
"""An entry as the database has it: the fields of Entry in the order of COLUMNS, the body as its canonical JSON text."""

COLUMNS = ("seq", "kind", "at", "by", "about", "body", "prev", "hash", "signature")
BODY_BYTES = 2**20
NAME_CHARACTERS = 256
CLOCK_TOLERANCE = timedelta(minutes=1)


class BadEntry(ValueError):
    """A row that is no entry, or not the one that belongs here. The text is a phrase that follows the entry's number."""


class DamagedLedger(InputError):
    """What lies there cannot be read as a ledger."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a ledger, as far as the next one is bound to it. Number 0 stands before the first."""

    seq: int
    hash: str
    at: str


BEGINNING = Head(0, "0" * 64, "")


def head_of(entry: Entry) -> Head:
    """What the entry after this one is bound to."""
    return Head(entry.seq, entry.hash, entry.at)


def drafted(kind: EntryKind, *, after: Head, now: datetime, by: str, about: str, body: Mapping[str, Any]) -> Entry:
    """A new entry, neither signed nor sealed. Raises InputError for what no ledger takes."""
    if kind not in get_args(EntryKind):
        raise InputError(f"There is no entry of kind {kind!r}; the kinds are {', '.join(get_args(EntryKind))}.")
    _check_name("name of the person", by)
    _check_name("name of what the entry is about", about)
    plain = _plain(body)
    if kind == "person":
        _check_key(about, plain.get("public_key", ""))
    at = max(now.astimezone(UTC).isoformat(timespec="microseconds"), after.at)
    return Entry(seq=after.seq + 1, kind=kind, at=at, by=by, about=about, body=plain, prev=after.hash, hash="")


def signed_bytes(entry: Entry) -> bytes:
    """What a person's signature is over."""
    return canonical_json(
        {field.name: getattr(entry, field.name) for field in fields(entry) if field.name not in ("signature", "hash")}
    ).encode()


def signed(entry: Entry, sign: Sign, known_key: str) -> Entry:
    """The entry with its signature. known_key: the person's in the ledger. Raises InputError if it is of another key, or none is known."""
    entry = replace(entry, signature=sign(signed_bytes(entry)))
    key = _key_for(entry, known_key)
    if not key:
        raise InputError(f"{entry.by} has no key in the ledger, so that nobody could check the signature; add the key to it first.")
    if not is_signature(key, entry.signature, signed_bytes(entry)):
        raise InputError(f"The signature is not by {entry.by}'s key in the ledger ({key[:16]}...); sign with that key.")
    return entry


def sealed(entry: Entry) -> Entry:
    """The entry with its hash."""
    return replace(entry, hash=_hash_of(entry))


def row_of(entry: Entry) -> dict[str, Any]:
    """What the database keeps, by column."""
    return {name: canonical_json(entry.body) if name == "body" else getattr(entry, name) for name in COLUMNS}


def read_row(row: Row) -> Entry:
    """The entry of a row. Raises BadEntry if it does not hold what was sealed, down to the bytes of its body."""
    if len(row) != len(COLUMNS) or type(row[0]) is not int or any(type(item) is not str for item in row[1:]):
        raise BadEntry("is not an entry")
    plain = dict(zip(COLUMNS, row, strict=True))
    try:
        body = json.loads(plain["body"])
        if not isinstance(body, dict) or canonical_json(body) != plain["body"]:
            raise BadEntry("was changed: its body is not in the form in which it was written")
        entry = Entry(**{**plain, "body": body})
        if _hash_of(entry) != entry.hash:
            raise BadEntry("was changed: its hash is another")
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, BadEntry) else BadEntry("was changed: its body is no JSON") from None
    return entry


def follow(entry: Entry, after: Head) -> None:
    """Raises BadEntry if the entry is not the one that comes next."""
    if entry.seq != after.seq + 1:
        raise BadEntry(f"is not here: entry {entry.seq} stands in its place")
    if entry.prev != after.hash:
        raise BadEntry("does not follow the entry before it: one of the two was written anew")
    if entry.at < after.at:
        raise BadEntry("is of an earlier time than the entry before it")


def signature_fault(entry: Entry, known_key: str) -> str:
    """Why an entry's signature cannot be, a phrase that follows its number; empty if it can. known_key: of `by` before this entry."""
    if not entry.signature:
        return f"is not signed, though {entry.by} has a key" if known_key else ""
    if not is_signature(_key_for(entry, known_key), entry.signature, signed_bytes(entry)):
        return f"is not signed by {entry.by}'s key"
    return ""


def key_in(entry: Entry) -> str:
    """The key that a `person` entry gives."""
    key = entry.body.get("public_key", "")
    return key if isinstance(key, str) else ""


def clock_warning(entry: Entry, now: datetime) -> str:
    """A sentence where the writer's clock is more than a minute behind the ledger, else empty."""
    behind = datetime.fromisoformat(entry.at) - now.astimezone(UTC)
    if behind <= CLOCK_TOLERANCE:
        return ""
    return (
        f"The clock of this machine is {int(behind.total_seconds())} s behind the last entry of the ledger; entry {entry.seq} was given "
        f"that entry's time, {entry.at}. Set the clock."
    )


def _key_for(entry: Entry, known_key: str) -> str:
    introduces_itself = not known_key and entry.kind == "person" and entry.about == entry.by
    return key_in(entry) if introduces_itself else known_key


def _hash_of(entry: Entry) -> str:
    return digest_of({field.name: getattr(entry, field.name) for field in fields(entry) if field.name != "hash"})


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = canonical_json(body)
        size = len(text.encode())
        plain = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise InputError("The body of a ledger entry must be a JSON object of texts, numbers, lists and objects.") from None
    if not isinstance(plain, dict) or canonical_json(plain) != text:
        raise InputError("The body of a ledger entry must be a JSON object, its keys texts.")
    if size > BODY_BYTES:
        raise InputError(
            f"The body of a ledger entry has {size:,} bytes, more than {BODY_BYTES:,}; keep it as evidence and name its sha256."
        )
    return plain


def _check_name(what: str, text: str) -> None:
    if not text or len(text) > NAME_CHARACTERS or any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise InputError(f"The {what} must have 1 to {NAME_CHARACTERS} characters, no control characters among them.")


def _check_key(person: str, key: Any) -> None:
    if key and not (isinstance(key, str) and len(key) == 64 and all(digit in "0123456789abcdef" for digit in key)):
        raise InputError(f"The public key of {person} must be an Ed25519 key of 64 hex digits.")
