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
