"""Releases by their rules: the machine, who may do what, what an alias points at, and that nothing goes live past the rules."""

import dataclasses
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sample_releases as made
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.core.release import Entry, IntendedUse, Licence
from trimtab.decide.release import changes_of, find, read_book, served_at
from trimtab.decide.release_book import MAY, NEXT, Book, moment, standing
from trimtab.decide.release_may import Wish, refusals
from trimtab.decide.release_rules import load_rules

TWO = load_rules("two-person")
ALL_ANSWERED = dataclasses.replace(made.USE, answers=dict.fromkeys(TWO.required_answers, "said"))


def state(ledger: Any, number: int = 1, *, after_days: float = 0.0) -> str:
    book = read_book(ledger.entries)
    return standing(book, book.records[f"chat@{number}"], made.at(ledger.days + after_days)).state


def refused(ledger: Any) -> str:
    """Why the last entry was set aside; empty if it was not."""
    book = read_book(ledger.entries)
    last = ledger.entries[-1].seq
    return " ".join(reason for one in book.irregular if one.entry.seq == last for reason in one.reasons)


# the way to production


def test_the_whole_way() -> None:
    ledger = made.people()
    ledger.release(use=IntendedUse())
    assert state(ledger) == "draft"
    ledger.release()
    assert state(ledger) == "candidate"
    ledger.approve("bob")
    assert state(ledger) == "approved"
    ledger.promote("carol")
    assert state(ledger) == "live"
    ledger.release(2, by="carol")
    ledger.approve("bob", 2)
    ledger.promote("carol", 2)
    assert (state(ledger), state(ledger, 2)) == ("approved", "live")
    ledger.rollback("carol", 1)
    assert (state(ledger), state(ledger, 2)) == ("live", "approved")
    ledger.write("retirement", "carol", "chat@2", {"reason": "slow"})
    ledger.write("revocation", "bob", "chat@1", {"reason": "a leak"})
    assert (state(ledger), state(ledger, 2)) == ("revoked", "retired")
    book = read_book(ledger.entries)
    assert book.irregular == ()
    assert book.serving("chat", "production") == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"use": IntendedUse()}, "lacks owner, intended, prohibited, affected"),
        ({"use": dataclasses.replace(made.USE, answers={})}, "leaves benefit, harm, errors, oversight, redress unanswered"),
        ({"licences": (made.OPEN, made.UNKNOWN)}, "licence of base/m is unknown"),
        ({"licences": (Licence(model="m", licence="GPL-3.0"),)}, "GPL-3.0, is not among those"),
        ({"licences": ()}, "Nothing is known of its licence"),
        ({"verdict": "fail", "gates": {"text": "fail", "choice": "pass"}}, "gate text failed (it can be waived)"),
        ({"verdict": "inconclusive", "gates": {"text": "inconclusive"}}, "gate text is inconclusive"),
        ({"verdict": "inconclusive", "gates": {"text": "pass"}}, "for no single gate's sake"),
    ],
)
def test_what_keeps_a_release_a_draft(body: dict[str, Any], words: str) -> None:
    ledger = made.people()
    ledger.release(**body)
    assert state(ledger) == "draft"
    ledger.approve("bob")
    assert "is a draft" in refused(ledger)
    ledger.promote("carol")
    assert words in refused(ledger)
    assert "needs 1 approval and has 0" in refused(ledger)


def test_all_reasons_are_told_at_once() -> None:
    ledger = made.people()
    ledger.release(use=IntendedUse(), licences=(made.UNKNOWN,), verdict="fail", gates={"text": "fail", "choice": "inconclusive"})
    ledger.promote("carol")
    assert len(read_book(ledger.entries).irregular[-1].reasons) == 6


# approvals


def test_who_proposed_does_not_approve() -> None:
    ledger = made.people()
    ledger.release()
    ledger.approve("alice")
    assert "alice proposed chat@1 and may not approve it" in refused(ledger)
    assert state(ledger) == "candidate"


def test_completing_a_release_makes_one_its_proposer_too() -> None:
    ledger = made.people()
    ledger.person("bob", "approver", "operator")
    ledger.release(use=IntendedUse())
    ledger.release(by="bob")
    ledger.approve("bob")
    assert "bob proposed" in refused(ledger)
    ledger.approve("alice")
    assert "alice proposed" in refused(ledger)


def test_rules_may_let_the_proposer_approve() -> None:
    ledger = made.people()
    ledger.release(rules=dataclasses.replace(load_rules("standard"), proposer_may_approve=True))
    ledger.approve("alice")
    assert state(ledger) == "approved"


def test_a_changed_release_needs_new_approvals() -> None:
    ledger = made.people()
    ledger.release()
    ledger.approve("bob")
    ledger.release(use=dataclasses.replace(made.USE, intended=("drafts", "medical answers")))
    assert state(ledger) == "candidate"
    ledger.promote("carol")
    assert "that by bob does not count: the release was changed after it (entry 8)" in refused(ledger)
    ledger.approve("dave", sha256=digest_of(ledger.entries[5].body))
    assert "was changed since it was looked at" in refused(ledger)


def test_approvals_expire() -> None:
    ledger = made.people()
    ledger.release()
    ledger.approve("bob")
    assert (state(ledger, after_days=89), state(ledger, after_days=91)) == ("approved", "candidate")
    ledger.days += 91
    ledger.promote("carol")
    assert "it was given on 2026-11-01 and held for 90 days" in refused(ledger)


def test_an_approver_who_left_no_longer_counts() -> None:
    ledger = made.people()
    ledger.release()
    ledger.approve("bob")
    ledger.person("bob", "viewer")
    ledger.promote("carol")
    assert "bob is no approver any more" in refused(ledger)


def test_two_people_are_two_people() -> None:
    ledger = made.people()
    ledger.release(by="carol", rules=TWO, use=ALL_ANSWERED)
    ledger.approve("bob")
    ledger.approve("bob")
    ledger.promote("carol")
    assert "needs 2 approvals and has 1" in refused(ledger)
    ledger.approve("dave")
    ledger.promote("carol")
    assert state(ledger) == "live"


def test_looser_rules_need_the_approvals_of_those_in_force() -> None:
    ledger = made.people()
    ledger.release(by="carol", rules=TWO, use=ALL_ANSWERED)
    loose = dataclasses.replace(load_rules("standard"), name="loose", proposer_may_approve=True)
    for number in (2, 3):  # the second proposal does not find the first one's rules in force either
        ledger.release(number, rules=loose)
        ledger.approve("bob", number)
        ledger.approve("alice", number)
        assert "may not approve" in refused(ledger)
        ledger.promote("carol", number)
        assert "needs 2 approvals and has 1" in refused(ledger)
    ledger.approve("dave", 3)
    ledger.promote("carol", 3)
    ledger.release(4, rules=loose)
    ledger.approve("alice", 4)
    assert state(ledger, 4) == "approved"  # two people let the loose rules in


def test_stricter_rules_in_force_hold_for_approvals_given_before() -> None:
    ledger = made.people()
    ledger.release(rules=dataclasses.replace(load_rules("standard"), proposer_may_approve=True))
    ledger.approve("alice")
    ledger.release(2, by="carol")
    ledger.approve("bob", 2)
    ledger.promote("carol", 2)
    ledger.promote("carol")
    assert "that by alice does not count: alice proposed the release" in refused(ledger)


def test_an_alias_may_be_stricter() -> None:
    ledger = made.people()
    rules = dataclasses.replace(load_rules("standard"), aliases={"production": {"approvals": 2}})
    ledger.release(rules=rules)
    ledger.approve("bob")
    ledger.promote("carol", to="staging")
    assert state(ledger) == "live"
    ledger.promote("carol", to="production")
    assert "needs 2 approvals and has 1" in refused(ledger)
    ledger.approve("dave")
    ledger.promote("carol", to="production")
    assert refused(ledger) == ""
    book = read_book(ledger.entries)
    assert book.live_on("chat@1") == ("staging", "production")


# waivers

FAILED: dict[str, Any] = {"verdict": "fail", "gates": {"text": "fail", "choice": "pass"}}


def test_a_waiver_carries_one_gate_for_a_time() -> None:
    ledger = made.people()
    ledger.release(**FAILED)
    ledger.waive("bob", days=5)
    assert state(ledger) == "candidate"
    ledger.approve("dave")
    assert (state(ledger), state(ledger, after_days=6)) == ("approved", "draft")
    ledger.days += 6
    ledger.promote("carol")
    assert "gate text failed, and the waiver by bob does not count: it expired on 2026-11-06" in refused(ledger)
    ledger.waive("bob")
    ledger.promote("carol")
    assert state(ledger) == "live"


@pytest.mark.parametrize(
    ("by", "change", "words"),
    [
        ("alice", {}, "may not waive its gates"),
        ("carol", {}, "it takes the role approver"),
        ("bob", {"gate": "choice"}, "'choice' passed"),
        ("bob", {"gate": "speed"}, "is no required gate"),
        ("bob", {"reason": " "}, "needs a reason"),
        ("bob", {"expires": made.at(-1)}, "expired already"),
        ("bob", {"expires": made.at(31)}, "30 days at most"),
        ("bob", {"expires": "soon"}, "not of the form"),
    ],
)
def test_waivers_that_are_refused(by: str, change: dict[str, str], words: str) -> None:
    ledger = made.people()
    ledger.release(**FAILED)
    ledger.write("exception", by, "chat@1", {"gate": "text", "reason": "small", "expires": made.at(10)} | change)
    assert words in refused(ledger)
    assert state(ledger) == "draft"


def test_rules_may_allow_no_waivers_at_all_or_not_for_an_alias() -> None:
    ledger = made.people()
    ledger.release(by="carol", rules=TWO, use=ALL_ANSWERED, **FAILED)
    ledger.waive("bob")
    ledger.approve("bob")
    ledger.approve("dave")
    ledger.promote("carol", to="production")
    assert "the rules allow none here" in refused(ledger)
    ledger.promote("carol", to="staging")
    assert state(ledger) == "live"
    none = made.people()
    none.release(rules=dataclasses.replace(load_rules("standard"), waivers=False), **FAILED)
    none.waive("bob")
    assert "allow no waivers" in refused(none)


# roles and people


@pytest.mark.parametrize(
    ("kind", "by", "body"),
    [
        ("promotion", "bob", {"to": "production", "from": "", "note": ""}),
        ("promotion", "vic", {"to": "production", "from": "", "note": ""}),
        ("approval", "carol", {"note": "", "release_sha256": ""}),
        ("rollback", "bob", {"to": "chat@1", "alias": "production", "from": "", "note": ""}),
        ("retirement", "bob", {"reason": ""}),
        ("revocation", "vic", {"reason": "a leak"}),
        ("exception", "carol", {"gate": "text", "reason": "small", "expires": made.at(5)}),
        ("person", "carol", {"name": "eve", "roles": ["approver"], "public_key": ""}),
        ("incident", "vic", {"title": "slow"}),
        ("impact", "vic", {"effect": "slow"}),
        ("action", "bob", {"kind": "alarm"}),
    ],
)
def test_roles_are_kept(kind: Any, by: str, body: dict[str, Any]) -> None:
    ledger = made.people()
    ledger.release()
    ledger.write(kind, by, "eve" if kind == "person" else "chat@1", body)
    assert f"{by} may not do this: it takes the role" in refused(ledger)


def test_people_unknown_to_the_ledger_do_nothing() -> None:
    ledger = made.people()
    ledger.release(by="mallory")
    assert "nobody called 'mallory'" in refused(ledger)


def test_the_first_person_adds_itself_with_all_roles() -> None:
    ledger = made.Ledger()
    ledger.person("eve", "approver", by="alice")
    assert "adds itself, with all roles" in refused(ledger)
    ledger.person("alice", "viewer", "operator", "approver", "auditor", public_key="ab" * 32)
    assert "signs that" in refused(ledger)
    ledger.person("alice", "viewer", "operator", "approver", "auditor", public_key="ab" * 32, signature="00")
    assert refused(ledger) == ""


def test_people_have_keys_of_their_own_and_use_them() -> None:
    ledger = made.people()
    ledger.person("bob", "approver", public_key="ab" * 32)
    ledger.person("dave", "approver", public_key="ab" * 32)
    assert "the key of bob" in refused(ledger)
    ledger.release()
    ledger.approve("bob")
    assert "not signed" in refused(ledger)
    last = ledger.entries.pop()
    ledger.write("approval", "bob", "chat@1", last.body, signature="00")
    assert state(ledger) == "approved"


def test_a_key_that_somebody_slipped_in_signs_nothing() -> None:
    ledger = made.people()
    ledger.release()
    ledger.person("bob", "approver", by="carol", public_key="ab" * 32)
    assert "carol may not do this" in refused(ledger)
    body = {"note": "", "release_sha256": digest_of(ledger.entries[-2].body)}
    ledger.write("approval", "bob", "chat@1", body, signature="00")
    assert "put there by somebody who may not" in refused(ledger)
    ledger.person("bob", "approver", public_key="cd" * 32)
    ledger.write("approval", "bob", "chat@1", body, signature="00")
    assert state(ledger) == "approved"


def test_somebody_must_be_able_to_approve() -> None:
    ledger = made.Ledger()
    ledger.person("alice", "viewer", "operator", "approver", "auditor")
    ledger.person("alice", "operator")
    assert "the last approver" in refused(ledger)


# what a release may become


def test_a_release_that_served_is_never_changed() -> None:
    ledger = made.people()
    ledger.release()
    ledger.approve("bob")
    ledger.promote("carol")
    ledger.release(use=dataclasses.replace(made.USE, owner="another"))
    assert "chat@1 is live" in refused(ledger)
    ledger.release(2)
    ledger.approve("bob", 2)
    ledger.promote("carol", 2)
    ledger.release(use=dataclasses.replace(made.USE, owner="another"))
    assert "chat@1 has served" in refused(ledger)


@pytest.mark.parametrize("change", [{"verdict": "fail"}, {"gates": {"text": "pass", "more": "pass"}}, {"source": "other.gguf"}])
def test_completing_changes_no_evidence(change: dict[str, Any]) -> None:
    ledger = made.people()
    ledger.release(use=IntendedUse())
    ledger.release(**change)
    assert "Only the use and the licences" in refused(ledger)


def test_numbers_have_no_gaps() -> None:
    ledger = made.people()
    ledger.release(2)
    assert "The next release of chat is chat@1" in refused(ledger)


def test_what_is_live_is_not_retired_and_what_is_revoked_is_final() -> None:
    ledger = made.people()
    ledger.release()
    ledger.approve("bob")
    ledger.promote("carol")
    ledger.write("retirement", "carol", "chat@1", {"reason": ""})
    assert "live on production; promote or roll back to another one first" in refused(ledger)
    ledger.write("revocation", "carol", "chat@1", {"reason": "it leaks."})
    for kind, body in (
        ("promotion", {"to": "production", "from": ""}),
        ("retirement", {"reason": ""}),
        ("revocation", {"reason": "again"}),
    ):
        ledger.write(kind, "carol", "chat@1", body)
        assert "was revoked on 2026-11-01 by carol: it leaks. That is final." in refused(ledger)


def test_rollback_goes_only_where_the_alias_has_been() -> None:
    ledger = made.people()
    for number in (1, 2, 3):
        ledger.release(number)
        ledger.approve("bob", number)
    ledger.rollback("carol", 1)
    assert "no alias 'production'; nothing was promoted yet" in refused(ledger)
    ledger.promote("carol", 1)
    ledger.promote("carol", 2)
    ledger.rollback("carol", 3)
    assert "never been live on production; these have: chat@1, chat@2" in refused(ledger)
    ledger.rollback("carol", 2)
    assert "points at chat@2 already" in refused(ledger)
    ledger.days += 200  # its approvals are long over: it was approved when it was promoted
    ledger.rollback("carol", 1)
    assert refused(ledger) == ""
    ledger.rollback("carol", 9)
    assert "There is no release 'chat@9'" in refused(ledger)


def test_every_state_and_kind_has_its_place() -> None:
    assert set(MAY) == set(NEXT)
    assert "promotion" in MAY["approved"]
    assert not {"promotion", "rollback", "approval"} & (MAY["retired"] | MAY["revoked"])
    assert NEXT["revoked"] == frozenset()


# what served when


@pytest.fixture
def busy() -> Any:
    """chat@1 from day 1, chat@2 from day 5, back to chat@1 on day 6, chat@2 revoked on day 7."""
    ledger = made.people()
    ledger.release()
    ledger.approve("bob")
    ledger.days = 1
    ledger.promote("carol")
    ledger.release(2, by="carol", **FAILED)
    ledger.waive("bob", number=2)
    ledger.approve("dave", 2)
    ledger.days = 5
    ledger.promote("carol", 2)
    ledger.approve("bob", 2)  # later than the promotion: no reason for it
    ledger.days = 6
    ledger.rollback("carol", 1)
    ledger.days = 7
    ledger.write("revocation", "bob", "chat@2", {"reason": "wrong"})
    return ledger


def test_history_tells_what_served_and_who_said_so(busy: Any) -> None:
    assert served_at(busy.entries, "chat", made.at(0.5)) == ()
    (first,) = served_at(busy.entries, "chat", made.at(2))
    assert first.record is not None
    assert (first.record.release.id, first.since.kind) == ("chat@1", "promotion")
    (second,) = served_at(busy.entries, "chat", made.at(5.5))
    assert second.record is not None
    assert second.standing is not None
    assert second.record.release.id == "chat@2"
    assert [said.entry.by for said in second.standing.approvals] == ["dave"]
    assert [(said.gate, said.entry.by) for said in second.standing.waivers] == [("text", "bob")]
    (third,) = served_at(busy.entries, "chat", made.at(8))
    assert third.record is not None
    assert third.promoted is not None
    assert (third.record.release.id, third.since.kind, third.promoted.at) == ("chat@1", "rollback", busy.entries[7].at)
    assert [one.kind for one in changes_of(busy.entries, "chat", made.at(0.5))] == ["release", "approval"]
    with pytest.raises(InputError, match="Nothing was released as 'other'"):
        served_at(busy.entries, "other", made.at(8))
    with pytest.raises(InputError, match="Nothing was released as 'chat' by"):
        served_at(busy.entries, "chat", made.at(-1))


def test_finding_a_release(busy: Any) -> None:
    book = read_book(busy.entries)
    assert find(book, "chat@1").release.id == find(book, "chat@production").release.id == "chat@1"
    assert find(book, "chat").release.id == "chat@2"
    for reference, words in (
        ("chat@7", "no release chat@7; chat has chat@1, chat@2"),
        ("chat@canary", "no alias 'canary'; it has production"),
        ("chats@1", "no release called 'chats'; there is chat"),
        ("a b", "names no release"),
    ):
        with pytest.raises(InputError, match=words):
            find(book, reference)
    busy.write("revocation", "bob", "chat@1", {"reason": "wrong too"})
    with pytest.raises(InputError, match="serves nothing now"):
        find(read_book(busy.entries), "chat@production")


# nothing goes live past the rules

PEOPLE = ("alice", "bob", "carol", "dave", "vic")
APPROVERS, OPERATORS = {"alice", "bob", "dave"}, {"alice", "carol"}
RULES = load_rules("standard")
STEPS = st.tuples(
    st.sampled_from(
        ["release", "release", "approval", "approval", "exception", "promotion", "promotion", "rollback", "retirement", "revocation"]
    ),
    st.sampled_from(PEOPLE),
    st.integers(1, 2),
    st.integers(0, 7),
    st.sampled_from([0.01, 0.01, 0.01, 1.0, 20.0, 95.0]),
)
GOOD = [("release", "carol", 1, 7, 0.01), ("approval", "bob", 1, 1, 0.01)]
LIVE = [*GOOD, ("promotion", "carol", 1, 1, 0.01)]
WAYS = {
    "nothing": [],
    "approved": GOOD,
    "changed after approval": [*GOOD, ("release", "alice", 1, 7, 0.01)],
    "waived": [("release", "carol", 1, 3, 0.01), ("exception", "bob", 1, 1, 0.01), ("approval", "dave", 1, 1, 0.01)],
    "waived by the proposer": [("release", "alice", 1, 3, 0.01), ("exception", "alice", 1, 1, 0.01), ("approval", "dave", 1, 1, 0.01)],
    "without use": [("release", "carol", 1, 6, 0.01), ("approval", "bob", 1, 1, 0.01)],
    "unknown licence": [("release", "carol", 1, 5, 0.01), ("approval", "bob", 1, 1, 0.01)],
    "live": LIVE,
    "replaced": [*LIVE, ("release", "carol", 2, 7, 0.01), ("approval", "bob", 2, 1, 0.01), ("promotion", "carol", 2, 1, 0.01)],
    "another approved": [*LIVE, ("release", "carol", 2, 7, 0.01), ("approval", "bob", 2, 1, 0.01)],
}
"""Beginnings close to what must not happen, which chance alone would seldom find."""
LAST = st.tuples(
    st.sampled_from(["promotion", "promotion", "rollback", "revocation"]),
    st.just("carol"),
    st.integers(1, 2),
    st.just(1),
    st.sampled_from([0.01, 20.0, 95.0]),
)
SEQUENCES = st.builds(
    lambda way, steps, last: [*WAYS[way], *steps, *last],
    st.sampled_from(sorted(WAYS)),
    st.lists(STEPS, max_size=6),
    st.lists(LAST, max_size=2),
)


def written(steps: Sequence[tuple[str, str, int, int, float]]) -> Any:
    """A ledger of these steps, right or wrong. How: of a release bits for complete use, known licence and pass, else small choices."""
    ledger = made.people()
    for kind, by, number, how, days in steps:
        ledger.days += days
        about = f"chat@{number}"
        if kind == "release":
            passed = bool(how & 4)
            ledger.release(
                number,
                by=by,
                use=made.USE if how & 1 else IntendedUse(owner="x"),
                licences=(made.OPEN,) if how & 2 else (made.OPEN, made.UNKNOWN),
                verdict="pass" if passed else "fail",
                gates={"text": "pass" if passed else "fail", "choice": "pass"},
            )
        elif kind == "approval":
            ledger.approve(by, number, sha256="" if how else "0" * 64)
        elif kind == "exception":
            ledger.waive(by, "text" if how else "choice", number, days=5 + how)
        elif kind == "promotion":
            ledger.promote(by, number, to="staging" if how == 0 else "production")
        elif kind == "rollback":
            ledger.rollback(by, number)
        else:
            ledger.write(kind, by, about, {"reason": "said"})
    return ledger


def judged_by_hand(entries: Sequence[Entry], promotion: Entry) -> list[str]:
    """What a promotion lacks, found without the code under test: from the accepted entries before it."""
    own = [one for one in entries if one.about == promotion.about and one.seq < promotion.seq]
    proposals = [one for one in own if one.kind == "release"]
    body, proposers = proposals[-1].body, {one.by for one in proposals}
    now = moment(promotion.at)
    wrong = []
    if not all(body["use"][key] for key in ("owner", "intended", "prohibited", "affected")) or set(body["use"]["answers"]) < set(
        RULES.required_answers
    ):
        wrong.append("use")
    if any(one["licence"] != "Apache-2.0" for one in body["licences"]):
        wrong.append("licence")
    waived = {
        one.body["gate"] for one in own if one.kind == "exception" and one.by in APPROVERS - proposers and moment(one.body["expires"]) > now
    }
    if {name for name, verdict in body["gates"].items() if verdict != "pass"} - waived:
        wrong.append("gates")
    sha256, oldest = digest_of(body), now - timedelta(days=RULES.approval_days)
    yes = {one.by for one in own if one.kind == "approval" and one.body["release_sha256"] == sha256 and moment(one.at) > oldest} & (
        APPROVERS - proposers
    )
    if not yes:
        wrong.append("approvals")
    if promotion.by not in OPERATORS or any(one.kind in ("retirement", "revocation") for one in own):
        wrong.append("role or end")
    return wrong


def accepted(ledger: Any, book: Book) -> list[Entry]:
    strange = {one.entry.seq for one in book.irregular}
    return [one for one in ledger.entries if one.seq not in strange]


@settings(max_examples=150, deadline=None)
@given(SEQUENCES)
def test_nothing_reaches_live_past_the_rules(steps: list[tuple[str, str, int, int, float]]) -> None:
    ledger = written(steps)
    book = read_book(ledger.entries)
    good = accepted(ledger, book)
    for one in good:
        if one.kind == "promotion":
            assert judged_by_hand(good, one) == []
        if one.kind == "rollback":
            assert any(
                other.kind == "promotion" and other.body["to"] == one.body["alias"] and other.about == one.about and other.seq < one.seq
                for other in good
            )
    for release_id, record in book.records.items():
        if book.live_on(release_id):
            assert record.promotions
            assert record.retired is record.revoked is None


@settings(max_examples=60, deadline=None)
@given(SEQUENCES)
def test_states_follow_the_table(steps: list[tuple[str, str, int, int, float]]) -> None:
    ledger = written(steps)
    before: dict[str, str] = {}
    for n in range(1, len(ledger.entries) + 1):
        book, entry = read_book(ledger.entries[:n]), ledger.entries[n - 1]
        for release_id, record in book.records.items():
            now = standing(book, record, entry.at).state
            was = before.get(release_id)
            assert was in (None, now) or now in NEXT[was]
            if now == "live" and was != "live":
                assert entry.kind in ("promotion", "rollback")
            before[release_id] = now


def test_a_fair_share_of_such_sequences_goes_live() -> None:
    """The two tests above would prove nothing if nothing ever got through."""
    import random

    draw = random.Random(0)
    kinds = ["release", "approval", "exception", "promotion", "rollback", "retirement"]
    live = 0
    for _ in range(150):
        steps = [
            (draw.choice(kinds), draw.choice(PEOPLE), draw.randint(1, 2), draw.randint(0, 7), draw.choice([0.01, 1.0, 95.0]))
            for _ in range(10)
        ]
        book = read_book(written([*GOOD, *steps]).entries)
        live += any(record.promotions for record in book.records.values())
    assert 10 < live < 140


def test_writing_and_reading_judge_alike() -> None:
    ledger = made.people()
    ledger.release()
    book = read_book(ledger.entries)
    wish = Wish(kind="promotion", by="carol", about="chat@1", body={"to": "production", "from": ""}, at=made.at(1))
    before = refusals(book, wish)
    ledger.days = 0.999
    ledger.write("promotion", "carol", "chat@1", {"to": "production", "from": ""})
    assert before == read_book(ledger.entries).irregular[-1].reasons


@pytest.mark.parametrize("body", [{}, {"name": "chat"}, {"use": 3}])
def test_what_is_no_release_is_set_aside(body: dict[str, Any]) -> None:
    ledger = made.people()
    ledger.write("release", "alice", "chat@1", body)
    assert "not of the form" in refused(ledger)


def test_reading_takes_the_same_work_for_each_release_however_many_there_are() -> None:
    def lines_run(n: int) -> int:
        """Lines of Python that reading n releases of one name takes: the same on every machine."""
        ledger = made.people()
        for number in range(1, n + 1):
            ledger.release(number)
            ledger.approve("bob", number)
            ledger.promote("carol", number)
        n_lines = 0

        def count(frame: object, event: str, arg: object) -> object:
            nonlocal n_lines
            n_lines += event == "line"
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            book = read_book(ledger.entries)
            states = [standing(book, record, ledger.entries[-1].at).state for record in book.records.values()]
        finally:
            sys.settrace(before)
        assert states == ["approved"] * (n - 1) + ["live"]
        return n_lines

    few, more, most = (lines_run(n) for n in (20, 40, 60))
    assert most - more == pytest.approx(more - few, rel=0.01)
