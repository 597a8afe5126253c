"""Signing in with an identity of the ledger, and out: a code that the person's key signed, once."""

import secrets

from starlette.responses import Response

from trimtab.core.errors import InputError
from trimtab.core.release import Person
from trimtab.web.codes import read_code
from trimtab.web.entrance import FORM_LASTS_S, Entrance
from trimtab.web.pages import ANYONE, EVERY_ROLE, Page, Visit, answer, go, render
from trimtab.web.security import own_path


def form(visit: Visit) -> Response:
    """The form, or on to where somebody wanted who is signed in already."""
    if visit.session:
        return go(visit, own_path(visit.request.query_params.get("next")))
    return _form(visit)


def _form(visit: Visit, *, fault: str = "", status: int = 200, wait_s: int = 0) -> Response:
    entrance = _entrance(visit)
    secret = visit.request.cookies.get(entrance.form_cookie) or secrets.token_urlsafe(24)
    onward = own_path(visit.form.get("next") or visit.request.query_params.get("next"))
    token = entrance.form_token(secret)
    response = render(visit, "sign_in.html", status=status, fault=fault, token=token, next=onward, command=_command(visit))
    response.set_cookie(entrance.form_cookie, secret, max_age=FORM_LASTS_S, path="/sign-in", httponly=True, samesite="strict")
    if wait_s:
        response.headers["retry-after"] = str(wait_s)
    return response


def _command(visit: Visit) -> str:
    """What a person runs to get a code."""
    where = f" --ledger {visit.desk.shown_ledger}" if visit.desk.ledger else ""
    return f"trimtab ui sign-in --as NAME --port {visit.desk.port}{where}"


def enter(visit: Visit) -> Response:
    """A code from the form: a session, or the form again with why not."""
    entrance = _entrance(visit)
    if not entrance.is_own_form(visit.request, visit.form.get("token")):
        return _form(visit, fault="The form is out of date; try again.", status=403)
    person, fault, wait_s = _checked(visit)
    if person is None:
        return _form(visit, fault=fault, status=429 if wait_s else 400, wait_s=wait_s)
    if visit.session:
        entrance.sessions.end(visit.session)
    name, _ = entrance.sessions.begin("cookie", person.name, person.public_key)
    response = go(visit, own_path(visit.form.get("next")))
    entrance.put_cookie(response, name)
    return response


def enter_by_program(visit: Visit) -> Response:
    """A code for a token, which a program sends as `Authorization: Bearer TOKEN`."""
    person, fault, wait_s = _checked(visit)
    if person is None:
        response = answer({"error": {"message": fault, "reasons": [fault]}}, status=429 if wait_s else 400)
        if wait_s:
            response.headers["retry-after"] = str(wait_s)
        return response
    token, _ = _entrance(visit).sessions.begin("token", person.name, person.public_key)
    return answer({"token": token, "person": person.name, "roles": list(person.roles)})


def _checked(visit: Visit) -> tuple[Person | None, str, int]:
    """Who signs in, else why not, and the seconds to wait where it was tried too often."""
    entrance, client = _entrance(visit), visit.request.client
    address = client.host if client else ""
    if wait_s := entrance.by_address.wait_s(address):
        return None, _too_often(wait_s), wait_s
    entrance.by_address.count(address)
    name = ""
    try:
        code, signature = read_code(str(visit.form.get("code", "")))
        person = visit.desk.person(code.person)
        name = code.person if person else ""  # those that nobody has share their tries
        if wait_s := entrance.by_name.wait_s(name):
            return None, _too_often(wait_s), wait_s
        return entrance.door.enter(code, signature, person, ledger=visit.desk.ledger_id()), "", 0
    except InputError as error:
        entrance.by_name.count(name)
        return None, str(error), 0


def _too_often(wait_s: int) -> str:
    return f"That was tried too often; wait {wait_s} seconds."


def leave(visit: Visit) -> Response:
    """The end of the session, here and in the browser."""
    entrance = _entrance(visit)
    if visit.session:
        entrance.sessions.end(visit.session)
    response: Response = answer({"ended": True}) if visit.page.is_api else go(visit, "/sign-in")
    entrance.drop_cookie(response)
    return response


def _entrance(visit: Visit) -> Entrance:
    entrance: Entrance = visit.request.app.state.entrance
    return entrance


ROUTES = (
    Page(path="/sign-in", name="sign-in", roles=ANYONE, handler=form),
    Page(path="/sign-in", name="sign-in-act", roles=ANYONE, handler=enter, methods=("POST",), is_open=True),
    Page(path="/sign-out", name="sign-out", roles=EVERY_ROLE, handler=leave, methods=("POST",)),
)
