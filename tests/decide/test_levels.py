"""Levels with intervals: by suite, by group within templates, by kind, and beside a reference."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from trimtab.decide.levels import suite_levels

UNITS = {"choice": "nats/token", "fairness": "nats", "text": "nats/token"}


def test_a_level_covers_what_it_should(made: SimpleNamespace) -> None:
    hits = 0
    for seed in range(300):
        rows = suite_levels(made.reference_run(seed), UNITS)
        level = rows[0].level
        assert level is not None
        assert level.low is not None
        assert level.high is not None
        hits += level.low <= 0.3 <= level.high
    assert 0.92 <= hits / 300 <= 0.98


def test_change_and_flips_against_a_reference(made: SimpleNamespace) -> None:
    before = made.reference_run(1)
    after = made.changed(before, 2, change=-0.5)
    row = suite_levels(after, UNITS, before)[0]
    assert row.change is not None
    assert row.change.high is not None
    assert row.change.value == pytest.approx(-0.5, abs=0.05)
    assert row.change.high < -0.4
    assert row.flips_lost > row.flips_gained
    assert row.share_correct is not None
    assert row.share_correct.value == pytest.approx(np.mean([one.correct for one in after]))
    alone = suite_levels(after, UNITS)[0]
    assert (alone.change, alone.flips_lost) == (None, 0)


def test_groups_are_compared_within_their_templates(made: SimpleNamespace) -> None:
    run = made.changed(made.fairness_run(3), 4, group="gender:women", group_change=-0.6, sd=0.01)
    flat = tuple(dataclasses.replace(one, value=(one.value or 0.0) - old.value) for one, old in zip(run, made.fairness_run(3), strict=True))
    rows = {group.group: group for group in suite_levels(flat, UNITS)[0].groups}
    assert all(group.is_contrast for group in rows.values())
    assert rows["gender:women"].level.value == pytest.approx(-0.3, abs=0.02)
    assert rows["gender:men"].level.value == pytest.approx(0.3, abs=0.02)
    assert abs(rows["origin:west"].level.value) < 0.02


def test_kinds_without_templates_stand_by_themselves(made: SimpleNamespace) -> None:
    run = tuple(dataclasses.replace(one, group="a" if int(one.cluster.split("-")[1]) % 2 else "b") for one in made.reference_run(5))
    groups = suite_levels(run, UNITS)[0].groups
    assert [(group.group, group.is_contrast, group.level.n_clusters) for group in groups] == [("a", False, 30), ("b", False, 30)]


def test_missing_and_thin(made: SimpleNamespace) -> None:
    run = made.reference_run(6, n_clusters=1)
    row = suite_levels((dataclasses.replace(run[0], value=None, error="crash"), *run[1:]), UNITS)[0]
    assert row.n_missing == 1
    assert row.level is not None
    assert (row.level.low, row.level.n, row.level.is_thin) == (None, 2, True)
    nothing = suite_levels([dataclasses.replace(one, value=None) for one in run], UNITS)[0]
    assert (nothing.level, nothing.n_missing) == (None, 3)


def sure(run, p_right):
    """The same run with probabilities of two options, p_right (n,) of the right one."""
    return tuple(dataclasses.replace(one, p_options=(p, 1.0 - p)) for one, p in zip(run, p_right, strict=True))


def test_calibration_of_probabilities_that_are_true_is_within_chance_and_of_boasts_is_not(made: SimpleNamespace) -> None:
    rng = np.random.default_rng(7)
    run = made.reference_run(1, n_clusters=200)
    stated = rng.uniform(0.05, 0.95, len(run))
    honest = sure(run, np.where(rng.random(len(run)) < stated, stated, 1.0 - stated))
    boast = sure(run, np.where([one.p_options[0] >= 0.5 for one in honest], 0.99, 0.01))
    row = suite_levels(boast, UNITS, honest)[0].calibration
    assert row is not None
    assert row.error_reference is not None
    assert row.error_reference < row.error_by_chance + 0.05 < row.error
    assert row.brier_change is not None
    assert row.brier_change.low is not None
    assert row.brier_change.low > 0.0, "above zero is worse"
    own = suite_levels(honest, UNITS)[0].calibration
    assert own is not None
    assert own.error < own.error_by_chance
    assert (own.brier_change, own.error_reference) == (None, None)
    assert own.brier.value == pytest.approx(np.mean([2.0 * (1.0 - one.p_options[0]) ** 2 for one in honest]))
    assert own.confidence == pytest.approx(own.right, abs=0.05)
    assert suite_levels(run, UNITS)[0].calibration is None


def test_a_share_of_all_keeps_the_interval_of_what_may_have_stayed_unseen(made: SimpleNamespace) -> None:
    run = [dataclasses.replace(one, correct=True) for one in made.reference_run(5, n_clusters=20)]
    share = suite_levels(run, UNITS)[0].share_correct
    assert share is not None
    assert (share.value, share.high, share.n_clusters) == (1.0, 1.0, 20)
    assert share.low == pytest.approx(20 / (20 + 1.959964**2), abs=1e-4), "Wilson's, of twenty clusters"
    one_wrong = [dataclasses.replace(run[0], correct=False), *run[1:]]
    near = suite_levels(one_wrong, UNITS)[0].share_correct
    assert near is not None
    assert near.high is not None
    assert near.high <= 1.0


def test_which_group_moved_is_told_with_a_correction_for_the_search(made: SimpleNamespace) -> None:
    before = made.fairness_run(3)
    after = made.changed(before, 4, group="gender:women", group_change=-0.6, sd=0.05)
    rows = {group.group: group for group in suite_levels(after, UNITS, before)[0].groups}
    women = rows["gender:women"]
    assert women.change is not None
    assert women.change.high is not None
    assert women.change.value == pytest.approx(-0.3, abs=0.03)
    assert women.change.high < -0.2
    assert women.p_holm is not None
    assert women.p_holm < 1e-6
    assert rows["origin:west"].p_holm is not None
    assert rows["origin:west"].p_holm > 0.05
    kinds = [dataclasses.replace(one, group="a" if int(one.cluster.split("-")[1]) % 2 else "b") for one in made.reference_run(5)]
    worse = [dataclasses.replace(one, value=(one.value or 0.0) - (0.5 if one.group == "b" else 0.0)) for one in kinds]
    found = {group.group: group.change for group in suite_levels(worse, UNITS, kinds)[0].groups}
    assert found["b"] is not None
    assert found["b"].value == pytest.approx(-0.5)
    assert found["a"] is not None
    assert found["a"].value == pytest.approx(0.0)
    assert suite_levels(after, UNITS)[0].groups[0].change is None
