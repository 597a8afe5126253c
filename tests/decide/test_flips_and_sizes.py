"""Flips beside the gates, and the number of clusters that a plan asks for."""

import dataclasses
import math
from types import SimpleNamespace

import pytest

from trimtab.decide.decide import decide
from trimtab.decide.plan import MOST_CLUSTERS, Pilot, pilot_spread, plan_power
from trimtab.stats.power import power_non_inferiority


def test_flips_are_reported_with_interval_and_test(made: SimpleNamespace) -> None:
    found = {gate.name: gate for gate in decide(made.policy(), made.evidence(1)).gates}
    choice = found["choice"]
    change = choice.accuracy_candidate - choice.accuracy
    assert choice.accuracy_change_low < change < choice.accuracy_change_high
    assert 0.0 < choice.flips_p <= 1.0
    assert found["parity"].flips_p is None
    assert found["fairness"].accuracy_change_low is None  # nothing is right or wrong there


def test_many_answers_lost_are_found(made: SimpleNamespace) -> None:
    base = made.evidence(2)
    wrong = tuple(
        dataclasses.replace(outcome, correct=False) if outcome.suite == "choice" and i % 3 == 0 else outcome
        for i, outcome in enumerate(base.reference)
    )
    gate = decide(made.policy(), dataclasses.replace(base, candidate=wrong)).gates[0]
    assert gate.flips_gained == 0 < gate.flips_lost
    assert gate.flips_p < 0.001
    assert gate.accuracy_change_high < 0.0
    assert gate.verdict == "pass"  # the gate reads values, which did not change


def test_a_reference_against_itself_has_no_flips(made: SimpleNamespace) -> None:
    base = made.evidence(3)
    gate = decide(made.policy(), dataclasses.replace(base, candidate=base.reference)).gates[0]
    assert (gate.flips_lost, gate.flips_gained, gate.flips_p) == (0, 0, 1.0)
    assert gate.accuracy_change_low < 0.0 < gate.accuracy_change_high


def test_the_size_asked_for_is_the_smallest_that_suffices(made: SimpleNamespace) -> None:
    policy = made.policy()
    pilot = Pilot(sd=0.3, n_clusters=20)
    (gate,) = plan_power(policy, {"choice": pilot}).gates
    margin, level = policy.gates[0].margin, policy.alpha / policy.max_attempts

    def chance(n: int) -> float:
        return power_non_inferiority(margin=margin, se=pilot.sd / math.sqrt(n), df=n - 1, alpha=level, skew=-1.0 / math.sqrt(n))

    assert chance(gate.needed) >= policy.power > chance(gate.needed - 1)


def test_more_gates_and_less_known_spreads_need_more_clusters(made: SimpleNamespace) -> None:
    policy = made.policy()
    known, guessed = Pilot(sd=0.3, n_clusters=80), Pilot(sd=0.3, n_clusters=80, df=9.0)
    alone = plan_power(policy, {"choice": known}).gates[0].needed
    assert plan_power(policy, {"choice": guessed}).gates[0].needed > alone
    both = plan_power(policy, {"choice": known, "fairness": Pilot(sd=0.2, n_clusters=70, n_groups=5)})
    assert both.gates[0].needed > alone
    enough = {
        gate.name: dataclasses.replace(known if gate.name == "choice" else Pilot(sd=0.2, n_clusters=0, n_groups=5), n_clusters=gate.needed)
        for gate in both.gates
    }
    assert plan_power(policy, enough).joint_power >= policy.power


def test_sizes_have_a_floor_and_a_ceiling(made: SimpleNamespace) -> None:
    policy = made.policy()
    assert plan_power(policy, {"choice": Pilot(sd=0.0, n_clusters=5)}).gates[0].needed == policy.gates[0].min_clusters
    assert plan_power(policy, {"choice": Pilot(sd=1e6, n_clusters=5)}).gates[0].needed >= MOST_CLUSTERS


def test_a_pilot_says_how_well_it_knows_its_spread(made: SimpleNamespace) -> None:
    base = made.evidence(4, n_clusters=12)
    pilot = pilot_spread(made.policy().gates[0], base.reference, base.candidate, 80)
    assert pilot is not None
    assert pilot.df == pytest.approx(11.0, abs=1e-6)
