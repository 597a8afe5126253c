"""A version on trial, judged by the answers of the stable one: caught when it loses, let be when it does not, however often one looks."""

import dataclasses
import json

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.core.policy import Policy
from trimtab.decide.policies import load_policy
from trimtab.watch.quality import CONTROL_ANSWERS, MOST_ANSWERS, Scored, Trial, Versions, commonest, narrowed

VERSIONS = Versions(model="chat", stable="chat@1", candidate="chat@2")


def trial(**changes):
    return Trial(**{"versions": VERSIONS, "policy": load_policy("standard"), "reference": "chat@1", **changes})


def answers(loss, n, seed=0, start=0, spread=0.05, planted=0.3):
    rng = np.random.default_rng(seed)
    levels, losses = rng.normal(-1.5, 0.5, n), rng.normal(loss, spread, n)
    return [
        Scored(
            request=f"r{start + number}",
            cluster=f"c{start + number}",
            at_s=100.0 + start + number,
            n_tokens=20,
            reference=float(level),
            candidate=float(level - loss),
            planted=float(level - planted) if start + number < CONTROL_ANSWERS else None,
            noise=float(level + 0.0005 * (-1) ** number) if start + number < 32 else None,
        )
        for number, (level, loss) in enumerate(zip(levels, losses, strict=True))
    ]


def fed(loss, n, step=8, **options):
    """A trial that looks after every `step` answers; (trial, alarms, answers seen at the first alarm)."""
    one, alarms, caught = trial(), [], None
    scored = answers(loss, n, **options)
    for at in range(0, n, step):
        alarm = one.take(scored[at : at + step], at_s=1000.0 + at)
        if alarm is not None:
            alarms.append(alarm)
            caught = one.n
    return one, alarms, caught


def test_a_lossy_version_is_caught_once_with_what_a_person_needs():
    one, (alarm,), caught = fed(0.3, 200)
    assert caught <= 64
    assert (alarm.model, alarm.version, alarm.signal) == ("chat", "chat@2", "quality:text")
    assert alarm.change.high < -0.02
    assert alarm.change.low <= alarm.change.value <= alarm.change.high
    assert alarm.n_since == caught
    assert alarm.since_s == 100.0
    assert len(alarm.examples) == 5
    assert "margin 0.02 nats/token" in alarm.method
    assert "chat@1" in alarm.method
    assert one.is_over
    assert not one.wants("r9999", "c9999")


def test_a_version_as_good_passes_and_is_never_alarmed_about():
    one, alarms, _ = fed(0.005, 2000, step=100, spread=0.03)
    assert alarms == []
    assert one.summary()["verdict"] == "pass"
    (gate,) = one.summary()["gates"]
    assert -0.02 < gate["low"] <= gate["delta"] <= gate["high"]


def test_few_answers_decide_nothing_and_no_control_means_no_pass():
    assert fed(0.5, 8)[0].summary()["verdict"] == "inconclusive"
    one, alarms, _ = fed(0.005, 1000, step=100, planted=0.0)
    assert alarms == []
    assert one.summary()["verdict"] == "inconclusive", "the gate was not shown able to fail"


def test_versions_at_the_margin_are_failed_no_more_often_than_the_level_says():
    """60 streams at a loss of just the margin: the level is 1.67 %. The end of a sequence remembers every moment before it."""
    assert sum(bool(fed(0.02, 400, step=400, seed=seed, spread=0.08)[1]) for seed in range(60)) <= 4


def test_answers_without_a_value_speak_against_a_pass_and_never_for_a_fail():
    one = trial()
    lost = [dataclasses.replace(answer, candidate=None, error="the engine crashed") for answer in answers(0.0, 100)]
    assert one.take(lost, 0.0) is None
    assert one.summary()["n_missing"] == 100
    assert one.take(answers(0.0, 100, start=100), 0.0) is None
    assert one.summary()["verdict"] != "pass"


def test_an_answer_counts_once_and_so_does_a_conversation():
    one, scored = trial(), answers(0.0, 4)
    one.take([*scored, *scored, dataclasses.replace(scored[0], request="another")], 0.0)
    assert one.n == 4


def test_what_was_seen_survives_a_restart_and_other_policies_begin_anew():
    one, alarms, _ = fed(0.01, 40)
    state = json.loads(json.dumps(one.state()))
    again = Trial.from_state(state, load_policy("standard"))
    assert again.summary() == one.summary()
    assert again.take(answers(0.3, 100, start=40), 5.0) == one.take(answers(0.3, 100, start=40), 5.0) is not None
    assert Trial.from_state(one.state(), load_policy("standard")).is_over
    with pytest.raises(ValueError, match="another"):
        Trial.from_state(state, load_policy("strict"))
    assert alarms == []


def test_only_so_many_answers_are_kept():
    one = trial()
    one.take(answers(0.0, MOST_ANSWERS + 10), 0.0)
    assert one.n == MOST_ANSWERS
    assert one.is_over


def test_the_policy_is_the_same_but_for_gates_that_answers_say_nothing_of():
    policy = load_policy("standard")
    (gate,) = narrowed(policy).gates
    full = next(one for one in policy.gates if one.name == "text")
    assert dataclasses.replace(gate, control=full.control) == full
    assert narrowed(policy).alpha == policy.alpha
    others = Policy(name="mine", version="1", gates=tuple(one for one in policy.gates if one.name != "text"))
    with pytest.raises(InputError, match="has no gate"):
        trial(policy=others)


def test_other_weights_under_the_same_names_are_another_trial():
    assert VERSIONS.id != dataclasses.replace(VERSIONS, identity="x").id


def test_the_control_is_biased_against_the_commonest_tokens():
    assert commonest([(5, 3, 5), (3, 5, 9)], most=2) == (5, 3)
