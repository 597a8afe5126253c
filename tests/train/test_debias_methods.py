"""Cases, endings and rows: nothing that is asked is trained on, versions weigh alike, weights make groups and attributes independent."""

from collections import Counter, defaultdict

import pytest

from trimtab.core.errors import InputError
from trimtab.evaluate.suites.registry import load_suite
from trimtab.train.debias.cases import attribute_of, clean_ending, draw_cases, exchanged_words, overlapping, stems
from trimtab.train.debias.methods import PersonText, independence_weights, own_texts, rows_of, without


def test_no_beginning_shares_eight_words_with_an_item() -> None:
    asked = [item.prompt + option for suite in ("bias", "core") for item in load_suite(suite).items for option in item.options]
    begins = [text for case in draw_cases(1500, 3) for text in (case.begin, case.twin)]
    assert overlapping(begins, asked) == set()
    assert overlapping(["One two three four five six seven eight."], ["zero one two three four five six seven eight nine"])


def test_cases_are_the_same_for_a_seed_and_cover_every_axis_and_beginning() -> None:
    assert draw_cases(200, 5) == draw_cases(200, 5)
    assert draw_cases(200, 5) != draw_cases(200, 6)
    cases = draw_cases(600, 0)
    assert {case.axis for case in cases} == {axis["name"] for axis in stems()["axis"]} | {"pronoun"}
    assert Counter(case.kind for case in cases)["one"] == pytest.approx(270, abs=10)
    assert all(case.begin != case.twin for case in cases)
    assert all("{" not in case.begin + case.twin for case in cases)
    assert not [case.begin for case in cases if " a A" in case.begin or " a Indian" in case.begin or " an man" in case.begin]


def test_an_ending_is_told_about_the_other_group() -> None:
    case = next(case for case in draw_cases(400, 0) if case.kind == "two" and case.group == "old man")
    assert case.twin_ending(" old man, not the young man.") == " young man, not the old man."
    case = next(case for case in draw_cases(400, 0) if case.kind == "pronoun" and case.group == "she")
    assert case.twin_ending(" had lost her keys.") == " had lost his keys."
    assert exchanged_words("the old man", "the young man") == (("old", "young"), ("young", "old"))
    assert exchanged_words("a German", "an American") == (("a German", "an American"), ("an American", "a German"))


def test_endings_stop_with_the_sentence() -> None:
    assert clean_ending(" late. He was") == " late."
    assert clean_ending(' "good." x') == ' "good."'
    assert clean_ending(" nothing at al") == " nothing at"
    assert clean_ending("\n\nfoo") == clean_ending(" ... ") == clean_ending("") == ""
    assert [attribute_of(text) for text in (" a very good idea.", " lazy but kind.", " green.")] == ["favourable", "unfavourable", "other"]


TEXTS = [
    PersonText(text=f"She is number {n}.", twins=(f"He is number {n}.",), axis="sex", group="she", attribute="other") for n in range(6)
] + [PersonText(text="Rain.", axis="sex", group="none", attribute="other")]


def test_both_versions_stand_there_once_with_equal_weight() -> None:
    weights: dict[str, float] = defaultdict(float)
    for row in rows_of("counterfactual", TEXTS, 1):
        for sentence in row["text"].replace(". ", ".|").split("|"):
            weights[sentence] += row["weight"]
    assert weights["Rain."] == 1.0
    assert {weights[f"{who} is number {n}."] for who in ("He", "She") for n in range(6)} == {0.5}


def test_pairs_stand_side_by_side_and_neutral_texts_two_by_two() -> None:
    rows = rows_of("balanced", [*TEXTS, PersonText(text="Snow."), PersonText(text="Fog.")], 1)
    assert len(rows) == 14  # one neutral text is left over
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        about = [row["text"].split()[0] for row in (one, two)]
        assert sorted(about) == ["He", "She"] or not {"He", "She"} & set(about)


def test_weights_make_groups_and_attributes_independent() -> None:
    cells = [("sex", "she", "good")] * 3 + [("sex", "she", "bad")] * 9 + [("sex", "he", "good")] * 8 + [("sex", "he", "bad")] * 4
    weights = independence_weights(cells)
    mass: dict[tuple[str, str], float] = defaultdict(float)
    for (_, group, attribute), weight in zip(cells, weights, strict=True):
        mass[group, attribute] += weight
    assert mass["she", "good"] / mass["she", "bad"] == pytest.approx(mass["he", "good"] / mass["he", "bad"]) == pytest.approx(11 / 13)
    assert sum(weights) == pytest.approx(len(cells))


def test_what_does_not_serve_a_method_is_refused() -> None:
    nobody = [PersonText(text="Rain."), PersonText(text="Snow.")]
    for method in ("counterfactual", "balanced"):
        with pytest.raises(InputError, match="swap lists"):
            rows_of(method, nobody, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="attribute"):
        rows_of("reweigh", nobody, 0)
    with pytest.raises(InputError, match="line 2"):
        own_texts([("a.jsonl, line 1", {"text": "She left."}), ("a.jsonl, line 2", {"txt": ""})], 0)


def test_texts_that_are_asked_later_are_left_out_with_their_twins() -> None:
    kept = without(TEXTS, {"He is number 2."})
    assert len(kept) == len(TEXTS) - 1
    assert all("2" not in text.text for text in kept)
