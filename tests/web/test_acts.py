"""Releases and people through the page: the rules are those of the command line."""

from typing import Any


def test_pages_of_releases_show_what_is_there(place: Any) -> None:
    vera = place.client("vera")
    listing = vera.get("/releases").text
    assert listing.count("/releases/support-chat@") == 3
    page = vera.get("/releases/support-chat@2").text
    assert "Roll production back" not in page
    assert 'action="/releases/' not in page, "a viewer gets no forms"
    assert "Approve: alice, bob" in vera.get("/releases/support-chat@3").text
    assert vera.get("/releases/support-chat@production").headers["location"] == "/releases/support-chat@2"
    assert vera.get("/releases/support-chat").headers["location"] == "/releases/support-chat@3"
    history = vera.get("/history/support-chat").text
    assert "promotion by alice" in history
    assert vera.get("/people").text.count("signs here") >= 5


def test_a_release_goes_its_way_through_the_page(place: Any, new_release: Any) -> None:
    release = new_release("walk")
    alice, bob, opal = (place.client(name) for name in ("alice", "bob", "opal"))
    assert f'action="/releases/{release}/approve"' not in alice.get(f"/releases/{release}").text, "she proposed it"
    early = opal.post(f"/releases/{release}/promote", {"to": "production"})
    assert early.status_code == 409
    assert "needs 1 approval and has 0" in early.text
    page = bob.get(f"/releases/{release}").text
    sha = page.partition('name="release_sha256" value="')[2].partition('"')[0]
    stale = bob.post(f"/releases/{release}/approve", {"release_sha256": "0" * 64})
    assert stale.status_code == 409
    assert "was changed since it was looked at" in stale.text
    assert bob.post(f"/releases/{release}/approve", {"release_sha256": sha, "note": "read"}).status_code == 303
    page = bob.get(f"/releases/{release}").text
    assert "is approved by you" in page
    assert "is approved by you" not in bob.get(f"/releases/{release}").text, "said once"
    assert opal.post(f"/releases/{release}/promote", {"to": "production"}).status_code == 303
    assert "production points at" in opal.get(f"/releases/{release}").text
    assert bob.post(f"/releases/{release}/revoke", {"reason": ""}).status_code == 400
    assert bob.post(f"/releases/{release}/revoke", {"reason": "a harm"}).status_code == 303
    assert "taken from production" in bob.get(f"/releases/{release}").text


def test_waivers_rollbacks_and_retirements(place: Any, new_release: Any) -> None:
    first, second = new_release("there-and-back"), new_release("there-and-back")
    bob, opal = place.client("bob"), place.client("opal")
    for release in (first, second):
        sha = bob.get(f"/api/v1/releases/{release}").json()["release_sha256"]
        assert bob.post_json(f"/api/v1/releases/{release}/approve", {"release_sha256": sha}).status_code == 200
        assert opal.post_json(f"/api/v1/releases/{release}/promote", {"to": "production"}).status_code == 200
    assert bob.post(f"/releases/{first}/waive", {"gate": "text", "reason": "r", "days": "1"}).status_code == 409, "it passed"
    assert bob.post(f"/releases/{first}/waive", {"gate": "text", "reason": "r", "days": "-1"}).status_code == 400
    page = opal.get(f"/releases/{second}").text
    assert f"Roll production back to {first}" in page
    assert opal.post(f"/releases/{first}/rollback", {"alias": "production", "note": "slow"}).status_code == 303
    at = opal.get("/api/v1/history/there-and-back").json()
    assert at["serving"][0]["release"] == first
    assert [one["kind"] for one in at["changes"]][-1] == "rollback"
    earlier = opal.get(f"/history/there-and-back?at={at['changes'][-2]['at'].replace('+', '%2B')}").text
    assert f"<b>{second}</b>" in earlier
    assert opal.post(f"/releases/{second}/retire", {"reason": "old"}).status_code == 303
    assert "retired" in opal.get(f"/releases/{second}").text
    assert opal.get("/history/there-and-back?at=soon").status_code == 400


def test_the_report_of_a_release_may_do_nothing(place: Any, new_release: Any) -> None:
    assert place.client("vera").get("/releases/support-chat@2/report").status_code == 400, "this run came without one"
    release = new_release("reported")
    page = place.client("vera").get(f"/releases/{release}/report")
    assert page.status_code == 200
    assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_people_are_added_by_approvers(place: Any) -> None:
    bob = place.client("bob")
    assert bob.post("/people", {"name": "newt", "role_viewer": "yes", "role_auditor": "yes"}).status_code == 303
    page = bob.get("/people").text
    assert "newt has the roles viewer, auditor" in page
    assert bob.post("/people", {"name": "../newt"}).status_code == 400
    assert bob.post("/people", {"name": "ned", "public_key": "/etc/passwd"}).status_code == 400, "no file of this machine is read"
    assert bob.post_json("/api/v1/people", {"name": "newt", "roles": ["viewer"]}).json()["roles"] == ["viewer"]
    assert bob.post_json("/api/v1/people", {"name": "newt", "roles": "viewer"}).status_code == 400
    assert bob.post_json("/api/v1/people", {"name": "newt", "role": []}).status_code == 400, "a field that is none"


def test_the_api_is_what_its_document_says(place: Any) -> None:
    from openapi_spec_validator import validate

    document = place.client().get("/api/v1/openapi.json").json()
    validate(document)
    assert "/api/v1/releases/{release}/approve" in document["paths"]
    vera = place.client("vera")
    for path in ("/api/v1/me", "/api/v1/releases", "/api/v1/people"):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(schema["required"]) <= set(vera.get(path).json()), path


def test_the_overview_names_what_went_wrong_until_it_is_closed(place: Any) -> None:
    from trimtab.flows import incident

    opened = incident.open_incident("Answers in the wrong language", about="support-chat@2", severity="high", by="alice")
    vera = place.client("vera")
    assert f'href="/incidents/{opened["id"]}">Answers in the wrong language' in vera.get("/").text
    incident.close_incident(opened["id"], note="a template was swapped", owner="alice", by="alice")
    assert "Answers in the wrong language" not in vera.get("/").text
