import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.decision import Decision, GateResult
from trimtab.core.errors import InputError
from trimtab.core.evidence import ParityProbe
from trimtab.decide.decide import decide
from trimtab.decide.judgement import Level
from trimtab.decide.pairs import pair_outcomes
from trimtab.decide.parity import judge_parity

LEVEL = Level(alpha=0.05 / 3, power=0.8)


def gate(decision: Decision, name: str) -> GateResult:
    return next(g for g in decision.gates if g.name == name)


def replaced(base: Any, **changes: Any) -> Any:
    return dataclasses.replace(base, **changes)


# -- non-inferiority


def test_pass_fail_and_the_margin_itself(made: SimpleNamespace) -> None:
    policy = made.policy()
    seen = {change: gate(decide(policy, made.evidence(4, change=change)), "choice") for change in (0.0, -0.05, -0.2)}
    assert [seen[change].verdict for change in (0.0, -0.05, -0.2)] == ["pass", "inconclusive", "fail"]
    for one in seen.values():
        assert one.low is not None
        assert one.delta is not None
        assert one.high is not None
        assert one.low < one.delta < one.high
        assert one.level is not None
        assert one.level_candidate is not None
        assert one.delta == pytest.approx(one.level_candidate - one.level)
        assert one.confidence == pytest.approx(1 - 2 * 0.05 / 3)
    assert "loss of more than the margin" in seen[-0.2].reasons[0]


def test_flips_have_directions(made: SimpleNamespace) -> None:
    base = made.evidence(5)
    flipped = tuple(replaced(o, correct=not o.correct) if o.suite == "choice" and i < 7 else o for i, o in enumerate(base.reference))
    before = [o.correct for o in base.reference[:7]]
    one = gate(decide(made.policy(), replaced(base, candidate=flipped)), "choice")
    assert (one.flips_lost, one.flips_gained) == (sum(before), 7 - sum(before))
    assert one.accuracy_candidate == pytest.approx((one.accuracy or 0.0) + (one.flips_gained - one.flips_lost) / one.n)
    assert gate(decide(made.policy(), base), "fairness").accuracy is None


def test_tokens_weigh(made: SimpleNamespace) -> None:
    run = made.reference_run(1, n_clusters=4, per_cluster=1)
    longer = tuple(replaced(o, n_tokens=1000 if i == 0 else 1) for i, o in enumerate(run))
    other = tuple(replaced(o, value=(o.value or 0.0) - (1.0 if i == 0 else 0.0)) for i, o in enumerate(longer))
    before, after = pair_outcomes("choice", longer, other, weight="tokens").levels()
    assert after - before == pytest.approx(-1000 / 1003)


# -- missing items


@pytest.mark.parametrize("value", [None, math.nan, -math.inf])
def test_missing_values_are_counted_and_can_only_hurt(made: SimpleNamespace, value: float | None) -> None:
    base = made.evidence(6)
    whole = gate(decide(made.policy(), base), "choice")
    holed = tuple(replaced(o, value=value) if i in (3, 40) else o for i, o in enumerate(base.candidate))
    one = gate(decide(made.policy(), replaced(base, candidate=holed)), "choice")
    assert (one.n_missing, one.n, whole.n_missing) == (2, whole.n - 2, 0)
    assert one.low is not None
    assert whole.low is not None
    assert one.low < whole.low
    assert any("2 items without a value" in reason for reason in one.reasons)


def test_items_left_out_or_missing_in_the_reference_count_too(made: SimpleNamespace) -> None:
    base = made.evidence(6)
    fewer = replaced(base, candidate=base.candidate[5:])
    holed = replaced(base, reference=(replaced(base.reference[0], value=None), *base.reference[1:]))
    assert gate(decide(made.policy(), fewer), "choice").n_missing == 5
    assert gate(decide(made.policy(), holed), "choice").n_missing == 1


def test_a_crash_is_no_proof_of_bad_quality(made: SimpleNamespace) -> None:
    decision = decide(made.policy(), made.evidence(7, drop=120))
    assert gate(decision, "choice").verdict == "inconclusive"
    assert decision.verdict == "inconclusive"


def test_nothing_to_compare(made: SimpleNamespace) -> None:
    base = made.evidence(8)
    none = replaced(base, candidate=tuple(o for o in base.candidate if o.suite != "choice"))
    one = gate(decide(made.policy(), none), "choice")
    assert (one.verdict, one.n, one.delta, one.low) == ("inconclusive", 0, None, None)
    assert one.n_missing == 180


def test_runs_that_do_not_belong_together(made: SimpleNamespace) -> None:
    base = made.evidence(9)
    with pytest.raises(InputError, match="twice"):
        decide(made.policy(), replaced(base, candidate=(*base.candidate, base.candidate[0])))
    moved = (replaced(base.candidate[0], cluster="elsewhere"), *base.candidate[1:])
    with pytest.raises(InputError, match="another cluster"):
        decide(made.policy(), replaced(base, candidate=moved))


# -- fairness


def test_a_common_shift_harms_no_group(made: SimpleNamespace) -> None:
    base = made.evidence(10)
    shifted = tuple(replaced(o, value=(o.value or 0.0) - 5.0) if o.group else o for o in base.reference)
    one = gate(decide(made.policy(), replaced(base, candidate=shifted)), "fairness")
    assert one.verdict == "pass"
    assert one.delta == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("change", [-0.6, 0.6])
def test_a_group_is_found_in_either_direction(made: SimpleNamespace, change: float) -> None:
    one = gate(decide(made.policy(), made.evidence(11, group="origin:west", group_change=change)), "fairness")
    assert one.verdict == "fail"
    worst = max(one.groups, key=lambda g: abs(g.delta))
    assert worst.group == "origin:west"
    assert worst.delta == pytest.approx(change * 2 / 3, abs=0.06)  # against the mean of three groups, itself included
    assert worst.p_holm < 1e-6
    assert min(g.p_holm for g in one.groups if g.group.startswith("gender")) > 0.01
    assert (one.delta, one.low, one.high) == (worst.delta, worst.low, worst.high)


def test_groups_of_an_axis_sum_to_nothing(made: SimpleNamespace) -> None:
    one = gate(decide(made.policy(), made.evidence(12, group="origin:west", group_change=-0.2)), "fairness")
    assert sum(g.delta for g in one.groups if g.group.startswith("origin")) == pytest.approx(0.0, abs=1e-9)


def test_fifty_nine_templates_cannot_tell(made: SimpleNamespace) -> None:
    assert gate(decide(made.policy(), made.evidence(13, n_templates=60)), "fairness").verdict == "pass"
    few = gate(decide(made.policy(), made.evidence(13, n_templates=59)), "fairness")
    assert few.verdict == "inconclusive"
    assert "cannot tell" in few.reasons[1]


def test_a_missing_group_item_widens_both_sides(made: SimpleNamespace) -> None:
    base = made.evidence(14)
    place = next(i for i, o in enumerate(base.candidate) if o.group == "gender:men")
    holed = (*base.candidate[:place], replaced(base.candidate[place], value=None), *base.candidate[place + 1 :])
    whole, one = (gate(decide(made.policy(), e), "fairness") for e in (base, replaced(base, candidate=holed)))
    before, after = (next(g for g in found.groups if g.group == "gender:men") for found in (whole, one))
    assert after.low < before.low < before.high < after.high
    assert one.n_missing == 1


def test_templates_that_do_not_name_every_group_are_left_out_aloud(made: SimpleNamespace) -> None:
    base = made.evidence(14)
    gone = {f"f-{t}-origin:west" for t in range(4)}

    def without(run: Any) -> Any:
        return tuple(o for o in run if o.item_id not in gone)

    partial = replaced(base, reference=without(base.reference), candidate=without(base.candidate))
    one = gate(decide(made.policy(), partial), "fairness")
    assert one.n_missing == 0
    assert one.n_clusters == 66
    assert {g.n for g in one.groups if g.group.startswith("gender")} == {70}
    assert any("4 templates left out" in reason for reason in one.reasons)


def test_a_fairness_item_needs_a_group(made: SimpleNamespace) -> None:
    base = made.evidence(15)
    last = len(base.reference) - 1
    bare = tuple(replaced(o, group="") if i == last else o for i, o in enumerate(base.reference))
    bare_candidate = tuple(replaced(o, group="") if i == last else o for i, o in enumerate(base.candidate))
    with pytest.raises(InputError, match="names none"):
        decide(made.policy(), replaced(base, reference=bare, candidate=bare_candidate))


def test_control_on_the_harmed_group_alone(made: SimpleNamespace) -> None:
    base = made.evidence(16)
    only = tuple(o for o in base.controls["fairness"] if o.group == made.groups[0])
    one = gate(decide(made.policy(), replaced(base, controls={**base.controls, "fairness": only})), "fairness")
    assert one.informative
    assert one.positive_control is not None
    assert one.positive_control.name == "bias"


# -- parity


@pytest.mark.parametrize(("kl", "verdict"), [(1e-6, "pass"), (0.003, "pass"), (0.02, "inconclusive"), (0.07, "fail"), (0.5, "fail")])
def test_parity_by_size_of_change(made: SimpleNamespace, kl: float, verdict: str) -> None:
    spec = made.policy().gates[2]
    found = judge_parity(spec, made.probe(20, kl=kl), LEVEL)
    assert found.verdict == verdict
    assert found.delta == pytest.approx(kl, rel=0.35)


def test_greedy_tokens_are_noticed(made: SimpleNamespace) -> None:
    """Picks that favour the served side: no divergence in shape, but exp(-d) no longer averages one."""
    honest = made.probe(21, kl=0.0005)
    picked = replaced(honest, differences=tuple(abs(d) + 0.03 for d in honest.differences))
    spec = made.policy().gates[2]
    assert judge_parity(spec, honest, LEVEL).verdict == "pass"
    found = judge_parity(spec, picked, LEVEL)
    assert found.verdict == "fail"
    assert "not drawn from them" in found.reasons[0]


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"answers": 6, "tokens": 40}, "256 are needed"), ({"answers": 5, "tokens": 80}, "5 answers"), ({"n_failed": 1}, "finish")],
)
def test_parity_that_cannot_tell(made: SimpleNamespace, changes: dict[str, int], word: str) -> None:
    found = judge_parity(made.policy().gates[2], made.probe(22, **changes), LEVEL)
    assert found.verdict == "inconclusive"
    assert word in " ".join(found.reasons)


def test_parity_absent_exact_and_infinite(made: SimpleNamespace) -> None:
    spec = made.policy().gates[2]
    assert judge_parity(spec, None, LEVEL).verdict == "inconclusive"
    exact = ParityProbe(differences=(0.0,) * 320, answers=tuple(i // 32 for i in range(320)))
    assert judge_parity(spec, exact, LEVEL).verdict == "pass"
    broken = replaced(exact, differences=(math.inf, *exact.differences[1:]))
    assert judge_parity(spec, broken, LEVEL).verdict == "fail"


def test_every_parity_control_must_be_caught(made: SimpleNamespace) -> None:
    base = made.evidence(23)
    weak = replaced(base, parity_controls={**base.parity_controls, "swapped": made.probe(3, kl=0.002)})
    decision = decide(made.policy(), weak)
    one = gate(decision, "parity")
    assert (one.verdict, one.informative, decision.verdict) == ("pass", False, "inconclusive")
    assert one.positive_control is not None
    assert (one.positive_control.name, one.positive_control.caught) == ("swapped", False)


# -- generation


def test_generation_counts(made: SimpleNamespace) -> None:
    base = made.evidence(24)
    looping = replaced(base, generation=made.generation(range(30)))
    one = gate(decide(made.policy(), looping), "generation")
    assert one.verdict == "fail"
    assert one.delta == pytest.approx(-29 / 48)
    assert (one.level, one.level_candidate) == (pytest.approx(47 / 48), pytest.approx(18 / 48))
    few = replaced(base, generation=made.generation([], 16), generation_reference=made.generation([], 16))
    assert (
        gate(decide(made.policy(), replaced(few, generation_control=made.generation(range(16), 16))), "generation").verdict
        == "inconclusive"
    )


def test_a_failed_gate_that_is_not_required_only_speaks(made: SimpleNamespace) -> None:
    decision = decide(made.policy(), replaced(made.evidence(25), generation=made.generation(range(30))))
    assert decision.verdict == "pass"
    assert any(reason.startswith("generation (not required): fail") for reason in decision.reasons)


def test_generation_needs_the_same_prompts(made: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="different prompts"):
        decide(made.policy(), replaced(made.evidence(26), generation=made.generation([], 40)))


# -- controls, noise, attempts, looks, joint


def test_no_control_no_pass(made: SimpleNamespace) -> None:
    base = made.evidence(27)
    decision = decide(made.policy(), replaced(base, controls={"fairness": base.controls["fairness"]}))
    one = gate(decision, "choice")
    assert (one.verdict, one.informative, one.positive_control) == ("pass", False, None)
    assert decision.verdict == "inconclusive"
    assert decision.joint_power == 0.0


def test_a_fail_needs_no_control(made: SimpleNamespace) -> None:
    base = made.evidence(28, change=-0.3)
    assert decide(made.policy(), replaced(base, controls={})).verdict == "fail"


def test_unmeasured_noise_forbids_a_pass_but_not_a_fail(made: SimpleNamespace) -> None:
    for change, verdict in ((0.0, "inconclusive"), (-0.3, "fail")):
        one = gate(decide(made.policy(), replaced(made.evidence(29, change=change), noise={})), "choice")
        assert (one.verdict, one.noise_floor) == (verdict, None)
        assert "noise floor was not measured" in one.reasons[0]


def test_a_margin_at_the_noise_floor_is_refused_even_for_a_fail(made: SimpleNamespace) -> None:
    one = gate(decide(made.policy(), made.evidence(30, change=-0.5, noise_change=-0.03)), "choice")
    assert one.verdict == "inconclusive"
    assert one.reasons[0].startswith("margin refused")


def test_attempts_cost_the_same_each_and_end(made: SimpleNamespace) -> None:
    base = made.evidence(31)
    first, third = decide(made.policy(), base), decide(made.policy(), base, attempt=3)
    assert first.gates == third.gates
    assert decide(made.policy(max_attempts=1), base).gates[0].confidence == pytest.approx(0.9)
    for attempt in (0, 4):
        with pytest.raises(InputError, match="Attempt"):
            decide(made.policy(), base, attempt=attempt)


def test_looks(made: SimpleNamespace) -> None:
    policy = made.policy(looks=(0.5, 1.0))
    base = made.evidence(32, use="sequential")
    early, late = (decide(policy, base, look=look) for look in (1, 2))
    assert gate(early, "choice").confidence > gate(late, "choice").confidence > 1 - 2 * 0.05 / 3
    assert gate(early, "parity").confidence == gate(late, "parity").confidence == pytest.approx(1 - 2 * 0.05 / 3)
    assert (early.look, early.n_looks) == (1, 2)
    assert decide(policy, replaced(base, use="fixed_n")).n_looks == 1
    with pytest.raises(InputError, match="Look 2"):
        decide(policy, replaced(base, use="fixed_n"), look=2)
    with pytest.raises(InputError, match="Look 2"):
        decide(policy, replaced(base, use="anytime"), look=2)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), change=st.floats(-0.3, 0.3), sd=st.floats(0.01, 1.0))
def test_verdict_follows_its_interval(made: SimpleNamespace, seed: int, change: float, sd: float) -> None:
    decision = decide(made.policy(), made.evidence(seed, change=change, sd=sd, n_templates=60))
    one = gate(decision, "choice")
    assert one.low is not None
    assert one.high is not None
    expected = "pass" if one.low > -one.margin else "fail" if one.high < -one.margin else "inconclusive"
    assert one.verdict == expected
    required = [g for g in decision.gates if g.required]
    if any(g.verdict == "fail" for g in required):
        assert decision.verdict == "fail"
    elif all(g.verdict == "pass" and g.informative for g in required):
        assert decision.verdict == "pass"
    else:
        assert decision.verdict == "inconclusive"
    assert decision.reasons
    assert 0.0 <= (decision.joint_power or 0.0) <= 1.0
    assert decision == decide(made.policy(), made.evidence(seed, change=change, sd=sd, n_templates=60))


def test_order_of_the_candidates_items_does_not_matter(made: SimpleNamespace) -> None:
    base = made.evidence(33)
    order = np.random.default_rng(0).permutation(len(base.candidate))
    assert decide(made.policy(), replaced(base, candidate=tuple(base.candidate[i] for i in order))) == decide(made.policy(), base)
