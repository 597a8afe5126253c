"""Releases: all of them, one with its evidence and what can be done with it, and its report as it was judged on."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import RedirectResponse, Response

from trimtab.core.errors import InputError
from trimtab.core.release import Entry
from trimtab.decide.intended_use import questions
from trimtab.decide.release import find
from trimtab.decide.release_book import Book, Record, effective
from trimtab.flows.parts.released import now_after, opened_store, standing_row
from trimtab.flows.release import list_releases
from trimtab.web.acts import ACTS, Act, done
from trimtab.web.api import RELEASE, TEXT, having
from trimtab.web.pages import EVERY_ROLE, Handler, Page, Told, Visit, answer, go, render

ENDED = ("retired", "revoked")
REPORT_CSP = "sandbox; default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""A report brings its own style, and was written by whoever made the run: it gets an origin of its own and may do nothing."""


def listing(visit: Visit) -> Response:
    """All releases by name, the last one first."""
    found = list_releases(ledger=visit.desk.ledger)
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in found["releases"]:
        by_name.setdefault(row["release"].partition("@")[0], []).insert(0, row)
    return render(visit, "releases.html", by_name=by_name, irregular=found["irregular"], ended=ENDED)


def one(visit: Visit) -> Response:
    """One release as it stands."""
    entries = visit.desk.entries()
    book = visit.desk.book()
    record = find(book, visit.request.path_params["release"])
    release = record.release.id
    if visit.request.path_params["release"] != release:  # support-chat@production, or support-chat for the last one
        return RedirectResponse(f"/releases/{release}", status_code=303)
    row = standing_row(book, record, now_after(entries))
    return render(
        visit,
        "release.html",
        row=row,
        name=record.release.name,
        acts=[act for act in _acts(row, _aliases_back(book, release)) if visit.may(act.roles) and not _in_vain(act, book, record, visit)],
        others=_others(book, row, visit),
        choices={"gate": list(record.open_gates), "alias": _aliases_back(book, release)},
        backs=_backs(book, release),
        may_roll_back=visit.may(ROLLBACK.roles),
        questions=questions(),
        told=_told(entries, release),
        report="report.html" in {blob.name for blob in record.release.evidence},
    )


ROLLBACK = next(act for act in ACTS if act.name == "rollback")


def _acts(row: Mapping[str, Any], aliases_back: Sequence[str]) -> list[Act]:
    """What the release's state allows, whoever may do it."""
    useful = {"rollback": bool(aliases_back), "waive": any(verdict != "pass" for verdict in row["gates"].values())}
    return [act for act in ACTS if act.is_open(row["state"]) and useful.get(act.name, True)]


def _in_vain(act: Act, book: Book, record: Record, visit: Visit) -> bool:
    """Whether the rules would refuse it to this visitor whatever they fill in."""
    is_own = visit.name in record.proposers
    return is_own and (act.name == "waive" or (act.name == "approve" and not effective(book, record).proposer_may_approve))


def _aliases_back(book: Book, release: str) -> list[str]:
    """Aliases that pointed at it once and point elsewhere now."""
    name = release.partition("@")[0]
    aliases = book.aliases.get(name, {})
    return [alias for alias in aliases if book.was_live_on(release, alias) and book.serving(name, alias) != release]


def _backs(book: Book, release: str) -> list[tuple[str, str]]:
    """Where the aliases of a live release could go back to: (alias, release id), the one before it first, three at most each."""
    name, found = release.partition("@")[0], []
    for alias in book.live_on(release):
        before = dict.fromkeys(one.release_id for one in reversed(book.aliases[name][alias]) if one.release_id not in ("", release))
        fit = [other for other in before if book.records[other].revoked is None and book.records[other].retired is None]
        found += [(alias, other) for other in fit[:3]]
    return found


def _others(book: Book, row: Mapping[str, Any], visit: Visit) -> list[tuple[str, str]]:
    """What could be done by others: (title, who)."""
    found = []
    for act in _acts(row, ()):
        if not visit.may(act.roles) and act.name in ("approve", "promote"):
            able = [person.name for person in book.people.values() if set(person.roles) & set(act.roles)]
            found.append((act.title, ", ".join(able[:6]) + (" ..." if len(able) > 6 else "") if able else "nobody yet"))
    return found


def _told(entries: Sequence[Entry], release: str) -> list[Entry]:
    """What the ledger says of it, newest first."""
    return [entry for entry in reversed(entries) if entry.about == release and entry.kind != "person"]


def report(visit: Visit) -> Response:
    """The report that lay in the run's folder, from the store, whole or not at all."""
    record = find(visit.desk.book(), visit.request.path_params["release"])
    blob = next((blob for blob in record.release.evidence if blob.name == "report.html"), None)
    if blob is None:
        raise InputError(f"{record.release.id} came without a report.")
    return Response(opened_store().get(blob.sha256), media_type="text/html", headers={"content-security-policy": REPORT_CSP})


def _by_form(act: Act) -> Handler:
    def handle(visit: Visit) -> Response:
        release = find(visit.desk.book(), visit.request.path_params["release"]).release.id
        sentence = done(visit, act, release)
        return go(visit, f"/releases/{release}", sentence)

    return handle


def _by_program(act: Act) -> Handler:
    def handle(visit: Visit) -> Response:
        release = find(visit.desk.book(), visit.request.path_params["release"]).release.id
        said = done(visit, act, release)
        entries, book = visit.desk.entries(), visit.desk.book()
        return answer({"said": said, "release": standing_row(book, find(book, release), now_after(entries))})

    return handle


def _told_of(act: Act) -> Told:
    takes = {field.name: (TEXT if field.kind != "number" else {"type": "integer"}, field.required) for field in act.fields}
    return Told(summary=f"{act.title}. {act.about}", takes=takes, gives=having(said=TEXT, release=RELEASE))


ROUTES = (
    Page(path="/releases", name="releases", roles=EVERY_ROLE, handler=listing, nav="Releases"),
    Page(path="/releases/{release}", name="release", roles=EVERY_ROLE, handler=one),
    Page(path="/releases/{release}/report", name="release-report", roles=EVERY_ROLE, handler=report),
    *(
        Page(
            path=f"/releases/{{release}}/{act.name}", name=f"release-{act.name}", roles=act.roles, handler=_by_form(act), methods=("POST",)
        )
        for act in ACTS
    ),
    *(
        Page(
            path=f"/api/v1/releases/{{release}}/{act.name}",
            name=f"api-release-{act.name}",
            roles=act.roles,
            handler=_by_program(act),
            methods=("POST",),
            told=_told_of(act),
        )
        for act in ACTS
    ),
)
