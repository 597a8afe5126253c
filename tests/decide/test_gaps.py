"""Gaps between groups: what they are, and that a claimed fall is false no more often than it says."""

import numpy as np
import pytest

from trimtab.core.evidence import Outcome
from trimtab.core.policy import GateSpec
from trimtab.decide.gaps import gap_outcomes, judge_fall, judge_gap
from trimtab.decide.judgement import Level

LEVEL = Level(alpha=0.05, power=0.8)


def gate(suite: str, kind: str, margin: float = 0.1) -> GateSpec:
    return GateSpec(name=suite, kind=kind, suite=suite, margin=margin, unit="nats", reason="", min_clusters=10)  # type: ignore[arg-type]


def outcome(suite: str, cluster: str, group: str, value: float | None) -> Outcome:
    return Outcome(item_id=f"{suite}-{cluster}-{group}-{value}", suite=suite, cluster=cluster, group=group, value=value, n_tokens=3)


def gaps(suite: str, values: "np.ndarray") -> tuple[Outcome, ...]:
    return tuple(
        Outcome(item_id=f"c{n}/", suite=suite, cluster=f"c{n}", value=-float(value), n_tokens=1) for n, value in enumerate(np.ravel(values))
    )


def test_gap_of_groups_is_the_mean_distance_of_two_within_an_axis() -> None:
    items = [outcome("d", "t1", "sex:man", 1.0), outcome("d", "t1", "sex:woman", 0.5)]
    items += [outcome("d", "t1", f"faith:{name}", value) for name, value in (("a", 0.0), ("b", 1.0), ("c", 3.0))]
    found = {one.item_id: one.value for one in gap_outcomes(items, {"d": gate("d", "equivalence_by_group")})}
    assert found == {"t1/sex": -0.5, "t1/faith": pytest.approx(-2.0)}


def test_gap_of_a_stereotype_is_the_distance_from_even_after_both_orders() -> None:
    items = [outcome("s", "t1", "gender", -0.8), outcome("s", "t1", "gender", 0.2), outcome("s", "t2", "gender", 0.4)]
    found = [one.value for one in gap_outcomes(items, {"s": gate("s", "equivalence")})]
    assert found == [pytest.approx(-0.3), pytest.approx(-0.4)]


def test_a_template_with_a_missing_item_has_no_gap_and_forbids_a_pass() -> None:
    gates = {"s": gate("s", "equivalence")}
    assert gap_outcomes([outcome("s", "t1", "g", 0.1), outcome("s", "t1", "g", None)], gates)[0].value is None
    before, after = gaps("s", np.full(20, 0.5)), gaps("s", np.linspace(0.1, 0.2, 20))
    assert judge_fall(["s"], before, after, LEVEL).verdict == "pass"
    broken = (*after[:-1], Outcome(item_id="c19/", suite="s", cluster="c19", value=None, n_tokens=1))
    assert judge_fall(["s"], before, broken, LEVEL).verdict == "inconclusive"


def test_fell_grew_and_cannot_tell() -> None:
    random = np.random.default_rng(1)
    before = np.abs(random.normal(0.5, 0.2, 40))
    half, same, more = before / 2, before + random.normal(0, 0.2, 40), before + 0.2 + random.normal(0, 0.05, 40)
    verdicts = [judge_fall(["s"], gaps("s", before), gaps("s", np.abs(after)), LEVEL).verdict for after in (half, same, more)]
    assert verdicts == ["pass", "inconclusive", "fail"]
    found = judge_gap(gate("s", "equivalence"), gaps("s", before), gaps("s", more), LEVEL)
    assert found.verdict == "fail"
    assert found.change == pytest.approx(float(np.mean(more - before)))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.change < found.high
    assert judge_gap(gate("s", "equivalence"), gaps("s", before), gaps("s", half), LEVEL).verdict == "pass"


def test_sub_suites_count_alike_whatever_their_size() -> None:
    before = (*gaps("a", np.full(40, 1.0)), *gaps("b", np.full(10, 1.0)))
    after = (*gaps("a", np.full(40, 0.8)), *gaps("b", np.full(10, 0.4)))
    assert judge_fall(["a", "b"], before, after, LEVEL).change == pytest.approx(-0.4)


def test_without_templates_nothing_is_told() -> None:
    assert judge_fall(["a"], (), (), LEVEL).verdict == "inconclusive"


def test_a_fall_is_claimed_falsely_no_more_often_than_alpha() -> None:
    """Gaps of 45, 29 and 58 templates as the suites have them, skewed as distances are, whose true mean does not change."""
    random = np.random.default_rng(7)
    false_falls = covered = 0
    rounds = 400
    for _ in range(rounds):
        before, after = [], []
        for suite, n in (("a", 45), ("b", 29), ("c", 58)):
            common = random.exponential(0.6, n)
            before += gaps(suite, np.abs(common + random.normal(0, 0.25, n)))
            after += gaps(suite, np.abs(common + random.normal(0, 0.25, n)))
        found = judge_fall(["a", "b", "c"], before, after, LEVEL)
        false_falls += found.high < 0.0
        covered += found.low <= 0.0 <= found.high
    assert false_falls / rounds <= LEVEL.alpha + 2.5 * np.sqrt(LEVEL.alpha * (1 - LEVEL.alpha) / rounds)
    assert covered / rounds >= 0.90 - 2.5 * np.sqrt(0.9 * 0.1 / rounds)
