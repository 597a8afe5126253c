"""Gates on yes-or-no outcomes, exact at any n, and on likeness, which never shows a loss."""

import dataclasses

import pytest

from trimtab.core.evidence import Evidence, Outcome
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.decide import decide
from trimtab.decide.judgement import Level
from trimtab.decide.rate import judge_rate

SPEC = GateSpec(name="sound", kind="rate", suite="sound", margin=0.1, unit="share", reason="a test", control="looped", min_clusters=20)
LIKE = dataclasses.replace(SPEC, name="agreement", kind="agreement", suite="agreement")
LEVEL = Level(alpha=0.05, power=0.8)


def outcomes(values, suite="sound"):
    return tuple(Outcome(item_id=f"{suite}-{n}", suite=suite, cluster=f"c{n}", value=value, n_tokens=1) for n, value in enumerate(values))


def judged(before, after, level=LEVEL):
    return judge_rate(SPEC, outcomes(before), outcomes(after), level)


@pytest.mark.parametrize(
    ("n", "lost", "verdict"),
    [
        (50, 0, "pass"),
        (20, 0, "inconclusive"),
        (10, 0, "inconclusive"),
        (10, 10, "inconclusive"),
        (50, 1, "inconclusive"),
        (50, 20, "fail"),
    ],
)
def test_verdicts(n, lost, verdict):
    found = judged([1.0] * n, [0.0] * lost + [1.0] * (n - lost))
    assert found.verdict == verdict
    assert found.delta == -lost / n
    assert found.low < found.delta <= found.high or lost == n


def test_no_change_seen_is_not_no_change_possible():
    """A t interval would have no width here."""
    found = judged([1.0] * 50, [1.0] * 50)
    assert found.low == pytest.approx(-found.detectable)
    assert 0.05 < found.detectable < 0.1


def test_missing_items_forbid_a_pass_and_make_no_fail():
    few = judged([1.0] * 60, [None] * 10 + [1.0] * 50)
    assert (few.verdict, few.n, few.n_missing) == ("inconclusive", 50, 10)
    assert "10 items without a value" in few.reasons[-1]
    most = judged([1.0] * 60, [None] * 35 + [1.0] * 25)
    assert most.verdict == "inconclusive"


def test_what_was_gained_is_no_loss():
    assert judged([0.0] * 20 + [1.0] * 40, [1.0] * 60).verdict == "pass"


def evidence(suite, reference, candidate, control, noise):
    return Evidence(
        use="fixed_n",
        reference=outcomes(reference, suite),
        candidate=outcomes(candidate, suite),
        controls={suite: outcomes(control, suite)},
        noise={"again": outcomes(noise, suite)},
    )


def test_a_rate_gate_with_its_control_and_noise():
    policy = Policy(name="p", version="1", gates=(SPEC,), max_attempts=1)
    good = decide(policy, evidence("sound", [1.0] * 60, [1.0] * 60, [0.0] * 60, [1.0] * 60))
    assert good.verdict == "pass"
    assert good.gates[0].noise_floor == 0.0
    assert good.gates[0].positive_control.caught
    noisy = decide(policy, evidence("sound", [1.0] * 60, [1.0] * 60, [0.0] * 60, [0.0] * 6 + [1.0] * 54))
    assert noisy.verdict == "inconclusive"
    assert "noise floor" in noisy.reasons[0]
    blind = decide(policy, evidence("sound", [1.0] * 60, [1.0] * 60, [1.0] * 60, [1.0] * 60))
    assert blind.verdict == "inconclusive"
    assert "not informative" in blind.reasons[0]


def test_less_alike_is_never_a_fail_and_its_control_still_is():
    policy = Policy(name="p", version="1", gates=(LIKE,), max_attempts=1)
    spread = [0.3 + 0.01 * (n % 5) for n in range(40)]
    found = decide(policy, evidence("agreement", [1.0] * 40, spread, spread, [1.0] * 40))
    assert found.verdict == "inconclusive"
    assert found.gates[0].informative
    assert "different; whether it is worse" in found.reasons[0]
    same = decide(policy, evidence("agreement", [1.0] * 40, [1.0] * 40, spread, [1.0] * 40))
    assert same.verdict == "pass"
