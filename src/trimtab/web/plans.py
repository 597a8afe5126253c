"""Plans that were kept with `trimtab plan ... --out DIR` in the folders of runs: the list, and one with its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.responses import Response

from trimtab.core import phrases
from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.files import to_plain
from trimtab.core.phrases import line
from trimtab.flows.parts.plan_kept import PAGE_FILE, PLAN_FILE, read_plan
from trimtab.record import plan_view
from trimtab.web.api import OBJECT, having, listed
from trimtab.web.pages import EVERY_ROLE, Page, Told, Visit, answer, render
from trimtab.web.runs import SANDBOX
from trimtab.web.runs_view import key_of, read_file

DEEP = 2
"""Levels below a folder of runs that are looked at, as for runs."""
MOST = 500
_WRONG = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class PlanLine:
    """One row of the list. problem: why it cannot be shown, else empty"""

    key: str
    name: str
    kind: str
    model: str
    headline: str
    found: bool
    problem: str = ""


def plan_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Every folder with a plan, by the key of its address; newest first."""
    found = [path.parent for folder in folders for depth in range(DEEP + 1) for path in folder.glob("*/" * depth + PLAN_FILE)]
    kept = [path for path in dict.fromkeys(found) if not (path / PLAN_FILE).is_symlink()]
    return {key_of(path): path for path in sorted(kept, key=_written, reverse=True)[:MOST]}


def _written(path: Path) -> float:
    try:
        return (path / PLAN_FILE).stat().st_mtime
    except OSError:
        return 0.0


def plan_lines(folders: Sequence[Path]) -> list[PlanLine]:
    return [_line(key, path) for key, path in plan_folders(folders).items()]


def _line(key: str, path: Path) -> PlanLine:
    try:
        document = read_plan(path)
        return PlanLine(
            key=key,
            name=line(path.name),
            kind=line(document["kind"]),
            model=line(document["model"]["name"]),
            headline=line(document["headline"]),
            found=bool(document["found"]),
        )
    except (*_WRONG, TrimtabError) as error:
        problem = str(error) if isinstance(error, TrimtabError) else "plan.json has another shape than trimtab writes"
        return PlanLine(key=key, name=line(path.name), kind="", model="", headline="", found=False, problem=line(problem))


def plan_list(visit: Visit) -> Response:
    return render(visit, "plans.html", rows=plan_lines(visit.desk.runs), folders=[str(folder) for folder in visit.desk.runs])


def one_plan(visit: Visit) -> Response:
    path = _plan_at(visit)
    document = read_plan(path)
    try:
        shown = _shown(document)
        return render(visit, "plan.html", key=key_of(path), name=line(path.name), has_page=(path / PAGE_FILE).is_file(), **shown)
    except _WRONG as error:
        raise InputError(f"plan.json of this plan is not whole ({type(error).__name__}).") from error


def _shown(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "page": document,
        "view": plan_view,
        "phrases": phrases,
        "columns": plan_view.columns(document),
        "bases": plan_view.bases_used(document),
        "losers": plan_view.loser_lines(document),
        "prices": plan_view.price_lines(document),
    }


def plan_page(visit: Visit) -> Response:
    """report.html of a plan, shut off from the page: its sliders do not move there, its tables stand."""
    data = read_file(_plan_at(visit) / PAGE_FILE)
    if data is None:
        raise InputError(f"This plan has no {PAGE_FILE} to show.")
    return Response(data, media_type="text/html; charset=utf-8", headers={"content-security-policy": SANDBOX})


def _plan_at(visit: Visit) -> Path:
    found = plan_folders(visit.desk.runs).get(visit.request.path_params["plan"])
    if found is None:
        raise InputError("There is no such plan; it may have been moved or removed. The list of plans shows which there are.")
    return found


def listing_by_program(visit: Visit) -> Response:
    return answer({"plans": to_plain(plan_lines(visit.desk.runs))})


ROUTES = (
    Page(
        path="/api/v1/plans",
        name="api-plans",
        roles=EVERY_ROLE,
        handler=listing_by_program,
        told=Told(summary="All plans that were kept, newest first, each in a sentence.", gives=having(plans=listed(OBJECT))),
    ),
    Page(path="/plans", name="plans", roles=EVERY_ROLE, handler=plan_list, nav="Plans"),
    Page(path="/plans/{plan}", name="plan", roles=EVERY_ROLE, handler=one_plan),
    Page(path="/plans/{plan}/report.html", name="plan_page", roles=EVERY_ROLE, handler=plan_page),
)
