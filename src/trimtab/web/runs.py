"""Runs: the list, one whole, two side by side, and every item of one."""

from urllib.parse import quote

from starlette.responses import Response

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.flows.runs import diff_runs, load_run
from trimtab.web.api import OBJECT, having, listed
from trimtab.web.items_view import ORDERS, items_page, read_sides, texts_of
from trimtab.web.pages import EVERY_ROLE, Page, Told, Visit, answer, render
from trimtab.web.paging import asked, asked_number, paging
from trimtab.web.runs_view import (
    SHIPPED_FILES,
    VERDICTS,
    attempts_of,
    candidate_lines,
    chosen_lines,
    difference_rows,
    key_of,
    lock_text,
    read_file,
    run_at,
    run_lines,
    told,
    whole_page,
)

ROWS = 50
SANDBOX = "; ".join(
    (
        "sandbox allow-same-origin",
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Of a file of a run: it may be anybody's. No script runs, and without scripts the same origin gives it nothing but its own links."""


def run_list(visit: Visit) -> Response:
    every = run_lines(visit.desk.runs)
    wanted = {name: asked(visit, name) for name in ("verdict", "verb", "text")}
    rows = chosen_lines(every, **wanted)
    n_pages = max(1, -(-len(rows) // ROWS))
    page = min(asked_number(visit, "page"), n_pages) or 1
    return render(
        visit,
        "runs.html",
        rows=rows[(page - 1) * ROWS : page * ROWS],
        n=len(rows),
        n_all=len(every),
        verbs=sorted({row.verb for row in every if row.verb}),
        verdicts=VERDICTS,
        wanted=wanted,
        folders=[str(folder) for folder in visit.desk.runs],
        paging=paging(visit, page, n_pages),
    )


def one_run(visit: Visit) -> Response:
    path = run_at(visit.desk.runs, visit.request.path_params["run"])
    run = load_run(path)
    return render(
        visit,
        "run.html",
        key=key_of(path),
        run=run,
        told=told(run),
        page=whole_page(run),
        attempts=attempts_of(run),
        candidates=candidate_lines(run),
        lock=lock_text(path),
        has_report=(path / "report.html").is_file(),
        has_items=any((path / "items").glob("*.parquet")),
    )


def run_items(visit: Visit) -> Response:
    path = run_at(visit.desk.runs, visit.request.path_params["run"])
    run = load_run(path)
    candidate, reference, pairs = read_sides(run)
    wanted = {name: asked(visit, name) for name in ("suite", "group", "flip", "order")}
    order = wanted["order"] if wanted["order"] in ORDERS else "change"
    found = items_page(
        candidate,
        reference,
        pairs,
        texts_of(run),
        suite=wanted["suite"],
        group=wanted["group"],
        flip=wanted["flip"],
        order=order,
        page=asked_number(visit, "page"),
    )
    return render(
        visit,
        "items.html",
        key=key_of(path),
        name=path.name,
        found=found,
        wanted={**wanted, "order": order},
        orders=ORDERS,
        paging=paging(visit, found.page, found.n_pages),
    )


def two_runs(visit: Visit) -> Response:
    a, b = (asked(visit, side) for side in "ab")
    rows = [row for row in run_lines(visit.desk.runs) if row.verb]
    found, difference, names = None, None, ("", "")
    if a and b:
        first, second = (load_run(run_at(visit.desk.runs, key)) for key in (a, b))
        found = diff_runs(first, second)
        difference = difference_rows(found)
        names = (first.path.name, second.path.name)
    return render(visit, "beside.html", rows=rows[:500], a=a, b=b, found=found, difference=difference, names=names)


def run_file(visit: Visit) -> Response:
    """report.html or items.html of a run, shut off from the page."""
    path, name = run_at(visit.desk.runs, visit.request.path_params["run"]), visit.request.path_params["name"]
    data = read_file(path / name) if name in SHIPPED_FILES else None
    if data is None:
        raise InputError(f"This run has no {name!r} to show.")
    kind = f"{SHIPPED_FILES[name]}; charset=utf-8"
    return Response(
        data, media_type=kind, headers={"content-security-policy": SANDBOX, "content-disposition": f"inline; filename={quote(name)}"}
    )


def listing_by_program(visit: Visit) -> Response:
    return answer({"runs": to_plain(run_lines(visit.desk.runs))})


ROUTES = (
    Page(
        path="/api/v1/runs",
        name="api-runs",
        roles=EVERY_ROLE,
        handler=listing_by_program,
        told=Told(summary="All runs, newest first: verdict, winner, speed with its interval as texts.", gives=having(runs=listed(OBJECT))),
    ),
    Page(path="/runs", name="runs", roles=EVERY_ROLE, handler=run_list, nav="Runs"),
    Page(path="/runs/beside", name="runs_beside", roles=EVERY_ROLE, handler=two_runs),
    Page(path="/runs/{run}", name="run", roles=EVERY_ROLE, handler=one_run),
    Page(path="/runs/{run}/items", name="run_items", roles=EVERY_ROLE, handler=run_items),
    Page(path="/runs/{run}/files/{name}", name="run_file", roles=EVERY_ROLE, handler=run_file),
)
