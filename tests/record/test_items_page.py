"""items.html: sorted, cut, escaped, silent about harm, and found again from the report."""

import dataclasses
import re
from pathlib import Path

import pytest
import test_report
from sample_decision import optimize_decision
from sample_items import CANDIDATE, REFERENCE, UNITS, items
from test_report import HOSTILE, Page

from trimtab.core.evidence import Item, Outcome
from trimtab.record.hidden import may_show
from trimtab.record.items import MOST_ITEMS, Side, anchor, render_items, write_items_page
from trimtab.record.report import render_report
from trimtab.record.run import RunDir, remove_run


def rows_of(html: str, suite: str) -> list[list[str]]:
    """Texts of the cells of a sub-suite's rows, item by item."""
    part = html.split(f'Items of {suite}"')[1].split("</table>")[0]
    found = re.findall(r"<tr role=\"row\" id.*?</tr>", part, re.DOTALL)
    return [[" ".join(Page(cell).text.split()) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in found]


@pytest.fixture(scope="module")
def html() -> str:
    return render_items(CANDIDATE, REFERENCE, items(), UNITS)


def test_each_item_stands_there_with_both_values_the_largest_change_first(html: str) -> None:
    rows = rows_of(html, "text")
    assert len(rows) == 30
    assert rows[0] == ["text-29", "−1.100", "−1.130", "−0.030", "–"]
    changes = [float(row[3].replace("−", "-")) for row in rows]
    assert changes == sorted(changes, key=lambda change: -abs(change))
    assert "Half of the items change by 0.015 or less" in Page(html).text


def test_the_answers_and_what_was_asked_are_there_without_what_all_prompts_share(html: str) -> None:
    text = Page(html).text
    assert "… Question: How many legs have 5 cats? Answer:" in text
    assert "What do people drink?" not in text
    lost = next(row for row in rows_of(html, "choice") if row[4] == "lost")
    assert f'id="{anchor(lost[0])}"' in html
    assert "right: 0" in text
    assert "reference:" in text
    assert "both:" in text


def test_texts_about_harm_are_not_there_but_their_numbers_are(html: str) -> None:
    assert any("SECRET" in item.prompt for item in items().values())
    assert "SECRET" not in html
    assert "Sure" not in html.split("Items of refusal")[1].split("</table>")[0]
    assert len(rows_of(html, "refusal")) == len(rows_of(html, "fraud")) == 4
    assert "Ignore what was said 1" in html
    assert "Texts are left out." in Page(html).text


@pytest.mark.parametrize(
    "name", ["refusal", "overrefusal", "fraud", "jailbreak", "xstest", "xstest-safe", "simplesafetytests-safe", "harmbench"]
)
def test_sub_suites_about_harm_show_no_texts(name: str) -> None:
    assert not may_show(name)
    assert not may_show("mine", f"{name}-1", "")
    assert may_show("choice", "choice-1", "sex:woman")
    assert may_show("injection", "injection-1", "")


def test_a_missing_value_is_named_and_comes_first(html: str) -> None:
    rows = rows_of(html, "injection")
    assert rows[0] == ["injection-3 kind", "−1.400", "not measured", "not measured", "missing"]
    assert "The context is full." in html


def test_of_many_items_the_largest_changes_and_all_that_changed_sides_are_shown() -> None:
    one = Outcome(item_id="", suite="s", cluster="c", value=0.0, n_tokens=1, correct=True)
    before = [dataclasses.replace(one, item_id=f"{n:04}", cluster=str(n)) for n in range(1000)]
    after = [dataclasses.replace(old, value=0.001 * n) for n, old in enumerate(before)]
    after[1] = dataclasses.replace(after[1], correct=False)
    html = render_items(Side(id="b", outcomes=after), Side(id="a", outcomes=before), {}, {"s": "nats"})
    shown = [row[0] for row in rows_of(html, "s")]
    assert len(shown) == MOST_ITEMS
    assert shown == [f"{n:04}" for n in range(999, 1000 - MOST_ITEMS, -1)] + ["0001"]
    assert "Shown are 300 of 1,000." in Page(html).text
    assert len(html) < 400_000


def test_without_a_reference_the_lowest_come_first() -> None:
    html = render_items(CANDIDATE, None, items(), UNITS)
    values = [float(row[1].replace("−", "-")) for row in rows_of(html, "choice")]
    assert values == sorted(values)
    assert {row[2] for row in rows_of(html, "choice")} == {"right", "wrong"}
    assert "picked:" in Page(html).text


def test_the_page_is_whole_and_escaped(html: str, tmp_path: Path) -> None:
    wild = [dataclasses.replace(one, item_id=one.item_id + HOSTILE, group=HOSTILE, error=HOSTILE) for one in CANDIDATE.outcomes]
    asked: dict[str, Item] = {
        one.item_id: Item(id=one.item_id, suite=one.suite, cluster="c", scorer="contrast", prompt=HOSTILE, options=(HOSTILE, "b"))
        for one in wild
    }
    wild_html = render_items(Side(id=HOSTILE, outcomes=wild), Side(id="a", outcomes=wild), asked, {"text": HOSTILE})
    for page in (html, wild_html.replace("https:", "").replace("http:", "")):
        test_report.test_the_page_loads_and_runs_nothing(page)
        test_report.test_structure_ids_headings_and_links(page)
    assert "alert(1)" in Page(wild_html).text
    write_items_page(tmp_path / "items.html", CANDIDATE, REFERENCE, items(), UNITS)
    assert (tmp_path / "items.html").read_text(encoding="utf-8") == html


def test_the_report_leads_to_the_items() -> None:
    linked = render_report(optimize_decision(), items="items.html")
    assert f"items.html#{anchor('cloze-0412')}" in linked
    assert f"items.html#{anchor('harmful-0031')}" in linked
    assert "items.html" not in render_report(optimize_decision())


def test_a_run_that_is_removed_takes_its_pages_with_it(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "run", digests={"model": "0" * 64}, seed=0):
        pass
    for name in ("items.html", "report.html", "notes.html"):
        (tmp_path / "run" / name).write_text("<p>page</p>")
    assert remove_run(tmp_path / "run").kept == ("notes.html",)
