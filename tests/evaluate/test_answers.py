"""What is seen in answers without labels, and faults that must be seen."""

import math

import pytest

from trimtab.core.endpoint import Answer, TextScore
from trimtab.evaluate.answers import Answers, asked_prompts, is_json, likeness, outcomes_of, planted, wants_json

SKY = "The sky is blue because air scatters short waves of light more than long ones, so blue reaches the eye from everywhere."


def prompts_of(*texts):
    return asked_prompts([((("user", text),), 32) for text in texts])


def run_of(*texts):
    return Answers(answers=tuple(None if text is None else Answer(text=text, finish="stop", n_tokens=4) for text in texts))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Return only JSON with the keys name and age.", True),
        ("Give the answer as a JSON object.", True),
        ("Respond with valid JSON.", True),
        ("Produce a small JSON file", True),
        ("What is JSON, and who invented it?", False),
        ("Who is Jason?", False),
    ],
)
def test_whether_a_prompt_asks_for_json(text, wanted):
    assert wants_json([("user", text)]) is wanted


@pytest.mark.parametrize(
    ("text", "is_one"),
    [('{"a": 1}', True), ("```json\n[1, 2]\n```", True), ('Here it is: {"a": 1}', False), ('{"a": 1', False), ("3", False), ("", False)],
)
def test_json_answers(text, is_one):
    assert is_json(text) is is_one


def test_likeness_is_symmetric_and_falls_with_the_difference():
    near = SKY.replace("everywhere", "all sides")
    far = "Melons should feel heavy for their size and sound hollow when you knock on them."
    assert likeness(SKY, SKY) == 1.0
    assert likeness(SKY, near) == likeness(near, SKY)
    assert 1.0 > likeness(SKY, near) > 0.8 > 0.4 > likeness(SKY, far)
    assert likeness("", SKY) == 0.0
    assert likeness("", "") == 1.0
    assert likeness("天空是蓝色的", "天空是红色的") > 0.2


def test_a_prompt_that_comes_twice_counts_once():
    prompts = prompts_of("one", "two", "one")
    assert len(prompts) == 2
    assert prompts == prompts_of("one", "two")


def test_outcomes_of_a_run():
    prompts = prompts_of("Return JSON only.", "Why is the sky blue?")
    first = run_of('{"a": 1}', SKY)
    other = run_of("42", "I'm sorry, but I can't answer that.")
    values = {one.item_id.partition("/")[0] + one.cluster[-2:]: one.value for one in outcomes_of(prompts, other, first)}
    json_end, sky_end = prompts[0].id[-2:], prompts[1].id[-2:]
    assert values[f"format{json_end}"] == 0.0
    assert f"format{sky_end}" not in values
    assert values[f"refusal{json_end}"] == 1.0
    assert values[f"refusal{sky_end}"] == 0.0
    assert values[f"sound{sky_end}"] == 1.0
    assert values[f"length{json_end}"] == pytest.approx(math.log(2))
    assert values[f"agreement{sky_end}"] < 0.3


def test_what_was_not_answered_stays_in_the_count():
    prompts = prompts_of("a", "b", "c")
    first = run_of(SKY, SKY, SKY)
    failed = Answers(answers=(Answer(error="limits the rate"), Answer(text=SKY), None))
    found = outcomes_of(prompts, failed, first)
    assert {one.cluster for one in found} == {prompts[0].id, prompts[1].id}
    of_first = [one for one in found if one.cluster == prompts[0].id]
    assert len(of_first) == 4
    assert all(one.value is None and one.error == "limits the rate" for one in of_first)


def test_surprise_is_by_the_byte_and_an_empty_answer_has_none():
    prompts = prompts_of("a", "b")
    run = Answers(
        answers=(Answer(text="abcd"), Answer(text="")),
        scores=(TextScore(nats=-8.0, n_bytes=4), None),
    )
    found = [one for one in outcomes_of(prompts, run, run) if one.suite == "surprise"]
    assert [one.value for one in found] == [-2.0, None]
    assert "empty" in found[1].error


@pytest.mark.parametrize(
    ("name", "suite", "harmed"),
    [("looped", "sound", 4), ("refused", "refusal", 2), ("truncated", "format", 4)],
)
def test_planted_faults_show_in_the_outcome_they_are_for(name, suite, harmed):
    prompts = prompts_of(*(f"{n}: return JSON only." for n in range(4)))
    texts = [f'{{"n": {n}, "text": "{SKY}"}}' for n in range(4)]
    first = run_of(*texts)
    faulty = Answers(answers=planted(name, prompts, first.answers, seed=0))
    values = [one.value for one in outcomes_of(prompts, faulty, first) if one.suite == suite]
    assert values.count(0.0) == harmed
    assert [one.value for one in outcomes_of(prompts, first, first) if one.suite == suite] == [1.0] * 4


def test_planted_exchange_and_shuffle_keep_the_words():
    prompts = prompts_of("a", "b", "c")
    first = run_of(SKY, "Melons are heavy.", "Bread is warm.")
    assert [one.text for one in planted("exchanged", prompts, first.answers, 0)] == ["Melons are heavy.", "Bread is warm.", SKY]
    shuffled = planted("shuffled", prompts, first.answers, 0)
    assert sorted(shuffled[0].text.split()) == sorted(SKY.split())
    assert shuffled[0].text != SKY
