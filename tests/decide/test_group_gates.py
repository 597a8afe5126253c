"""Gaps between groups: intervals, verdicts, small cells, change, calibration, pairs, mitigation; on counts that are known."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.decide.calibration import area_under_curve, group_calibration
from trimtab.decide.counterfactual import PairedRows, bounds, counterfactual_gaps
from trimtab.decide.decision_table import DecisionTable
from trimtab.decide.fairness_policy import FairnessPolicy, GapSpec, load_fairness_policy
from trimtab.decide.group_gates import (
    calibration_evidence,
    change_evidence,
    counterfactual_evidence,
    joint_verdict,
    judge_gap,
    rate_evidence,
)
from trimtab.decide.group_rates import axis_rates
from trimtab.decide.mitigation import accuracy_change, decided, fit_thresholds, reweighing
from trimtab.stats.multiplicity import holm
from trimtab.stats.proportions import p_difference_outside, rate_difference


def spec(metric: str = "selection_rate", max_gap: float = 0.1) -> GapSpec:
    return GapSpec(metric=metric, max_gap=max_gap, reason="a test")  # type: ignore[arg-type]


def policy(**changes: object) -> FairnessPolicy:
    return FairnessPolicy(name="t", version="1", gates=(spec(),), **changes)  # type: ignore[arg-type]


def counted(cells: dict[tuple[str, str], tuple[int, int, int, int]]) -> DecisionTable:
    """Groups of two columns to (tp, fp, fn, tn)."""
    values = (tuple(dict.fromkeys(a for a, _ in cells)), tuple(dict.fromkeys(b for _, b in cells)))
    lines = [
        (values[0].index(a), values[1].index(b), n, chosen, true)
        for (a, b), counts in cells.items()
        for n, (chosen, true) in zip(counts, [(True, True), (True, False), (False, True), (False, False)], strict=True)
    ]
    rows = np.array(lines)
    return DecisionTable(
        columns=("sex", "race"),
        values=values,
        groups=rows[:, :2],
        n=rows[:, 2],
        selected=rows[:, 3].astype(bool),
        actual=rows[:, 4].astype(bool),
    )


ALIKE = counted(dict.fromkeys(itertools.product("FM", "AB"), (400, 100, 100, 400)))
APART = counted(
    {("F", "A"): (200, 100, 300, 400), ("F", "B"): (200, 100, 300, 400), ("M", "A"): (400, 100, 100, 400), ("M", "B"): (4, 1, 1, 4)}
)


def test_rates_are_the_counts() -> None:
    found = axis_rates(APART, ("sex",), 30)
    female = next(group for group in found.groups if group.group == "F")
    assert {name: (rate.count, rate.n) for name, rate in female.rates.items()} == {
        "selection_rate": (600, 2000),
        "base_rate": (1000, 2000),
        "tpr": (400, 1000),
        "fpr": (200, 1000),
        "ppv": (400, 600),
        "accuracy": (1200, 2000),
    }
    assert female.against_rest["tpr"].value == pytest.approx(0.4 - 404 / 505)
    gap = next(gap for gap in found.gaps if gap.metric == "selection_rate")
    assert (gap.high_group, gap.low_group) == ("M", "F")
    assert gap.value == pytest.approx(505 / 1010 - 0.3)
    assert gap.ratio is not None
    assert gap.ratio.value == pytest.approx(0.3 / 0.5)


def test_axes_are_single_columns_and_their_intersection() -> None:
    assert ALIKE.axes == [("sex",), ("race",), ("sex", "race")]


def test_pass_fail_and_cannot_tell() -> None:
    rules = policy()
    alike = judge_gap(spec(), rate_evidence(ALIKE, spec(), rules), rules, required=True)
    assert alike.verdict == "pass"
    assert alike.n_pairs == 1 + 1 + 6
    narrow = spec(max_gap=0.01)
    assert judge_gap(narrow, rate_evidence(ALIKE, narrow, rules), rules, required=True).verdict == "inconclusive"
    odds = spec("equalised_odds")
    apart = judge_gap(odds, rate_evidence(APART, odds, rules), rules, required=True)
    assert apart.verdict == "fail"
    assert "true positive rate" in apart.reasons[0]
    assert joint_verdict([alike, apart]) == "fail"
    assert joint_verdict([]) == "inconclusive"


def test_a_cell_that_is_too_small_is_told_with_its_n_and_forbids_a_pass_unless_the_policy_leaves_it_out() -> None:
    table = counted(
        {("F", "A"): (400, 100, 100, 400), ("M", "A"): (400, 100, 100, 400), ("F", "B"): (400, 100, 100, 400), ("M", "B"): (2, 1, 2, 2)}
    )
    rules = policy()
    found = judge_gap(spec(), rate_evidence(table, spec(), rules), rules, required=True)
    assert found.verdict == "inconclusive"
    assert found.too_small == {"sex x race: M, B": 7}
    assert "cannot tell for sex x race: M, B (n = 7)" in found.reasons[-1]
    lenient = policy(small_groups="leave out")
    assert judge_gap(spec(), rate_evidence(table, spec(), lenient), lenient, required=True).verdict == "pass"
    rate = next(group for group in axis_rates(table, ("sex", "race"), 30).groups if group.group == "M, B").rates["selection_rate"]
    assert (rate.value, rate.n) == (None, 7)


def test_many_groups_are_judged_as_each_pair_would_be_by_itself() -> None:
    random = np.random.default_rng(8)
    names = [f"g{k:02d}" for k in range(12)]
    cells = {(one, other): tuple(map(int, random.multinomial(60, [0.3, 0.1, 0.2, 0.4]))) for one in names for other in "AB"}
    table, rules, gate = counted(cells), policy(), spec("tpr", 0.05)  # type: ignore[arg-type]
    found = rate_evidence(table, gate, rules)
    sizes = {
        (" x ".join(axis), name): (counts.tp or 0, (counts.tp or 0) + (counts.fn or 0))
        for axis in table.axes
        for name, counts in table.confusions(axis).items()
    }
    large = [axis for (axis, _), (_, n) in sizes.items() if n >= rules.min_group]
    assert len(found.names) == sum(n * (n - 1) // 2 for n in (large.count(axis) for axis in set(large)))
    adjusted = holm([p_difference_outside(*sizes[axis, one], *sizes[axis, other], 0.05) for axis, one, other, _ in found.names])
    result = judge_gap(gate, found, rules, required=True)
    assert (result.verdict == "fail") == any(p < rules.alpha for p in adjusted)
    for place in range(0, len(found.names), 7):
        pair = found.pair(place)
        alone = rate_difference(*sizes[pair.axis, pair.one], *sizes[pair.axis, pair.other], 0.9)
        assert (pair.value, pair.low, pair.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert result.worst is not None
    assert max(-result.worst.low, result.worst.high) == max(found.reach)


@pytest.mark.slow
def test_a_gate_that_searches_seldom_fails_equal_groups() -> None:
    random = np.random.default_rng(3)
    rules, gate = policy(min_group=5), spec(max_gap=0.001)
    failed = 0
    for _ in range(150):
        cells = {(s, r): tuple(map(int, random.multinomial(120, [0.25, 0.1, 0.15, 0.5]))) for s, r in itertools.product("FM", "ABC")}
        failed += judge_gap(gate, rate_evidence(counted(cells), gate, rules), rules, required=True).verdict == "fail"  # type: ignore[arg-type]
    assert failed / 150 < 0.09  # alpha 0.05, Holm over 19 pairs


def changed(rows: list[tuple[int, bool, bool, bool, int]]) -> DecisionTable:
    """(group, before, now, actual, n)."""
    table = np.array(rows)
    return DecisionTable(
        columns=("g",),
        values=(("a", "b"),),
        groups=table[:, :1].astype(np.int64),
        n=table[:, 4],
        selected=table[:, 2].astype(bool),
        actual=table[:, 3].astype(bool),
        before=table[:, 1].astype(bool),
    )


def test_the_change_is_judged_and_not_the_level() -> None:
    """Group a is selected far more often, before and now: its level is apart, its change is not."""
    still = changed([(0, 1, 1, 1, 900), (0, 0, 0, 0, 100), (1, 1, 1, 1, 100), (1, 0, 0, 0, 900)])  # type: ignore[list-item]
    rules, gate = policy(), spec("selection_rate_change", 0.02)
    assert judge_gap(gate, change_evidence(still, gate, rules), rules, required=True).verdict == "pass"
    assert judge_gap(spec(), rate_evidence(still, spec(), rules), rules, required=False).verdict == "fail"
    moved = changed([(0, 1, 1, 1, 500), (0, 1, 0, 1, 200), (0, 0, 0, 0, 300), (1, 1, 1, 1, 500), (1, 0, 0, 0, 500)])  # type: ignore[list-item]
    found = judge_gap(gate, change_evidence(moved, gate, rules), rules, required=True)
    assert found.verdict == "fail"
    assert found.worst is not None
    assert abs(found.worst.value) == pytest.approx(0.2)


def scored(bias: float, n: int = 4000) -> DecisionTable:
    """Two groups with scores at tenths; group b's outcomes are `bias` likelier than its scores say."""
    random = np.random.default_rng(1)
    level = random.integers(0, 9, n)
    group = random.integers(0, 2, n)
    values = tuple(round(0.1 * (k + 1), 1) for k in range(9))
    actual = random.random(n) < np.clip(np.asarray(values)[level] + bias * group, 0, 1)
    return DecisionTable(
        columns=("g",),
        values=(("a", "b"),),
        groups=group[:, None].astype(np.int64),
        n=np.ones(n, dtype=np.int64),
        selected=np.asarray(values)[level] >= 0.5,
        actual=actual,
        half=random.integers(0, 2, n).astype(np.int64),
        level=level.astype(np.int64),
        level_values=values,
    )


def test_calibration_finds_the_group_whose_score_is_too_low_and_chance_explains_the_other() -> None:
    a, b = group_calibration(scored(0.15), ("g",), 30)
    assert a.excess is not None
    assert b.excess is not None
    assert a.error is not None
    assert a.error_by_chance is not None
    assert b.error is not None
    assert b.error_by_chance is not None
    assert abs(a.excess) < 0.03
    assert b.excess == pytest.approx(-0.14, abs=0.03)
    assert a.error < a.error_by_chance
    assert b.error > 2 * b.error_by_chance
    gate, rules = spec("calibration", 0.05), policy()
    for bias, verdict in ((0.15, "fail"), (0.0, "pass")):
        evidence = calibration_evidence({("g",): group_calibration(scored(bias), ("g",), 30)}, gate, rules)
        assert judge_gap(gate, evidence, rules, required=True).verdict == verdict


def test_area_under_the_curve_of_known_ranks() -> None:
    table = DecisionTable(
        columns=("g",),
        values=(("a",),),
        groups=np.zeros((4, 1), dtype=np.int64),
        n=np.array([1, 2, 1, 1]),
        selected=np.zeros(4, dtype=bool),
        actual=np.array([False, True, False, True]),
        level=np.array([0, 1, 1, 2]),
        level_values=(0.1, 0.5, 0.9),
    )
    found = area_under_curve(table)
    assert found is not None
    assert found.value == pytest.approx((3 + 1 + 2 * 0.5) / 6)  # of 3 positives and 2 negatives: 3 above the first, 1 above and 2 level


def pairs(gap: float, n: int = 300, *, seed: int = 0) -> PairedRows:
    random = np.random.default_rng(seed)
    first = random.random(n) < 0.4
    second = first & (random.random(n) >= gap / 0.4)
    return PairedRows(
        case=np.concatenate([np.arange(n), np.arange(n)]),
        cluster=np.concatenate([np.arange(n), np.arange(n)]),
        groups={"g": np.repeat([0, 1], n)},
        values={"g": ("a", "b")},
        outcomes={"decision": np.concatenate([first, second]).astype(float)},
    )


def test_the_same_case_with_another_identity() -> None:
    rules, gate = policy(), spec("counterfactual", 0.05)
    a, b = counterfactual_gaps(pairs(0.2), "decision")
    assert a.value == -b.value
    assert a.value == pytest.approx(0.2, abs=0.06)
    assert a.p_holm < 0.001
    assert judge_gap(gate, counterfactual_evidence([a, b], gate, rules), rules, required=True).verdict == "fail"
    same = counterfactual_gaps(pairs(0.0), "decision")
    assert judge_gap(gate, counterfactual_evidence(same, gate, rules), rules, required=True).verdict == "pass"
    few = counterfactual_gaps(pairs(0.0, 40), "decision")
    found = judge_gap(gate, counterfactual_evidence(few, gate, rules), rules, required=True)
    assert found.verdict == "inconclusive"
    assert found.too_small == {"g: a": 40}


def test_two_groups_are_one_test_and_three_are_three() -> None:
    a, b = counterfactual_gaps(pairs(0.05), "decision")
    assert a.p_holm == b.p_holm == pytest.approx(a.mean.p_two_sided())
    rows = axis_rates(APART, ("sex",), 30).groups
    assert rows[0].against_rest["tpr"].p_holm == pytest.approx(rows[1].against_rest["tpr"].p_holm)


def test_groups_that_read_the_same_are_refused() -> None:
    table = counted({("x, y", "z"): (9, 9, 9, 9), ("x", "y, z"): (9, 9, 9, 9)})
    with pytest.raises(InputError, match="read the same"):
        list(table.split(("sex", "race")))


def test_pairs_that_never_differ_do_not_prove_a_gap_of_zero() -> None:
    (a, _) = counterfactual_gaps(pairs(0.0, 60), "decision")
    assert a.value == 0.0
    low, high = bounds(a.mean, 0.05, True)
    assert high == -low == pytest.approx(1 - 0.05 ** (1 / 60))


def test_very_many_pairs_fit_into_memory() -> None:
    a, _ = counterfactual_gaps(pairs(0.1, 50_000), "decision")
    assert a.n == 50_000
    assert a.n_clusters == 1000
    assert 0.004 < a.high - a.low < 0.008


def test_reweighing_makes_group_and_label_independent() -> None:
    weights = reweighing(APART)
    mass = {(w.group, w.label): w.n * w.weight for w in weights}
    positive = sum(m for (_, label), m in mass.items() if label)
    total = sum(mass.values())
    assert total == pytest.approx(APART.n.sum())
    for group in {w.group for w in weights}:
        assert mass[group, True] / (mass[group, True] + mass[group, False]) == pytest.approx(positive / total)
    # Kamiran and Calders (2012), their example: 10 people, sex by class; weight of a promoted woman 0.5 * 0.6 / 0.2 = 1.5
    table = counted({("f", "x"): (2, 0, 0, 3), ("m", "x"): (4, 0, 0, 1)})
    by_cell = {(w.group, w.label): w.weight for w in reweighing(table)}
    assert by_cell == pytest.approx({("f, x", True): 1.5, ("f, x", False): 2 / 3, ("m, x", True): 0.75, ("m, x", False): 2.0})


def test_thresholds_by_group_close_the_gap_on_rows_they_have_not_seen_and_their_cost_is_shown() -> None:
    table = scored(0.25, 20_000)
    shifted = np.where(table.groups[:, 0] == 1, np.maximum(0, table.level - 3), table.level) if table.level is not None else None  # type: ignore[operator]
    table = DecisionTable(**{**vars(table), "level": shifted, "selected": np.asarray(table.level_values)[shifted] >= 0.5})
    gate, rules = spec("selection_rate", 0.1), policy()
    held = table.of_half(1)
    assert judge_gap(gate, rate_evidence(held, gate, rules), rules, required=True).verdict == "fail"
    fitted = fit_thresholds(table.of_half(0), "demographic_parity", tolerance=0.08, min_group=30)
    assert fitted.by_group["b"] < fitted.by_group["a"]
    after = held.only(held.n > 0, selected=decided(held, fitted))
    gap = next(g for g in axis_rates(after, ("g",), 30).gaps if g.metric == "selection_rate")
    before = next(g for g in axis_rates(held, ("g",), 30).gaps if g.metric == "selection_rate")
    assert gap.value < before.value / 2
    change = accuracy_change(held, after.selected)
    right = int((after.selected == held.actual).sum()) - int((held.selected == held.actual).sum())
    assert change.value == pytest.approx(right / held.n.sum())
    odds = fit_thresholds(table.of_half(0), "equalised_odds", tolerance=0.08, min_group=30)
    assert set(odds.by_group) == {"a", "b"}


def test_thresholds_need_enough_cases() -> None:
    with pytest.raises(InputError, match="no thresholds can be fitted"):
        fit_thresholds(scored(0.0, 60), "equalised_odds", tolerance=0.1, min_group=30)


def test_the_shipped_policy_and_what_is_no_policy(tmp_path: Path) -> None:
    shipped = load_fairness_policy("standard")
    assert {gate.metric for gate in shipped.gates if gate.required == "always"} >= {"equalised_odds", "counterfactual"}
    strict = {gate.metric: gate for gate in load_fairness_policy("strict").gates}
    assert all(strict[gate.metric].max_gap < gate.max_gap for gate in shipped.gates)
    good = 'name = "p"\nversion = "1"\n[[gates]]\nmetric = "tpr"\nmax_gap = 0.1\nreason = "r"\n'
    path = tmp_path / "p.toml"
    for text, says in [
        (good.replace("0.1", "1.5"), "max_gap must lie between 0 and 1"),
        (good.replace('"tpr"', '"tprr"'), "unknown metric 'tprr'"),
        (good.replace('reason = "r"', 'reason = " "'), "a gap needs a reason"),
        (good + 'required = "never"\n', "requires no gate"),
        ("alpha = 0.7\n" + good, "alpha must lie above 0"),
        ("min_group = 0\n" + good, "min_group must be a whole number"),
        ("colour = 1\n" + good, "unknown key 'colour'"),
        ("name = 1\n", "has no gates"),
        ("name = \n", "not valid TOML"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            load_fairness_policy(path)
    path.write_text(good)
    assert load_fairness_policy(path).digest != shipped.digest
    with pytest.raises(InputError, match="Unknown fairness policy 'nosuch'"):
        load_fairness_policy("nosuch")
