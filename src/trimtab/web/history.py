"""What a name's aliases served at a time, who decided that on what evidence, and every change up to then."""

from starlette.responses import Response

from trimtab.flows.release import history
from trimtab.web.pages import EVERY_ROLE, Page, Visit, render


def page(visit: Visit) -> Response:
    name = visit.request.path_params["name"]
    at = visit.request.query_params.get("at", "").strip()
    found = history(name, at=at, ledger=visit.desk.ledger)
    return render(visit, "history.html", found=found, is_now=not at, field_at=found["at"][:16])


ROUTES = (Page(path="/history/{name}", name="history", roles=EVERY_ROLE, handler=page),)
