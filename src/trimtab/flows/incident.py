"""`trimtab incident`: what went wrong in use and what it did to people, every step an entry of the ledger in somebody's name.

Answers are JSON types. `by`: who acts, empty = the only person there is; `ledger`: its URL, empty = that of TRIMTAB_HOME. What is None is
left as it is. What may not be written is an InputError with the reasons.
"""

from collections.abc import Sequence
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.decide.incidents import SEVERITIES, find_incident
from trimtab.decide.release import read_book
from trimtab.flows.parts.incidents import incident_row, note_impact, note_incident, of_subject, subject
from trimtab.flows.parts.released import entries_if_any, entries_of, who


def open_incident(
    title: str,
    *,
    about: str,
    severity: str,
    owner: str | None = None,
    affected: Sequence[str] = (),
    alarms: Sequence[str] = (),
    serious: str | None = None,
    note: str | None = None,
    by: str = "",
    ledger: str = "",
) -> dict[str, Any]:
    """Note that something went wrong. about: `support-chat@3`, `support-chat@production` or a model's name.

    Raises InputError, MissingError.
    """
    said: dict[str, Any] = {"title": title, "severity": severity, "owner": owner, "serious": serious, "note": note}
    said |= _lists(affected=affected, alarms=alarms)
    return incident_row(note_incident(ledger, by=_person(ledger, by), do="open", about=about, said=said))


def update_incident(
    name: str,
    *,
    state: str | None = None,
    severity: str | None = None,
    title: str | None = None,
    owner: str | None = None,
    affected: Sequence[str] = (),
    alarms: Sequence[str] = (),
    serious: str | None = None,
    note: str | None = None,
    by: str = "",
    ledger: str = "",
) -> dict[str, Any]:
    """What is new about an incident; affected groups and alarms are added to those there. Raises InputError, MissingError."""
    said: dict[str, Any] = {"state": state, "severity": severity, "title": title, "owner": owner, "serious": serious, "note": note}
    said |= _lists(affected=affected, alarms=alarms)
    return incident_row(note_incident(ledger, by=_person(ledger, by), do="update", name=name, said=said))


def close_incident(name: str, *, note: str, owner: str | None = None, by: str = "", ledger: str = "") -> dict[str, Any]:
    """End an incident, with what it came from and what was done. Raises InputError, MissingError."""
    return incident_row(note_incident(ledger, by=_person(ledger, by), do="close", name=name, said={"note": note, "owner": owner}))


def list_incidents(about: str = "", *, show_all: bool = True, ledger: str = "") -> list[dict[str, Any]]:
    """Incidents (of a release, or of all of a name): open ones first, the severest of them first. show_all: closed ones too."""
    book = read_book(entries_if_any(ledger))
    wanted = subject(book, about) if about else ""
    found = [one for one in book.incidents.values() if of_subject(one.about, wanted) and (show_all or one.state != "closed")]
    newest = sorted(found, key=lambda one: one.updated, reverse=True)
    order = {"open": 0, "contained": 1, "closed": 2}
    return [incident_row(one) for one in sorted(newest, key=lambda one: (order[one.state], -SEVERITIES.index(one.severity)))]


def show_incident(name: str, *, ledger: str = "") -> dict[str, Any]:
    """All of one incident with its history, and the effects that come from it. Raises InputError."""
    book = read_book(entries_of(ledger))
    incident = find_incident(book.incidents, name)
    effects = [to_plain(one) for one in book.impacts.values() if incident.id in one.sources]
    return {**incident_row(incident), "impacts": effects}


def add_impact(
    effect: str,
    *,
    about: str,
    severity: str,
    intended: bool = False,
    state: str | None = None,
    owner: str | None = None,
    groups: Sequence[str] = (),
    mitigation: str | None = None,
    sources: Sequence[str] = (),
    note: str | None = None,
    by: str = "",
    ledger: str = "",
) -> dict[str, Any]:
    """Add an effect on people to the register. sources: incidents, alarms or feedback behind it. Raises InputError, MissingError."""
    said: dict[str, Any] = {"effect": effect, "intended": intended, "severity": severity, "state": state, "owner": owner}
    said |= {"mitigation": mitigation, "note": note, **_lists(groups=groups, sources=sources)}
    return dict(to_plain(note_impact(ledger, by=_person(ledger, by), do="add", about=about, said=said)))


def update_impact(
    name: str,
    *,
    effect: str | None = None,
    intended: bool | None = None,
    severity: str | None = None,
    state: str | None = None,
    owner: str | None = None,
    groups: Sequence[str] = (),
    mitigation: str | None = None,
    sources: Sequence[str] = (),
    note: str | None = None,
    by: str = "",
    ledger: str = "",
) -> dict[str, Any]:
    """What is new about an effect; groups and sources are added to those there. Raises InputError, MissingError."""
    said: dict[str, Any] = {"effect": effect, "intended": intended, "severity": severity, "state": state, "owner": owner}
    said |= {"mitigation": mitigation, "note": note, **_lists(groups=groups, sources=sources)}
    return dict(to_plain(note_impact(ledger, by=_person(ledger, by), do="update", name=name, said=said)))


def list_impacts(about: str = "", *, ledger: str = "") -> list[dict[str, Any]]:
    """The impact register (of a release, or of all of a name): what still does harm first."""
    book = read_book(entries_if_any(ledger))
    wanted = subject(book, about) if about else ""
    order = {"confirmed": 0, "suspected": 1, "mitigated": 2, "dismissed": 3}
    found = [one for one in book.impacts.values() if of_subject(one.about, wanted)]
    return [dict(to_plain(one)) for one in sorted(found, key=lambda one: (order[one.state], -SEVERITIES.index(one.severity)))]


def _person(ledger: str, by: str) -> str:
    return who(read_book(entries_of(ledger)), by)


def _lists(**given: Sequence[str]) -> dict[str, list[str] | None]:
    """What is said of lists: an empty one says nothing. Raises InputError for one that is a text: it would be read by letters."""
    for name, value in given.items():
        if isinstance(value, str):
            raise InputError(f"{name} must be a list of names, not the text {value!r}.")
    return {name: list(value) or None for name, value in given.items()}
