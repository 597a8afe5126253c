"""Incidents and the register of effects on people: lists, one of each, and the forms that write them to the ledger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.decide.incidents import (
    HARMS,
    IMPACT_STATES,
    NEXT_IMPACT,
    NEXT_INCIDENT,
    SEVERITIES,
    find_impact,
    reporting,
)
from trimtab.decide.release_book import ROLES
from trimtab.flows import incident as flow
from trimtab.web.acts import Field, Given, given_of, need_key
from trimtab.web.api import OBJECT, TEXT, having, listed
from trimtab.web.live_view import read_live
from trimtab.web.pages import EVERY_ROLE, Handler, Page, Told, Visit, answer, go, render
from trimtab.web.paging import asked, asked_number, paging

ROWS = 50
LISTS = ("affected", "alarms", "groups", "sources")
"""Fields that hold names, one a line."""
_SEVERITY = Field(name="severity", label="Severity", kind="choice")
_OWNER = Field(name="owner", label="Who answers for it")
_NOTE = Field(name="note", label="What is known, or was done", kind="area")
_AFFECTED = Field(name="affected", label="Whom it touches", kind="area", hint="Groups of people, one a line.")
_ALARMS = Field(name="alarms", label="Alarms behind it", kind="area", hint="Their ids, one a line.")
_SERIOUS = Field(name="serious", label="Harm that a law may want reported", kind="choice")
_GROUPS = Field(name="groups", label="Whom it touches", kind="area", hint="Groups of people, one a line.")
_SOURCES = Field(name="sources", label="What it comes from", kind="area", hint="Incidents, alarms or requests, one a line.")
_MITIGATION = Field(name="mitigation", label="What is done against it", kind="area")
_ABOUT = Field(name="about", label="Release or model", required=True, hint="Such as support-chat@3, or a model's name.")


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something that a form writes. new: it begins an incident or an effect, `{id}` is not in its path

    do: (name, what was given, who, ledger) -> the flow's answer; words: of the command line, after `trimtab`
    """

    name: str
    title: str
    path: str
    of: str
    fields: tuple[Field, ...]
    do: Callable[[str, Mapping[str, Any], str, str], Mapping[str, Any]]
    words: Callable[[str, Mapping[str, Any]], Sequence[str]]

    @property
    def entry(self) -> Any:
        return "incident" if self.of == "incidents" else "impact"


_SHORT = {"alarms": "alarm", "groups": "group", "sources": "source"}


def _flags(given: Mapping[str, Any], without: Sequence[str] = ()) -> list[str]:
    """What was given as options of the command."""
    words: list[str] = []
    for name, value in given.items():
        if name in without or value in (None, ()):
            continue
        if name == "intended":
            words += ["--intended"] if value else []
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += [f"--{_SHORT.get(name, name)}", str(one)]
    return words


STEPS = (
    Step(
        name="open",
        title="Open an incident",
        path="",
        of="incidents",
        fields=(
            Field(name="title", label="What went wrong, in one line", required=True),
            _ABOUT,
            Field(name="severity", label="Severity", kind="choice", required=True),
            _OWNER,
            _AFFECTED,
            _ALARMS,
            _SERIOUS,
            _NOTE,
        ),
        do=lambda name, given, by, ledger: flow.open_incident(by=by, ledger=ledger, **given),
        words=lambda name, given: ["incident", "open", given["title"], *_flags(given, ("title",))],
    ),
    Step(
        name="update",
        title="Say what is new",
        path="/{id}/update",
        of="incidents",
        fields=(_NOTE, Field(name="state", label="State", kind="choice"), _SEVERITY, _OWNER, _AFFECTED, _ALARMS, _SERIOUS),
        do=lambda name, given, by, ledger: flow.update_incident(name, by=by, ledger=ledger, **given),
        words=lambda name, given: ["incident", "update", name, *_flags(given)],
    ),
    Step(
        name="close",
        title="Close it, for good",
        path="/{id}/close",
        of="incidents",
        fields=(Field(name="note", label="What it came from, and what was done", kind="area", required=True), _OWNER),
        do=lambda name, given, by, ledger: flow.close_incident(name, by=by, ledger=ledger, **given),
        words=lambda name, given: ["incident", "close", name, *_flags(given)],
    ),
    Step(
        name="add",
        title="Add an effect",
        path="",
        of="impacts",
        fields=(
            Field(name="effect", label="What happens to whom, in one line", required=True),
            _ABOUT,
            Field(name="intended", label="Was it meant?", kind="choice", required=True),
            Field(name="severity", label="Severity", kind="choice", required=True),
            Field(name="state", label="State", kind="choice"),
            _OWNER,
            _GROUPS,
            _MITIGATION,
            _SOURCES,
            _NOTE,
        ),
        do=lambda name, given, by, ledger: flow.add_impact(by=by, ledger=ledger, **given),
        words=lambda name, given: ["incident", "impact", "add", given["effect"], *_flags(given, ("effect",))],
    ),
    Step(
        name="update",
        title="Say what is new",
        path="/{id}/update",
        of="impacts",
        fields=(_NOTE, Field(name="state", label="State", kind="choice"), _SEVERITY, _MITIGATION, _OWNER, _GROUPS, _SOURCES),
        do=lambda name, given, by, ledger: flow.update_impact(name, by=by, ledger=ledger, **given),
        words=lambda name, given: ["incident", "impact", "update", name, *_flags(given)],
    ),
)


def listing(visit: Visit) -> Response:
    incidents, impacts = flow.list_incidents(ledger=visit.desk.ledger), flow.list_impacts(ledger=visit.desk.ledger)
    n_pages = max(1, -(-max(len(incidents), len(impacts)) // ROWS))
    page = min(asked_number(visit, "page"), n_pages) or 1
    part = slice((page - 1) * ROWS, page * ROWS)
    return render(
        visit,
        "incidents.html",
        incidents=incidents[part],
        impacts=impacts[part],
        n_incidents=len(incidents),
        n_impacts=len(impacts),
        n_open=sum(one["state"] != "closed" for one in incidents),
        may_write=visit.may(ROLES["incident"]),
        paging=paging(visit, page, n_pages),
    )


def new(visit: Visit, of: str) -> Response:
    step = next(step for step in STEPS if step.of == of and not step.path)
    alarm = asked(visit, "alarm")
    known = _alarm(visit, alarm) if alarm else None
    values = {
        "about": asked(visit, "about"),
        "alarms": alarm,
        "sources": asked(visit, "source") or alarm,
        "title": str(known["text"])[:200] if known else "",
        "severity": str(known["severity"]) if known else "",
        "affected": "\n".join(f"{key.partition(':')[2]}: {value}" for key, value in known["slice"].items() if key.startswith("group:"))
        if known
        else "",
    }
    return render(visit, "incident_new.html", step=step, of=of, values=values, choices=_choices(None, None))


def _alarm(visit: Visit, name: str) -> Mapping[str, Any] | None:
    """An alarm that the watch still tells of."""
    documents = [read_live(path) for path in visit.desk.live_files()]
    return next((one for document in documents if document for one in document["alarms"] if one["id"] == name), None)


def one_incident(visit: Visit) -> Response:
    row = flow.show_incident(visit.request.path_params["id"], ledger=visit.desk.ledger)
    is_open = row["state"] != "closed"
    steps = [step for step in STEPS if step.of == "incidents" and step.path] if is_open and visit.may(ROLES["incident"]) else []
    states = sorted(NEXT_INCIDENT[row["state"]] - {"closed", row["state"]})
    return render(visit, "incident.html", row=row, steps=steps, choices=_choices(states, None), harms=reporting()["harms"])


def one_impact(visit: Visit) -> Response:
    row = to_plain(find_impact(visit.desk.book().impacts, visit.request.path_params["id"]))
    states = sorted(NEXT_IMPACT[row["state"]] - {row["state"]})
    steps = [step for step in STEPS if step.of == "impacts" and step.path] if visit.may(ROLES["impact"]) else []
    return render(visit, "impact.html", row=row, steps=steps, choices=_choices(None, states))


def _choices(incident_states: Sequence[str] | None, impact_states: Sequence[str] | None) -> dict[str, list[tuple[str, str]]]:
    """Values and texts of fields that are chosen."""
    states = incident_states if incident_states is not None else impact_states if impact_states is not None else IMPACT_STATES
    harms = reporting()["harms"]
    return {
        "severity": [(one, one) for one in SEVERITIES],
        "state": [(one, one) for one in states],
        "serious": [(one, harms[one]["text"]) for one in HARMS],
        "intended": [("no", "no, it was not meant"), ("yes", "yes, it was meant")],
    }


def _given(form: Mapping[str, Any], step: Step) -> dict[str, Any]:
    """What the flow takes: what is empty is not said. Raises InputError."""
    texts: Given = given_of(
        {key: "\n".join(map(str, value)) if isinstance(value, list) else value for key, value in form.items()}, step.fields
    )
    given: dict[str, Any] = {}
    for name, text in texts.items():
        if name in LISTS:
            given[name] = tuple(part.strip() for part in text.split("\n") if part.strip())
        elif name == "intended":
            if text not in ("yes", "no"):
                raise InputError("Say whether the effect was meant: yes or no.")
            given[name] = text == "yes"
        elif text:
            given[name] = text
    return given


def _done(visit: Visit, step: Step) -> Mapping[str, Any]:
    """Write it in the visitor's name. Raises Refusal: signed elsewhere; what the flow raises."""
    name = str(visit.request.path_params.get("id", ""))
    given = _given(visit.form, step)
    need_key(visit, step.words(name, given))
    return step.do(name, given, visit.name, visit.desk.ledger)


def _by_form(step: Step) -> Handler:
    def handle(visit: Visit) -> Response:
        row = _done(visit, step)
        return go(visit, f"/{step.of}/{row['id']}", f"{row['id']} is noted: {row['state']}.")

    return handle


def _by_program(step: Step) -> Handler:
    def handle(visit: Visit) -> Response:
        return answer(dict(_done(visit, step)))

    return handle


def _told_of(step: Step) -> Told:
    takes = {field.name: (listed(TEXT) if field.name in LISTS else TEXT, field.required) for field in step.fields}
    about = "An empty field is not said. The entry is signed with the key of who is signed in."
    return Told(summary=f"{step.title}. {about}", takes=takes, gives=having(id=TEXT, state=TEXT, severity=TEXT, about=TEXT))


def _listing_by_program(of: str) -> Handler:
    def handle(visit: Visit) -> Response:
        about, ledger = visit.request.query_params.get("about", ""), visit.desk.ledger
        rows = flow.list_incidents(about, ledger=ledger) if of == "incidents" else flow.list_impacts(about, ledger=ledger)
        return answer({of: rows})

    return handle


ROUTES = (
    Page(path="/incidents", name="incidents", roles=EVERY_ROLE, handler=listing, nav="Incidents"),
    Page(path="/incidents/new", name="incident-new", roles=ROLES["incident"], handler=lambda visit: new(visit, "incidents")),
    Page(path="/impacts/new", name="impact-new", roles=ROLES["impact"], handler=lambda visit: new(visit, "impacts")),
    Page(path="/incidents/{id}", name="incident", roles=EVERY_ROLE, handler=one_incident),
    Page(path="/impacts/{id}", name="impact", roles=EVERY_ROLE, handler=one_impact),
    *(
        Page(
            path=f"/{step.of}{step.path}",
            name=f"{step.entry}-{step.name}",
            roles=ROLES[step.entry],
            handler=_by_form(step),
            methods=("POST",),
        )
        for step in STEPS
    ),
    *(
        Page(
            path=f"/api/v1/{of}",
            name=f"api-{of}",
            roles=EVERY_ROLE,
            handler=_listing_by_program(of),
            told=Told(
                summary=f"All {of}, what does harm now first.",
                gives=having(**{of: listed(OBJECT)}),
                query={"about": "a release, or all of a name"},
            ),
        )
        for of in ("incidents", "impacts")
    ),
    *(
        Page(
            path=f"/api/v1/{step.of}{step.path}",
            name=f"api-{step.entry}-{step.name}",
            roles=ROLES[step.entry],
            handler=_by_program(step),
            methods=("POST",),
            told=_told_of(step),
        )
        for step in STEPS
    ),
)
