"""Structure of the shipped suite."""

import re
from collections import Counter
from pathlib import Path

import pytest

from trimtab.core.evidence import Item
from trimtab.evaluate.prompts import calibration_texts, sentences
from trimtab.evaluate.split import split
from trimtab.evaluate.suites.core import core_items
from trimtab.evaluate.suites.registry import SHIPPED, load_suite

SCORERS = {
    "text": "nats_per_token",
    "cloze": "nats_per_token",
    "choice": "margin",
    "arithmetic": "nats_per_token",
    "instruct": "nats_per_token",
    "fairness": "contrast",
    "refusal": "contrast",
    "overrefusal": "contrast",
}


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    return core_items()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def shingles(text: str, n: int = 8) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + n]) for start in range(len(found) - n + 1)}


def test_each_sub_suite_has_one_scorer(items: tuple[Item, ...]) -> None:
    assert {(item.suite, item.scorer) for item in items} == set(SCORERS.items())


def test_at_least_600_independent_items_and_five_a_template(items: tuple[Item, ...]) -> None:
    independent = [item for item in items if item.suite != "fairness"]
    assert len(independent) >= 600
    assert max(Counter((item.suite, item.cluster) for item in independent).values()) <= 5


def test_ids_are_unique_and_prompts_do_not_repeat(items: tuple[Item, ...]) -> None:
    assert len({item.id for item in items}) == len(items)
    assert len({(item.suite, item.system, item.prompt, item.options) for item in items}) == len(items)


def test_options_of_an_item_differ_and_right_ones_exist(items: tuple[Item, ...]) -> None:
    for item in items:
        assert len(set(item.options)) == len(item.options), item.id
        assert 0 <= item.answer < len(item.options)
        assert item.scorer == "nats_per_token" or len(item.options) > 1
        assert (item.scorer == "contrast") == (0 < len(item.favoured) < len(item.options))


def test_plain_continuations_carry_their_space(items: tuple[Item, ...]) -> None:
    for item in items:
        if item.prompt and not item.chat:
            assert all(option.startswith(" ") for option in item.options), item.id
            assert not item.prompt.endswith(" ")


def test_no_unfilled_slot_is_left(items: tuple[Item, ...]) -> None:
    for item in items:
        if item.suite not in ("text", "instruct"):
            assert "{" not in item.prompt + "".join(item.options), item.id
        assert "{who}" not in item.prompt


def test_fairness_has_80_templates_each_with_every_group_of_every_axis(items: tuple[Item, ...]) -> None:
    rows: dict[str, list[str]] = {}
    for item in items:
        if item.suite == "fairness":
            rows.setdefault(item.cluster, []).append(item.group)
    assert len(rows) == 80
    assert len({tuple(groups) for groups in rows.values()}) == 1
    groups = next(iter(rows.values()))
    assert len(set(groups)) == len(groups) == 20
    assert min(Counter(group.split(":")[0] for group in groups).values()) >= 2


def test_fairness_endings_are_the_same_for_all_groups_of_a_template(items: tuple[Item, ...]) -> None:
    endings: dict[str, set[tuple[str, ...]]] = {}
    for item in items:
        if item.suite == "fairness":
            endings.setdefault(item.cluster, set()).add(item.options)
    assert all(len(found) == 1 for found in endings.values())


def test_arithmetic_is_right(items: tuple[Item, ...]) -> None:
    """Every equation and comparison that an item shows or asks for holds."""
    checked = 0
    for item in items:
        if item.suite != "arithmetic":
            continue
        for a, sign, b, result in re.findall(r"(\d+) ([+x-]) (\d+) = (\d+)", item.prompt + item.options[0]):
            assert int(result) == {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign], item.id
            checked += 1
        for a, order, b in re.findall(r"(\d+) is (more|less) than (\d+)", item.prompt + item.options[0]):
            assert (int(a) > int(b)) == (order == "more"), item.id
            checked += 1
        first = re.match(r" (\d+), because", item.options[0])
        if first and "+" in item.options[0] and "halve" not in item.cluster:
            assert item.options[0].endswith(f"= {first[1]}."), item.id
    assert checked > 180


def test_search_and_certify_share_no_cluster_and_hold_every_sub_suite(items: tuple[Item, ...]) -> None:
    search, certify = split(items)
    assert len(search) + len(certify) == len(items)
    assert not {(item.suite, item.cluster) for item in search} & {(item.suite, item.cluster) for item in certify}
    assert {item.suite for item in search} == {item.suite for item in certify} == set(SCORERS)
    assert len({item.cluster for item in certify if item.suite == "fairness"}) >= 60


def test_calibration_text_shares_no_eight_words_with_the_suite(items: tuple[Item, ...]) -> None:
    calibration = set[tuple[str, ...]]().union(*(shingles(text) for text in calibration_texts()))
    assert len(calibration) > 1000
    for item in items:
        assert not shingles(item.system + " " + item.prompt + item.options[item.answer]) & calibration, item.id


def test_no_sentence_of_the_bank_is_in_the_suite(items: tuple[Item, ...]) -> None:
    assert len(set(sentences())) == len(sentences()) >= 120
    everything = "\n".join(" ".join(words(item.prompt + " " + " ".join(item.options))) for item in items)
    assert not any(" ".join(words(sentence)) in everything for sentence in sentences())


def test_the_suite_is_the_same_every_time() -> None:
    assert load_suite("core").digest == load_suite("core").digest
    assert core_items() == core_items()


def test_the_documented_counts_and_examples_are_true(items: tuple[Item, ...]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")
    _, certify = split(items)
    for suite in SCORERS:
        row = re.search(rf"^\| {suite} \| [^|]+ \| ([\d,]+)[^|]* \| (\d+) \| (\d+) \|", page, re.MULTILINE)
        assert row is not None, suite
        mine = [item for item in items if item.suite == suite]
        counts = (len(mine), len({item.cluster for item in mine}), len({item.cluster for item in certify if item.suite == suite}))
        assert (int(row[1].replace(",", "")), int(row[2]), int(row[3])) == counts
    shipped = [item for name in SHIPPED for item in load_suite(name).items]
    everything = "\n".join(" ".join(words(item.prompt + " " + item.options[item.answer])) for item in shipped)
    quoted = re.findall(r"^> (.+?)(?: -> \*(.+?)\*.*)?$", page, re.MULTILINE)
    shown = [" ".join(words(text.replace("[...]", "") + " " + ending)) for text, ending in quoted if "{who}" not in text]
    assert len(shown) >= 8
    assert [text for text in shown if text not in everything] == []
