"""From files to the words of the page, without a page."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.evidence import Item, Outcome
from trimtab.web.fairness_view import certified_tables, difference_text, operation_tables, worst_kinds
from trimtab.web.items_view import Pair, items_page
from trimtab.web.live_view import SCHEMA, level_text, live_view
from trimtab.web.plots import spark, without_styles
from trimtab.web.runs_view import chosen_lines, run_lines, runs_by_key, speed_of

LIVE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "watch" / "data" / "live.json").read_text())


def test_the_schema_is_that_of_the_watch() -> None:
    watch = pytest.importorskip("trimtab.watch.live")
    assert watch.SCHEMA == LIVE["schema"] == SCHEMA


def test_levels_have_their_unit_and_as_many_digits_as_their_interval_bears() -> None:
    assert level_text({"value": 0.042, "low": -0.001, "high": 0.085}, "rate", "") == ("4.2 %", "[0.0, 8.5] %")
    assert level_text({"value": 182.4, "low": 180.1, "high": 184.7}, "mean", "ms") == ("182.4 ms", "[180.1, 184.7] ms")
    assert level_text({"value": None, "low": None, "high": None, "n": 0}, "mean", "ms") == ("not measured", "")
    assert level_text({"value": 1.5, "low": None, "high": None, "n": 1}, "mean", "") == ("1.5", "")


def test_live_says_what_stands_and_that_nobody_watches_any_more() -> None:
    view = live_view(LIVE, LIVE["written_s"] + 5)
    assert view.stale == ""
    assert [alarm.id for alarm in view.standing] == ["9f3c5a1e0b7d2c48"]
    assert view.standing[0].slice == "sex is female"
    assert view.standing[0].change == "+5.5 points [2.9, 8.6]"
    assert [action.kind for action in view.standing[0].actions] == ["stop-canary", "page"]
    assert "back at its level before" in view.ended[0].ended
    assert view.envelopes[0]["today"] == "14.0 %"
    assert [version.version for version in view.versions] == ["chat@stable", "chat@next"]
    assert [signal.about for signal in view.versions[0].signals] == ["service", "service", "quality", "answers", "requests"]
    assert "no watch is running" in live_view(LIVE, LIVE["written_s"] + 3600).stale


def test_a_gap_in_time_is_a_gap_in_the_line() -> None:
    points = [{"at_s": at, "value": 1.0 + at, "n": 1} for at in (0, 30, 60, 300, 330)]
    assert spark(points).path.count("M") == 2
    assert spark(points[:1]).path == ""
    flat = spark([{"at_s": at, "value": 5.0, "n": 1} for at in (0, 30)])
    assert flat.path.startswith("M")


def test_plots_lose_their_inline_styles_and_keep_their_colours() -> None:
    svg = (
        '<svg><path style="fill: none; stroke: var(--good); stroke-width: 2"/>'
        '<text style="font: 11px serif; text-anchor: middle">a</text></svg>'
    )
    shown = without_styles(svg)
    assert "style=" not in shown
    assert 'stroke="var(--good)"' in shown
    assert 'font-size="11px" text-anchor="middle"' in shown


def test_groups_with_a_finding_come_first_with_how_much_is_known() -> None:
    tables = operation_tables(LIVE, people=True)
    assert [table.n_differ for table in tables] == [1, 1, 0, 0]
    first = tables[0]
    assert first.attribute == "sex"
    assert "54,720 of 136,800" in tables[1].known
    row = first.rows[0]
    assert (row.group, row.finding, row.chip) == ("female", "worse", "fail")
    assert (row.difference, row.difference_range) == ("+2.5 points", "[1.7, 3.3]")
    assert operation_tables(LIVE, people=False) == []
    assert worst_kinds(LIVE)[0].what == "language is de"


def test_a_difference_without_bounds_has_none() -> None:
    assert difference_text({"value": 3.5, "low": None, "high": None}, "mean", "ms") == ("+3.5 ms", "")
    assert difference_text({"value": 3.51, "low": -1.0, "high": 8.0}, "mean", "ms") == ("+3.5 ms", "[−1.0, 8.0]")
    assert difference_text({"value": None, "low": None, "high": None}, "rate", "") == ("", "")


def test_certified_groups_are_sorted_by_what_they_lost() -> None:
    groups = [
        {"group": name, "delta": delta, "low": delta - 0.01, "high": delta + 0.01, "p_holm": 1.0, "n": 60}
        for name, delta in (("a", 0.2), ("b", -0.1))
    ]
    gate = {"name": "fairness", "unit": "nats", "margin": 0.1, "verdict": "pass", "groups": groups}
    table = certified_tables("demo", "k", {"gates": [gate, {"name": "text"}]})[0]
    assert [row[0] for row in table.rows] == ["b", "a"]
    assert table.rows[0][1] == "−0.10"


def outcome(
    name: str, value: float | None, *, suite: str = "choice", group: str = "", correct: bool | None = None, picked: int = 0
) -> Outcome:
    return Outcome(item_id=name, suite=suite, cluster=name, value=value, n_tokens=3, group=group, correct=correct, picked=picked)


PAIRS = [
    Pair(after=outcome("small", 1.1, correct=True), before=outcome("small", 1.0, correct=True)),
    Pair(after=outcome("lost", 0.2, correct=False, picked=1), before=outcome("lost", 0.4, correct=True)),
    Pair(after=outcome("large", 3.0, suite="text", group="sex:woman"), before=outcome("large", 1.0, suite="text", group="sex:woman")),
    Pair(after=outcome("gone", None), before=outcome("gone", 1.0)),
]


def shown(**asked: Any) -> list[str]:
    return [line.id for line in items_page("B", "A", PAIRS, {}, **asked).lines]


def test_items_are_ordered_filtered_and_paged() -> None:
    assert shown() == ["gone", "large", "lost", "small"]
    assert shown(order="worse") == ["gone", "lost", "small", "large"]
    assert shown(order="item") == ["gone", "large", "lost", "small"]
    assert shown(flip="lost") == shown(flip="any") == ["lost"]
    assert shown(flip="gained") == []
    assert shown(suite="text", group="sex:woman") == ["large"]
    many = [Pair(after=outcome(f"i{n}", float(n)), before=None) for n in range(120)]
    page = items_page("B", "", many, {}, page=99)
    assert (page.page, page.n_pages, len(page.lines)) == (3, 3, 20)
    assert items_page("B", "", many, {}).lines[0].id == "i0"


def test_texts_of_items_are_whole_and_those_about_harm_are_hidden() -> None:
    item = Item(id="lost", suite="choice", cluster="c", scorer="margin", options=(" yes", " no"), prompt="Is <b>it</b>?\u202e")
    found = items_page("B", "A", PAIRS, {"lost": item}, flip="lost").lines[0]
    assert found.texts == (
        ("prompt", "Is <b>it</b>?\ufffd"),
        ("reference picks", " yes"),
        ("candidate picks", " no"),
        ("right answer", " yes"),
    )
    harmful = [Pair(after=dataclasses.replace(PAIRS[1].after, suite="refusal"), before=PAIRS[1].before)]
    line = items_page("B", "A", harmful, {"lost": dataclasses.replace(item, suite="refusal")}).lines[0]
    assert line.hidden
    assert line.texts == ()


def test_the_speed_of_a_run_is_at_the_most_in_flight_that_were_timed() -> None:
    ratio = {"ratio": 2.84, "low": 1.891, "high": 4.252}
    over = {"1": {"e2e_ms_p50": {"ratio": 1.5, "low": 1.4, "high": 1.6}}, "4": {"e2e_ms_p50": ratio}}
    assert speed_of({"speedup": {"over_baseline": over}}) == ("2.84×", "[1.89×, 4.26×]", "4")
    assert speed_of({}) == ("", "", "")


def test_runs_are_found_with_the_reason_of_those_that_are_damaged(tmp_path: Path) -> None:
    for name in ("one", "deep/two"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text('{"schema": "trimtab.run/1"}')
    rows = {row.name: row for row in run_lines([tmp_path, tmp_path / "none"])}
    assert set(rows) == {"one", "two"}
    assert rows["two"].place == "deep"
    assert rows["one"].state == "damaged"
    assert "damaged" in rows["one"].problem
    assert set(runs_by_key([tmp_path])) == {row.key for row in rows.values()}
    assert [row.name for row in chosen_lines(list(rows.values()), text="DEEP")] == ["two"]
