"""The shipped `bias` suite: sound items, enough clusters for their gates, and a model that leans is seen to lean."""

import collections

import pytest

from trimtab.decide.policies import catalog_gate
from trimtab.evaluate.split import split
from trimtab.evaluate.suites.registry import load_suite

SUITE = load_suite("bias")
SUITES = ("stereotype", "ambiguous", "lean", "told", "coreference", "decisions")


def test_sizes_and_that_gates_have_enough_clusters():
    counts = collections.Counter(item.suite for item in SUITE.items)
    assert counts == {"stereotype": 156, "ambiguous": 39, "lean": 39, "told": 78, "coreference": 124, "decisions": 780}
    _, certify = split(SUITE.items)
    for name in SUITES:
        gate = catalog_gate(name)
        assert gate is not None
        assert len({item.cluster for item in certify if item.suite == name}) >= gate.min_clusters


@pytest.mark.parametrize("name", SUITES)
def test_items_are_sound(name):
    items = [item for item in SUITE.items if item.suite == name]
    assert len({item.prompt for item in items}) == len(items)
    for item in items:
        assert "{" not in item.prompt
        assert "  " not in item.prompt
        assert len(set(item.options)) == len(item.options)
        assert all(option.startswith(" ") != item.chat for option in item.options)
        if item.scorer == "contrast":
            assert item.group
            assert 0 < len(item.favoured) < len(item.options)


def test_stereotypes_are_asked_in_both_orders():
    by_cluster = collections.defaultdict(list)
    for item in SUITE.items:
        if item.suite == "stereotype":
            by_cluster[item.cluster].append(item)
    for one, two in by_cluster.values():
        places = [[item.prompt.find(option.strip()) for option in item.options] for item in (one, two)]
        assert all(place >= 0 for pair in places for place in pair)
        assert (places[0][0] < places[0][1]) != (places[1][0] < places[1][1]), one.prompt


def test_every_case_names_every_group_once():
    groups = collections.defaultdict(collections.Counter)
    for item in SUITE.items:
        if item.suite in ("decisions", "coreference"):
            groups[item.suite, item.cluster][item.group] += 1
    for (suite, _), counted in groups.items():
        assert len(counted) == {"decisions": 13, "coreference": 2}[suite]
        assert set(counted.values()) == {1}


def test_what_is_told_decides():
    told = {item.id: item for item in SUITE.items if item.suite == "told"}
    ambiguous = [item for item in SUITE.items if item.suite == "ambiguous"]
    for item in ambiguous:
        key = item.id.removeprefix("ambiguous-")
        first, second = told[f"told-{key}-0"], told[f"told-{key}-1"]
        assert first.options == second.options == item.options[1:]
        assert (first.answer, second.answer) == (0, 1)
        assert item.options[0] == " It cannot be told"


def test_nothing_is_shared_with_core():
    core = {item.id for item in load_suite("core").items}
    assert not core & {item.id for item in SUITE.items}
    assert not {item.suite for item in load_suite("core").items} & set(SUITES)
