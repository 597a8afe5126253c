"""The first page: what serves now, what waits for somebody, what happened last."""

from starlette.responses import Response

from trimtab.flows.incident import list_incidents
from trimtab.flows.release import list_releases
from trimtab.web.pages import EVERY_ROLE, Page, Visit, render

N_LAST = 8


def overview(visit: Visit) -> Response:
    """What serves now by name and alias; open incidents; releases that wait for somebody; the last entries."""
    rows = list_releases(ledger=visit.desk.ledger)["releases"]
    entries = visit.desk.entries()
    live = [(alias, row) for row in rows for alias in row["live_on"]]
    waiting = [row for row in rows if row["state"] in ("draft", "candidate", "approved")]
    incidents = list_incidents(show_all=False, ledger=visit.desk.ledger)
    return render(
        visit,
        "overview.html",
        incidents=incidents,
        live=live,
        waiting=waiting[::-1],
        last=entries[: -N_LAST - 1 : -1],
        n_entries=len(entries),
    )


ROUTES = (Page(path="/", name="overview", roles=EVERY_ROLE, handler=overview, nav="Overview"),)
