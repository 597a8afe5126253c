"""The plain card in a real browser: on a phone, on a desk and in the dark. Skipped where there is no Chromium."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from card_samples import all_facts

from trimtab.package.cards import subject_of
from trimtab.package.cards.plain_card import plain_card

sys.path.append(str(Path(__file__).parents[1] / "record"))
from browser import Browser, find_browser

PROGRAM = find_browser()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")]
PHONE, DESK = 390, 1280
BEYOND = (
    "[...document.body.querySelectorAll('*')].filter(each => !each.closest('.skip') && each.getBoundingClientRect().right > innerWidth + 1)"
)
SMALL = """[...document.body.querySelectorAll('p, li, dd, dt, h2, h3, small, footer')]
  .filter(each => parseFloat(getComputedStyle(each).fontSize) < 16).map(each => each.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM) as found:
        yield found


@pytest.mark.parametrize("name", ["passed", "failed", "hostile", "bare"])
def test_nothing_runs_off_the_page_and_a_phone_can_read_it(browser: Browser, tmp_path: Path, name: str):
    given = all_facts()[name]
    path = tmp_path / "card.html"
    path.write_text(plain_card(given, subject_of(given)), encoding="utf-8")
    for width in (PHONE, DESK):
        browser.show(path, width=width)
        assert browser.evaluate(f"{BEYOND}.map(each => each.outerHTML.slice(0, 80))") == []
    browser.show(path, width=PHONE)
    assert browser.evaluate(SMALL) == []
    assert browser.evaluate("document.querySelectorAll('h1').length") == 1
