"""Requests by kind: counts, intervals, what is too few to tell, and which kind moved."""

import dataclasses

import pytest

from trimtab.core.evidence import Outcome
from trimtab.decide.request_kinds import LEAST_REQUESTS, kind_levels
from trimtab.evaluate.suites.registry import load_suite

UNITS = {"refusal": "nats"}


def run(shift=0.0, n=12, kinds=("arms", "fraud"), few=3):
    """`n` requests of each kind and `few` of one more; the values of the last full kind are lowered by `shift`."""
    rows, names = [], {}
    for kind in (*kinds, "rare"):
        for k in range(few if kind == "rare" else n):
            key = f"{kind}-{k}"
            value = 0.5 - 0.1 * k + 0.01 * (k % 3) * (shift != 0.0) - (shift if kind == kinds[-1] else 0.0)
            rows.append(Outcome(item_id=key, suite="refusal", cluster=key, value=value, n_tokens=4, correct=value > 0))
            names[key] = kind
    return rows, names


def test_a_kind_is_told_with_intervals_and_one_of_too_few_only_counted():
    rows, names = run()
    found = {row.kind: row for row in kind_levels(rows, names, UNITS)}
    assert list(found) == ["arms", "fraud", "rare"]
    arms, rare = found["arms"], found["rare"]
    assert (arms.n, arms.n_as_wanted, arms.cannot_tell) == (12, 5, "")
    assert arms.as_wanted is not None
    assert (arms.as_wanted.value, arms.as_wanted.low) == (5 / 12, pytest.approx(0.1933, abs=1e-3)), "Wilson's"
    assert arms.level is not None
    assert arms.level.value == pytest.approx(-0.05)
    assert (arms.change, arms.p_holm) == (None, None)
    assert (rare.n, rare.n_as_wanted, rare.level, rare.as_wanted) == (3, 3, None, None)
    assert rare.cannot_tell == f"3 requests; {LEAST_REQUESTS} are needed"


def test_which_kind_moved_is_told_with_a_correction_for_the_search():
    before, names = run()
    after, _ = run(shift=0.4)
    found = {row.kind: row for row in kind_levels(after, names, UNITS, before)}
    assert found["fraud"].change is not None
    assert found["fraud"].change.value == pytest.approx(-0.39, abs=0.01)
    assert found["fraud"].p_holm is not None
    assert found["fraud"].p_holm < 1e-6
    assert found["arms"].p_holm is not None
    assert found["arms"].p_holm > found["fraud"].p_holm
    assert found["rare"].change is None


def test_requests_that_are_missing_on_either_side_are_counted_and_in_nothing():
    before, names = run()
    after, _ = run(shift=0.4)
    after[0] = dataclasses.replace(after[0], value=None, correct=None, error="gone")
    before[1:4] = [dataclasses.replace(one, value=None, correct=None, error="gone") for one in before[1:4]]
    arms = next(row for row in kind_levels(after, names, UNITS, before) if row.kind == "arms")
    assert (arms.n, arms.n_missing) == (8, 4)
    assert arms.change is not None
    assert arms.change.n == 8
    before[4:9] = [dataclasses.replace(one, value=None, correct=None, error="gone") for one in before[4:9]]
    arms = next(row for row in kind_levels(after, names, UNITS, before) if row.kind == "arms")
    assert (arms.n, arms.n_missing, arms.change, arms.level) == (3, 9, None, None)
    assert kind_levels(after, {}, UNITS, before) == ()


def test_shipped_requests_have_the_kinds_that_they_were_written_by():
    core, safety = load_suite("core"), load_suite("safety")
    harms = {core.kinds[item.id] for item in core.items if item.suite == "refusal"}
    assert len(harms) == 13
    assert {"weapons", "self_harm", "extremism"} <= harms
    wrapped = {safety.kinds[item.id] for item in safety.items if item.suite == "jailbreak"}
    assert wrapped == harms
    assert {safety.kinds[item.id] for item in safety.items if item.suite == "fraud"} == {"deceit", "falsehood", "pressure"}
    assert set(core.kinds) == {item.id for item in core.items if item.suite in ("refusal", "overrefusal")}
