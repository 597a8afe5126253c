"""What is to be mended, by how much a gate is off, and at which level remedies are judged."""

import dataclasses
import itertools

import pytest

from trimtab.core.evidence import Outcome
from trimtab.core.policy import GateSpec
from trimtab.decide.decide import decide
from trimtab.decide.remedies import gate_loss, gates_to_mend, policy_for_remedies


def names(policy, decision):
    return [gate.name for gate in gates_to_mend(policy, decision)]


def test_what_failed_goes_before_what_could_not_tell(made):
    policy = made.policy()
    failed = decide(policy, made.evidence(change=-0.3))
    assert failed.verdict == "fail"
    assert names(policy, failed) == ["choice"]
    harmed = decide(policy, made.evidence(group=made.groups[1], group_change=-0.6))
    assert names(policy, harmed) == ["fairness"]
    unsure = decide(policy, made.evidence(change=-0.04))
    assert unsure.verdict == "inconclusive"
    assert names(policy, unsure) == ["choice"]


def test_what_is_served_lies_in_no_weights(made):
    policy = made.policy()
    decision = decide(policy, made.evidence(parity_kl=0.09))
    assert next(gate for gate in decision.gates if gate.name == "parity").verdict == "fail"
    assert names(policy, decision) == []


def test_a_gate_that_cannot_fail_is_nothing_to_mend(made):
    policy = made.policy()
    blind = decide(policy, made.evidence(change=-0.04, control_change=0.0))
    assert names(policy, blind) == []


def outcomes(values):
    return tuple(
        Outcome(item_id=f"f-{t}-{g}", suite="fairness", cluster=f"f-{t}", value=value, n_tokens=4, group=g)
        for t, row in enumerate(values)
        for g, value in row.items()
    )


def test_a_loss_by_group_is_that_of_the_group_that_is_off_most(made):
    policy = made.policy()
    gate = policy.gates[1]
    before = outcomes([{"sex:m": 1.0, "sex:f": 2.0}] * 6)
    after = outcomes([{"sex:m": 0.5 + n / 1000, "sex:f": 1.9} for n in range(6)])
    loss = gate_loss(gate, policy, before, after)
    assert loss.group in ("sex:m", "sex:f")
    assert abs(loss.delta) == pytest.approx(0.2, abs=0.01), "one lost 0.5 and the other 0.1, so each is 0.2 from their mean"
    assert loss.margins == pytest.approx(2.0, abs=0.05)
    assert loss.low < loss.delta < loss.high
    assert loss.n_clusters == 6


def test_better_is_no_loss_but_where_both_ways_count(made):
    policy = made.policy()
    gate = policy.gates[0]
    run = made.reference_run(3)
    better = made.changed(run, 4, change=0.2, sd=0.01)
    assert gate_loss(gate, policy, run, better).margins == 0.0
    worse = gate_loss(gate, policy, run, made.changed(run, 4, change=-0.2, sd=0.01))
    assert worse.margins == pytest.approx(4.0, abs=0.1)
    either = GateSpec(name="choice", kind="equivalence", suite="choice", margin=0.05, unit="nats", reason="test")
    assert gate_loss(either, dataclasses.replace(policy, gates=(either,)), run, better).margins == pytest.approx(4.0, abs=0.1)


def test_without_values_nothing_is_known(made):
    policy = made.policy()
    missing = gate_loss(policy.gates[0], policy, (), ())
    assert (missing.delta, missing.margins) == (None, 0.0)


@pytest.mark.parametrize(("most", "used", "planned"), [*itertools.product((1, 2, 3, 4), (0, 1, 2, 3), (0, 1, 2, 3))])
def test_all_attempts_together_keep_alpha(made, most, used, planned):
    policy = made.policy(alpha=0.05, max_attempts=most)
    shared = policy_for_remedies(policy, n_used=used, n_planned=planned)
    if used >= most or planned == 0:
        assert shared is None
        return
    each = shared.alpha / shared.max_attempts
    assert used * 0.05 / most + planned * each <= 0.05 + 1e-12
    assert each <= 0.05 / most + 1e-12, "no remedy has it easier than the first candidate had"
    assert shared.max_attempts >= planned
    assert shared.gates == policy.gates
    if planned <= most - used:
        assert each == pytest.approx(0.05 / most)
