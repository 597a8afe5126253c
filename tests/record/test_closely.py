"""why.html and beside.html: what the terminal shows, as pages that load and run nothing and escape what they are given."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE, Page

from trimtab.cli.closely import beside_view, why_view
from trimtab.record.closely import kind_of_token, kinds_of_spans, parting, render_closely, write_closely


def why(**changes: Any) -> dict[str, Any]:
    spans = [("The shop opens at nine. ", 4.0), ("My sister likes tea. ", 0.1), ("It is never open. ", -2.0), ("When? ", None)]
    return {
        "schema": "trimtab.why/1",
        "model": "llamacpp m.gguf",
        "was_given": False,
        "prompt": "".join(text for text, _ in spans),
        "answer": " At nine.",
        "logprob_nats": -3.2,
        "n_tokens": 4,
        "spans": [{"start": 0, "end": 1, "text": text, "influence_nats": size} for text, size in spans],
    } | changes


def token(text: str, a: float, b: float, rather_a: str = "", rather_b: str = "") -> dict[str, Any]:
    return {"text": text, "logprob_a": a, "logprob_b": b, "first_choice_a": rather_a, "first_choice_b": rather_b}


def beside(**changes: Any) -> dict[str, Any]:
    return {
        "schema": "trimtab.beside/1",
        "a": "llamacpp a.gguf",
        "b": "llamacpp b.gguf",
        "was_given": True,
        "prompt": "Name a river.",
        "tokens": [token("The", -0.1, -0.1), token(" Nile", -0.2, -2.5, "", " Rhine"), token("\n", -0.3, -1.0)],
        "first_parting": 1,
        "change_nats": -3.0,
    } | changes


def test_spans_and_tokens_are_marked_by_what_they_do() -> None:
    assert kinds_of_spans(why()["spans"]) == ["strong", "little", "against", "little"]
    assert [kind_of_token(one) for one in beside()["tokens"]] == ["", "parted", "apart"]


def test_the_page_of_a_why_says_the_same_as_the_terminal() -> None:
    html = render_closely(why())
    text = Page(html).text
    assert '<span class="strong">The shop opens at nine. </span>' in html
    assert '<span class="against">It is never open. </span>' in html
    assert "−3.2 nats over 4 tokens" in text
    assert text.index("The shop opens at nine. +4.00") < text.index("It is never open. −2.00")
    assert "When? not measured" in text


def test_the_page_of_two_sides_says_where_they_part_and_how_surprised_each_is() -> None:
    html = render_closely(beside())
    text = Page(html).text
    assert "They part first at token 2 of 3. From A to B the log-probability of the whole answer changes by −3.00 nats." in text
    assert "·Nile −0.20 −2.50 −2.30 ·Rhine" in text
    assert '<span class="parted"> Nile</span><span class="apart">\n</span>' in html
    assert "llamacpp b.gguf" in text
    assert "go on alike at every token" in parting(beside(first_parting=None))


@pytest.mark.parametrize(
    "document", [why(answer=HOSTILE, model=HOSTILE), beside(prompt=HOSTILE, a=HOSTILE, tokens=[token(HOSTILE, -1, -2)])]
)
def test_pages_load_and_run_nothing_and_escape(document: dict[str, Any], tmp_path: Path) -> None:
    page = write_closely(tmp_path / "new" / "folder", document)
    html = page.read_text(encoding="utf-8")
    tags = {tag for tag, _ in Page(html).tags}
    assert not tags & {"script", "img", "svg", "link", "iframe"}
    assert "default-src 'none'" in html
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8")) == document


def test_the_terminal_names_the_page_where_one_was_written(tmp_path: Path) -> None:
    for view, document in ((why_view, why()), (beside_view, beside())):
        page = write_closely(tmp_path, document)
        assert str(list(view(document, page))[-1]) == f"Written: {page}"
        assert not any("Written" in str(part) for part in view(document, None))
