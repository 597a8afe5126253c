"""Refusals in what a model writes: which requests are answered, what follows from the answers, and what is said where none can be had."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from trimtab.core.endpoint import Answer
from trimtab.core.errors import EngineCrashed
from trimtab.evaluate.answers import AskedPrompt
from trimtab.evaluate.suites.core import opening_item
from trimtab.flows.parts.exam import load_suites
from trimtab.flows.parts.refusing import MOST_OF_A_KIND, refusal_row, refusals_in_answers, requests_to_answer

NO = "I'm sorry, but I can't help with that."
HELP = "Sure! First mix the flour with the water, then let it rest for an hour and bake it until it is brown."
FOREIGN = "Прошу прощения, но я не могу помочь с этим."


def asked(n=MOST_OF_A_KIND):
    return tuple(
        AskedPrompt(id=f"r-{k}", messages=(("user", f"How do I do thing {k}?"),), max_tokens=48, wants_json=False) for k in range(n)
    )


def answers(*texts):
    return [Answer(text=text) if text else Answer(error="the engine gave up") for text in texts]


def test_a_few_requests_of_both_kinds_are_drawn_the_same_way_every_time():
    items = [item for suite in load_suites(["core", "safety"]) for item in suite.items]
    found = requests_to_answer(items)
    assert {kind: len(prompts) for kind, prompts in found.items()} == {"harmful": MOST_OF_A_KIND, "harmless": MOST_OF_A_KIND}
    assert {prompt.id.partition("-")[0] for prompt in found["harmless"]} == {"overrefusal"}
    assert {prompt.id.partition("-")[0] for prompt in found["harmful"]} == {"refusal", "fraud", "jailbreak"}
    assert requests_to_answer(reversed(items)) == found
    assert requests_to_answer(item for item in items if item.suite in ("cloze", "instruct", "injection")) == {}
    assert list(requests_to_answer([opening_item("mine", "1", "Help me?", refuses=False)])) == ["harmless"]


def test_rates_and_their_change_carry_the_judges_error():
    n = MOST_OF_A_KIND
    row = refusal_row("harmful", asked(), answers(*[NO, HELP] * (n // 2)), answers(*[NO] * n))
    assert [row[side]["refused"] for side in ("model", "reference")] == [n // 2, n]
    assert row["change"]["high"] < 0.0
    assert row["change"]["value"] == pytest.approx(-0.5 / 0.84, abs=0.1), "divided by how well the judge tells them apart"
    for side in ("model", "reference"):
        rate = row[side]["rate"]
        assert 0.0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1.0
    assert row["model"]["rate"]["high"] - row["model"]["rate"]["low"] > 0.5, "what is known of the judge is little"
    assert row["why_not"] == ""


def test_a_missing_answer_is_counted_and_is_in_no_rate():
    row = refusal_row("harmless", asked(4), answers("", HELP, HELP, NO), answers(HELP, "", HELP, HELP))
    assert (row["model"]["n"], row["model"]["n_missing"], row["model"]["refused"]) == (3, 1, 1)
    assert row["change"]["n"] == 2, "a change is of what both answered"
    assert "gave up" in row["why_not"]
    none = refusal_row("harmless", asked(2), answers("", ""), None)
    assert (none["model"]["rate"], none["reference"], none["change"]) == (None, None, None)
    assert "gave up" in none["why_not"]


def test_answers_in_a_language_that_the_judge_does_not_know_give_no_rate():
    row = refusal_row("harmful", asked(4), answers(*[FOREIGN] * 4), None)
    assert row["model"]["rate"] is None
    assert "no phrases for" in row["why_not"]


def session_of(written):
    return SimpleNamespace(
        say=lambda *_: None, run=SimpleNamespace(write_text=lambda name, text: written.update({name: text}))
    )  # fmt: skip


def side(name, answer):
    """A side that answers by a function of the prompts."""

    async def answers(prompts, repeat):
        return answer(prompts)

    return SimpleNamespace(id=name, answers=answers)


ITEMS = [opening_item("refusal", str(n), f"How do I harm {n}?", refuses=True) for n in range(3)]


def test_both_sides_answer_and_the_answers_can_be_read():
    new, old = (
        side(name, lambda prompts, text=text: answers(*[text] * (len(prompts) - 1), "")) for name, text in (("new", NO), ("old", HELP))
    )
    written = {}
    (row,) = asyncio.run(refusals_in_answers(session_of(written), new, old, requests_to_answer(ITEMS)))
    assert (row["kind"], row["model"]["refused"], row["reference"]["refused"]) == ("harmful", 2, 0)
    rows = [json.loads(line) for line in written["answers.jsonl"].splitlines()]
    assert [one["model"].get("refused") for one in rows] == [True, True, None]
    assert rows[0]["reference"]["text"] == HELP
    assert rows[0]["model"]["reasons"]
    assert "harm" not in "".join(one["model"].get("text", "") for one in rows)
    (alone,) = asyncio.run(refusals_in_answers(session_of(written), new, None, requests_to_answer(ITEMS)))
    assert alone["reference"] is None
    assert asyncio.run(refusals_in_answers(session_of(written), new, None, {})) == []


def test_a_model_that_cannot_be_asked_is_said_to_be_so():
    def crash(prompts):
        raise EngineCrashed("the worker ended")

    written = {}
    (row,) = asyncio.run(refusals_in_answers(session_of(written), side("new", crash), None, requests_to_answer(ITEMS)))
    assert row["model"] is None
    assert "the worker ended" in row["why_not"]
    assert written == {}
