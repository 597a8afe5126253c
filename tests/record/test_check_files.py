"""JUnit XML and Markdown of a check: the shape that CI services read, and texts that cannot break it."""

import copy
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.record.junit import junit_xml
from trimtab.record.summary import check_markdown, explain_check

NASTY = 'a <b> & "c" | `d` ]]> \x00\x07\x1b[31m\u202e\ufffe\nsecond *line*'


def lock_check(name: str, state: str = "same", *, fails: bool = False, sentence: str = "As certified.") -> dict[str, Any]:
    return {"name": name, "state": state, "was": "1", "now": "1", "sentence": sentence, "fails": fails, "numeric": False}


def gate(name: str, verdict: str, *, required: bool = True, informative: bool = True) -> dict[str, Any]:
    return {
        "name": name, "verdict": verdict, "required": required, "informative": informative, "delta": -0.0123, "low": -0.0156,
        "high": -0.009, "margin": 0.02, "unit": "nats/token", "n": 56, "reasons": [f"why {name}"],
    }  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "verdict": "fail",
        "reasons": ["cloze: too much was lost"],
        "lock": {"path": "deploy.toml", "id": "llamacpp q8_0", "made": "2026-11-25T00:00:00Z"},
        "checks": [
            lock_check("weights"),
            lock_check("source files", "changed", fails=True, sentence="m.gguf has other contents."),
            lock_check("engine build", "changed", sentence="Another build."),
            lock_check("decision", "unknown", sentence="Not at hand."),
        ],
        "gates": [gate("text", "pass"), gate("cloze", "fail"), gate("choice", "inconclusive"), gate("deaf", "pass", informative=False),
                  gate("generation", "fail", required=False)],
        "measured": {"mode": "gates", "against": "the reference", "share": 0.5, "n_items": 100, "n_clusters": 40, "seed": 7},
        "watch": [{"suite": "choice", "item_id": "c1", "flip": "lost"}, {"suite": "choice", "item_id": "c2", "flip": ""}],
        "started": "2026-11-25T10:00:00Z",
        "seconds": 12.34,
    }  # fmt: skip


def check_shape(text: str) -> ElementTree.Element:
    """By hand what the XSD in common use asks: elements, their order, required attributes, counts that are true."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    assert [child.tag for child in root] == ["testsuite"]
    suite = root[0]
    assert {"name", "tests", "failures", "errors", "skipped", "time"} <= set(suite.attrib)
    assert float(suite.attrib["time"]) >= 0
    tags = [child.tag for child in suite]
    assert tags == ["properties", *["testcase"] * (len(tags) - 1)]
    cases = suite.findall("testcase")
    for case in cases:
        assert set(case.attrib) == {"classname", "name", "time"}
        inside = [child.tag for child in case]
        assert inside in (["system-out"], ["failure", "system-out"], ["skipped", "system-out"], ["failure"], ["skipped"])
    assert int(suite.attrib["tests"]) == len(cases) == int(root.attrib["tests"])
    for tag, attribute in (("failure", "failures"), ("skipped", "skipped"), ("error", "errors")):
        assert int(suite.attrib[attribute]) == sum(case.find(tag) is not None for case in cases)
    assert len({(case.attrib["classname"], case.attrib["name"]) for case in cases}) == len(cases)
    return suite


def outcome_of(suite: ElementTree.Element, kind: str, name: str) -> str:
    case = next(one for one in suite.findall("testcase") if (one.attrib["classname"], one.attrib["name"]) == (f"trimtab.{kind}", name))
    return next((child.tag for child in case if child.tag != "system-out"), "passed")


def test_every_check_gate_and_the_verdict_is_a_testcase(document: dict[str, Any]) -> None:
    suite = check_shape(junit_xml(document))
    assert {name: outcome_of(suite, "lock", name) for name in ("weights", "source files", "engine build", "decision")} == {
        "weights": "passed", "source files": "failure", "engine build": "passed", "decision": "skipped",
    }  # fmt: skip
    assert {name: outcome_of(suite, "gate", name) for name in ("text", "cloze", "choice", "deaf", "generation")} == {
        "text": "passed", "cloze": "failure", "choice": "skipped", "deaf": "skipped", "generation": "skipped",
    }  # fmt: skip
    assert outcome_of(suite, "check", "verdict") == "failure"
    assert any("m.gguf has other contents" in failure.attrib["message"] for failure in suite.iter("failure"))


@pytest.mark.parametrize(("verdict", "expected"), [("pass", "passed"), ("inconclusive", "skipped"), ("fail", "failure")])
def test_the_verdict(document: dict[str, Any], verdict: str, expected: str) -> None:
    assert outcome_of(check_shape(junit_xml(document | {"verdict": verdict})), "check", "verdict") == expected


def planted(document: dict[str, Any], text: str) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    changed["reasons"] = changed["gates"][1]["reasons"] = [text]
    changed["checks"][0]["sentence"] = changed["checks"][1]["sentence"] = changed["lock"]["path"] = changed["lock"]["id"] = text
    changed["measured"]["against"] = text
    return changed


@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=40) | st.just(NASTY))
def test_no_text_breaks_the_files(text: str) -> None:
    base = {
        "verdict": "fail", "checks": [lock_check("a"), lock_check("b", "changed", fails=True)],
        "gates": [gate("g", "pass"), gate("h", "fail")],
        "lock": {}, "measured": {"mode": "gates", "n_items": 3, "n_clusters": 2, "share": 0.5, "seed": 1}, "watch": [], "seconds": 1.0,
    }  # fmt: skip
    changed = planted(base, text)
    check_shape(junit_xml(changed))
    page = check_markdown(changed)
    assert "\x1b" not in page
    assert "<" not in page
    widths = {}
    for row in page.splitlines():
        if row.startswith("|"):
            cells = row.replace("\\\\", "").replace("\\|", "").count("|")
            widths.setdefault(cells, row)
    assert set(widths) == {4, 6}, "a text has not made a cell more or less"


def test_the_summary_has_the_figures(document: dict[str, Any]) -> None:
    page = check_markdown(document)
    assert page.startswith("## trimtab check: FAIL\n")
    assert "| cloze | FAIL | −0.0123 \\[−0.0156, −0.0090\\] nats/token | 0.020 | 56 |" in page
    assert "| source files | **changed: fails** | m.gguf has other contents. |" in page
    assert "deaf | PASS, not informative" in page
    assert "100 items in 40 clusters (50 % of the items, drawn with seed 7)" in page
    assert "of the 2 items nearest to a flip, 1 flipped (c1 lost)" in page


def test_the_explanation_names_what_changed_once(document: dict[str, Any]) -> None:
    said = explain_check(document)
    assert said.count("m.gguf has other contents") == 1
    assert said.count("Another build.") == 1
    assert "\n" not in said
