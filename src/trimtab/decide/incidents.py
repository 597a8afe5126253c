"""Incidents and the impact register: what a ledger's entries make of them, and why an entry about one may not be written. Pure.

An incident is opened, then contained (no more harm is being done), then closed, which is final; contained ones may open again. An effect
on people is suspected or confirmed, then mitigated or dismissed, and may come back.

Bodies of entries. `incident`: {"id", "do": "open" | "update" | "close", and what it says of "title", "severity", "state", "owner",
"affected", "alarms", "serious", "note"}. `impact`: {"id", "do": "add" | "update", and what it says of "effect", "intended", "severity",
"state", "owner", "groups", "mitigation", "sources", "note"}. What an entry does not say stays as it is. `action`: core.watching.Action.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any, get_args

from trimtab.core.errors import InputError
from trimtab.core.release import Entry
from trimtab.core.watching import Action, ActionKind, Harm, Impact, ImpactState, Incident, IncidentState, Severity

SEVERITIES: tuple[str, ...] = get_args(Severity)
HARMS: tuple[str, ...] = get_args(Harm)
INCIDENT_STATES: tuple[str, ...] = get_args(IncidentState)
IMPACT_STATES: tuple[str, ...] = get_args(ImpactState)
LONGEST_LINE, LONGEST_NOTE, MOST_NAMED = 200, 4000, 100
"""Characters of a title, an effect, a name; of a note or a mitigation; names in a list."""

NEXT_INCIDENT: Mapping[str, frozenset[str]] = {
    "open": frozenset({"open", "contained", "closed"}),
    "contained": frozenset({"open", "contained", "closed"}),
    "closed": frozenset(),
}
NEXT_IMPACT: Mapping[str, frozenset[str]] = {
    "suspected": frozenset({"suspected", "confirmed", "mitigated", "dismissed"}),
    "confirmed": frozenset({"confirmed", "mitigated", "dismissed"}),
    "mitigated": frozenset({"mitigated", "confirmed"}),
    "dismissed": frozenset({"dismissed", "suspected"}),
}

_INCIDENT_LINES, _INCIDENT_LISTS = ("title", "owner"), ("affected", "alarms")
_IMPACT_LINES, _IMPACT_LISTS = ("effect", "owner"), ("groups", "sources")
_INCIDENT_KEYS = {"id", "do", "severity", "state", "serious", "note", *_INCIDENT_LINES, *_INCIDENT_LISTS}
_IMPACT_KEYS = {"id", "do", "intended", "severity", "state", "mitigation", "note", *_IMPACT_LINES, *_IMPACT_LISTS}


def next_id(known: Mapping[str, Any], word: str) -> str:
    """`incident-4` after `incident-3`: numbers have no gaps, so a missing one is seen."""
    return f"{word}-{len(known) + 1}"


def find_incident(known: Mapping[str, Incident], name: str) -> Incident:
    """By `incident-3`, or `3`. Raises InputError."""
    found: Incident = _find(known, name, "incident", "trimtab incident open")
    return found


def find_impact(known: Mapping[str, Impact], name: str) -> Impact:
    """By `impact-3`, or `3`. Raises InputError."""
    found: Impact = _find(known, name, "impact", "trimtab incident impact add")
    return found


def _find(known: Mapping[str, Any], name: str, word: str, verb: str) -> Any:
    found = known.get(f"{word}-{name}" if name.isdecimal() else name)
    if found is not None:
        return found
    there = f"the last one is {list(known)[-1]}" if known else f"there is none yet; `{verb}` notes one"
    raise InputError(f"There is no {word} {name!r}; {there}.")


# what entries may say


def incident_refusals(known: Mapping[str, Incident], *, about: str, body: Mapping[str, Any]) -> list[str]:
    """Why not, as sentences; empty = the entry may be written. Raises KeyError, TypeError for a body of another form."""
    if wrong := _form(body, _INCIDENT_KEYS, _INCIDENT_LINES, _INCIDENT_LISTS) or _choices(body, INCIDENT_STATES):
        return wrong
    if body.get("serious", "") not in ("", *HARMS):
        return [f"There is no serious harm {body['serious']!r}; the kinds are {', '.join(HARMS)}, or none."]
    name, do = str(body["id"]), body["do"]
    if do == "open":
        return _opens(known, name, about, body)
    if do not in ("update", "close"):
        return [f"Of an incident one can open, update or close, not {do!r}."]
    before = find_incident(known, name)
    if about != before.about:
        return [f"{name} is about {before.about}, not {about}."]
    if before.state == "closed":
        when, who, _ = before.notes[-1]
        return [f"{name} was closed on {when[:10]} by {who}, which is final; open a new incident."]
    if "title" in body and not str(body["title"]).strip():
        return ["An incident needs a title: what went wrong, in one line."]
    return _closes(before, body) if do == "close" else _updates(before, body)


def _opens(known: Mapping[str, Incident], name: str, about: str, body: Mapping[str, Any]) -> list[str]:
    expected = next_id(known, "incident")
    if name != expected:
        return [f"The next incident is {expected}, not {name}."]
    if not about.strip() or len(about) > LONGEST_LINE:
        return ["An incident is about a release (support-chat@3) or a model; name it."]
    if not str(body["title"]).strip():
        return ["An incident needs a title: what went wrong, in one line."]
    if "severity" not in body:
        return [f"An incident needs a severity: {', '.join(SEVERITIES)}."]
    return [f"A new incident is open, not {body['state']}."] if body.get("state", "open") != "open" else []


def _updates(before: Incident, body: Mapping[str, Any]) -> list[str]:
    if body.get("state") == "closed":
        return [f"Close it with `trimtab incident close {before.id} --note TEXT`, which says what came of it."]
    if not set(body) - {"id", "do", "note"} and not str(body.get("note", "")).strip():
        return [f"Say what is new about {before.id}: a note, a state, a severity, an owner, who is affected."]
    milder = SEVERITIES.index(str(body.get("severity", before.severity))) < SEVERITIES.index(before.severity)
    undone = bool(before.serious) and "serious" in body and not body["serious"]
    if (milder or undone) and not str(body.get("note", "")).strip():
        return [f"Say in a note why {before.id} is less severe than it was noted."]
    return []


def _closes(before: Incident, body: Mapping[str, Any]) -> list[str]:
    if body.get("state", "closed") != "closed":
        return [f"A closed incident is closed, not {body['state']}."]
    if not str(body.get("note", "")).strip():
        return [f"Say in a note what {before.id} came from and what was done about it."]
    if not str(body.get("owner", before.owner)).strip():
        return [f"Nobody answers for {before.id}; name an owner before it is closed."]
    return []


def impact_refusals(known: Mapping[str, Impact], incidents: Mapping[str, Incident], *, about: str, body: Mapping[str, Any]) -> list[str]:
    """As `incident_refusals`."""
    if wrong := _form(body, _IMPACT_KEYS, _IMPACT_LINES, _IMPACT_LISTS) or _choices(body, IMPACT_STATES):
        return wrong
    if type(body.get("intended", False)) is not bool:
        return ["An effect was intended or it was not: true or false."]
    unknown = [one for one in body.get("sources", ()) if one.startswith("incident-") and one not in incidents]
    if unknown:
        return [f"There is no incident {unknown[0]!r} that {body['id']} could come from."]
    name, do = str(body["id"]), body["do"]
    before = None if do == "add" else find_impact(known, name)
    if do not in ("add", "update"):
        return [f"To the impact register one can add or update, not {do!r}."]
    if before is None:
        return _adds(known, name, about, body)
    if about != before.about:
        return [f"{name} is about {before.about}, not {about}."]
    state = str(body.get("state", before.state))
    if state not in NEXT_IMPACT[before.state]:
        return [f"{name} is {before.state} and cannot become {state}; it can become {', '.join(sorted(NEXT_IMPACT[before.state]))}."]
    if "effect" in body and not str(body["effect"]).strip():
        return ["An impact needs its effect: what happens to whom, in one line."]
    if not set(body) - {"id", "do", "note"} and not str(body.get("note", "")).strip():
        return [f"Say what is new about {name}: a note, a state, a severity, an owner, a mitigation."]
    return _settled(name, state, before.state, str(body.get("mitigation", before.mitigation)), str(body.get("note", "")))


def _adds(known: Mapping[str, Impact], name: str, about: str, body: Mapping[str, Any]) -> list[str]:
    expected = next_id(known, "impact")
    if name != expected:
        return [f"The next impact is {expected}, not {name}."]
    if not about.strip() or len(about) > LONGEST_LINE:
        return ["An impact is about a release (support-chat@3) or a model; name it."]
    if not str(body["effect"]).strip():
        return ["An impact needs its effect: what happens to whom, in one line."]
    if "severity" not in body or "intended" not in body:
        return [f"An impact needs a severity ({', '.join(SEVERITIES)}), and whether it was intended."]
    return _settled(name, str(body.get("state", "suspected")), "", str(body.get("mitigation", "")), str(body.get("note", "")))


def _settled(name: str, state: str, before: str, mitigation: str, note: str) -> list[str]:
    if state == "mitigated" and not mitigation.strip():
        return [f"Say what mitigates {name}."]
    if state == "dismissed" and before != "dismissed" and not note.strip():
        return [f"Say in a note why {name} is dismissed."]
    return []


def action_refusals(body: Mapping[str, Any]) -> list[str]:
    """As `incident_refusals`."""
    action = Action(**body)
    if action.kind not in get_args(ActionKind):
        return [f"There is no action {action.kind!r}; the kinds are {', '.join(get_args(ActionKind))}."]
    if type(action.done) is not bool or not all(isinstance(one, str) for one in (action.rule, action.why, action.result)):
        return ["The entry is not of the form of an action."]
    return []


def _form(body: Mapping[str, Any], keys: set[str], lines: Sequence[str], lists: Sequence[str]) -> list[str]:
    unknown = sorted(set(body) - keys)
    if unknown:
        return [f"The entry is not of this form: unknown key {unknown[0]!r}."]
    for key in lines:
        value = body.get(key, "")
        if not isinstance(value, str) or len(value) > LONGEST_LINE or not value.isprintable():
            return [f"The {key} must be one line of at most {LONGEST_LINE} characters."]
    for key in ("note", "mitigation"):
        if not isinstance(body.get(key, ""), str) or len(body.get(key, "")) > LONGEST_NOTE:
            return [f"The {key} must be a text of at most {LONGEST_NOTE} characters."]
    for key in lists:
        values = body.get(key, ())
        if isinstance(values, str) or len(values) > MOST_NAMED:
            return [f"The {key} must be a list of at most {MOST_NAMED} names."]
        if not all(isinstance(one, str) and one.strip() and len(one) <= LONGEST_LINE and one.isprintable() for one in values):
            return [f"Each of the {key} must be one line of at most {LONGEST_LINE} characters."]
    return []


def _choices(body: Mapping[str, Any], states: Sequence[str]) -> list[str]:
    if body.get("severity", SEVERITIES[0]) not in SEVERITIES:
        return [f"There is no severity {body['severity']!r}; take {', '.join(SEVERITIES)}."]
    if body.get("state", states[0]) not in states:
        return [f"There is no state {body['state']!r}; take {', '.join(states)}."]
    return []


# what allowed entries make


def noted_incident(before: Incident | None, entry: Entry) -> Incident:
    """The incident after an entry that `incident_refusals` allowed."""
    body, at = entry.body, entry.at
    if before is None:
        before = Incident(
            id=str(body["id"]),
            title=str(body["title"]),
            severity=body["severity"],
            state="open",
            about=entry.about,
            opened=at,
            updated=at,
            by=entry.by,
        )
        said = ["opened"]
    else:
        said = [f"{key} {_shown(body[key])}" for key in ("state", "severity", "serious", "owner", "title") if key in body]
        said = [*said, "closed"] if body["do"] == "close" else said
    changed: dict[str, Any] = {key: body[key] for key in ("title", "severity", "state", "owner", "serious") if key in body}
    if body["do"] == "close":
        changed["state"] = "closed"
    lists: dict[str, Any] = {key: tuple(dict.fromkeys((*getattr(before, key), *body.get(key, ())))) for key in _INCIDENT_LISTS}
    return replace(before, **changed, **lists, updated=at, notes=(*before.notes, _note(entry, said)))


def noted_impact(before: Impact | None, entry: Entry) -> Impact:
    """The impact after an entry that `impact_refusals` allowed."""
    body = entry.body
    keys = ("effect", "intended", "severity", "state", "owner", "mitigation")
    if before is None:
        before = Impact(
            id=str(body["id"]), effect="", intended=bool(body["intended"]), severity=body["severity"], state="suspected", about=entry.about
        )
        said = ["noted"]
    else:
        said = [f"{key} {_shown(body[key])}" for key in keys if key in body]
    changed: dict[str, Any] = {key: body[key] for key in keys if key in body}
    lists: dict[str, Any] = {key: tuple(dict.fromkeys((*getattr(before, key), *body.get(key, ())))) for key in _IMPACT_LISTS}
    return replace(before, **changed, **lists, updated=entry.at, notes=(*before.notes, _note(entry, said)))


def _note(entry: Entry, said: Sequence[str]) -> tuple[str, str, str]:
    note = str(entry.body.get("note", "")).strip()
    return entry.at, entry.by, ": ".join(part for part in ("; ".join(said), note) if part) or "added to"


def _shown(value: Any) -> str:
    return {True: "yes", False: "no", "": "none"}.get(value, str(value)) if isinstance(value, (bool, str)) else str(value)


# what a law may want


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """Until when a law wants a serious incident reported, as catalog/reporting.toml has it; a hint, no legal advice.

    due: ISO 8601, counted from when it was first noted here, which may be later than when somebody knew
    """

    harm: str
    days: int
    due: str
    law: str
    article: str
    source: str
    note: str


def deadline_of(incident: Incident) -> Deadline | None:
    """When an incident would have to be reported; None where no serious harm is noted of it."""
    if not incident.serious:
        return None
    table = reporting()
    row = table["harms"][incident.serious]
    aware = datetime.fromisoformat(incident.opened)
    return Deadline(
        harm=row["text"],
        days=row["days"],
        due=(aware + timedelta(days=row["days"])).isoformat(timespec="seconds"),
        law=table["law"],
        article=row["article"],
        source=table["source"],
        note=table["note"],
    )


@cache
def reporting() -> dict[str, Any]:
    """catalog/reporting.toml: the law, its source, and `harms`: kind -> text, days, article."""
    return tomllib.loads((resources.files("trimtab") / "catalog" / "reporting.toml").read_text(encoding="utf-8"))
