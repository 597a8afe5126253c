"""Brier's score and the calibration error against cases worked out by hand, and chance against simulation."""

import numpy as np
import pytest

from trimtab.stats.calibration import brier_score, calibration_error, error_by_chance


def test_brier_by_hand():
    assert brier_score((1.0, 0.0)) == 0.0
    assert brier_score((0.0, 1.0, 0.0)) == 2.0
    assert brier_score((0.5, 0.25, 0.25)) == pytest.approx(0.25 + 0.125)


def test_calibration_error_by_hand():
    # Bin 0.6..0.7: three cases, mean .65, two right; bin 0.9..1.0: one case, .95, wrong; 1.0 belongs to the last bin.
    error = calibration_error([0.60, 0.65, 0.69, 0.95], [True, True, False, False])
    assert error == pytest.approx((abs(1.94 - 2) + 0.95) / 4)
    assert calibration_error([1.0], [True]) == 0.0


def test_calibrated_answers_stay_below_what_chance_reaches_in_95_of_100():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        stated = rng.uniform(0.3, 1.0, 60)
        hits += calibration_error(stated, rng.random(60) < stated) <= error_by_chance(stated)
    assert 0.92 <= hits / 400 <= 0.98
