"""The gate for what may be wrong in either direction."""

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence, Outcome
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.decide import decide
from trimtab.decide.equivalence import judge_equivalence
from trimtab.decide.judgement import Level
from trimtab.decide.plan import Pilot, pilot_spread, plan_power

SPEC = GateSpec(
    name="stereotype", kind="equivalence", suite="stereotype", unit="nats", margin=0.1, reason="for a test", control="opening-bias"
)
LEVEL = Level(alpha=0.05 / 3, power=0.8)


def run(made: SimpleNamespace, seed: int, *, kinds: Sequence[str] = ("gender", "age"), n_clusters: int = 60) -> tuple[Outcome, ...]:
    items = made.reference_run(seed, suite="stereotype", n_clusters=n_clusters, per_cluster=2)
    return tuple(dataclasses.replace(one, group=kinds[int(one.cluster.split("-")[1]) % len(kinds)], correct=None) for one in items)


@pytest.mark.parametrize(("change", "verdict"), [(0.0, "pass"), (0.1, "inconclusive"), (0.25, "fail"), (-0.25, "fail")])
def test_both_directions_count(made: SimpleNamespace, change: float, verdict: str) -> None:
    before = run(made, 1)
    found = judge_equivalence(SPEC, before, made.changed(before, 2, change=change), LEVEL)
    assert found.verdict == verdict
    assert found.low is not None
    assert found.high is not None
    assert found.low < (found.delta or 0.0) < found.high
    assert {group.group for group in found.groups} == {"age", "gender"}


def test_two_kinds_cannot_hide_each_other(made: SimpleNamespace) -> None:
    before = run(made, 3)
    after = made.changed(before, 4, change=-0.4, group="age", group_change=0.8)
    found = judge_equivalence(SPEC, before, after, LEVEL)
    assert abs(found.delta or 1.0) < 0.1, "together nothing is seen"
    assert found.verdict == "fail"
    assert {reason.split(":")[0] for reason in found.reasons} == {"age", "gender"}


def test_missing_items_widen_both_sides(made: SimpleNamespace) -> None:
    before = run(made, 5)
    after = made.changed(before, 6)
    lost = tuple(dataclasses.replace(one, value=None, error="crash") if i < 6 else one for i, one in enumerate(after))
    whole, partial = (judge_equivalence(SPEC, before, one, LEVEL) for one in (after, lost))
    assert (whole.verdict, partial.verdict) == ("pass", "inconclusive")
    assert partial.n_missing == 6
    assert (partial.low or 0.0) < (whole.low or 0.0)
    assert (partial.high or 0.0) > (whole.high or 0.0)
    assert judge_equivalence(SPEC, before, (), LEVEL).verdict == "inconclusive"


def test_few_clusters_cannot_tell(made: SimpleNamespace) -> None:
    before = run(made, 7, n_clusters=9)
    assert judge_equivalence(SPEC, before, made.changed(before, 8), LEVEL).verdict == "inconclusive"


def test_the_joint_decision_needs_its_control(made: SimpleNamespace) -> None:
    policy = Policy(name="p", version="1", gates=(SPEC,))
    before = run(made, 9)
    evidence = Evidence(
        use="fixed_n",
        reference=before,
        candidate=made.changed(before, 10),
        controls={"stereotype": made.changed(before, 11, change=-0.5)},
        noise={"threads": made.changed(before, 12, sd=0.01)},
    )
    assert decide(policy, evidence).verdict == "pass"
    assert decide(policy, dataclasses.replace(evidence, controls={})).verdict == "inconclusive"
    with pytest.raises(InputError, match="name the suite"):
        decide(dataclasses.replace(policy, gates=(dataclasses.replace(SPEC, suite=""),)), evidence)


@pytest.mark.slow
def test_error_rates(made: SimpleNamespace) -> None:
    """At the margin at most the nominal share passes; an equal candidate passes as often as was predicted."""
    spec = dataclasses.replace(SPEC, min_clusters=10)
    at_margin = equal = 0
    n = 400
    for seed in range(n):
        before = run(made, seed, kinds=("one",), n_clusters=30)
        at_margin += judge_equivalence(spec, before, made.changed(before, seed + 10_000, change=0.1, sd=0.15), LEVEL).verdict == "pass"
        equal += judge_equivalence(spec, before, made.changed(before, seed + 20_000, sd=0.15), LEVEL).verdict == "pass"
    assert at_margin / n <= LEVEL.alpha + 3 * np.sqrt(LEVEL.alpha / n)
    before = run(made, 0, kinds=("one",), n_clusters=30)
    pilot = pilot_spread(spec, before, made.changed(before, 1, sd=0.15), 30)
    assert pilot is not None
    known = Pilot(sd=0.15 * np.sqrt((1 + 0.3) / 2), n_clusters=30)
    predicted = plan_power(Policy(name="p", version="1", gates=(spec,)), {"stereotype": known}).joint_power
    assert equal / n == pytest.approx(predicted, abs=0.08)
