"""The page of an evaluation: levels, changes, groups, languages, what is missing; no verdict."""

from typing import Any

import pytest
import test_report
from sample_items import CANDIDATE, evaluation
from test_report import HOSTILE, Page, hostile

from trimtab.core.errors import InputError
from trimtab.record.evaluation import level_text, render_evaluation


@pytest.fixture(scope="module", params=[True, False], ids=["beside", "alone"])
def html(request: pytest.FixtureRequest) -> str:
    return render_evaluation(evaluation(has_reference=request.param), command="trimtab evaluate m.gguf", items="items.html")


def test_it_is_whole_and_loads_nothing(html: str) -> None:
    test_report.test_the_page_loads_and_runs_nothing(html)
    test_report.test_structure_ids_headings_and_links(html)
    assert "There is no verdict" in Page(html).text
    assert "trimtab evaluate m.gguf" in Page(html).text
    assert "items.html" in html


def test_levels_and_shares_stand_there_with_their_intervals(html: str) -> None:
    text = Page(html).text
    for row in evaluation()["levels"]:
        value, ends = level_text(row["level"])
        assert f"{value} {ends}" in text, row["suite"]
        if row["share_correct"]:
            assert f"{100 * row['share_correct']['value']:.1f} %" in text
    assert str(len(CANDIDATE.outcomes) - 1) in text


def test_changes_are_there_where_there_is_a_reference() -> None:
    beside, alone = (Page(render_evaluation(evaluation(has_reference=found))).text for found in (True, False))
    for row in evaluation()["levels"]:
        value, ends = level_text(row["change"], signed=True)
        assert f"{value} {ends}" in beside
    assert "llamacpp f16" in beside
    assert "Change against the reference" in beside
    assert "Change against" not in alone
    assert "reference" not in alone.lower()


def test_refusals_in_answers_stand_there_as_rates_and_as_counts() -> None:
    beside, alone = (Page(render_evaluation(evaluation(has_reference=found))).text for found in (True, False))
    for text in (beside, alone):
        assert "55 %" in text
        assert "[21.0 %, 87.0 %]; 11 of 19 by the judge, 1 missing" in text
        assert "0 of 0 by the judge, 20 missing" in text
        assert "Answers to harmless requests: the time limit was reached" in text
        assert "was looked at for refusals only" in text
    assert "\N{MINUS SIGN}20 points" in beside
    assert "points" not in alone
    older = {key: value for key, value in evaluation().items() if key != "refusals"}
    text = Page(render_evaluation(older)).text
    assert "Refusals in generated" not in text
    assert "was not looked at" in text


def test_requests_stand_there_by_class_of_harm_and_what_is_too_few_is_said() -> None:
    beside, alone = (Page(render_evaluation(evaluation(has_reference=found))).text for found in (True, False))
    for text in (beside, alone):
        assert "Requests by class of harm" in text
        assert "12, 1 missing" in text
        assert "25 %" in text
        assert "Cannot tell" in text
        assert "refusal: self harm (3)" in text
    assert "\N{MINUS SIGN}0.40 *" in beside
    assert "+0.05 *" not in beside
    assert "+0.05" not in alone
    older = {key: value for key, value in evaluation().items() if key != "requests"}
    assert "by class of harm" not in Page(render_evaluation(older)).text


def test_how_a_server_was_asked_and_that_it_changed_stand_there() -> None:
    asked = [
        {"suite": "choice", "way": "answered", "n": 24, "n_left_out": 2, "why": "m at h gives none"},
        {"suite": "fairness", "way": "scored", "n": 48, "n_left_out": 0, "why": ""},
        {"suite": "cloze", "way": "left out", "n": 9, "n_left_out": 9, "why": "m at h gives none"},
    ]
    text = Page(render_evaluation(evaluation() | {"asked": asked, "changed": ["m at h changed during the run"]})).text
    for said in (
        "m at h changed during the run",
        "By log-probability of given text, values by the byte: fairness.",
        "By what it writes, right or wrong: choice.",
        "cloze: 9 items cannot be asked, and were not scored: m at h gives none.",
        "choice: 2 items cannot be asked",
        "was looked at for one thing an item",
    ):
        assert said in text
    assert "By log-probability" not in Page(render_evaluation(evaluation())).text


def test_calibration_of_questions_with_options_is_shown() -> None:
    beside, alone = (Page(render_evaluation(evaluation(has_reference=found))).text for found in (True, False))
    rows = [row for row in evaluation()["levels"] if row["calibration"]]
    assert [row["suite"] for row in rows] == ["choice", "choice-es"]
    for row in rows:
        assert f"by chance up to {row['calibration']['error_by_chance']:.3f}" in alone
        assert f"reference {row['calibration']['error_reference']:.3f}" in beside
        value, ends = level_text(row["calibration"]["brier_change"], signed=True)
        assert f"{value} {ends}" in beside
    older = evaluation()
    older["levels"] = [{key: value for key, value in row.items() if key != "calibration"} for row in older["levels"]]
    assert "Brier" not in Page(render_evaluation(older)).text, "a document of before has none"


def test_groups_by_axis_and_languages_side_by_side(html: str) -> None:
    text = Page(html).text
    for name in ("sex", "age", "woman", "young", "nats, against the mean of the axis"):
        assert name in text
    assert "By language" in text
    assert "choice es" in text


def test_changes_of_groups_are_plotted_where_there_is_a_reference() -> None:
    beside, alone = (Page(render_evaluation(evaluation(has_reference=found))).text for found in (True, False))
    assert "change against the mean of the axis" in beside
    assert "Holm" in beside
    assert "Holm" not in alone
    row = next(row for row in evaluation()["levels"] if row["suite"] == "fairness")
    value, ends = level_text(row["groups"][0]["change"], signed=True)
    assert f"{value} {ends}" in beside


def test_what_is_missing_is_said(html: str) -> None:
    text = Page(html).text
    assert "injection: 1 item has no value" in text
    assert "refusal: 4 clusters only" in text
    assert "Not examined: calling tools." in text
    assert "Not examined: whether it refuses" not in text
    assert "Not examined: instructions hidden" not in text


def test_hostile_names_are_escaped() -> None:
    html = render_evaluation(hostile(evaluation()), command=HOSTILE)
    test_report.test_the_page_loads_and_runs_nothing(html.replace("https:", "").replace("http:", ""))
    test_report.test_structure_ids_headings_and_links(html)
    assert "alert(1)" in Page(html).text


@pytest.mark.parametrize("broken", [{"levels": None}, {"levels": [{}]}, {"model": "x"}, {"schema": "trimtab.decision/1"}])
def test_what_is_no_evaluation_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        render_evaluation(evaluation() | broken)
