"""Bounds and e-detectors keep what they promise, by simulation, and find what has changed."""

import json

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.stats.change import Baseline, EDetector, mean_bounds, student

BLOCK = 16


@pytest.mark.parametrize(("p", "risk"), [(0.3, 0.2), (0.02, 0.2)])
def test_a_baseline_fails_at_any_moment_with_its_risk_at_most(p: float, risk: float) -> None:
    rng = np.random.default_rng(1)
    runs = 400
    baseline = Baseline(runs, risk=0.5)
    baseline.risk = risk * runs  # each stream by itself has the risk
    failed = np.zeros(runs, dtype=bool)
    for _ in range(120):
        baseline.take((rng.random((BLOCK, runs)) < p).astype(float))
        failed |= (baseline.low > p) | (baseline.high < p)
    assert failed.mean() <= risk
    assert np.all(baseline.high - baseline.low < 12.0 * np.sqrt(p / baseline.n))


def test_a_baseline_never_moves_up_again() -> None:
    rng = np.random.default_rng(2)
    baseline = Baseline(1, risk=0.01)
    baseline_high = []
    for k in range(600):
        baseline.take((rng.random((BLOCK, 1)) < 0.1 + 0.2 * k / 600).astype(float))
        baseline_high.append(baseline.high[0])
    assert baseline_high == sorted(baseline_high, reverse=True)
    assert baseline.high[0] < 0.19 < baseline.total[0] / baseline.n


def test_bounds_widen_with_the_spread_and_narrow_with_n() -> None:
    def width(n: float, spread: float) -> float:
        low, high = mean_bounds(n, np.array([0.1 * n]), np.array([spread]), 0.05)
        return float(high[0] - low[0])

    assert width(1000, 10.0) < width(1000, 90.0)
    assert width(10_000, 900.0) == pytest.approx(width(1000, 90.0) / np.sqrt(10), rel=0.1)
    assert mean_bounds(0, np.zeros(1), np.zeros(1), 0.05) == (-np.inf, np.inf)


def _alarms(kind: str, values: np.ndarray, threshold: float) -> np.ndarray:
    """False alarms of each column by itself, at a mean on the very bound."""
    runs = values.shape[1]
    detector = EDetector(runs, sides="above", kind=kind)  # type: ignore[arg-type]
    bound = np.full(runs, 0.3)
    detector.bet(np.full(runs, -1.0), bound, np.full(runs, 0.46))
    alarms = np.zeros(runs)
    for start in range(0, values.shape[0], BLOCK):
        detector.take(values[start : start + BLOCK])
        over = detector.evidence[:, 0].mean(axis=1) >= threshold
        alarms += over
        detector.evidence[over] = 0.0
    return alarms


def test_false_alarms_keep_to_the_stated_number_on_the_very_bound() -> None:
    rng = np.random.default_rng(3)
    n, runs, threshold = 1600, 1500, 200.0
    values = (rng.random((n, runs)) < 0.3).astype(float)
    sr, cusum = _alarms("sr", values, threshold), _alarms("cusum", values, threshold)
    assert sr.mean() <= n / threshold  # E alarms <= n / c
    assert sr.mean() > 0.2 * n / threshold  # and not for want of looking
    assert 0 < cusum.mean() <= sr.mean()


def test_values_that_hang_together_keep_to_it_too_where_their_mean_stands() -> None:
    rng = np.random.default_rng(4)
    n, runs, threshold = 1600, 600, 200.0
    spread = np.repeat(rng.choice([0.02, 0.3], (n // 40, runs)), 40, axis=0)  # noise comes and goes in bursts
    values = 0.3 + spread * rng.choice([-1.0, 1.0], (n, runs))
    assert _alarms("sr", values, threshold).mean() <= n / threshold


@pytest.mark.parametrize(("moved", "side"), [(0.45, "above"), (0.15, "below")])
def test_a_change_is_found_on_its_side_and_in_its_stream(moved: float, side: str) -> None:
    rng = np.random.default_rng(5)
    detector = EDetector(3)
    known = np.full(3, 0.3)
    detector.bet(known - 0.01, known + 0.01, np.full(3, 0.46))
    means = np.array([0.3, moved, 0.3])
    evidence = [detector.take((rng.random((BLOCK, 3)) < means).astype(float)) for _ in range(60)]
    assert max(evidence) > 1e6
    assert detector.strongest() == (1, side)


def test_a_side_that_is_not_watched_gathers_nothing() -> None:
    detector = EDetector(1, sides="above")
    detector.bet(np.array([0.4]), np.array([0.6]), np.array([0.2]))
    assert max(detector.take(np.zeros((BLOCK, 1))) for _ in range(100)) < BLOCK
    assert not detector.evidence[:, 1].any()


def test_no_bet_without_a_bound() -> None:
    detector = EDetector(1)
    detector.bet(np.array([-1.0]), np.array([2.0]), np.array([0.2]))
    assert [detector.take(np.ones((BLOCK, 1))) for _ in range(10)] == [0.0] * 10


def test_state_goes_on_where_it_was() -> None:
    rng = np.random.default_rng(6)
    baseline, detector = Baseline(2, risk=0.01), EDetector(2, sides="below")
    blocks = rng.random((40, BLOCK, 2))
    for block in blocks[:20]:
        detector.take(block)
        baseline.take(block, 0.1)
        detector.bet(baseline.low, baseline.high, baseline.deviation)
    again = Baseline.from_state(json.loads(json.dumps(baseline.state(), allow_nan=False)))
    detector_again = EDetector.from_state(json.loads(json.dumps(detector.state(), allow_nan=False)))
    for block in blocks[20:]:
        assert detector_again.take(block) == detector.take(block)
        baseline.take(block, 0.1)
        again.take(block, 0.1)
    assert again.state() == baseline.state()
    assert detector_again.state() == detector.state()


def test_student_and_refusals() -> None:
    assert student(1.0, 2.0, 16, 0.95).low == pytest.approx(1.0 - 2.1314 * 0.5, abs=1e-3)
    with pytest.raises(InputError, match="risk of a baseline"):
        Baseline(1, risk=0.0)
