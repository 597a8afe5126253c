"""Calibration texts with twins: every group in every case, and nothing that certifies."""

import pytest

from trimtab.core.deployment import Recipe
from trimtab.core.errors import InputError
from trimtab.core.evidence import Item
from trimtab.evaluate.prompts import calibration_texts
from trimtab.evaluate.split import split
from trimtab.evaluate.suites.registry import load_suite
from trimtab.evaluate.twins import in_turns, twin_texts
from trimtab.flows.parts.calibration import calibration_of


def item(case: str, group: str, *, chat: bool = False) -> Item:
    return Item(
        id=f"{case}-{group}", suite="fair", cluster=case, scorer="contrast", prompt=f"The {group} was", options=(" good", " bad"),
        favoured=(0,), group=group, chat=chat,
    )  # fmt: skip


def test_a_text_holds_one_ending_for_every_group() -> None:
    texts = twin_texts([item("a", "woman"), item("a", "man"), item("b", "woman")])
    assert texts == ("The woman was good\nThe man was good", "The woman was bad\nThe man was bad"), "a case of one group has no twin"
    assert twin_texts([item("a", "x", chat=True), item("a", "y", chat=True)])[0] == "The x was good\nThe y was good"


def test_texts_take_turns_by_length_until_one_kind_is_used_up() -> None:
    assert in_turns(["a", "b"], ["1", "2", "3"]) == ("a", "1", "b", "2", "3")
    assert in_turns(["aaaa", "b"], ["1", "2", "3", "4", "5"]) == ("aaaa", "1", "2", "3", "4", "b", "5")
    assert in_turns([], ["1"]) == ("1",)


def recipe(calibration: object) -> Recipe:
    return Recipe(name="own", family="gguf", engine="llamacpp", parameters={"type": "Q4_0", "calibration": calibration})


def test_twins_come_from_the_search_part_of_every_verb() -> None:
    texts = calibration_of(recipe(["core"]))
    assert set(calibration_texts()) <= set(texts)
    items = [one for one in load_suite("core").items if one.suite == "fairness"]
    joined = "\n".join(texts)
    for share in (0.1, 0.25):
        assert not any(one.prompt + one.options[0] in joined for one in split(items, share)[1])
    groups = {one.group for one in items}
    found = {one.group: joined.count(one.prompt + one.options[0]) for one in split(items, 0.1)[0]}
    assert found.keys() == groups


def test_without_suites_the_texts_are_the_shipped_ones() -> None:
    assert calibration_of(recipe(True)) == calibration_texts()
    assert calibration_of(recipe(False)) == ()


@pytest.mark.parametrize(("wrong", "words"), [(["recall"], "several groups"), (["none-such"], "none-such"), ("core", "list of suites")])
def test_what_cannot_be_swapped_is_refused(wrong: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        calibration_of(recipe(wrong))
