"""Rights on every route: pages x people x methods, with and without the token and the Origin. There is no route beside the registry."""

import re
from typing import Any

import pytest

from trimtab.core.release import Person
from trimtab.web.pages import ANYONE, EVERY_ROLE, Page, all_pages, answer, is_allowed

ROLE_OF = {"vera": "viewer", "opal": "operator", "bob": "approver", "audrey": "auditor"}
VISITORS = ("", *ROLE_OF)
PAGES = [(page, method) for page in all_pages() for method in page.methods]


def path_of(page: Page) -> str:
    """The page's path with names that nothing has."""
    return re.sub(r"\{[^}]*\}", "nothing", page.path)


def ask(place: Any, page: Page, method: str, visitor: str, *, csrf: str | None = None, origin: str = "own") -> Any:
    client = place.client(visitor)
    own = f"http://127.0.0.1:{place.port}"
    headers = {"origin": own if origin == "own" else origin} if origin else {}
    token = client.csrf if csrf is None else csrf
    if method == "GET":
        return client.http.get(path_of(page))
    if page.is_api:
        return client.http.post(path_of(page), json={}, headers={**headers, "x-csrf-token": token})
    return client.http.post(path_of(page), data={"csrf": token}, headers=headers)


def is_sent_to_sign_in(response: Any) -> bool:
    return response.status_code == 401 or (response.status_code == 303 and response.headers["location"].startswith("/sign-in"))


@pytest.mark.parametrize(("page", "method"), PAGES, ids=lambda one: one.name if isinstance(one, Page) else one)
def test_who_may_use_what(place: Any, page: Page, method: str) -> None:
    for visitor in VISITORS:
        if page.name in ("events", "sign-out", "api-sign-out") and visitor:
            continue  # it never ends, or ends the session: they have tests of their own
        response = ask(place, page, method, visitor)
        if page.roles == ANYONE or ROLE_OF.get(visitor) in page.roles:
            assert response.status_code not in (401, 405, 500), response.text
            assert page.is_open or response.status_code != 403, response.text
        elif not visitor:
            assert is_sent_to_sign_in(response)
        else:
            assert response.status_code == 403, visitor
            assert ROLE_OF[visitor] in response.text, "it says what is needed and what is there"


@pytest.mark.parametrize("page", [page for page, method in PAGES if method == "POST"], ids=lambda page: page.name)
def test_nothing_is_done_for_another_page(place: Any, page: Page) -> None:
    """alice has all roles: it is the token or the Origin that is wrong, not her rights."""
    if not page.is_open:
        for csrf in ("", "wrong", place.client("bob").csrf):
            assert ask(place, page, "POST", "alice", csrf=csrf).status_code == 403, "a token that is not of this session"
    foreign = ("http://evil.example", "http://127.0.0.1:1", "null", f"https://127.0.0.1:{place.port}")
    for origin in foreign:
        assert ask(place, page, "POST", "alice", origin=origin).status_code == 403, origin
    assert ask(place, page, "POST", "alice", origin="").status_code == 403, "a browser says where it comes from"


def test_every_route_is_of_the_registry(place: Any) -> None:
    inner = place.app
    assert sorted((route.path, tuple(sorted(route.methods - {"HEAD"}))) for route in inner.routes) == sorted(
        (page.path, tuple(sorted(page.methods))) for page in all_pages()
    )


def test_a_page_without_roles_cannot_be_registered() -> None:
    for roles in ((), ("owner",)):
        with pytest.raises(ValueError, match="does not say which roles"):
            Page(path="/x", name="x", roles=roles, handler=lambda visit: answer({}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes no token"):
        Page(path="/x", name="x", roles=EVERY_ROLE, handler=lambda visit: answer({}), methods=("POST",), is_open=True)
    with pytest.raises(ValueError, match="told"):
        Page(path="/api/v1/x", name="x", roles=EVERY_ROLE, handler=lambda visit: answer({}))


def test_somebody_without_a_role_sees_nothing() -> None:
    nobody = Person(name="eve", roles=())
    assert not is_allowed(EVERY_ROLE, nobody)
    assert is_allowed(ANYONE, nobody)


def test_a_role_that_is_taken_away_is_gone_at_once(place: Any) -> None:
    from trimtab.flows import people

    people.add_person("rita", roles=["approver"], by="alice")
    rita = place.client("rita")
    assert "Add somebody" in rita.get("/people").text
    people.add_person("rita", roles=["viewer"], by="alice")
    assert "Add somebody" not in rita.get("/people").text
    assert rita.post("/people", {"name": "eve"}).status_code == 403


def test_a_key_that_was_changed_ends_the_session(place: Any) -> None:
    from trimtab.flows import people

    people.add_person("kim", roles=["viewer"], by="alice")
    kim = place.client("kim")
    assert kim.get("/").status_code == 200
    people.add_person("kim", public_key="ab" * 32, by="alice")
    assert kim.get("/").headers["location"] == "/sign-in", "who holds the old key may be anybody"
