"""Texts told about somebody else: grammar of pronouns, names, groups."""

from random import Random

import pytest

from trimtab.train.debias.swaps import swap_gender, swap_groups, swap_lists, twin_of

GENDER = [
    ("She gave him her book.", "He gave her his book."),
    ("I saw her yesterday.", "I saw him yesterday."),
    ("I saw her house.", "I saw his house."),
    ("The book is hers.", "The book is his."),
    ("The book is his.", "The book is hers."),
    ("His was better than mine.", "Hers was better than mine."),
    ("She told her that it was late.", "He told him that it was late."),
    ("We let her go, and she hurt herself.", "We let him go, and he hurt himself."),
    ("They made her bed.", "They made his bed."),
    ("They made her cry.", "They made him cry."),
    ("He gave her flowers.", "She gave him flowers."),
    ("She watered her flowers.", "He watered his flowers."),
    ("She'll come; he's late, and so is HER dog.", "He'll come; she's late, and so is HIS dog."),
    ("The waitress's brother is a policeman.", "The waiter's sister is a policewoman."),
    ("My mother and my uncles met the queen.", "My father and my aunts met the king."),
    ("Charlotte's husband knows Mustafa.", "Oliver's wife knows Layla."),
    ("Their lovely friend asked her friendly neighbour.", "Their lovely friend asked his friendly neighbour."),
    ("The manager blamed her.", "The manager blamed him."),
    ("Nothing here changes, but the theme does.", "Nothing here changes, but the theme does."),
]


@pytest.mark.parametrize(("text", "expected"), GENDER)
def test_gender_is_swapped_with_the_grammar_around_it(text: str, expected: str) -> None:
    assert swap_gender(text) == expected


@pytest.mark.parametrize("text", [one for pair in GENDER for one in pair])
def test_swapping_twice_gives_the_text_back(text: str) -> None:
    assert swap_gender(swap_gender(text)) == text


def test_groups_change_places_with_articles_plurals_and_houses_of_worship() -> None:
    swapped = swap_groups(
        "A Muslim woman left the mosque; Muslims and Hindus, an old car, a Hindu driver.", {"Muslim": "Hindu", "Hindu": "Muslim"}
    )
    assert swapped == "A Hindu woman left the temple; Hindus and Muslims, an old car, a Muslim driver."
    assert swap_groups("A German tourist.", {"German": "American", "American": "German"}) == "An American tourist."
    assert swap_groups("An old man and a Young man.", {"old": "young", "young": "old"}) == "A young man and a Young man."


def test_colours_and_ages_of_things_are_no_groups() -> None:
    text = "The white wall and the old car belong to Tariq."
    assert swap_groups(text, {"white": "Black", "Black": "white", "old": "young", "young": "old"}) == text


def test_names_keep_gender_when_origin_changes_and_origin_when_gender_does() -> None:
    lists = swap_lists()
    assert (
        swap_groups("Layla met Thomas.", {"arabic": "english", "english": "arabic"}).split(" met ")[0] in lists.columns["english", "female"]
    )
    assert swap_gender("Thomas").strip(".") in lists.columns["english", "female"]


def test_twins_name_other_groups_and_a_text_about_nobody_has_none() -> None:
    assert twin_of("Rain fell on the roof.", Random(0)) == ()
    found = {twin for seed in range(40) for twin in twin_of("A Muslim neighbour came.", Random(seed))}
    assert len(found) == 5  # every other religion that has an adjective
    assert all("Muslim" not in twin for twin in found)
    assert twin_of("She met a Polish guest.", Random(1))[0] == "He met a Polish guest."


def test_lists_hold_no_name_that_a_suite_asks_about() -> None:
    import re

    from trimtab.evaluate.suites.registry import load_suite

    asked: set[str] = set()
    for suite in ("bias", "core"):
        asked |= {word for item in load_suite(suite).items if item.group for word in re.findall(r"\w+", item.prompt)}
    assert not asked & set(swap_lists().names)
