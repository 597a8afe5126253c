"""`trimtab release people`: who may do what, and the keys that they sign with."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.core.release import Person, Role
from trimtab.decide.release import read_book
from trimtab.decide.release_book import Book
from trimtab.decide.release_may import PERSON
from trimtab.flows.parts.released import entries_if_any, entries_of, who, write_entry
from trimtab.record.checkpoints import public_key_of
from trimtab.record.home import state_dir
from trimtab.record.people_keys import key_path, made_key, remove_key


def add_person(name: str, *, roles: Sequence[str] = (), public_key: str = "", by: str = "", ledger: str = "") -> dict[str, Any]:
    """Add somebody, or change roles or key. The first person of a ledger gets all roles and adds itself.

    roles: empty = those it has, for a new one `viewer`
    public_key: 64 hex digits or a PEM file, of a key made elsewhere; empty = the one that it has, else the one here, made if there is none
    Raises InputError, MissingError.
    """
    _check_name(name)
    for role in roles:
        if role not in get_args(Role):
            raise InputError(f"There is no role {role!r}; the roles are {', '.join(get_args(Role))}.")
    home = state_dir()
    book = read_book(entries_if_any(ledger))
    first, known = not book.people, book.people.get(name)
    is_new_key = not public_key and not (known and known.public_key) and not key_path(home, name).exists()
    key = _given_key(public_key) or (known.public_key if known else "") or made_key(home, name)
    held = get_args(Role) if first else tuple(dict.fromkeys(roles)) or (known.roles if known else ("viewer",))
    person = Person(name=name, roles=cast(tuple[Role, ...], held), public_key=key)

    def draft(now: Book, at: str) -> tuple[str, Mapping[str, Any]]:
        return name, to_plain(person)

    try:
        entry = write_entry(ledger, "person", by=name if first else who(book, by), draft=draft)
    except BaseException:
        if is_new_key:
            remove_key(home, name)
        raise
    path = key_path(home, name)
    return {**_row(person), "is_first": first, "added_by": entry.by, "key_file": str(path) if path.exists() else ""}


def make_key(name: str) -> dict[str, Any]:
    """A person's key here, made if there is none; its public half is for who adds the person. Raises InputError, MissingError."""
    _check_name(name)
    home = state_dir()
    is_new = not key_path(home, name).exists()
    return {"name": name, "public_key": made_key(home, name), "key_file": str(key_path(home, name)), "is_new": is_new}


def list_people(*, ledger: str = "") -> list[dict[str, Any]]:
    """Everybody in the ledger. Raises InputError, MissingError."""
    home = state_dir()
    people = read_book(entries_of(ledger)).people.values()
    return [{**_row(person), "key_is_here": key_path(home, person.name).exists()} for person in people]


def _check_name(name: str) -> None:
    if not PERSON.fullmatch(name):
        raise InputError(f"{name!r} is no name for a person; take letters, digits and . _ @ -, 64 at most.")


def _given_key(text: str) -> str:
    """64 hex digits, or the key of a PEM file; its private half, if it is one, is not kept."""
    if not text or re.fullmatch(r"[0-9a-f]{64}", text):
        return text
    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"{text!r} is no public key: give 64 hex digits, or a file in PEM form.")
    return public_key_of(path)


def _row(person: Person) -> dict[str, Any]:
    return {"name": person.name, "roles": list(person.roles), "public_key": person.public_key}
