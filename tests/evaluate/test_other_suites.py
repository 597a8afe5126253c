"""The shipped suites beyond core and bias: sound items, and enough clusters for their gates."""

import collections
import json
import re
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.decide.policies import catalog_gate
from trimtab.evaluate.split import split
from trimtab.evaluate.suites.registry import SHIPPED, load_suite

SCORED_IN_CORE = ("text", "cloze", "choice", "arithmetic", "instruct", "fairness", "overrefusal")
"""Sub-suites of core whose items may be shown; of harmful requests none is."""
SUITES = {
    "tools": ("tool-call", "tool-argument", "tool-choice", "tool-schema", "tool-result"),
    "safety": ("fraud", "jailbreak", "injection"),
    "recall": ("recall",),
    "robustness": ("robustness",),
}


@pytest.mark.parametrize("name", SUITES)
def test_gates_have_enough_clusters(name):
    items = load_suite(name).items
    assert {item.suite for item in items} == set(SUITES[name])
    _, certify = split(items)
    for suite in SUITES[name]:
        gate = catalog_gate(suite)
        assert gate is not None
        assert len({item.cluster for item in certify if item.suite == suite}) >= gate.min_clusters, suite


def test_ids_and_sub_suites_are_not_shared():
    seen = collections.Counter(item.id for name in SHIPPED for item in load_suite(name).items)
    assert max(seen.values()) == 1
    owners = collections.defaultdict(set)
    for name in SHIPPED:
        for item in load_suite(name).items:
            owners[item.suite].add(name)
    assert all(len(names) == 1 for names in owners.values())


def test_right_calls_are_valid_and_wrong_ones_wrong_in_their_own_way():
    requests = collections.defaultdict(dict)
    for item in load_suite("tools").items:
        if item.suite != "tool-result":
            requests[item.cluster][item.suite] = item
    for found in requests.values():
        right = json.loads(found["tool-call"].options[0])
        assert set(right) == {"name", "arguments"}
        tools = [json.loads(line) for line in found["tool-call"].system.splitlines()[1:-1]]
        (tool,) = [one for one in tools if one["name"] == right["name"]]
        assert set(right["arguments"]) == set(tool["parameters"])
        argument = json.loads(found["tool-argument"].options[1])
        assert argument["name"] == right["name"]
        assert argument["arguments"] != right["arguments"]
        choice = json.loads(found["tool-choice"].options[1])
        assert choice["name"] != right["name"]
        assert choice["name"] in {one["name"] for one in tools}
        assert not valid(found["tool-schema"].options[1], tools), found["tool-schema"].options[1]
        assert valid(found["tool-call"].options[0], tools)


def valid(text, tools):
    """Whether a call is JSON, of a known tool, with all its parameters in the right types."""
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array of strings": list}
    try:
        call = json.loads(text)
        tool = next(one for one in tools if one["name"] == call["name"])
        return set(call["arguments"]) == set(tool["parameters"]) and all(
            isinstance(call["arguments"][name], kinds[kind]) for name, kind in tool["parameters"].items()
        )
    except (ValueError, KeyError, TypeError, StopIteration):
        return False


def test_every_wrapping_is_used_and_holds_its_request():
    requests = {item.prompt for item in load_suite("core").items if item.suite == "refusal"}
    wrapped = [item for item in load_suite("safety").items if item.suite == "jailbreak"]
    assert len(wrapped) == len(requests)
    assert {item.group for item in wrapped} == {"role", "authority", "fiction", "form"}
    assert all(any(request in item.prompt for request in requests) for item in wrapped)


@pytest.mark.parametrize("context_tokens", [512, 1024, 8192])
def test_the_fact_stands_where_its_depth_says(context_tokens):
    for item in load_suite(f"recall:{context_tokens}").items:
        text, _, question = item.prompt.partition("Question: Where did ")
        words = question.split("?")[0].replace(" put the ", " put the ")
        place = text.find(words)
        assert place >= 0
        assert text.count(words) == 1
        depth = float(item.group.removeprefix("depth ").removesuffix("%")) / 100
        assert place / len(text) == pytest.approx(depth, abs=0.06)
        assert len(item.prompt.split()) * 1.5 < context_tokens
        assert item.options[0].strip() in text


def plain(text):
    return " ".join(text.split())


def is_like(item, example):
    """Whether an item holds what a documented example shows: what is asked, and after the arrow its options in asterisks."""
    asked, _, answers = example.partition("->")
    parts = [plain(part) for part in re.split(r"\{who\}|\[\.\.\.\]", asked) if part.strip()]
    options = {plain(option) for option in item.options}
    said = re.findall(r"\*([^*]+)\*", answers)
    whole = plain(f"{item.prompt} {'' if item.prompt else item.options[0]}")
    return all(part in whole for part in parts) and all(one in options or set(one.split(", ")) <= options for one in said)


def test_every_suite_shows_an_item_that_is_in_it():
    page = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")
    items = [item for name in SHIPPED for item in load_suite(name).items]
    shown = set()
    for section in re.split(r"^#{2,3} ", page, flags=re.MULTILINE)[1:]:
        name = section.split("\n")[0].strip("` ").lower()
        for block in re.findall(r"(?:^> .*\n)+", section, re.MULTILINE):
            example = plain(block.replace("\n> ", " ").removeprefix("> "))
            assert any(is_like(item, example) for item in items), example
            shown.add(name)
    assert shown >= {*SHIPPED, *SCORED_IN_CORE, "calibration"} - {"core"}


def test_lengths_that_make_no_sense():
    with pytest.raises(InputError, match="recall needs a context"):
        load_suite("recall:100")
    assert load_suite("recall").items == load_suite("recall:1024").items
    with pytest.raises(InputError, match="No suite and no file"):
        load_suite("recall:much")


def test_every_question_is_asked_in_five_ways_with_the_same_options():
    by_cluster = collections.defaultdict(dict)
    for item in load_suite("robustness").items:
        by_cluster[item.cluster][item.group] = item
    for found in by_cluster.values():
        assert set(found) == {"plain", "typos", "capitals", "polite", "aside"}
        assert len({item.options for item in found.values()}) == 1
        assert len({item.prompt for item in found.values()}) == 5
        plain, typos = (found[way].prompt.split("Question: ")[-1] for way in ("plain", "typos"))
        assert sorted(plain) == sorted(typos)
        assert plain.upper().split("\n")[0] == found["capitals"].prompt.split("Question: ")[-1].split("\n")[0]
