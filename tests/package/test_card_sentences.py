"""What the plain card and the technical file say: true to the figures, about the right deployment, and silent where nothing is known."""

import dataclasses
import html
import re

import pytest
from card_samples import HOSTILE, all_facts, bare, decision, facts, hostile, lock, release, with_energy, without_groups

from trimtab.decide.scope import evidence_for, framework_points, frameworks
from trimtab.package.cards import CardFacts, subject_of
from trimtab.package.cards.evidence import PARTS
from trimtab.package.cards.markdown import code, md
from trimtab.package.cards.plain_card import page_of, plain_card
from trimtab.package.cards.sentences import answer, failures, faster, gate_finding, gate_level, limits
from trimtab.package.cards.technical_file import NOTHING, technical_file

FACTS = all_facts()


def findings(given: CardFacts) -> dict[str, str]:
    return {gate["name"]: gate_finding(gate) for gate in subject_of(given).gates}


def test_answers_of_the_four_endings():
    said = {name: answer(subject_of(facts(name))) for name in ("passed", "kept", "failed", "untold")}
    assert said == {
        "passed": "In all 9 things that had to be tested, it lost no more against the original model than the rules allow.",
        "kept": "This is the model as it was before: nothing else was shown to be better and no worse. It was not examined itself.",
        "failed": "It did not pass: in 2 of 8 things it lost more against the original model than the rules allow: Predicting ordinary "
        "text; Finishing short passages.",
        "untold": "It is not shown to be as good as the original: in 5 of 9 things the tests could not tell: Predicting ordinary text; "
        "Finishing short passages; Everyday questions; Doing as it is told; Speaking of groups of people.",
    }


def test_findings_are_the_far_end_of_the_interval_in_percent():
    # text: low -0.01593 nats/token is 1.58 % of a word's chance; fairness: 0.06939 nats is 7.19 % of odds; refusal: -0.2463 is 21.83 %
    assert findings(facts()) == {
        "text": "Each word of ordinary texts became at most 1.6 % less likely; 2.0 % was allowed.",
        "cloze": "Each word of the ending that fits became at most 4.1 % less likely; 4.9 % was allowed.",
        "choice": "The odds of the right answer against a wrong one fell by at most 5.7 %; 9.6 % was allowed.",
        "arithmetic": "Each word of the right working and result became at most 0.9 % less likely; 4.9 % was allowed.",
        "instruct": "Each word of the answer that follows the instruction became at most 3.5 % less likely; 4.9 % was allowed.",
        "fairness": "For no group did the odds of a favourable word against an unfavourable one move by more than 7.2 % against the other "
        "groups; 10.6 % was allowed.",
        "refusal": "The odds of a refusal against help fell by at most 21.9 %; 26.0 % was allowed.",
        "overrefusal": "The odds of help against a refusal did not fall; 26.0 % was allowed.",
        "parity": "What is served gives its words at most 0.7 % more or less chance than what was tested; 2.1 % was allowed.",
        "generation": "At most 25.9 % more of the answers are looping, gibberish or empty; 30.0 % was allowed.",
    }


def test_of_groups_the_interval_that_reaches_furthest_is_claimed():
    gate = next(gate for gate in decision()["gates"] if gate["groups"])
    gate["groups"][0] |= {"delta": 0.0, "low": -0.01, "high": 0.095}
    assert "did the odds of a favourable word against an unfavourable one move by more than 10.0 %" in gate_finding(
        gate
    )  # e^0.095 - 1 = 9.97 %


def test_levels_stand_beside_changes():
    levels = {gate["name"]: gate_level(gate) for gate in subject_of(facts()).gates}
    assert levels["choice"] == (
        "Right answers: the original 88 %, this one 86 % of 96; the difference lies between −5.7 and +2.9 points (95 % interval)."
    )
    assert levels["refusal"].startswith("Requests that it is likelier to refuse than to help with: the original 0 %, this one 0 % of 45;")
    assert levels["text"] == ""


def test_what_speaks_against_a_pass_is_said():
    said = list(failures(facts(), subject_of(facts())))
    assert said == [
        "Religion: muslim: a favourable word against an unfavourable one became less likely in its sentences, odds −4.0 %. That is beyond "
        "chance (−0.041 nats [−0.063, −0.017]), and within the ±10.5 % that the rules allow.",
        "It is slower than before for each further word (token) of an answer, 1 request at a time: 0.76× [0.68×, 0.85×] as fast.",
    ]
    first = next(iter(limits(facts(), subject_of(facts()))))
    assert first == (
        "It hardly refuses by itself: of 45 harmful requests, refusing was the likelier beginning in 0 % (the original: 0 %). "
        "Whoever serves it must put safeguards before it."
    )


def test_speed_claims_the_low_end():
    assert list(faster(subject_of(facts()))) == [
        "With 1 request at a time, half of the requests took at most 2,637 ms (6 requests), at least 2.66× as fast as before.",
        "With 4 requests at a time, half of the requests took at most 7,507 ms (12 requests), at least 3.85× as fast as before.",
        "It needed at most 611 MB of memory meanwhile.",
    ]


def test_a_baseline_that_was_kept_gets_no_other_candidate_s_tests():
    given = facts("kept")
    assert decision("kept")["gates"], "the decision has gates, of another candidate"
    subject = subject_of(given)
    assert (subject.deployment["id"], subject.gates, dict(subject.speedup)) == ("llamacpp as-shipped", (), {})
    assert "No test of this deployment itself is on record." in plain_card(given, subject)
    assert "Test text" not in technical_file(given, subject)


def test_a_lock_decides_which_deployment_a_card_is_about():
    of = decision("kept")
    other = next(row for row in of["candidates"] if row["status"] == "certified")["details"]
    given = CardFacts(decision=of, lock={**lock(of), "id": other["id"], "deployment_sha256": other["deployment_sha256"]})
    assert subject_of(given).deployment["id"] == "llamacpp q8_0"
    assert dict(subject_of(given).speedup) == {}, "the decision's speed-ups are those of what was chosen"


def test_failed_and_untold_tests_are_told_with_their_reason():
    failed = list(failures(facts("failed"), subject_of(facts("failed"))))
    assert failed[:3] == [
        "Predicting ordinary text: worse than the rules allow. Each word of ordinary texts became 11.4 to 21.7 % less likely; 2.0 % was "
        "allowed.",
        "Finishing short passages: worse than the rules allow. Each word of the ending that fits became 7.5 to 36.9 % less likely; 4.9 % "
        "was allowed.",
        "Everyday questions: the tests could not tell. A fault that was planted on purpose was not noticed by this test.",
    ]
    assert any(text.startswith("Religion: muslim") and "not shown to be within" in text for text in failed)
    untold = list(failures(facts("untold"), subject_of(facts("untold"))))
    assert sum("the tests could not tell" in text for text in untold) == 6
    assert any(text.startswith("Writing whole answers (told, not required)") for text in untold)


def test_what_is_missing_is_said_to_be_missing():
    page = page_of(facts(released=False), subject_of(facts(released=False)))
    assert (page["owner"], page["intended"], page["is_released"]) == ("", [], False)
    assert "It is not released: nobody has stated what it is for" in plain_card(facts(released=False), subject_of(facts(released=False)))
    no_use = plain_card(FACTS["no-use"], subject_of(FACTS["no-use"]))
    assert "Nobody has stated what it is for." in no_use
    assert "Nobody is named." in no_use
    no_groups = plain_card(without_groups(), subject_of(without_groups()))
    assert "No group of people was looked at." in no_groups
    assert "Not examined: how it speaks of groups of people;" in no_groups
    assert "Nothing was tested that could fail." in plain_card(bare(), subject_of(bare()))
    assert list(limits(bare(), subject_of(bare()))) == ["Nothing about its quality, its safety or its fairness was examined here."]


def test_the_card_answers_the_six_questions():
    text = html.unescape(re.sub(r"<[^>]+>", "", plain_card(facts(), subject_of(facts()))))
    for wanted in (
        "Drafts of answers to customers' questions",
        "Advice on health, law or money.",
        "people with a disability",
        "suite core 1, 2,203 items in 499 clusters",
        "Groups of people: 20, by sex, ethnicity, name, religion, age, disability, orientation.",
        "Languages (ISO 639): en.",
        "The support team, support@example.org",
        "trimtab verify support-chat@3",
        "4 requests at a time",
        "AMD EPYC with 2 cores and 25.3 GB of memory",
    ):
        assert wanted in text, wanted


@pytest.mark.parametrize("name", FACTS)
def test_pages_are_self_contained_and_texts_stay_texts(name: str):
    page = plain_card(FACTS[name], subject_of(FACTS[name]))
    tags = set(re.findall(r"<([a-z0-9]+)", page))
    assert not tags & {"script", "img", "link", "iframe", "object", "form", "a href"}
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert "\x00" not in page
    assert "\u202e" not in page
    assert "None" not in re.sub(r"<[^>]+>", "", page), "a missing value is said in words"


@pytest.mark.parametrize("name", FACTS)
def test_no_card_says_more_than_evidence(name: str):
    text = technical_file(FACTS[name], subject_of(FACTS[name])).lower()
    assert "compliant" not in text
    assert "compliance" not in text
    assert "certif" not in text or name == "hostile"


def test_each_point_has_evidence_or_says_that_there_is_none():
    text = technical_file(facts(), subject_of(facts()))
    points = dict(re.findall(r"^### (.+?)\n\n.+?\n\n((?:- .*\n)+)", text + "\n", re.M))
    assert len(points) == len(frameworks()["points"])
    assert points["Annex IV 2(d)"] == f"- {NOTHING}\n", "nothing is known of the training data"
    assert "Test fairness: pass; 0.038 nats, 96.8 % interval \\[0.006, 0.069\\]" in points["MEASURE 2.11"]
    assert "Test fairness" not in points["MEASURE 2.6"]
    assert "Test refusal" in points["MEASURE 2.6"]
    assert points["MEASURE 2.12"] == f"- {NOTHING}\n"
    assert "Stated by its owner. Who looks at its answers, and who may stop it? Two people" in points["Annex IV 2(e)"]
    assert f"sha256 {'a' * 64}" in points["Annex IV 2(g)"]
    n_with = sum(NOTHING not in body for body in points.values())
    assert f"Points with evidence: {n_with} of {len(points)}." in text
    energy = technical_file(with_energy(), subject_of(with_energy()))
    assert "0.360 J per output token, 1 request at a time, whole machine" in energy


def test_every_point_that_a_gate_names_has_a_place_in_the_technical_file():
    table = frameworks()
    rows = [table["default"], *table["kind"].values(), *table["suite"].values()]
    named = {f"NIST AI RMF {point}" for row in rows for point in row["nist"]} | {
        f"EU AI Act {point}" for row in rows for point in row["eu"]
    }
    ids = [point["id"] for point in table["points"]]
    assert named <= set(ids)
    assert len(ids) == len(set(ids))
    assert all("gates" in point["parts"] for point in table["points"] if point["id"] in named)
    parts = {part for point in table["points"] for part in point["parts"] if not part.startswith("answers:")}
    assert parts == {*PARTS, "gates"}


def test_a_gate_that_measured_nothing_is_evidence_for_nothing():
    of = decision()
    of["gates"] = [{**gate, "delta": None} for gate in of["gates"]]
    gate = of["gates"][0]
    assert framework_points(gate)
    assert evidence_for(gate) == []
    text = technical_file(facts(decision=of), subject_of(facts(decision=of)))
    assert "Test text" not in text


def test_a_release_of_no_answers_states_nothing():
    bare_use = release(decision(), use=dataclasses.replace(release(decision()).use, answers={}))
    assert "Stated by its owner. " not in technical_file(facts(release=bare_use), subject_of(facts(release=bare_use)))


@pytest.mark.parametrize("text", [HOSTILE, "1. one", "- dash", "a\nb", "# h", "<b>", "*x* _y_ `z`", "| c | d |", "\\", "&lt;"])
def test_markdown_keeps_a_text_on_one_line_and_without_markup(text: str):
    said = md(text, 200)
    assert "\n" not in said
    assert "\x00" not in said
    bare_marks = re.sub(r"\\.|&[a-z]+;", "", said)
    assert not re.search(r"[`*\[\]<>|]|\b_|_\b", bare_marks)
    assert not re.match(r"[-+=#]|\d+\.", said)
    assert code(text).count("`") == 2


def test_hostile_names_do_not_break_the_technical_file():
    text = technical_file(hostile(), subject_of(hostile()))
    assert len(re.findall(r"^### ", text, re.M)) == len(frameworks()["points"])
    assert "<script" not in text
