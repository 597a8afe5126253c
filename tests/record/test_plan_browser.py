"""The page of a plan in a real browser: its sliders compute what its tables say, it fits a phone, and stands without scripts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find_browser
from sample_plan import PLANS

from trimtab.record.plan_report import render_plan
from trimtab.record.plan_view import amount
from trimtab.record.plan_what_if import holding, serving, training

PROGRAM = find_browser()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")]

MOVE = """((place, value) => {
  const knob = document.getElementById(`knob-${place}`);
  knob.value = value;
  knob.dispatchEvent(new Event('input'));
})"""
ROWS = "[...document.querySelectorAll('#live-rows tr')].map(row => [...row.cells].map(cell => cell.firstChild.textContent))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("plans")
    for name, make in PLANS.items():
        (folder / f"{name}.html").write_text(render_plan(make()), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PLANS}


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("name", PLANS)
def test_nothing_has_to_be_scrolled_sideways(browser: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    browser.show(pages[name], width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('svg rect[width^=\"-\"]').length") == 0


def test_sliders_compute_what_the_tables_say(browser: Browser, pages: dict[str, Path]) -> None:
    grid: dict[str, Any] = PLANS["train"]()["what_if"]
    browser.show(pages["train"], 1280)
    for at, price in ((0.0, 0.0), (0.3, 1.0)):
        browser.evaluate(f"{MOVE}(0, {at})")
        browser.evaluate(f"{MOVE}(1, {price})")
        for row, shown in zip(grid["rows"], browser.evaluate(ROWS), strict=True):
            seconds, usd = training(row, grid["tokens"] * 10**at)
            assert usd is not None
            assert shown == [row["name"], amount(seconds, "s"), amount(usd * 2**price, "usd")]
    assert browser.evaluate("document.getElementById('knob-0').getAttribute('aria-valuetext')") == "599B"


def test_replicas_and_room_are_computed_alike(browser: Browser, pages: dict[str, Path]) -> None:
    grid: dict[str, Any] = PLANS["serve"]()["what_if"]
    browser.show(pages["serve"], 1280)
    browser.evaluate(f"{MOVE}(0, 1.005)")
    replicas, usd = serving(grid["rows"][0], grid["rate"] * 10**1.005)
    assert browser.evaluate(ROWS)[0][:3] == [grid["rows"][0]["name"], str(replicas), amount(usd, "usd")]
    fit: dict[str, Any] = PLANS["fit"]()["what_if"]
    browser.show(pages["fit"], 1280)
    browser.evaluate(f"{MOVE}(0, 17)")
    at = browser.evaluate("Math.round(2 ** Number(document.getElementById('knob-0').value))")
    for row, shown in zip(fit["rows"], browser.evaluate(ROWS), strict=True):
        taken, fits = holding(row, at)
        assert shown == [row["name"], f"{amount(taken, 'bytes')} of 24.0 GB", "fits" if fits else "does not fit"]


def test_without_scripts_the_tables_stand(browser: Browser, pages: dict[str, Path]) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.show(pages["train"], 375)
        assert browser.evaluate("document.getElementById('live').hidden")
        assert browser.evaluate("document.querySelectorAll('#what-if tbody[role] tr').length") == 3
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
