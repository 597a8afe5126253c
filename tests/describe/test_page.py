"""The model page: whole, self-contained, escaped."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trimtab.core.model import ModelHeader, Snapshot
from trimtab.describe.card import model_card
from trimtab.describe.page import card_page
from trimtab.describe.template import Rendering, TemplateReport
from trimtab.sources.open import open_source, read_header
from trimtab.testing.tiny_models import write_tiny_gguf

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Checker(HTMLParser):
    """Opened and closed tags must match; ids are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def model(tmp_path: Path) -> tuple[ModelHeader, Snapshot]:
    path = write_tiny_gguf(tmp_path / "t.gguf", extra={"general.license": "<script>alert(1)</script>\u202e\x1b[31m"})
    snapshot = open_source(str(path), cache_dir=tmp_path / "c")
    return read_header(snapshot), snapshot


REPORT = TemplateReport(
    sha256="ab" * 32,
    renderings=(Rendering(conversation="user", text="<|im_start|>"), Rendering(conversation="tools", text="", error="TemplateError: <no>")),
    content_branches=("line 1: {% if '<x>' in content %}",),
)


def test_page_is_well_formed_and_self_contained(model: tuple[ModelHeader, Snapshot]) -> None:
    header, snapshot = model
    page = card_page(model_card(header, snapshot), header, REPORT)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert {"main", "table", "svg", "details"} <= checker.tags
    assert "script" not in checker.tags
    assert len(set(checker.ids)) == len(checker.ids)
    without_names = re.sub(r'xmlns(?::\w+)?="[^"]*"', "", page)
    assert "http" not in without_names
    assert "url(" not in re.sub(r"url\(#", "", without_names)


def test_page_escapes_what_the_file_says(model: tuple[ModelHeader, Snapshot]) -> None:
    header, snapshot = model
    page = card_page(model_card(header, snapshot), header, REPORT)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "&lt;|im_start|&gt;" in page
    assert "Not rendered: TemplateError: &lt;no&gt;" in page


def test_page_follows_dark_mode_phone_and_keyboard(model: tuple[ModelHeader, Snapshot]) -> None:
    header, snapshot = model
    page = card_page(model_card(header, snapshot), header)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert 'role="region" aria-label="Layers" tabindex="0"' in page
    assert 'class="skip" href="#layers"' in page
    assert "var(--mlp)" in page
    assert "currentColor" in page
    assert not re.search(r"#fe[0-9a-f]{2}fe", page)


def test_page_is_the_same_twice(model: tuple[ModelHeader, Snapshot]) -> None:
    header, snapshot = model
    card = model_card(header, snapshot)
    assert card_page(card, header, REPORT) == card_page(card, header, REPORT)
