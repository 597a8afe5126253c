"""The verb on whole files: published answers, the same answer from every format, wrong input, pairs, mitigation, what is written."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from trimtab.core.errors import InputError
from trimtab.flows.fairness import fairness

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "tabular"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not beside this checkout")


def group(document: dict[str, Any], axis: Sequence[str], name: str) -> dict[str, Any]:
    found = next(one for one in document["axes"] if one["axis"] == list(axis))
    return next(dict(one) for one in found["groups"] if one["group"] == name)


def rate(document: dict[str, Any], axis: str, name: str, metric: str) -> float:
    return float(group(document, [axis], name)["rates"][metric]["value"])


# -- published answers


@needs_data
def test_compas() -> None:
    """ProPublica, How We Analyzed the COMPAS Recidivism Algorithm (2016): low against medium and high."""
    found = fairness(
        DATA / "compas_two_years.csv", decision="score_text", positive=["Medium", "High"], label="two_year_recid", groups=["race", "sex"]
    )
    assert found["input"]["rows"] == 7214
    for name, fpr, fnr, ppv in (("African-American", 44.85, 27.99, 62.97), ("Caucasian", 23.45, 47.72, 59.13)):
        rates = {metric: 100 * rate(found, "race", name, metric) for metric in ("fpr", "tpr", "ppv")}
        assert (rates["fpr"], 100 - rates["tpr"], rates["ppv"]) == pytest.approx((fpr, fnr, ppv), abs=0.005)
    assert found["verdict"] == "fail"
    small = next(axis for axis in found["axes"] if axis["axis"] == ["race"])["too_small"]
    assert small == {"Native American": 18}
    assert group(found, ["race", "sex"], "Asian, Female")["rates"]["tpr"]["value"] is None


@needs_data
@pytest.mark.parametrize(
    ("file", "column", "positive", "answers"),
    [
        ("german_original.csv", "credit", "1", {"female": 0.6484, "male": 0.7232}),
        ("adult_original.csv", "income-per-year", ">50K", {"Female": 0.1137, "Male": 0.3138}),
    ],
)
def test_selection_rates_of_german_and_adult(file: str, column: str, positive: str, answers: dict[str, float]) -> None:
    found = fairness(DATA / file, decision=column, positive=[positive], groups=["sex"])
    assert {name: round(rate(found, "sex", name, "selection_rate"), 4) for name in answers} == answers
    assert [gate["metric"] for gate in found["gates"] if gate["required"]] == ["selection_rate"]


# https://fairlearn.org/main/user_guide/assessment/common_fairness_metrics.html and perform_fairness_assessment.html: its table and results.
FAIRLEARN_TRUE = [0, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1]
FAIRLEARN_PRED = [0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0]
FAIRLEARN_GROUP = "bbabbcccaacabccbcc"


def test_the_documented_table_of_fairlearn(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.csv", ["y", "p", "g"], zip(FAIRLEARN_TRUE, FAIRLEARN_PRED, FAIRLEARN_GROUP, strict=True))
    found = fairness(path, decision="p", label="y", groups=["g"], policy=str(small_policy(tmp_path)))
    by_group = {
        name: [round(rate(found, "g", name, metric), 6) for metric in ("tpr", "fpr", "selection_rate")]
        + [group(found, ["g"], name)["confusion"]["n"]]
        for name in "abc"
    }
    assert by_group == {"a": [0.5, 1.0, 0.75, 4], "b": [0.6, 0.0, 0.5, 6], "c": [0.4, 0.666667, 0.5, 8]}
    gaps = {gap["metric"]: gap for gap in found["axes"][0]["gaps"]}
    assert gaps["selection_rate"]["value"] == pytest.approx(0.25)  # demographic_parity_difference
    assert gaps["selection_rate"]["ratio"]["value"] == pytest.approx(2 / 3)  # demographic_parity_ratio
    assert max(gaps["tpr"]["value"], gaps["fpr"]["value"]) == pytest.approx(1.0)  # equalized_odds_difference
    assert {metric: round(one["value"], 6) for metric, one in found["ability"]["rates"].items() if metric in ("tpr", "fpr")} == {
        "tpr": 0.5,
        "fpr": 0.666667,
    }


def test_fairlearn_itself_agrees(tmp_path: Path) -> None:
    metrics = pytest.importorskip("fairlearn.metrics", reason="fairlearn is not installed")
    random = np.random.default_rng(2)
    n = 600
    g, y = random.choice(list("abc"), n), random.integers(0, 2, n)
    p = (random.random(n) < np.where(g == "a", 0.6, 0.4) + 0.1 * y).astype(int)
    found = fairness(write(tmp_path / "t.csv", ["y", "p", "g"], zip(y, p, g, strict=True)), decision="p", label="y", groups=["g"])
    gaps = {gap["metric"]: gap["value"] for gap in found["axes"][0]["gaps"]}
    assert gaps["selection_rate"] == pytest.approx(metrics.demographic_parity_difference(y, p, sensitive_features=g))
    assert max(gaps["tpr"], gaps["fpr"]) == pytest.approx(metrics.equalized_odds_difference(y, p, sensitive_features=g))


# -- made tables


def write(path: Path, names: Sequence[str], rows: Any) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
    return path


def small_policy(folder: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(
        'name = "small"\nversion = "1"\nmin_group = 1\n[[gates]]\nmetric = "selection_rate"\nmax_gap = 0.1\nreason = "a test"\n'
    )
    return path


def people(n: int = 3000, gap: float = 0.0, seed: int = 0) -> list[tuple[Any, ...]]:
    """sex, race, score, approved, repaid, age: group M is approved `gap` more often at the same outcome."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        sex, race = str(random.choice(["F", "M"])), str(random.choice(["A", "B"]))
        age = int(random.integers(18, 80))
        repaid = bool(random.random() < 0.3 + 0.005 * (age - 18))
        score = float(np.clip(0.3 + 0.3 * repaid + gap * (sex == "M") + random.normal(0, 0.15), 0, 1))
        rows.append((sex, race, round(score, 4), int(score >= 0.5), int(repaid), age))
    return rows


NAMES = ["sex", "race", "score", "approved", "repaid", "age"]


def test_csv_jsonl_and_parquet_give_the_same_answer(tmp_path: Path) -> None:
    rows = people(400)
    paths = [write(tmp_path / "t.csv", NAMES, rows), tmp_path / "t.jsonl", tmp_path / "t.parquet"]
    dicts = [dict(zip(NAMES, row, strict=True)) | {"approved": bool(row[3])} for row in rows]
    paths[1].write_text("".join(json.dumps(row) + "\n" for row in dicts))
    parquet.write_table(pa.Table.from_pylist(dicts), paths[2])
    found = [fairness(path, decision="approved", label="repaid", groups=["sex", "race"], score="score") for path in paths]
    for document in found:
        document["input"] = document["input"]["rows"]
    assert found[0] == found[1] == found[2]
    assert found[0]["input"] == 400


def test_alike_passes_and_apart_fails_and_little_cannot_tell(tmp_path: Path) -> None:
    def verdict(rows: list[tuple[Any, ...]]) -> str:
        return str(fairness(write(tmp_path / "t.csv", NAMES, rows), decision="approved", label="repaid", groups=["sex"])["verdict"])

    assert verdict(people(8000)) == "pass"
    assert verdict(people(8000, gap=0.2)) == "fail"
    assert verdict(people(120)) == "inconclusive"


def test_a_threshold_makes_the_decision_exactly(tmp_path: Path) -> None:
    rows = people(5000)
    path = write(tmp_path / "t.csv", NAMES, rows)
    given = fairness(path, decision="approved", label="repaid", groups=["sex"], score="score")
    cut = fairness(path, label="repaid", groups=["sex"], score="score", threshold=0.5)
    assert len({row[2] for row in rows}) > 1000  # so that scores are counted in thousandths
    assert cut["axes"] == given["axes"]
    assert cut["calibration"] == given["calibration"]


def test_an_earlier_decision_is_what_is_judged(tmp_path: Path) -> None:
    rows = [(*row, row[3]) for row in people(6000, gap=0.2)]
    path = write(tmp_path / "t.csv", [*NAMES, "old"], rows)
    found = fairness(path, decision="approved", before="old", label="repaid", groups=["sex"])
    assert found["verdict"] == "pass"
    assert {gate["metric"] for gate in found["gates"] if gate["required"]} == {"selection_rate_change", "equalised_odds_change"}
    assert next(gate for gate in found["gates"] if gate["metric"] == "equalised_odds")["verdict"] == "fail"
    moved = [(*row[:6], int(row[3] and (row[0] == "M" or k % 4 > 0))) for k, row in enumerate(rows)]
    path = write(tmp_path / "m.csv", [*NAMES[:3], "old", *NAMES[4:], "approved"], moved)
    assert fairness(path, decision="approved", before="old", groups=["sex"])["verdict"] == "fail"


def test_answers_with_the_identity_swapped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    lines = []
    for case in range(200):
        hired = case % 2 == 0
        lines.append({"case": f"c{case}", "origin": "here", "hired": "yes" if hired else "no"})
        lines.append({"case": f"c{case}", "origin": "there", "hired": "yes" if hired and case % 5 else "no"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = fairness(path, decision="hired", groups=["origin"], pair="case")
    gap = next(one for one in found["counterfactual"] if one["group"] == "there")
    assert gap["value"] == pytest.approx(-0.1)
    assert gap["n"] == 200
    assert next(gate for gate in found["gates"] if gate["metric"] == "counterfactual")["verdict"] == "fail"


def test_mitigations_are_judged_on_rows_they_have_not_seen_and_their_cost_is_shown(tmp_path: Path) -> None:
    rows = people(6000, gap=0.2)
    path = write(tmp_path / "t.csv", NAMES, rows)
    found = fairness(
        path,
        label="repaid",
        groups=["sex"],
        score="score",
        threshold=0.5,
        mitigate=["reweighing", "odds-thresholds", "parity-thresholds"],
        features=["age"],
        out=tmp_path / "audit",
    )
    weights, odds, parity = found["mitigation"]
    assert "disparate treatment" in odds["legal_note"]
    assert odds["thresholds"]["by_group"]["F"] < odds["thresholds"]["by_group"]["M"]
    for one in (odds, parity):
        assert 0.45 < one["rows_judged"] / 6000 < 0.55
        assert one["accuracy_change"]["low"] < one["accuracy_change"]["value"] < one["accuracy_change"]["high"]
    gates = {name: {gate["metric"]: gate["verdict"] for gate in odds[f"gates_{name}"]} for name in ("before", "after")}
    assert gates["before"]["equalised_odds"] == "fail"
    assert gates["after"]["equalised_odds"] != "fail"
    with (tmp_path / "audit" / "weights.csv").open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == 6000
    by_cell = {(one["group"], one["label"]): one["weight"] for one in weights["weights"]}
    assert float(written[4]["weight"]) == pytest.approx(by_cell[rows[4][0], bool(rows[4][4])])
    assert weights["accuracy_change"]["n"] == odds["rows_judged"]
    assert json.loads((tmp_path / "audit" / "fairness.json").read_text())["schema"] == "trimtab.fairness/1"


def test_a_logistic_regression_finds_known_coefficients() -> None:
    from trimtab.flows.parts.refit import _logistic

    random = np.random.default_rng(0)
    x = np.column_stack([np.ones(20_000), random.normal(size=20_000)])
    y = random.random(20_000) < 1 / (1 + np.exp(-(x @ [-0.5, 1.5])))
    assert _logistic(x, y, np.ones(20_000)) == pytest.approx([-0.5, 1.5], abs=0.06)
    doubled = _logistic(np.vstack([x, x[y]]), np.concatenate([y, y[y]]), np.ones(20_000 + int(y.sum())))
    assert _logistic(x, y, np.where(y, 2.0, 1.0)) == pytest.approx(doubled, abs=1e-3)


def test_missing_values_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    rows = [list(row) for row in people(300)]
    rows[6][4], rows[9][0] = "", "NA"
    path = write(tmp_path / "t.csv", NAMES, rows)
    with pytest.raises(InputError, match=r"t\.csv, row 10 has no value in column 'sex'|t\.csv, row 7 has no value in column 'repaid'"):
        fairness(path, decision="approved", label="repaid", groups=["sex"])
    found = fairness(path, decision="approved", label="repaid", groups=["sex"], drop_missing=True)
    assert (found["input"]["rows"], found["input"]["rows_counted"]) == (300, 298)
    assert found["input"]["dropped"] == {"sex": 1, "repaid": 1}
    assert any("1 without sex" in note for note in found["notes"])


GOOD: dict[str, Any] = {"decision": "approved", "label": "repaid", "groups": ["sex"]}


@pytest.mark.parametrize(
    ("changed", "asked", "says"),
    [
        ({}, {"groups": ["gender"]}, "has no column 'gender'; its columns are sex, race"),
        ({}, {"groups": []}, "at least one column of groups"),
        ({}, {"decision": ""}, "--decision"),
        ({"sex": "F"}, {}, r"Column 'sex' of .* holds one group only \(F\)"),
        ({"repaid": 1}, {}, "has the same label"),
        ({"repaid": float("nan")}, {}, "row 1 has no value in column 'repaid'"),
        ({"approved": "maybe"}, {}, "row 1: 'maybe' in column 'approved' is neither yes nor no.*--positive"),
        ({}, {"positive": ["1", "granted"]}, "No row has 'granted' in column 'approved'; its values are"),
        ({}, {"positive": ["granted"]}, "No row has 'granted' in column 'approved'; its values are"),
        ({"score": 3.5}, {"decision": "", "score": "score", "threshold": 7.0}, "threshold 7 lies outside the scores"),
        ({}, {"decision": "", "score": "score", "threshold": 1.5}, "threshold 1.5 lies outside the scores"),
        ({}, {"score": "score", "threshold": 0.5}, "both say what the decision is"),
        ({"score": "inf"}, {"score": "score"}, "row 1: 'inf' is not a finite number in column 'score'"),
        ({"score": "high"}, {"score": "score"}, "row 1: 'high' is not a finite number"),
        ({}, {"label": "approved"}, "'approved' is named for two things"),
        ({}, {"threshold": 0.5}, "--threshold cuts a score"),
        ({}, {"mitigate": ["odds-thresholds"]}, "need a score"),
        ({}, {"features": ["age"]}, "--features are for refitting"),
        ({}, {"cluster": "age"}, "it needs --pair"),
        ({}, {"decision": "", "score": "score", "threshold": 0.5, "positive": ["1"]}, "name its column with --decision"),
        ({}, {"label": "", "positive_label": ["1"]}, "name its column with --label"),
        ({}, {"score": "score", "decision": "", "threshold": float("nan")}, "threshold nan lies outside the scores"),
        ({"sex": "  "}, {}, "row 1 has no value in column 'sex'"),
        ({}, {"policy": "nosuch"}, "Unknown fairness policy 'nosuch'"),
        ({}, {"mitigate": ["reweighing"], "label": ""}, "name the label"),
    ],
)
def test_one_sentence_for_what_is_wrong(tmp_path: Path, changed: dict[str, Any], asked: dict[str, Any], says: str) -> None:
    rows = [[changed.get(name, value) for name, value in zip(NAMES, row, strict=True)] for row in people(60)]
    path = write(tmp_path / "t.csv", NAMES, rows)
    with pytest.raises(InputError, match=says) as caught:
        fairness(path, out=tmp_path / "audit", **(GOOD | asked))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "audit").exists()


def test_words_for_none_are_told_and_decisions_may_be_floats(tmp_path: Path) -> None:
    rows = [("none" if k == 3 else "blind" if k % 2 else "deaf", f"{float(k % 3 > 0)}") for k in range(300)]
    path = write(tmp_path / "t.csv", ["disability", "approved"], rows)
    with pytest.raises(InputError, match=r"row 4 has no value in column 'disability' \(empty, or a word for none: NaN, NA, None, null\)"):
        fairness(path, decision="approved", groups=["disability"])
    found = fairness(path, decision="approved", groups=["disability"], drop_missing=True)
    assert found["input"]["positive"] == ["1.0"]
    assert found["ability"]["rates"]["selection_rate"]["n"] == 299


def test_more_groups_than_can_be_held_against_each_other_are_refused(tmp_path: Path) -> None:
    rows = [(f"a{k % 30}", f"b{k // 30 % 30}", k % 2) for k in range(1800)]
    path = write(tmp_path / "t.csv", ["town", "school", "approved"], rows)
    with pytest.raises(InputError, match=r"town x school of .* make 900 groups, more than the 600"):
        fairness(path, decision="approved", groups=["town", "school"])
    assert len(fairness(path, decision="approved", groups=["town"])["axes"][0]["groups"]) == 30


def test_a_column_of_numbers_is_no_group_and_scores_beyond_one_need_few_steps(tmp_path: Path) -> None:
    rows = [(k, k % 2, (k * 7919 % 5000) / 100, k % 3 % 2) for k in range(3000)]
    path = write(tmp_path / "t.csv", ["id", "sex", "score", "approved"], rows)
    with pytest.raises(InputError, match=r"row 201: column 'id' holds more than 200 different values"):
        fairness(path, decision="approved", groups=["id"])
    with pytest.raises(InputError, match=r"outside 0\.\.1, and there are more than 1000 different scores"):
        fairness(path, decision="approved", groups=["sex"], score="score")


def test_the_page_tells_it_all_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    rows = [("<script>alert(1)</script>" if row[0] == "F" else "M", *row[1:]) for row in people(900, gap=0.2)]
    path = write(tmp_path / "t.csv", NAMES, rows)
    fairness(
        path,
        label="repaid",
        groups=["sex", "race"],
        score="score",
        threshold=0.5,
        mitigate=["odds-thresholds"],
        out=tmp_path / "audit",
    )
    page = (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    for part in ('id="gates"', 'id="level"', 'id="calibration"', 'id="mitigation"', "disparate treatment", 'name="viewport"'):
        assert part in page
    assert "http" not in page.replace("http-equiv", "")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.booleans(), st.booleans(), st.integers(0, 20)), min_size=1),
    threshold=st.integers(0, 20),
)
def test_counts_are_those_of_a_plain_loop(tmp_path: Path, rows: list[tuple[Any, ...]], threshold: int) -> None:
    from trimtab.flows.parts.decision_counts import Columns, count_decisions
    from trimtab.sources.table import open_table

    rows = [*rows, ("a", "x", True, True, 0), ("b", "y", False, False, 20)]
    path = write(tmp_path / "t.csv", ["g", "h", "old", "right", "score"], [(*row[:4], row[4] / 20) for row in rows])
    columns = Columns(decision="", label="right", groups=("g", "h"), score="score", threshold=threshold / 20, before="old")
    table = count_decisions(open_table(path), columns).table
    for axis in table.axes:
        for name, lines in table.split(axis):
            own = [row for row in rows if ", ".join(row["gh".index(column)] for column in axis) == name]
            now, was = table.confusion(lines), table.confusion(lines, before=True)
            assert table.confusions(axis)[name] == now
            everyone = table.confusion(np.ones(table.n.size, dtype=bool))
            assert everyone.without(now) == table.confusion(~lines)
            assert (now.n, now.selected) == (len(own), sum(row[4] >= threshold for row in own))
            assert now.tp == sum(row[4] >= threshold and row[3] for row in own)
            assert (was.selected, was.fp) == (sum(row[2] for row in own), sum(row[2] and not row[3] for row in own))
    assert table.half is not None
    assert int(table.of_half(0).n.sum() + table.of_half(1).n.sum()) == len(rows)
