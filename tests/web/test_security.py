"""Sign-in, sessions, limits, headers, and texts that would like to be scripts."""

import base64
import html
import json
from collections.abc import Iterator
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.flows import people
from trimtab.web.app import make_app
from trimtab.web.codes import LASTS_S, Door, make_code, read_code
from trimtab.web.desk import Desk
from trimtab.web.entrance import Entrance
from trimtab.web.limits import MOST, Tries
from trimtab.web.security import CSP, own_path
from trimtab.web.sessions import IDLE_S, LONGEST_S, Sessions


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fresh(place: Any) -> Iterator[Any]:
    """The same page with an entrance of its own: tries and sessions of other tests do not count."""
    before = place.app.state.entrance
    place.app.state.entrance = Entrance(port=place.port)
    yield place
    place.app.state.entrance = before


def enter(place: Any, code: str) -> Any:
    """One try, in a browser of its own."""
    client = type(place.client())(place)
    page = client.get("/sign-in").text
    token = page.partition('name="token" value="')[2].partition('"')[0]
    return client.post("/sign-in", {"token": token, "code": code})


def fault_of(response: Any) -> str:
    return html.unescape(response.text.partition('id="fault">')[2].partition("</p>")[0])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"port": 1}, "for the page at port 1"),
        ({"ledger": "ab" * 16}, "another ledger"),
        ({"now_s": 1_000_000.0}, "older than 2 minutes"),
        ({"now_s": 4_000_000_000.0}, "in the future"),
    ],
)
def test_codes_that_do_not_fit(fresh: Any, change: dict[str, Any], fault: str) -> None:
    response = enter(fresh, fresh.code("vera", **change))
    assert response.status_code == 400
    assert fault in fault_of(response)
    assert "set-cookie" not in response.headers or f"trimtab_{fresh.port}=" not in response.headers["set-cookie"]


def test_a_code_is_good_once(fresh: Any) -> None:
    code = fresh.code("vera")
    assert enter(fresh, code).status_code == 303
    assert "used already" in fault_of(enter(fresh, code))


def test_a_code_from_before_the_start_is_not_good() -> None:
    clock = Clock()
    door = Door(port=1, clock=clock)
    assert door._started_s == 1000
    clock.now += LASTS_S + 1
    with pytest.raises(InputError, match="older"):
        door._use(_code(at_s=1000))
    with pytest.raises(InputError, match="before this page was started"):
        Door(port=1, clock=Clock(1010.0))._use(_code(at_s=1009))


def _code(at_s: int) -> Any:
    from trimtab.web.codes import Code

    return Code(person="vera", ledger="l", port=1, at_s=at_s, once="x")


def test_a_code_by_another_key_is_not_good(fresh: Any) -> None:
    """bob signs a code in which he says that he is alice."""
    desk = Desk(home=fresh.home, port=fresh.port)
    code, _ = read_code(fresh.code("alice"))
    by_bob = read_code(make_code(fresh.home, desk.book().people["bob"], ledger=desk.ledger_id(), port=fresh.port))[1]
    forged = base64.urlsafe_b64encode(json.dumps({**vars(code), "signature": by_bob}).encode()).decode().rstrip("=")
    assert "not signed with the key that the ledger has for alice" in fault_of(enter(fresh, forged))


def test_an_entry_s_signature_is_no_code(fresh: Any) -> None:
    """What a key signs in the ledger cannot be used to sign in: the bytes are of another schema."""
    code, _ = read_code(fresh.code("alice"))
    entry = next(entry for entry in Desk(home=fresh.home, port=1).entries() if entry.by == "alice")
    forged = base64.urlsafe_b64encode(json.dumps({**vars(code), "signature": entry.signature}).encode()).decode()
    assert "not signed" in fault_of(enter(fresh, forged))


def test_somebody_without_a_key_is_told_how(fresh: Any) -> None:
    person = Desk(home=fresh.home, port=1).book().people["vera"]
    with pytest.raises(InputError, match=r"has no key in the ledger.*release people add vera"):
        make_code(fresh.home, type(person)(name="vera", roles=person.roles), ledger="l", port=1)


@pytest.mark.parametrize("text", ["", "x", "e30", "bnVsbA", "W10", base64.b64encode(b"[" * 900).decode(), "A" * 5000, "\u00e4"])
def test_what_is_no_code(fresh: Any, text: str) -> None:
    response = enter(fresh, text)
    assert response.status_code == 400
    assert "That is no code" in fault_of(response)


def test_the_form_to_sign_in_is_of_this_browser(fresh: Any) -> None:
    """Nobody can sign somebody else in as themselves: the form's token goes with a cookie."""
    client = type(fresh.client())(fresh)
    page = client.get("/sign-in").text
    token = page.partition('name="token" value="')[2].partition('"')[0]
    client.http.cookies.clear()
    assert client.post("/sign-in", {"token": token, "code": fresh.code("vera")}).status_code == 403


def test_tries_are_limited_by_name_and_by_address(fresh: Any) -> None:
    for _ in range(5):
        assert enter(fresh, fresh.code("vera", now_s=1_000_000.0)).status_code == 400
    refused = enter(fresh, fresh.code("vera"))
    assert refused.status_code == 429, "even a good one, for a while"
    assert 0 < int(refused.headers["retry-after"]) <= 30
    assert enter(fresh, fresh.code("opal")).status_code == 303, "others are not locked out"
    for _ in range(13):
        enter(fresh, "x")
    refused = enter(fresh, fresh.code("bob"))
    assert refused.status_code == 429
    assert "retry-after" in refused.headers
    api = fresh.client().http.post("/api/v1/sign-in", json={"code": "x"})
    assert api.status_code == 429
    assert "retry-after" in api.headers


def test_tries_come_back_and_are_forgotten() -> None:
    clock = Clock()
    tries = Tries(burst=2, every_s=10.0, clock=clock)
    assert tries.wait_s("a") == 0
    tries.count("a")
    assert tries.wait_s("a") == 0
    tries.count("a")
    assert tries.wait_s("a") == 10
    assert tries.wait_s("b") == 0
    clock.now += 10
    assert tries.wait_s("a") == 0
    for number in range(MOST + 5):
        tries.count(str(number))
    assert len(tries._free_at) == MOST


def test_sessions_end_by_time_and_by_hand() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    name, session = sessions.begin("cookie", "vera", "key")
    assert sessions.find(name, "cookie") is session
    assert sessions.find(name, "token") is None, "a cookie is no token"
    clock.now += IDLE_S - 1
    assert sessions.find(name, "cookie") is session
    clock.now += IDLE_S
    assert sessions.find(name, "cookie") is None
    name, session = sessions.begin("cookie", "vera", "key")
    for _ in range(int(LONGEST_S // (IDLE_S / 2)) + 1):
        clock.now += IDLE_S / 2
        sessions.find(name, "cookie")
    assert sessions.find(name, "cookie") is None, "however busy"
    name, session = sessions.begin("token", "vera", "key")
    assert sessions.holds(session)
    sessions.end(session)
    assert not sessions.holds(session)
    assert sessions.find(name, "token") is None


def test_signing_out_ends_it_on_the_server(fresh: Any) -> None:
    client = type(fresh.client())(fresh)
    client.sign_in("vera")
    stolen = dict(client.http.cookies)
    client.post("/sign-out")
    client.http.cookies.update(stolen)
    assert client.get("/").headers["location"] == "/sign-in"


def test_the_cookie_is_for_this_page_alone(fresh: Any) -> None:
    cookie = enter(fresh, fresh.code("vera")).headers["set-cookie"]
    assert cookie.startswith(f"trimtab_{fresh.port}=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Domain" not in cookie


def test_tokens_are_for_programs(fresh: Any) -> None:
    http = fresh.client().http
    made = http.post("/api/v1/sign-in", json={"code": fresh.code("opal")}).json()
    bearer = {"authorization": f"Bearer {made['token']}"}
    assert http.get("/api/v1/me", headers=bearer).json() == {"person": "opal", "roles": ["operator"], "signs_here": True}
    assert http.get("/releases", headers=bearer).status_code == 303, "pages take no tokens"
    assert http.post("/api/v1/releases/none@1/approve", json={}, headers=bearer).status_code == 403
    assert http.post("/api/v1/releases/none@1/promote", json={"to": "x"}, headers=bearer).status_code == 400, "no CSRF token is needed"
    assert http.post("/api/v1/sign-out", json={}, headers=bearer).json() == {"ended": True}
    assert http.get("/api/v1/me", headers=bearer).status_code == 401


def test_every_answer_has_the_headers(place: Any) -> None:
    for path in ("/", "/sign-in", "/static/trimtab.js", "/api/v1/me", "/nowhere", "/releases/nothing"):
        headers = place.client("vera" if path == "/" else "").get(path).headers
        assert headers["content-security-policy"] == CSP
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")
        assert "server" not in headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8780", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:8780", ""])
def test_other_names_are_refused(place: Any, host: str) -> None:
    answer = place.client("vera").get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "support-chat" not in answer.text


def test_loopback_has_three_names(place: Any) -> None:
    for host in ("127.0.0.1:8780", "localhost:8780", "[::1]:8780"):
        assert place.client().get("/sign-in", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/releases?x=1", "/releases?x=1"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\nb", "/"),
        (None, "/"),
    ],
)
def test_a_link_leads_nowhere_else(given: Any, path: str) -> None:
    assert own_path(given) == path


def test_bodies_that_are_not_forms(place: Any) -> None:
    alice = place.client("alice")
    own = {"origin": f"http://127.0.0.1:{place.port}"}
    path = "/releases/support-chat@3/approve"
    assert alice.http.post(path, content=b"x" * 70_000, headers=own).status_code == 413
    assert alice.http.post(path, json={"csrf": alice.csrf}, headers=own).status_code == 415
    form = {**own, "content-type": "application/x-www-form-urlencoded"}
    assert alice.http.post(path, content=b"%ff=%ff", headers=form).status_code == 400
    assert alice.http.post(path, content=b"&".join([b"a=1"] * 500), headers=form).status_code == 400
    assert alice.http.post("/api/v1" + path, content=b"[1]", headers={**own, "content-type": "application/json"}).status_code == 400
    deep = b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    assert alice.http.post("/api/v1" + path, content=deep, headers={**own, "content-type": "application/json"}).status_code == 400


def test_static_files_are_these_and_no_others(place: Any) -> None:
    http = place.client().http
    found = http.get("/static/trimtab.css")
    assert found.headers["content-type"].startswith("text/css")
    assert http.get("/static/trimtab.css", headers={"if-none-match": found.headers["etag"]}).status_code == 304
    for name in ("app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd"):
        assert http.get(f"/static/{name}").status_code == 404


def test_scripts_in_texts_stay_texts(place: Any) -> None:
    for path in ("/releases/support-chat@2", "/history/support-chat", "/sign-in?next=%22%3E%3Cscript%3E", "/%3Cscript%3Ex"):
        page = place.client("alice" if "sign-in" not in path else "").get(path).text
        assert "<script>document" not in page
        assert page.count("<script") == 1, "the page's own, by its address"
    assert "&lt;script&gt;document" in place.client("alice").get("/releases/support-chat@2").text


def test_a_ledger_that_cannot_be_read_is_said(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.testclient import TestClient

    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    http = TestClient(make_app(port=8780), base_url="http://127.0.0.1:8780")
    page = http.get("/sign-in").text
    token = page.partition('name="token" value="')[2].partition('"')[0]
    tried = base64.urlsafe_b64encode(
        json.dumps({"person": "a", "ledger": "l", "port": 8780, "at_s": 1, "once": "o", "signature": "s"}).encode()
    ).decode()
    answer = http.post("/sign-in", data={"token": token, "code": tried}, headers={"origin": "http://127.0.0.1:8780"})
    assert answer.status_code == 400
    assert "release people add" in fault_of(answer)
    assert not (tmp_path / "ledger").exists(), "looking begins no ledger"


def test_a_key_elsewhere_gets_the_command(place: Any) -> None:
    """Who signed in from another machine sees the line to run there, with what was filled in, quoted for a shell."""
    from trimtab.record.people_keys import key_path

    people.add_person("ruth", roles=["approver", "operator"], by="alice")
    ruth = place.client("ruth")
    away = key_path(place.home, "ruth")
    away.rename(away.with_suffix(".away"))
    try:
        page = ruth.get("/releases/support-chat@3").text
        assert "show the command" in page
        sha = page.partition('name="release_sha256" value="')[2].partition('"')[0]
        answer = ruth.post("/releases/support-chat@3/approve", {"note": "it's $(good)", "release_sha256": sha})
        assert answer.status_code == 409
        line = html.unescape(answer.text.partition("<code>")[2].partition("</code>")[0])
        assert line == "trimtab release approve support-chat@3 --note 'it'\"'\"'s $(good)' --as ruth"
        api = ruth.post_json("/api/v1/releases/support-chat@1/promote", {"to": "staging"})
        assert api.json()["error"]["command"] == "trimtab release promote support-chat@1 --to staging --as ruth"
    finally:
        away.with_suffix(".away").rename(away)
