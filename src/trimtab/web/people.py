"""People: who may do what, whose key lies here; and, for approvers, adding somebody or changing roles and keys."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from starlette.responses import Response

from trimtab.core.errors import InputError
from trimtab.core.release import Role
from trimtab.decide.release_book import ROLES
from trimtab.flows.people import add_person, list_people
from trimtab.web.acts import Field, given_of, need_key
from trimtab.web.api import TEXT, having, listed
from trimtab.web.pages import EVERY_ROLE, Page, Told, Visit, answer, go, render

MAY_DO: Mapping[str, str] = {
    "viewer": "reads",
    "operator": "proposes, promotes, rolls back, retires",
    "approver": "approves, waives, revokes, adds people",
    "auditor": "reads, verifies, notes incidents",
}
_FIELDS = (Field(name="name", label="Name", required=True), Field(name="public_key", label="Public key"))


def listing(visit: Visit) -> Response:
    return render(visit, "people.html", rows=list_people(ledger=visit.desk.ledger), may_do=MAY_DO, may_add=visit.may(ROLES["person"]))


def add(visit: Visit) -> Response:
    """From the form, in which each role is a box of its own."""
    roles = [role for role in get_args(Role) if visit.form.get(f"role_{role}")]
    row = _added(visit, roles, more=("csrf", *(f"role_{role}" for role in get_args(Role))))
    return go(visit, "/people", f"{row['name']} has the roles {', '.join(row['roles'])}.")


def add_by_program(visit: Visit) -> Response:
    roles = visit.form.get("roles", [])
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise InputError("roles must be a list of texts.")
    form = {key: value for key, value in visit.form.items() if key != "roles"}
    row = _added(visit, roles, form=form)
    return answer({"name": row["name"], "roles": row["roles"], "public_key": row["public_key"]})


def _added(visit: Visit, roles: list[str], *, form: Mapping[str, Any] | None = None, more: tuple[str, ...] = ()) -> Mapping[str, Any]:
    given = given_of(visit.form if form is None else form, _FIELDS, more=more)
    key = given["public_key"].lower()
    if key and not re.fullmatch(r"[0-9a-f]{64}", key):
        raise InputError("A public key is 64 hex digits, as `trimtab release people key NAME` prints it.")
    words = [
        "release",
        "people",
        "add",
        given["name"],
        *(["--roles", ",".join(roles)] if roles else []),
        *(["--public-key", key] if key else []),
    ]
    need_key(visit, words)
    return add_person(given["name"], roles=roles, public_key=key, by=visit.name, ledger=visit.desk.ledger)


_PERSON = having(name=TEXT, roles=listed(TEXT), public_key=TEXT)

ROUTES = (
    Page(path="/people", name="people", roles=EVERY_ROLE, handler=listing, nav="People"),
    Page(path="/people", name="people-add", roles=ROLES["person"], handler=add, methods=("POST",)),
    Page(
        path="/api/v1/people",
        name="api-people-add",
        roles=ROLES["person"],
        handler=add_by_program,
        methods=("POST",),
        told=Told(
            summary="Add somebody, or change roles or key.",
            takes={"name": (TEXT, True), "roles": (listed(TEXT), False), "public_key": (TEXT, False)},
            gives=_PERSON,
        ),
    ),
)
