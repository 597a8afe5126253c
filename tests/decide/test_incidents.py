"""Incidents and the impact register, from entries alone: who may say what, in which order, and what it makes."""

from typing import Any

import pytest
import sample_releases as made
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.files import to_plain
from trimtab.core.watching import Action
from trimtab.decide.incidents import HARMS, NEXT_IMPACT, NEXT_INCIDENT, deadline_of, reporting
from trimtab.decide.release import read_book
from trimtab.decide.release_book import Book

OPEN = {"id": "incident-1", "do": "open", "title": "German answers turn English", "severity": "high"}
ADD = {"id": "impact-1", "do": "add", "effect": "people wait longer", "intended": False, "severity": "moderate"}


def ledger_with(*entries: tuple[Any, str, dict[str, Any]]) -> Any:
    ledger = made.people()
    ledger.release()
    for kind, by, body in entries:
        ledger.write(kind, by, "chat@1", body)
    return ledger


def book_of(ledger: Any) -> Book:
    return read_book(ledger.entries)


def refused(ledger: Any) -> str:
    """Why the last entry was set aside; empty if it was not."""
    last = ledger.entries[-1].seq
    return " ".join(reason for one in book_of(ledger).irregular if one.entry.seq == last for reason in one.reasons)


def test_an_incident_from_first_to_last() -> None:
    ledger = ledger_with(
        ("incident", "carol", {**OPEN, "affected": ["German speakers"], "alarms": ["a1"]}),
        ("incident", "bob", {"id": "incident-1", "do": "update", "state": "contained", "owner": "bob", "note": "rolled back"}),
        ("incident", "bob", {"id": "incident-1", "do": "update", "affected": ["Swiss"], "alarms": ["a1", "a2"]}),
        ("incident", "alice", {"id": "incident-1", "do": "close", "note": "the template; fixed in @2"}),
    )
    assert refused(ledger) == ""
    one = book_of(ledger).incidents["incident-1"]
    assert (one.state, one.severity, one.owner, one.by, one.about) == ("closed", "high", "bob", "carol", "chat@1")
    assert (one.affected, one.alarms) == (("German speakers", "Swiss"), ("a1", "a2"))
    assert [(who, what) for _, who, what in one.notes] == [
        ("carol", "opened"),
        ("bob", "state contained; owner bob: rolled back"),
        ("bob", "added to"),
        ("alice", "closed: the template; fixed in @2"),
    ]
    assert one.opened < one.updated == ledger.entries[-1].at


@pytest.mark.parametrize(
    ("by", "body", "why"),
    [
        ("vic", OPEN, "vic may not do this: it takes the role operator or approver or auditor"),
        ("carol", {**OPEN, "id": "incident-2"}, "The next incident is incident-1, not incident-2."),
        ("carol", {**OPEN, "title": " "}, "needs a title"),
        ("carol", {**OPEN, "title": "a\nb"}, "The title must be one line"),
        ("carol", {**OPEN, "title": "x" * 201}, "at most 200 characters"),
        ("carol", {**OPEN, "severity": "awful"}, "There is no severity 'awful'; take low, moderate, high, critical."),
        ("carol", {**OPEN, "state": "contained"}, "A new incident is open"),
        ("carol", {**OPEN, "serious": "bad"}, "There is no serious harm 'bad'"),
        ("carol", {**OPEN, "affected": "women"}, "must be a list"),
        ("carol", {**OPEN, "affected": [""]}, "Each of the affected"),
        ("carol", {**OPEN, "colour": "red"}, "unknown key 'colour'"),
        ("carol", {"title": "slow"}, "not of the form of one"),
        ("carol", {**OPEN, "do": "reopen"}, "one can open, update or close"),
        ("carol", {"id": "incident-1", "do": "update", "note": "x"}, "There is no incident 'incident-1'; there is none yet"),
    ],
)
def test_what_may_not_be_opened(by: str, body: dict[str, Any], why: str) -> None:
    ledger = ledger_with(("incident", by, body))
    assert why in refused(ledger)
    assert not book_of(ledger).incidents


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"do": "update"}, "Say what is new"),
        ({"do": "update", "state": "closed"}, "trimtab incident close incident-1 --note"),
        ({"do": "update", "severity": "low"}, "Say in a note why incident-1 is less severe"),
        ({"do": "update", "serious": ""}, "less severe"),
        ({"do": "update", "title": ""}, "needs a title"),
        ({"do": "close", "note": "done"}, "Nobody answers for incident-1"),
        ({"do": "close", "note": " ", "owner": "bob"}, "what incident-1 came from"),
    ],
)
def test_what_may_not_be_said_of_one(body: dict[str, Any], why: str) -> None:
    ledger = ledger_with(("incident", "carol", {**OPEN, "serious": "rights"}), ("incident", "bob", {"id": "incident-1", **body}))
    assert why in refused(ledger)
    assert book_of(ledger).incidents["incident-1"].state == "open"


def test_closed_is_final_and_an_incident_stays_about_its_release() -> None:
    close = {"id": "incident-1", "do": "close", "note": "nothing", "owner": "bob"}
    ledger = ledger_with(("incident", "carol", OPEN), ("incident", "bob", close))
    ledger.write("incident", "bob", "chat@1", {"id": "incident-1", "do": "update", "note": "but"})
    assert "was closed on 2026-11-01 by bob, which is final" in refused(ledger)
    ledger.write("incident", "bob", "chat@9", {**OPEN, "id": "incident-2"})
    assert "There is no release 'chat@9'" in refused(ledger)
    ledger.write("incident", "bob", "some-model", {**OPEN, "id": "incident-2"})
    assert refused(ledger) == ""
    ledger.write("incident", "bob", "chat@1", {"id": "incident-2", "do": "update", "note": "x"})
    assert refused(ledger) == "incident-2 is about some-model, not chat@1."


def test_noting_changes_nothing_about_a_release_in_any_state() -> None:
    ledger = made.people()
    ledger.release()
    ledger.write("revocation", "bob", "chat@1", {"reason": "a leak"})
    for kind, body in (("incident", OPEN), ("impact", ADD)):
        ledger.write(kind, "bob", "chat@1", body)
        assert refused(ledger) == ""
    assert book_of(ledger).records["chat@1"].revoked is not None


def test_an_effect_from_suspicion_to_mitigation_and_back() -> None:
    ledger = ledger_with(("incident", "carol", OPEN), ("impact", "carol", {**ADD, "groups": ["callers"], "sources": ["incident-1"]}))
    for body, why in (
        ({"state": "mitigated"}, "Say what mitigates impact-1."),
        ({"state": "mitigated", "mitigation": "a person answers"}, ""),
        ({"state": "dismissed"}, "cannot become dismissed; it can become confirmed, mitigated"),
        ({"state": "confirmed", "note": "again"}, ""),
        ({"state": "dismissed"}, "why impact-1 is dismissed"),
        ({}, "Say what is new"),
        ({"sources": ["incident-7"]}, "There is no incident 'incident-7'"),
        ({"intended": "no"}, "true or false"),
        ({"effect": ""}, "needs its effect"),
    ):
        ledger.write("impact", "bob", "chat@1", {"id": "impact-1", "do": "update", **body})
        assert why in refused(ledger) if why else refused(ledger) == ""
    one = book_of(ledger).impacts["impact-1"]
    assert (one.state, one.groups, one.mitigation, one.intended) == ("confirmed", ("callers",), "a person answers", False)
    assert [what for _, _, what in one.notes] == ["noted", "state mitigated; mitigation a person answers", "state confirmed: again"]
    ledger.write("impact", "bob", "chat@1", {**ADD, "id": "impact-3"})
    assert refused(ledger) == "The next impact is impact-2, not impact-3."


def test_actions_are_noted_by_operators() -> None:
    action = to_plain(Action(kind="rollback", rule="canary-worse", why="a1", at_s=1.0, done=True, result="production is chat@1 again"))
    ledger = ledger_with(("action", "carol", action))
    assert refused(ledger) == ""
    for by, body, why in (
        ("bob", action, "it takes the role operator"),
        ("carol", {**action, "kind": "delete"}, "There is no action 'delete'"),
        ("carol", {**action, "done": "yes"}, "not of the form of an action"),
        ("carol", {"kind": "rollback"}, "not of the form"),
    ):
        ledger.write("action", by, "chat@1", body)
        assert why in refused(ledger)


def test_serious_harm_has_a_time_by_which_a_law_wants_it_reported() -> None:
    ledger = ledger_with(("incident", "carol", OPEN))
    assert deadline_of(book_of(ledger).incidents["incident-1"]) is None
    ledger.write("incident", "carol", "chat@1", {"id": "incident-1", "do": "update", "serious": "death"})
    found = deadline_of(book_of(ledger).incidents["incident-1"])
    assert found is not None
    assert (found.days, found.due[:10], found.article) == (10, "2026-11-11", "Article 73(4)")
    assert set(reporting()["harms"]) == set(HARMS)
    assert {harm: row["days"] for harm, row in reporting()["harms"].items() if row["days"] != 15} == {
        "death": 10,
        "infrastructure": 2,
        "widespread": 2,
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["open", "update", "close"]), st.sampled_from([None, "open", "contained", "closed"])), max_size=6)
)
def test_no_order_of_entries_leaves_the_machine(steps: list[tuple[str, str | None]]) -> None:
    ledger = ledger_with(("incident", "carol", OPEN))
    for do, state in steps:
        before = book_of(ledger).incidents["incident-1"]
        body = {"id": "incident-1", "do": do, "note": "n", "owner": "bob", **({"state": state} if state else {})}
        ledger.write("incident", "bob", "chat@1", {**OPEN, **body} if do == "open" else body)
        after = book_of(ledger).incidents["incident-1"]
        assert after == before or after.state in NEXT_INCIDENT[before.state]
    assert all(set(NEXT_IMPACT[state]) <= set(NEXT_IMPACT) for state in NEXT_IMPACT)
