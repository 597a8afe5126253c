"""The page in a real browser: on a phone, with a keyboard, in the dark and on paper. Skipped where there is no Chromium."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_browser
from sample_decision import compare_decision, optimize_decision
from sample_items import CANDIDATE, REFERENCE, UNITS, evaluation, items
from test_closely import beside, token, why

from trimtab.record.closely import render_closely
from trimtab.record.evaluation import render_evaluation
from trimtab.record.items import Side, render_items
from trimtab.record.report import render_report

PROGRAM = find_browser()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")]

NAMES = ("optimize", "compare", "items", "evaluation", "evaluation-alone", "why", "beside")
PHONE, DESK = 375, 1280
OPEN_ALL = "document.querySelectorAll('details').forEach(each => { each.open = true })"
BEYOND = """[...document.body.querySelectorAll('*')].filter(each => {
  if (each.closest('svg *, .skip, thead') || each.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let up = each.parentElement; up; up = up.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(up).overflowX) && up !== document.body) return false;
  return true;
}).map(each => each.outerHTML.slice(0, 120))"""
SMALL = """(() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || parent.closest('svg, .chip, .at, code, .mono, pre, thead, .sides b')) continue;
    if (parseFloat(getComputedStyle(parent).fontSize) < 16) found.push(walker.currentNode.data.trim().slice(0, 60));
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sample pages, and one whose names are as long as names get."""
    folder = tmp_path_factory.mktemp("pages")
    long = optimize_decision() | {"objective": {"name": "latency", "price_per_hour": 0.4}}
    for row in (*long["candidates"], long["chosen"], long["baseline"]):
        row["id"] += "?kv_type=q8_0&threads=16&batch_tokens=2048&" + "x" * 60
    for row in long["candidates"]:
        row["reasons"] = ["W" * 200]
    found = {"optimize": optimize_decision(), "compare": compare_decision(), "long": long}
    texts = {name: render_report(decision, command="trimtab optimize " + "m" * 200) for name, decision in found.items()}
    wide = [dataclasses.replace(one, item_id="x" * 100 + one.item_id, error="W" * 200) for one in CANDIDATE.outcomes]
    texts |= {
        "items": render_items(CANDIDATE, REFERENCE, items(), UNITS),
        "items-long": render_items(Side(id="y" * 100, outcomes=wide), None, {}, UNITS),
        "evaluation": render_evaluation(evaluation(), command="trimtab evaluate " + "m" * 200, items="items.html"),
        "evaluation-alone": render_evaluation(evaluation(has_reference=False)),
        "why": render_closely(why(model="m" * 200, answer="W" * 300)),
        "beside": render_closely(beside(a="a" * 200, tokens=[token("W" * 100, -1.0, -2.0, "", "W" * 100)])),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.parametrize("width", [320, PHONE, 760, DESK])
@pytest.mark.parametrize("name", [*NAMES, "long", "items-long"])
def test_nothing_has_to_be_scrolled_sideways(browser: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    browser.show(pages[name], width)
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(BEYOND) == []


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_large_enough_on_a_phone(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.show(pages[name], PHONE)
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate(SMALL) == []
    plots = "[...document.querySelectorAll('.plot')].map(each => each.getBoundingClientRect().width / each.viewBox.baseVal.width)"
    assert all(scale > 0.9 for scale in browser.evaluate(plots)), "texts of plots are drawn for this width"


def test_what_has_the_focus_is_seen(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["optimize"], PHONE)
    seen = set()
    for _ in range(25):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        outline = "(style => [document.activeElement.tagName, style.outlineStyle, parseFloat(style.outlineWidth)])"
        tag, style, thickness = browser.evaluate(f"{outline}(getComputedStyle(document.activeElement))")
        assert style == "solid", tag
        assert thickness >= 2
        seen.add(tag)
    assert {"A", "DIV"} <= seen, "links, and tables that can be scrolled"


def test_dark_is_dark_and_light_is_light(browser: Browser, pages: dict[str, Path]) -> None:
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    for dark in (False, True):
        browser.show(pages["optimize"], DESK, dark=dark)
        assert (max(browser.evaluate(ground)) < 60) is dark


def test_on_paper_nothing_is_folded_away(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(pages["optimize"], DESK, dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("document.querySelectorAll('details:not([open])').length") > 0
    assert browser.evaluate("[...document.querySelectorAll('details > div')].every(each => each.getBoundingClientRect().height > 20)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= DESK
