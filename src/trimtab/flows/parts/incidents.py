"""Incidents, effects and actions written to the ledger: what the verb, the watch and the page share."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.files import to_plain
from trimtab.core.watching import Action, Impact, Incident
from trimtab.decide.incidents import deadline_of, find_impact, find_incident, next_id
from trimtab.decide.release import find, read_book
from trimtab.decide.release_book import Book
from trimtab.flows.parts.released import entries_of, write_entry


def note_incident(ledger: str, *, by: str, do: str, name: str = "", about: str = "", said: Mapping[str, Any]) -> Incident:
    """Open, update or close an incident; numbers are given with nobody writing in between.

    name: `incident-3` or `3`, of an update or a close; about: release or model, of a new one
    said: what stands in the entry besides (decide/incidents); what is None is not said
    Raises Refused, InputError, MissingError.
    """
    noted: Incident = _note(ledger, by, "incident", do == "open", name, about, {"do": do, **said}, "incidents")
    return noted


def note_impact(ledger: str, *, by: str, do: str, name: str = "", about: str = "", said: Mapping[str, Any]) -> Impact:
    """Add to the impact register, or update it; as `note_incident`."""
    noted: Impact = _note(ledger, by, "impact", do == "add", name, about, {"do": do, **said}, "impacts")
    return noted


def note_action(ledger: str, *, by: str, about: str, action: Action) -> int:
    """An action's entry; its number. about: release or model. Raises Refused, InputError, MissingError."""
    return write_entry(ledger, "action", by=by, draft=lambda book, at: (about, to_plain(action))).seq


def _note(ledger: str, by: str, kind: Any, is_new: bool, name: str, about: str, said: Mapping[str, Any], register: str) -> Any:
    body = to_plain({key: value for key, value in said.items() if value is not None})
    chosen = ""

    def draft(book: Book, at: str) -> tuple[str, Mapping[str, Any]]:
        nonlocal chosen
        known = getattr(book, register)
        if is_new:
            chosen = next_id(known, kind)
            return subject(book, about), {"id": chosen, **body}
        before = find_incident(known, name) if kind == "incident" else find_impact(known, name)
        chosen = before.id
        return before.about, {"id": chosen, **body}

    entry = write_entry(ledger, kind, by=by, draft=draft)
    until = [one for one in entries_of(ledger) if one.seq <= entry.seq]
    return getattr(read_book(until), register)[chosen]


def subject(book: Book, about: str) -> str:
    """What a note is about: a release by number or alias, or a model's name as it is. Raises InputError."""
    return find(book, about).release.id if "@" in about else about.strip()


def incident_row(one: Incident) -> dict[str, Any]:
    """With the time by which a law may want it reported, None where no serious harm is noted."""
    return {**to_plain(one), "deadline": to_plain(deadline_of(one))}


def of_subject(about: str, wanted: str) -> bool:
    """Whether a note about `about` is one about `wanted`: the same, or any release of that name; empty = all are."""
    return wanted in ("", about, about.partition("@")[0])
