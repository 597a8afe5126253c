"""Pages of plans: whole, escaped, self-contained, the same twice; what their words and figures say."""

import itertools
import json
import re
from typing import Any

import pytest
from sample_plan import PLANS, number, train_plan

from trimtab.record import plan_view as view
from trimtab.record.plan_figures import lower_left
from trimtab.record.plan_pipeline import time_line
from trimtab.record.plan_report import embedded, render_plan, write_plan_page
from trimtab.record.plan_what_if import serving, training, what_if_table

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


@pytest.mark.parametrize("name", PLANS)
def test_a_page_loads_nothing_and_is_the_same_twice(name: str) -> None:
    text = render_plan(PLANS[name]())
    assert text == render_plan(PLANS[name]())
    assert PLANS[name]()["headline"].split(" ")[0] in text
    assert re.findall(r"(?:src|href)=\"(?!#)", text) == []
    assert "script-src 'sha256-" in text


def test_names_of_others_are_texts() -> None:
    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item if key in ("kind", "schema", "unit", "basis") else poisoned(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poisoned(item) for item in value]
        return value + HOSTILE if isinstance(value, str) else value

    text = render_plan(poisoned(train_plan()))
    assert "<img" not in text
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    grid = re.search(r'id="grid">(.*?)</script>', text)
    assert grid is not None
    assert json.loads(grid[1])["rows"][0]["name"].endswith(HOSTILE)
    assert json.loads(embedded({"a": "<&>"})) == {"a": "<&>"}


def test_it_is_written_whole(tmp_path: Any) -> None:
    write_plan_page(tmp_path / "plan.html", train_plan())
    assert (tmp_path / "plan.html").read_text().endswith("</html>\n")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (62.1e9, "bytes", "62.1 GB"),
        (0.35, "share", "35 %"),
        (41_234.0, "usd", "$41.2k"),
        (3.41e6, "usd", "$3.41M"),
        (950.4, "usd", "$950"),
        (2.5, "usd/h", "$2.50"),
        (0.0123, "usd/Mtok", "$0.012"),
        (0.0, "usd", "$0.00"),
        (0.42, "s", "420 ms"),
        (90.0, "s", "90.0 s"),
        (5400.0, "s", "90.0 min"),
        (36 * 3600.0, "s", "36.0 h"),
        (12.3 * 86_400, "s", "12.3 days"),
        (3 * 365.25 * 86_400, "s", "3.00 years"),
        (38_000.0, "tokens", "38,000"),
        (25_000.0, "kWh", "25.0 MWh"),
        (None, "usd", "unknown"),
        (float("nan"), "s", "unknown"),
    ],
)
def test_amounts(value: Any, unit: str, text: str) -> None:
    assert view.amount(value, unit) == text


def test_intervals_say_a_unit_once() -> None:
    assert view.between(10.4 * 86_400, 14.9 * 86_400, "s") == "10.4–14.9 days"
    assert view.between(36 * 3600, 4 * 86_400, "s") == "36.0 h–4.00 days"
    assert view.between(19_000, 23_200, "usd") == "$19.0–23.2k"
    assert view.between(9_000, 11_000, "usd") == "$9,000–11.0k"
    assert view.between(None, 1.0, "usd") == "interval not known"
    found = view.cell(number(5.5 * 86_400, "s"))
    assert (found.text, found.ends, found.sign) == ("5.50 days", "4.95–6.05", "◐")
    assert view.cell({"unknown": "why"}).text == "unknown"


def test_bars_are_shares_of_what_the_device_has() -> None:
    row = train_plan()["options"][0]
    slices, taken = view.memory_bar(row)
    assert sum(part.share for part in slices) == pytest.approx(taken) == pytest.approx(60 / 80)
    assert sum(part.share for part in view.time_bar(row)) == pytest.approx(1.0)
    row["memory"]["capacity_bytes"] = 30e9
    assert view.memory_bar(row)[1] == pytest.approx(1.0), "what does not fit fills the bar"


def test_a_pipeline_waits_as_long_as_theory_says() -> None:
    """1F1B: the share of waiting is (stages - 1) / (micro-batches + stages - 1)."""
    for stages, batches in ((1, 5), (4, 8), (8, 12), (3, 1)):
        turns = time_line(stages, batches, 1.0, 2.0)
        assert len(turns) == 2 * stages * batches
        busy = sum(turn.length for turn in turns if turn.stage == 0)
        assert 1 - busy == pytest.approx((stages - 1) / (batches + stages - 1))
        for stage in range(stages):
            mine = sorted((turn.start, turn.start + turn.length) for turn in turns if turn.stage == stage)
            assert all(earlier[1] <= later[0] + 1e-9 for earlier, later in itertools.pairwise(mine))
    assert max(turn.stage for turn in time_line(64, 512, 1.0, 2.0)) == 7


def test_what_if_is_plain_arithmetic() -> None:
    row = {"tok_s": 1e6, "n_devices": 64, "usd_per_device_hour": 2.5}
    seconds, usd = training(row, 3.6e9)
    assert (seconds, usd) == (3600.0, 160.0)
    assert training(row | {"usd_per_device_hour": None}, 3.6e9)[1] is None
    assert serving({"req_s": 8.0, "n_devices": 2, "usd_per_device_hour": 3.0}, 20.0) == (3, 18.0)
    assert serving({"req_s": 10.0, "n_devices": 1, "usd_per_device_hour": None}, 20.0) == (2, None)
    heads, rows = what_if_table(PLANS["fit"]()["what_if"])
    assert heads == ["4,096 tokens", "32,768 tokens", "131,072 tokens"]
    assert rows[0][2][2] == "no: 34.2 GB"
    assert what_if_table(train_plan()["what_if"])[0][0] == "150B tokens"


def test_the_edge_of_a_plot_goes_down_to_the_right() -> None:
    assert lower_left([(3.0, 1.0), (1.0, 5.0), (2.0, 6.0), (2.0, 2.0), (2.5, 2.0), (1.0, 7.0)]) == [(1.0, 5.0), (2.0, 2.0), (3.0, 1.0)]
    assert lower_left([]) == []
