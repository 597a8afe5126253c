"""The application: every page behind the same checks, and the server that it runs in, on loopback only."""

import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.release import Person
from trimtab.flows.parts.released import Refused
from trimtab.record.home import state_dir
from trimtab.web.desk import Desk
from trimtab.web.entrance import Entrance
from trimtab.web.events import Changes
from trimtab.web.pages import ANYONE, Page, Refusal, Visit, all_pages, answer, render
from trimtab.web.security import SAFE, Headers, is_token, origin_fault

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger("trimtab.web")

LONGEST_BODY_BYTES = 64 * 1024
MOST_FIELDS = 100


def make_app(*, port: int, ledger: str = "", runs: Sequence[Path] = ()) -> "ASGIApp":
    """The page as an ASGI application. ledger: URL, empty = the default; runs: folders with runs; port: that it is reached at."""
    desk = Desk(home=state_dir(), port=port, ledger=ledger, runs=tuple(runs))
    routes = [Route(page.path, _endpoint(page), methods=list(page.methods), name=page.name) for page in all_pages()]
    app = Starlette(routes=routes, middleware=[Middleware(Headers, desk=desk)], exception_handlers={HTTPException: _not_found})
    app.state.desk = desk
    app.state.entrance = Entrance(port=port)
    app.state.changes = Changes(desk)
    return app


def _endpoint(page: Page) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            form = {} if request.method in SAFE else await _read_form(request, page)
        except Refusal as refusal:
            return await run_in_threadpool(_refused, _visit(request, page), refusal)
        return await run_in_threadpool(_answered, request, page, form)

    endpoint.__name__ = page.name  # for starlette's own messages
    return endpoint


async def _not_found(request: Request, error: Exception) -> Response:
    """Paths and methods that no page has."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    headers = error.headers if isinstance(error, HTTPException) and error.headers else {}
    kind = "/api/v1/none" if request.url.path.startswith("/api/") else "/none"
    page = Page(path="/none", name="none", roles=ANYONE, handler=lambda visit: Response())
    words = "This page takes no such request." if status == 405 else "There is no such page."
    refusal = Refusal(status, "Not found", (words,), headers)
    return await run_in_threadpool(lambda: _refused(_visit(request, page), refusal, as_json=kind != "/none"))


def _answered(request: Request, page: Page, form: Mapping[str, Any]) -> Response:
    """What a page answers, once it is clear that this visitor may."""
    visit = Visit(request=request, desk=request.app.state.desk, page=page)
    try:
        visit = _let_in(request, page, form)
        return page.handler(visit)
    except Refusal as refusal:
        return _refused(visit, refusal)
    except Refused as refused:
        return _refused(visit, Refusal(409, "Not allowed by the rules", refused.reasons))
    except InputError as error:
        return _refused(visit, Refusal(400, "That cannot be done", (str(error),)))
    except MissingError as error:
        return _refused(visit, Refusal(503, "Something is missing", (str(error),)))
    except Exception:
        log.exception("The page %s failed", page.name)
        return _refused(visit, Refusal(500, "A bug of trimtab", ("This page met an error; the terminal that runs `trimtab ui` shows it.",)))


def _let_in(request: Request, page: Page, form: Mapping[str, Any]) -> Visit:
    """The visit, its rights checked. Raises Refusal."""
    visit = _visit(request, page, form, strict=True)
    changes = request.method not in SAFE
    by_cookie = visit.session is not None and visit.session.kind == "cookie"
    if changes and (fault := origin_fault(request, by_cookie=by_cookie or not page.is_api)):
        raise Refusal(403, "Not from this page", (fault,))
    if not visit.may(page.roles):
        if visit.person is None:
            raise Refusal(401, "Sign in first", ("This page is for people in the ledger.",))
        needed = " or ".join(page.roles)
        held = ", ".join(visit.person.roles) or "none"
        raise Refusal(403, "Not for you", (f"It takes the role {needed}, and {visit.name} has {held}.",))
    if changes and not page.is_open and by_cookie:
        given = request.headers.get("x-csrf-token") if page.is_api else form.get("csrf")
        if visit.session is None or not is_token(given, visit.session.csrf):
            raise Refusal(403, "The form is out of date", ("Go back, load the page again and repeat what you did.",))
    return visit


def _visit(request: Request, page: Page, form: Mapping[str, Any] | None = None, *, strict: bool = False) -> Visit:
    """Who comes. strict: a ledger that cannot be read is an error where the page needs to know who it is. Raises TrimtabError."""
    desk: Desk = request.app.state.desk
    entrance: Entrance = request.app.state.entrance
    session = entrance.session_of(request)
    person: Person | None = None
    if session is not None:
        try:
            person = desk.person(session.person)
        except TrimtabError:
            if strict and page.roles != ANYONE:
                raise
        else:
            if person is None or person.public_key != session.public_key:
                entrance.sessions.end(session)  # who holds the old key may be anybody
                session = person = None
    return Visit(request=request, desk=desk, page=page, session=session if person else None, person=person, form=form or {})


async def _read_form(request: Request, page: Page) -> Mapping[str, Any]:
    """Fields of a form, or of a JSON object. Raises Refusal: too long, of another kind."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY_BYTES:
            raise Refusal(413, "Too long", (f"A form may have {LONGEST_BODY_BYTES // 1024} KiB.",))
    wanted = "application/json" if page.is_api else "application/x-www-form-urlencoded"
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != wanted and (body or not page.is_api):
        raise Refusal(415, "Of another kind", (f"This takes {wanted}.",))
    try:
        if page.is_api:
            found = json.loads(body or b"{}")
            if not isinstance(found, dict):
                raise ValueError
            return found
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
        return {key: value.replace("\r\n", "\n") for key, value in pairs}
    except (ValueError, RecursionError):
        raise Refusal(400, "Not readable", ("The body is not a JSON object." if page.is_api else "The form cannot be read.",)) from None


def _refused(visit: Visit, refusal: Refusal, *, as_json: bool = False) -> Response:
    """A refusal as the visitor can read it."""
    if visit.page.is_api or as_json:
        error: dict[str, Any] = {"message": " ".join(refusal.reasons), "reasons": list(refusal.reasons)}
        if refusal.command:
            error["command"] = refusal.command
        response: Response = answer({"error": error}, status=refusal.status)
    elif refusal.status == 401 and visit.request.method in SAFE and visit.page.name != "events":
        url = visit.request.url
        back = url.path + (f"?{url.query}" if url.query else "")
        response = RedirectResponse("/sign-in" + ("" if back == "/" else f"?next={quote(back, safe='')}"), status_code=303)
    else:
        response = render(visit, "error.html", status=refusal.status, title=refusal.title, reasons=refusal.reasons, command=refusal.command)
    response.headers.update(dict(refusal.headers))
    return response


def listening(port: int) -> socket.socket:
    """A socket that listens on loopback; port 0 = any free one. Raises InputError: somebody else listens there."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(("127.0.0.1", port))
    except OSError as error:
        made.close()
        raise InputError(f"Port {port} cannot be listened on ({error.strerror or error}); choose another with --port, 0 = any.") from error
    made.listen(64)
    return made


def run_page(*, port: int, ledger: str, runs: Sequence[Path], on_ready: Callable[[str], None], level: Literal["warning", "info"]) -> None:
    """Serve the page until somebody ends it. on_ready: gets its address. Raises InputError, MissingError."""
    import uvicorn

    server_socket = listening(port)
    own_port = int(server_socket.getsockname()[1])
    app = make_app(port=own_port, ledger=ledger, runs=runs)
    config = uvicorn.Config(
        app,
        log_level=level,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=200,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,
    )
    on_ready(f"http://127.0.0.1:{own_port}")
    uvicorn.Server(config).run(sockets=[server_socket])
