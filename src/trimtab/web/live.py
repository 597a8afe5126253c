"""Models in use, as the watch sees them at this moment."""

import time
from typing import Any

from starlette.responses import Response

from trimtab.core.errors import TrimtabError
from trimtab.flows.runs import load_run
from trimtab.web.api import OBJECT, having
from trimtab.web.fairness_view import certified_tables, operation_tables, worst_kinds
from trimtab.web.live_view import LiveView, live_view, read_live
from trimtab.web.pages import EVERY_ROLE, Page, Told, Visit, answer, render
from trimtab.web.paging import asked
from trimtab.web.runs_view import run_lines, runs_by_key

MOST_DECISIONS = 20
"""Newest decisions whose gates by group are shown."""


def live(visit: Visit) -> Response:
    documents = _documents(visit)
    chosen = _chosen(visit, documents)
    view: LiveView | None = live_view(documents[chosen], time.time()) if chosen else None
    sites = [(key, str(document["site"])) for key, document in documents.items()]
    return render(visit, "live.html", view=view, sites=sites, chosen=chosen)


def alarms(visit: Visit) -> Response:
    documents = _documents(visit)
    now_s = time.time()
    views = [live_view(document, now_s) for document in documents.values()]
    return render(visit, "alarms.html", views=views)


def fairness(visit: Visit) -> Response:
    documents = _documents(visit)
    chosen = _chosen(visit, documents)
    document = documents.get(chosen)
    certified = []
    paths = runs_by_key(visit.desk.runs)
    for row in [row for row in run_lines(visit.desk.runs) if row.verdict][:MOST_DECISIONS]:
        try:
            decision = load_run(paths[row.key]).decision
        except TrimtabError:
            continue
        certified += certified_tables(row.name, row.key, decision or {})
    return render(
        visit,
        "fairness.html",
        groups=operation_tables(document, people=True) if document else [],
        slices=operation_tables(document, people=False) if document else [],
        worst=worst_kinds(document) if document else [],
        certified=certified,
        sites=[(key, str(one["site"])) for key, one in documents.items()],
        chosen=chosen,
    )


def _documents(visit: Visit) -> dict[str, dict[str, Any]]:
    found = {path.parent.name: read_live(path) for path in visit.desk.live_files()}
    return {key: document for key, document in found.items() if document is not None}


def _chosen(visit: Visit, documents: dict[str, dict[str, Any]]) -> str:
    """The site that was asked for, else the one that was written last; empty where there is none."""
    wanted = asked(visit, "site")
    return wanted if wanted in documents else next(iter(documents), "")


def live_by_program(visit: Visit) -> Response:
    return answer({"sites": _documents(visit)})


ROUTES = (
    Page(
        path="/api/v1/live",
        name="api-live",
        roles=EVERY_ROLE,
        handler=live_by_program,
        told=Told(summary="What the watch last wrote, by site: documents of the schema trimtab.live/1.", gives=having(sites=OBJECT)),
    ),
    Page(path="/live", name="live", roles=EVERY_ROLE, handler=live, nav="Live"),
    Page(path="/alarms", name="alarms", roles=EVERY_ROLE, handler=alarms, nav="Alarms"),
    Page(path="/fairness", name="fairness", roles=EVERY_ROLE, handler=fairness, nav="Fairness"),
)
