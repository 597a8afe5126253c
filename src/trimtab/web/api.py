"""The JSON API: the same flows and rights as the pages, and what OpenAPI tells of it."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from starlette.responses import Response

from trimtab.flows.people import list_people
from trimtab.flows.release import history, list_releases, show
from trimtab.web.pages import ANYONE, EVERY_ROLE, Page, Told, Visit, all_pages, answer
from trimtab.web.sign_in import enter_by_program, leave

TEXT: Mapping[str, Any] = {"type": "string"}
OBJECT: Mapping[str, Any] = {"type": "object"}


def listed(of: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of a list."""
    return {"type": "array", "items": dict(of)}


def having(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of an object that has these, and may have more."""
    return {"type": "object", "properties": {name: dict(of) for name, of in properties.items()}, "required": list(properties)}


RELEASE = having(release=TEXT, state=TEXT, live_on=listed(TEXT), missing=listed(TEXT), release_sha256=TEXT, approvals=listed(OBJECT))


def me(visit: Visit) -> Response:
    person = visit.person
    return answer({"person": visit.name, "roles": list(person.roles) if person else [], "signs_here": visit.has_key})


def releases(visit: Visit) -> Response:
    return answer(list_releases(visit.request.query_params.get("name", ""), ledger=visit.desk.ledger))


def release(visit: Visit) -> Response:
    return answer(show(visit.request.path_params["release"], ledger=visit.desk.ledger))


def release_history(visit: Visit) -> Response:
    return answer(history(visit.request.path_params["name"], at=visit.request.query_params.get("at", ""), ledger=visit.desk.ledger))


def people(visit: Visit) -> Response:
    return answer({"people": list_people(ledger=visit.desk.ledger)})


def document(visit: Visit) -> Response:
    return answer(openapi())


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of every page below /api/, from what the pages say of themselves."""
    paths: dict[str, Any] = {}
    for page in all_pages():
        if page.told is not None:
            for method in page.methods:
                paths.setdefault(page.path, {})[method.lower()] = _operation(page, page.told)
    return {
        "openapi": "3.1.0",
        "info": {"title": "trimtab", "version": version("trimtab"), "description": __doc__},
        "paths": paths,
        "components": {
            "schemas": {"Error": having(error=having(message=TEXT, reasons=listed(TEXT)))},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Of /api/v1/sign-in, with a code of `trimtab ui sign-in`."}
            },
        },
    }


def _operation(page: Page, told: Told) -> dict[str, Any]:
    is_public = page.roles == ANYONE
    names = [part[1:-1] for part in page.path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": dict(TEXT)} for name in names]
    parameters += [{"name": name, "in": "query", "description": text, "schema": dict(TEXT)} for name, text in told.query.items()]
    refusals = {"400": "The input is wrong.", "503": "Something is missing here."}
    refusals |= {} if is_public else {"401": "Not signed in.", "403": f"It takes the role {' or '.join(page.roles)}."}
    refusals |= {"409": "The rules do not allow it.", "415": "The body is not JSON."} if "POST" in page.methods else {}
    refusals |= {"429": "Tried too often; `Retry-After` says when to come again."} if page.is_open else {}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found = {
        "operationId": page.name,
        "summary": told.summary,
        "parameters": parameters,
        "security": [] if is_public else [{"token": []}],
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": {"schema": dict(told.gives)}}},
            **{status: {"description": text, "content": error} for status, text in sorted(refusals.items())},
        },
    }
    if "POST" in page.methods:
        properties = {name: dict(schema) for name, (schema, _) in told.takes.items()}
        required = [name for name, (_, is_required) in told.takes.items() if is_required]
        schema = {"type": "object", "properties": properties, "additionalProperties": False} | ({"required": required} if required else {})
        found["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": schema}}}
    return found


_AT = {"at": "A time, as `2026-11-01 12:00` (UTC) or any ISO 8601; default now."}

ROUTES = (
    Page(
        path="/api/v1/openapi.json", name="api-document", roles=ANYONE, handler=document, told=Told(summary="This document.", gives=OBJECT)
    ),
    Page(
        path="/api/v1/sign-in",
        name="api-sign-in",
        roles=ANYONE,
        handler=enter_by_program,
        methods=("POST",),
        is_open=True,
        told=Told(
            summary="A code of `trimtab ui sign-in` for a token.",
            takes={"code": (TEXT, True)},
            gives=having(token=TEXT, person=TEXT, roles=listed(TEXT)),
        ),
    ),
    Page(
        path="/api/v1/sign-out",
        name="api-sign-out",
        roles=EVERY_ROLE,
        handler=leave,
        methods=("POST",),
        told=Told(summary="End the session or the token.", gives=having(ended={"type": "boolean"})),
    ),
    Page(
        path="/api/v1/me",
        name="api-me",
        roles=EVERY_ROLE,
        handler=me,
        told=Told(summary="Who is signed in.", gives=having(person=TEXT, roles=listed(TEXT), signs_here={"type": "boolean"})),
    ),
    Page(
        path="/api/v1/releases",
        name="api-releases",
        roles=EVERY_ROLE,
        handler=releases,
        told=Told(
            summary="Every release as it stands now.",
            query={"name": "Only of this name."},
            gives=having(releases=listed(RELEASE), irregular=listed(OBJECT)),
        ),
    ),
    Page(
        path="/api/v1/releases/{release}",
        name="api-release",
        roles=EVERY_ROLE,
        handler=release,
        told=Told(summary="One release, and what it lacks.", gives=RELEASE),
    ),
    Page(
        path="/api/v1/history/{name}",
        name="api-history",
        roles=EVERY_ROLE,
        handler=release_history,
        told=Told(
            summary="What each alias of a name served at a time, and every change up to then.",
            query=_AT,
            gives=having(name=TEXT, at=TEXT, serving=listed(OBJECT), changes=listed(OBJECT)),
        ),
    ),
    Page(
        path="/api/v1/people",
        name="api-people",
        roles=EVERY_ROLE,
        handler=people,
        told=Told(summary="Everybody in the ledger.", gives=having(people=listed(having(name=TEXT, roles=listed(TEXT))))),
    ),
)
