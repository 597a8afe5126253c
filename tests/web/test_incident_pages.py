"""Incidents and the impact register by forms and by the API: rights, what is refused, and what the ledger says afterwards."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import scene

from trimtab.decide.release import read_book
from trimtab.flows.incident import list_incidents


def named(title: str) -> dict[str, Any]:
    return next(one for one in list_incidents() if one["title"] == title)


def test_an_incident_from_opening_to_its_end(place: Any) -> None:
    opal, audrey = place.client("opal"), place.client("audrey")
    form = {"title": "Refuses on Fridays", "about": "support-chat@2", "severity": "high", "affected": "women\nmen", "note": scene.SCRIPT}
    answer = opal.post("/incidents", form)
    assert answer.status_code == 303, answer.text
    path = answer.headers["location"]
    row = named("Refuses on Fridays")
    assert (row["by"], row["affected"], row["state"]) == ("opal", ["women", "men"], "open")
    shown = audrey.get(path).text
    assert "Refuses on Fridays" in shown
    assert scene.SCRIPT not in shown
    assert "&lt;script&gt;" in shown
    assert audrey.post(f"{path}/update", {"state": "contained", "serious": "rights", "note": "rolled back"}).status_code == 303
    assert "may want it reported within 15 days" in opal.get(path).text
    refused = opal.post(f"{path}/close", {"note": "fixed"})
    assert refused.status_code == 409
    assert "name an owner before it is closed" in refused.text
    assert opal.post(f"{path}/close", {"note": "fixed", "owner": "opal"}).status_code == 303
    ended = opal.get(path).text
    assert "Close it, for good" not in ended
    assert [note[1] for note in named("Refuses on Fridays")["notes"]] == ["opal", "audrey", "opal"]


def test_an_effect_on_people_is_added_and_followed(place: Any) -> None:
    opal = place.client("opal")
    form = {"effect": "Letters come late", "about": "chat", "intended": "no", "severity": "moderate", "groups": "old people"}
    path = opal.post("/impacts", form).headers["location"]
    assert "mitigates" in opal.post(f"{path}/update", {"state": "mitigated"}).text
    assert opal.post(f"{path}/update", {"state": "mitigated", "mitigation": "a person reads them"}).status_code == 303
    shown = opal.get(path).text
    assert "a person reads them" in shown
    assert "Letters come late" in opal.get("/incidents").text
    assert "yes or no" in opal.post("/impacts", {**form, "intended": "perhaps"}).text


@pytest.mark.parametrize(
    "path", ["/incidents", "/incidents/incident-1/update", "/incidents/incident-1/close", "/impacts", "/impacts/impact-1/update"]
)
def test_viewers_and_foreign_forms_write_nothing(place: Any, path: str) -> None:
    entries = len(place.app.state.desk.entries())
    form = {"title": "x", "effect": "x", "about": "chat", "severity": "low", "note": "x", "intended": "no"}
    assert place.client("vera").post(path, form).status_code == 403
    opal = place.client("opal")
    assert opal.post(path, {**form, "csrf": "wrong"}).status_code == 403
    assert opal.post(path, form, origin="http://evil.test").status_code == 403
    assert opal.post(path, form, origin=None).status_code == 403
    assert place.client("").post(path, form).status_code in (303, 401, 403)
    assert len(place.app.state.desk.entries()) == entries


def test_a_viewer_sees_no_forms(place: Any) -> None:
    vera = place.client("vera")
    shown = vera.get("/incidents")
    assert shown.status_code == 200
    assert "/incidents/new" not in shown.text
    assert vera.get("/incidents/new").status_code == 403


def test_what_is_wrong_is_one_sentence(place: Any) -> None:
    opal = place.client("opal")
    assert "What went wrong, in one line is needed" in opal.post("/incidents", {"about": "chat", "severity": "low"}).text
    assert "There is no severity" in opal.post("/incidents", {"title": "x", "about": "chat", "severity": "worst"}).text
    assert "There is no field" in opal.post("/incidents", {"title": "x", "about": "chat", "severity": "low", "by": "alice"}).text
    assert opal.get("/incidents/incident-999").status_code == 400
    assert opal.get("/impacts/impact-999").status_code == 400


def test_programs_do_the_same(place: Any) -> None:
    opal = place.client("opal")
    made = opal.post_json("/api/v1/incidents", {"title": "By program", "about": "chat", "severity": "low", "affected": ["men", "women"]})
    assert made.status_code == 200, made.text
    assert made.json()["affected"] == ["men", "women"]
    listed = opal.get("/api/v1/incidents?about=chat").json()["incidents"]
    assert "By program" in [one["title"] for one in listed]
    assert "impacts" in opal.get("/api/v1/impacts").json()
    assert place.client("vera").post_json("/api/v1/incidents", {"title": "x", "about": "chat", "severity": "low"}).status_code == 403


def test_the_ledger_holds_no_irregular_entry(place: Any) -> None:
    assert not [one for one in read_book(place.app.state.desk.entries()).irregular if one.entry.kind in ("incident", "impact")]
