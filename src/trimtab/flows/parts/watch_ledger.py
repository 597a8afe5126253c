"""What the watch writes to the release ledger, in the name of `watch`: incidents, actions, rollbacks. Without that person, nothing."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from trimtab.core.errors import TrimtabError
from trimtab.core.watching import Action, Alarm, Incident
from trimtab.decide.release import read_book
from trimtab.decide.release_book import Book
from trimtab.flows.parts.incidents import note_action, note_impact, note_incident
from trimtab.flows.parts.released import entries_if_any, write_entry
from trimtab.watch.rules import GROUP

PERSON = "watch"
FIX = f"`trimtab release people add {PERSON} --roles operator`"
JOIN_S = 86400.0
"""An alarm joins an incident about the same release that the watch opened within this time."""
MOST_ALARMS = 50


def release_of(book: Book, deployment_sha256: str) -> str:
    """The release of a deployment: one that is live if there is one, else the newest; empty if none is."""
    own = [one.release.id for one in book.records.values() if deployment_sha256 and one.release.deployment_sha256 == deployment_sha256]
    return next((one for one in reversed(own) if book.live_on(one)), own[-1] if own else "")


def why_not(book: Book) -> str:
    """Why nothing can be written, a clause; empty if it can."""
    if not book.people:
        return "there is no ledger"
    return "" if PERSON in book.people else f"the ledger knows nobody called {PERSON}: {FIX} adds it"


def note_alarm(ledger: str, alarm: Alarm, *, about: str, title: str, severity: str) -> str:
    """An incident for an alarm, or one alarm more of an incident that is open. Returns what was done, a clause."""
    book = read_book(entries_if_any(ledger))
    if lacks := why_not(book):
        return f"not noted in the ledger: {lacks}"
    affected = [f"{key.removeprefix(GROUP)} {value}" for key, value in alarm.slice.items() if key.startswith(GROUP)]
    noted = next((one.id for one in book.incidents.values() if alarm.id in one.alarms), "")
    if noted:
        return f"it stands in {noted} already"
    since = datetime.now(UTC) - timedelta(seconds=JOIN_S)
    joined = [
        one
        for one in book.incidents.values()
        if (one.about, one.by, one.state) == (about, PERSON, "open")
        and datetime.fromisoformat(one.opened) > since
        and len(one.alarms) < MOST_ALARMS
    ]
    said: dict[str, Any] = {"alarms": [alarm.id], "affected": affected or None}
    try:
        if joined:
            incident = note_incident(ledger, by=PERSON, do="update", name=joined[-1].id, said={**said, "note": title})
        else:
            incident = note_incident(ledger, by=PERSON, do="open", about=about, said={**said, "title": title[:200], "severity": severity})
        done = f"{'joined' if joined else 'opened'} {incident.id}"
        return f"{done}, {_note_effect(ledger, alarm, incident, title, severity, affected)}" if affected else done
    except TrimtabError as error:
        return f"not noted in the ledger: {error}"


def _note_effect(ledger: str, alarm: Alarm, incident: Incident, title: str, severity: str, affected: list[str]) -> str:
    """A change for one group of people is suspected of an effect on them; more of the same incident and group join it. A clause."""
    impacts = read_book(entries_if_any(ledger)).impacts.values()
    same = [one.id for one in impacts if incident.id in one.sources and set(affected) <= set(one.groups) and one.state == "suspected"]
    if same:
        return f"joined {note_impact(ledger, by=PERSON, do='update', name=same[-1], said={'sources': [alarm.id], 'note': title}).id}"
    said = {"effect": title[:200], "intended": False, "severity": severity, "groups": affected, "sources": [incident.id, alarm.id]}
    return f"suspected {note_impact(ledger, by=PERSON, do='add', about=incident.about, said=said).id}"


def note_done(ledger: str, action: Action, *, about: str) -> str:
    """An action's entry. Returns a clause: which entry it is, or why there is none; empty without a ledger."""
    book = read_book(entries_if_any(ledger))
    if not book.people:
        return ""
    if lacks := why_not(book):
        return f"not noted in the ledger: {lacks}"
    try:
        return f"entry {note_action(ledger, by=PERSON, about=about, action=action)} of the ledger"
    except TrimtabError as error:
        return f"not noted in the ledger: {error}"


def roll_back(ledger: str, deployment_sha256: str, *, note: str, to_deployment_sha256: str = "") -> tuple[bool, str]:
    """Point every alias at the release of a deployment back at what it pointed at before.

    to_deployment_sha256: of what answers now, taken where the alias pointed at it before
    Returns whether none points at it any more, and what was done, a clause.
    """
    book = read_book(entries_if_any(ledger))
    release = release_of(book, deployment_sha256)
    aliases = book.live_on(release) if release else ()
    if not aliases:
        return True, f"{release} is live on no alias" if release else "the ledger has no release of it"
    if lacks := why_not(book):
        return False, f"no rollback in the ledger, where {release} stays on {', '.join(aliases)}: {lacks}"
    preferred = release_of(book, to_deployment_sha256)
    said = []
    for alias in aliases:
        target = _before(book, release, alias, preferred)
        if not target:
            return False, f"no rollback in the ledger: nothing that may serve was on {alias} before {release}"
        try:
            entry = write_entry(ledger, "rollback", by=PERSON, draft=_draft(release, target, alias, note))
        except TrimtabError as error:
            return False, f"no rollback in the ledger: {error}"
        said.append(f"{alias} points at {target} again (entry {entry.seq})")
    return True, ", ".join(said)


def _before(book: Book, release: str, alias: str, preferred: str) -> str:
    """What an alias pointed at last before a release, of what may still serve."""
    name = release.partition("@")[0]
    earlier = [one.release_id for one in book.aliases[name][alias] if one.release_id not in ("", release)]
    fit = [one for one in earlier if not (book.records[one].retired or book.records[one].revoked)]
    return preferred if preferred in fit else fit[-1] if fit else ""


def _draft(release: str, target: str, alias: str, note: str) -> Any:
    def draft(book: Book, at: str) -> tuple[str, Mapping[str, Any]]:
        return target, {"to": target, "alias": alias, "from": release, "note": note}

    return draft
