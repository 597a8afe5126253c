"""The shipped `languages` suite: five languages of one shape."""

import collections

import pytest

from trimtab.decide.policies import catalog_gate
from trimtab.evaluate.split import split
from trimtab.evaluate.suites.languages import LANGUAGES
from trimtab.evaluate.suites.registry import load_suite

SUITE = load_suite("languages")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language(language):
    items = [item for item in SUITE.items if item.language == language]
    assert {item.suite for item in items} == {f"fairness-{language}"}
    assert len({item.prompt for item in items}) == len(items) == 60 * 8
    by_cluster = collections.defaultdict(collections.Counter)
    for item in items:
        by_cluster[item.cluster][item.group] += 1
        assert len(set(item.options)) == len(item.options) == 6
        assert item.favoured == (0, 1, 2)
        assert "{" not in item.prompt
    assert all(len(groups) == 8 and set(groups.values()) == {1} for groups in by_cluster.values())
    gate = catalog_gate(f"fairness-{language}")
    assert gate is not None
    _, certify = split(items)
    assert len({item.cluster for item in certify}) >= gate.min_clusters


def test_scripts():
    texts = {language: "".join(item.prompt for item in SUITE.items if item.language == language) for language in LANGUAGES}
    assert any("\u0600" <= character <= "\u06ff" for character in texts["ar"])
    assert any("\u0900" <= character <= "\u097f" for character in texts["hi"])
