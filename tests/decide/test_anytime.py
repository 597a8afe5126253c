"""`anytime` evidence under the same policy: peeking keeps the error, and every kind of gate has its anytime form."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trimtab.core.decision import Decision, GateResult
from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence, Outcome
from trimtab.core.policy import GateSpec
from trimtab.decide.anytime import bound_of, judge_anytime
from trimtab.decide.decide import decide
from trimtab.decide.judgement import Level
from trimtab.decide.non_inferiority import judge_non_inferiority
from trimtab.decide.policies import check_policy, load_policy, policy_sha256
from trimtab.stats.betting import confidence_sequence, mean_bounds
from trimtab.stats.paired import clustered_mean

LEVEL = Level(alpha=0.05, power=0.8)
SPEC = GateSpec(name="shadow", kind="non_inferiority", suite="shadow", margin=0.05, unit="nats/token", reason="r", min_clusters=10)


def evidence(changes: Any) -> Evidence:
    """A stream of paired outcomes with these changes, None for an item without a value."""
    before = tuple(Outcome(item_id=str(i), suite="shadow", cluster=str(i), value=0.5, n_tokens=9) for i in range(len(changes)))
    after = tuple(dataclasses.replace(one, value=None if c is None else 0.5 + float(c)) for one, c in zip(before, changes, strict=True))
    return Evidence(use="anytime", reference=before, candidate=after)


def gate(decision: Decision, name: str) -> GateResult:
    return next(one for one in decision.gates if one.name == name)


def test_bounds_are_those_of_the_sequence_so_far() -> None:
    values = np.random.default_rng(3).uniform(0.0, 0.8, 300)
    run = confidence_sequence(values, low=0.0, high=1.0, alpha=0.1)
    low, high = mean_bounds(values, low=0.0, high=1.0, alpha=0.05)
    assert low == pytest.approx(max(run.lows), abs=2e-3)
    assert high == pytest.approx(min(run.highs), abs=2e-3)
    with pytest.raises(InputError, match="finite values"):
        mean_bounds([0.2, 1.5], low=0.0, high=1.0, alpha=0.05)


@pytest.mark.slow
def test_peeking_after_every_item_keeps_the_error_where_planned_intervals_do_not() -> None:
    """The bounds hold all looks so far, so a pass at any look is still one at the last."""
    rng = np.random.default_rng(11)
    looks, runs = range(20, 301, 20), 150
    ever, naive = 0, 0
    for _ in range(runs):
        changes = np.clip(-SPEC.margin + rng.normal(0.0, 0.1, 300), -0.5, 0.4)  # just as bad as the margin
        ever += judge_anytime(SPEC, evidence(changes), LEVEL).verdict == "pass"
        naive += any(clustered_mean(changes[:n], range(n)).lower(LEVEL.alpha) > -SPEC.margin for n in looks)
    assert ever / runs <= LEVEL.alpha
    assert naive / runs > 2 * LEVEL.alpha  # what the bounds are for


@pytest.mark.slow
def test_a_pass_at_one_look_stays_and_the_price_is_known() -> None:
    rng = np.random.default_rng(12)
    firsts, planned = [], []
    for _ in range(3):
        changes = rng.normal(0.0, 0.25, 1200)
        found = {n: judge_anytime(SPEC, evidence(changes[:n]), LEVEL).verdict for n in range(80, 1201, 80)}
        first = next(n for n, verdict in found.items() if verdict == "pass")
        assert all(verdict == "pass" for n, verdict in found.items() if n >= first)
        firsts.append(first)
        one_look = [judge_non_inferiority(SPEC, evidence(changes[:n]).reference, evidence(changes[:n]).candidate, LEVEL) for n in found]
        planned.append(next(n for n, one in zip(found, one_look, strict=True) if one.verdict == "pass"))
    assert np.mean(firsts) < 4 * np.mean(planned)


def test_losses_are_shown_missing_items_and_far_ones_are_said() -> None:
    rng = np.random.default_rng(13)
    lost = judge_anytime(SPEC, evidence(-0.2 + rng.normal(0.0, 0.1, 100)), LEVEL)
    assert lost.verdict == "fail"
    assert "at every moment together" in lost.reasons[0]
    good = rng.normal(0.0, 0.05, 200).tolist()
    assert judge_anytime(SPEC, evidence(good), LEVEL).verdict == "pass"
    holes = judge_anytime(SPEC, evidence([None if i % 5 == 0 else x for i, x in enumerate(good)]), LEVEL)
    assert (holes.verdict, holes.n_missing) == ("inconclusive", 40)
    assert "each counted as a loss of 0.5 nats/token" in holes.reasons[1]
    far = judge_anytime(SPEC, evidence([*good, 3.0, -4.0]), LEVEL)
    assert far.reasons[-1] == "2 changes beyond 0.5 nats/token counted as that"
    assert judge_anytime(SPEC, evidence(good[:5]), LEVEL).reasons[0] == "5 clusters, 10 are needed: cannot tell"
    turned = judge_anytime(SPEC, evidence([*[0.1] * 60, *[-0.2] * 2000]), LEVEL)
    assert turned.verdict == "fail"
    assert any("not the same throughout" in reason for reason in turned.reasons)


def test_the_same_policy_judges_it_with_controls_and_noise(made: SimpleNamespace) -> None:
    """Anytime intervals are wider, so the made evidence has more of everything."""
    policy = made.policy()
    base = made.evidence(4, n_clusters=200, n_templates=300, sd=0.05)
    base = dataclasses.replace(base, use="anytime", parity=made.probe(5, answers=200), generation=made.generation([], n=400))
    base = dataclasses.replace(base, generation_reference=made.generation([], n=400), generation_control=made.generation(range(390), n=400))
    base = dataclasses.replace(base, parity_noise=made.probe(6, answers=200), parity_controls={"p": made.probe(7, kl=0.3, answers=200)})
    decision = decide(policy, base)
    verdicts = {one.name: (one.verdict, one.informative) for one in decision.gates}
    assert set(verdicts.values()) == {("pass", True)}, {one.name: one.reasons for one in decision.gates}
    assert (decision.use, decision.n_looks, decision.joint_power) == ("anytime", 1, None)
    assert decision.policy_sha256 == decide(policy, dataclasses.replace(base, use="fixed_n")).policy_sha256
    assert gate(decision, "choice").accuracy_change_low is None
    bare = decide(policy, dataclasses.replace(base, controls={}, noise={}))
    assert gate(bare, "choice").verdict == "inconclusive"


def test_each_group_and_kind_is_judged_both_ways(made: SimpleNamespace) -> None:
    policy = made.policy()
    base = dataclasses.replace(made.evidence(8, n_templates=300, sd=0.05), use="anytime")
    hurt = tuple(dataclasses.replace(one, value=(one.value or 0.0) - 0.3) if one.group == "gender:women" else one for one in base.candidate)
    one = gate(decide(policy, dataclasses.replace(base, candidate=hurt)), "fairness")
    assert one.verdict == "fail"
    assert {row.group for row in one.groups if row.p_holm < 0.05} == {"gender:women", "gender:men"}
    spec = dataclasses.replace(SPEC, kind="equivalence")
    rng = np.random.default_rng(2)
    still = judge_anytime(spec, evidence(rng.normal(0.0, 0.03, 200)), LEVEL)
    up = judge_anytime(spec, evidence(rng.normal(0.15, 0.03, 200)), LEVEL)
    alike = judge_anytime(dataclasses.replace(SPEC, kind="agreement"), evidence(rng.normal(-0.15, 0.03, 200)), LEVEL)
    assert (still.verdict, up.verdict, alike.verdict) == ("pass", "fail", "inconclusive")


def test_shares_are_bounded_by_nature() -> None:
    spec = GateSpec(name="json", kind="rate", suite="shadow", margin=0.1, unit="share", reason="r", min_clusters=10)
    assert bound_of(spec) == 1.0
    assert judge_anytime(spec, evidence([0.0] * 200), LEVEL).verdict == "pass"
    assert judge_anytime(spec, evidence([-0.5, 0.0, -0.5, -0.5] * 60), LEVEL).verdict == "fail"


def test_a_bound_is_part_of_the_policy_and_its_absence_is_not(made: SimpleNamespace) -> None:
    policy = load_policy("standard")
    stated = dataclasses.replace(policy, gates=(dataclasses.replace(policy.gates[0], bound=0.5), *policy.gates[1:]))
    assert bound_of(policy.gates[0]) == pytest.approx(0.2)
    assert bound_of(stated.gates[0]) == 0.5
    assert policy_sha256(stated) != policy_sha256(policy)
    narrow = dataclasses.replace(policy, gates=(dataclasses.replace(policy.gates[0], bound=0.01), *policy.gates[1:]))
    with pytest.raises(InputError, match="the bound of a change must be larger than the margin"):
        check_policy(narrow)
