"""Detectors, seasons and budget: what changed, since when, by how much, and no false alarms beyond the stated number."""

import json
from collections.abc import Iterable

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.core.watching import Observed, Signal
from trimtab.watch.budget import Budget
from trimtab.watch.detectors import Detector, Finding, has_season
from trimtab.watch.explore import METHODS, Explorer
from trimtab.watch.seasons import Season, hour_of_week, shrunken
from trimtab.watch.segments import ALIKE

REFUSED = Signal(name="refused", kind="rate", about="output", text="refused")
TTFT = Signal(name="ttft_ms", kind="mean", about="service", text="time to the first token", unit="ms", high=5000.0, worse="up")
LANGUAGE = Signal(name="language", kind="category", about="input", text="language")
MONDAY_S = 1_767_571_200.0


def heard(detector: Detector, values: Iterable[float | str], *, step_s: float = 1.0, start: int = 0) -> list[tuple[int, Finding]]:
    found = []
    for i, value in enumerate(values, start):
        finding = detector.take(value, MONDAY_S + i * step_s, f"r{i}")
        if finding is not None:
            found.append((i, finding))
    return found


def rates(rng: np.random.Generator, *parts: tuple[int, float]) -> list[float]:
    return [float(value) for n, p in parts for value in rng.random(n) < p]


def test_a_rate_that_steps_up_is_told_with_its_moment_size_and_examples() -> None:
    values = rates(np.random.default_rng(1), (20_000, 0.08), (4000, 0.16))
    detector = Detector(REFUSED, alarm_share=0.02)
    [(at, finding)] = heard(detector, values)
    assert 20_000 < at < 22_000
    assert (finding.signal, finding.label, finding.side) == ("refused", "", "up")
    assert finding.earliest_s <= MONDAY_S + 20_000 <= finding.latest_s
    assert abs(finding.since_s - MONDAY_S - 20_000) < 400
    assert finding.n_since == pytest.approx(at - 20_000, abs=400)
    assert finding.change.low is not None
    assert 0.0 < finding.change.low < 0.08 < finding.change.high  # type: ignore[operator]
    assert finding.before.value == pytest.approx(0.08, abs=0.006)
    assert all(values[int(request[1:])] == 1.0 and int(request[1:]) >= 19_600 for request in finding.examples)
    assert len(finding.examples) == 5
    alarm = finding.alarm(model="m", version="2", slice={"language": "de"})
    assert (alarm.signal, alarm.slice, alarm.since_range_s) == ("refused", {"language": "de"}, (finding.earliest_s, finding.latest_s))
    assert "one false alarm in 1,000,000 requests" in alarm.method
    assert alarm.id != finding.alarm(model="m", version="3", slice={"language": "de"}).id


def test_after_an_alarm_the_new_level_is_the_baseline() -> None:
    values = rates(np.random.default_rng(2), (10_000, 0.1), (15_000, 0.3), (10_000, 0.1))
    assert [finding.side for _, finding in heard(Detector(REFUSED, alarm_share=0.1), values)] == ["up", "down"]


def test_killed_at_any_moment_it_goes_on_as_if_it_had_not_been() -> None:
    values = rates(np.random.default_rng(3), (6000, 0.1), (2000, 0.3), (3000, 0.1))
    whole = heard(Detector(REFUSED, alarm_share=0.1, seasonal=True), values)
    for cut in (5, 6007, 6500, 8190):
        first = Detector(REFUSED, alarm_share=0.1, seasonal=True)
        found = heard(first, values[:cut])
        state = json.loads(json.dumps(first.state(), allow_nan=False))
        again = Detector.from_state(REFUSED, state, alarm_share=0.1, seasonal=True)
        assert found + heard(again, values[cut:], start=cut) == whole
    named = ["en"] * 700 + ["de"] * 400
    first = Detector(LANGUAGE, alarm_share=0.1, seasonal=False)
    heard(first, named[:490])
    again = Detector.from_state(LANGUAGE, first.state(), alarm_share=0.1, seasonal=False)
    assert heard(again, named[490:], start=490) == heard(Detector(LANGUAGE, alarm_share=0.1, seasonal=False), named) != []


def test_streams_that_stand_still_keep_to_the_budget() -> None:
    """Over rates, skewed times and labels: expected alarms in n requests are (0.9 n / N + 0.05) / 0.95 at most."""
    rng = np.random.default_rng(4)
    n, budget = 3000, 1000
    alarms = []
    for _ in range(16):
        streams: list[tuple[Signal, list[float] | list[str]]] = [
            (REFUSED, rates(rng, (n, 0.05))),
            (TTFT, np.minimum(np.exp(rng.normal(6.0, 1.0, n)), 5000.0).tolist()),
            (LANGUAGE, rng.choice(["en", "de", "fr"], n, p=[0.8, 0.15, 0.05]).tolist()),
        ]
        for signal, values in streams:
            alarms.append(len(heard(Detector(signal, alarm_share=1.0, requests=budget, seasonal=False), values)))
    assert np.mean(alarms) <= (0.9 * n / budget + 0.05) / 0.95


def test_intervals_of_the_change_hold_the_truth() -> None:
    rng = np.random.default_rng(5)
    held = []
    for _ in range(30):
        found = heard(Detector(REFUSED, alarm_share=1.0, requests=10_000), rates(rng, (3000, 0.1), (1200, 0.2)))
        change = next(finding for at, finding in found if at >= 3000).change
        held.append(change.low <= 0.1 <= change.high)  # type: ignore[operator]
    assert sum(held) >= 27


def test_slow_growth_does_not_become_its_own_baseline() -> None:
    rng = np.random.default_rng(6)
    values = rates(rng, (15_000, 0.08)) + (rng.random(30_000) < np.linspace(0.08, 0.14, 30_000)).astype(float).tolist()
    found = heard(Detector(REFUSED, alarm_share=0.05), values)
    assert found
    assert 15_000 < found[0][0] < 40_000
    assert found[0][1].side == "up"


def test_times_are_clipped_and_told_in_their_unit_and_an_improvement_is_no_alarm() -> None:
    rng = np.random.default_rng(7)
    slow = np.exp(rng.normal(6.0, 0.6, 8000))
    slow[:10] = 1e9
    slower = np.r_[slow, 1.5 * np.exp(rng.normal(6.0, 0.6, 3000))].tolist()
    [(at, finding)] = heard(Detector(TTFT, alarm_share=0.05, seasonal=False), slower)
    assert 8000 < at < 9500
    assert finding.before.value == pytest.approx(485, rel=0.05)
    assert 0 < finding.change.low < 240 < finding.change.high < 500  # type: ignore[operator]
    faster = np.r_[slow, 0.5 * np.exp(rng.normal(6.0, 0.6, 3000))].tolist()
    assert heard(Detector(TTFT, alarm_share=0.05, seasonal=False), faster) == []


def test_a_new_language_is_named_and_then_known() -> None:
    rng = np.random.default_rng(8)
    before = rng.choice(["en", "de", "is"], 15_000, p=[0.8, 0.196, 0.004])
    detector = Detector(LANGUAGE, alarm_share=0.05, seasonal=False)
    found = heard(detector, before.tolist())
    assert found == []
    after = np.where(rng.random(8000) < 0.06, "sw", rng.choice(["en", "de"], 8000, p=[0.8, 0.2]))
    [(at, finding)] = heard(detector, after.tolist(), start=15_000)
    assert at < 16_000
    assert (finding.label, finding.side) == ("other (mostly sw)", "up")
    assert all(after[int(request[1:]) - 15_000] in ("sw", "is") for request in finding.examples)
    gone = heard(detector, rng.choice(["en", "de"], 6000, p=[0.8, 0.2]).tolist(), start=23_000)
    assert [(one.label, one.side) for _, one in gone] == [("sw", "down")]


def daily(rng: np.random.Generator, days: float, step_s: float) -> np.ndarray:
    at = np.arange(int(days * 86_400 / step_s)) * step_s
    return np.exp(rng.normal(6.0, 0.5, at.size) + 0.25 * np.sin(2 * np.pi * at / 86_400))


def test_a_daily_rhythm_is_no_alarm_and_a_step_on_top_of_it_is() -> None:
    rng = np.random.default_rng(9)
    step_s = 10.0
    values = daily(rng, 9.0, step_s)
    assert heard(Detector(TTFT, alarm_share=0.1), values.tolist(), step_s=step_s) == []
    assert heard(Detector(TTFT, alarm_share=0.1, seasonal=False), values.tolist(), step_s=step_s) != []
    change_at = int(4 * 86_400 / step_s)
    values[change_at:] *= 1.3
    [(at, finding)] = heard(Detector(TTFT, alarm_share=0.1), values.tolist(), step_s=step_s)
    assert change_at < at < change_at + 2500
    assert abs(finding.since_s - MONDAY_S - change_at * step_s) < 400 * step_s


def test_without_a_rhythm_the_profile_takes_nothing_off() -> None:
    rng = np.random.default_rng(10)
    season = Season(1)
    adopted = [season.take(rng.random((8, 1)), MONDAY_S + 80 * k) for k in range(1200)]
    assert sum(adopted) == 1
    assert season.effect is not None and season.allowed is not None  # noqa: PT018
    assert np.abs(season.effect).max() < 0.03
    effect, off = shrunken(np.array([50.0, 50.0]), np.array([[10.0], [-10.0]]), np.array([0.04]))
    assert effect[0, 0] == pytest.approx(0.2, abs=0.01)
    assert off[0, 0] == pytest.approx(0.2 / np.sqrt(50), rel=0.1)
    assert (hour_of_week(MONDAY_S), hour_of_week(MONDAY_S - 1)) == (0, 167)
    assert [has_season(one) for one in (REFUSED, TTFT, LANGUAGE)] == [False, True, True]


def test_clocks_that_jump_and_values_that_are_none() -> None:
    rng = np.random.default_rng(11)
    detector = Detector(TTFT, alarm_share=1.0)
    for i in range(3000):
        at_s = MONDAY_S + i + (-1e6 if 1000 < i < 1100 else 1e5 * (i % 2))
        assert detector.take(float(rng.random()) * 100, at_s, "r") is None
    assert detector.level().n > 2900  # type: ignore[union-attr]
    with pytest.raises(InputError, match="`ttft_ms` of request 'r9' must be a finite number"):
        detector.take(float("nan"), MONDAY_S, "r9")
    with pytest.raises(InputError, match="share must lie"):
        Detector(TTFT, alarm_share=0.0)
    with pytest.raises(InputError, match="bounds of the signal `x` must rise"):
        Detector(Signal(name="x", kind="mean", about="output", text="", low=1.0, high=1.0), alarm_share=1.0)


def test_memory_is_bounded() -> None:
    detector = Detector(REFUSED, alarm_share=1.0)
    sizes = []
    for part in range(4):
        heard(detector, [0.0, 1.0] * 10_000, start=part * 20_000)
        sizes.append(len(detector._segments))
    assert sizes[-1] <= ALIKE * np.log2(80_000 / 16) + ALIKE
    assert sum(segment.n for segment in detector._segments) == 80_000


def test_the_budget_is_spent_once() -> None:
    budget = Budget(requests=1e6, signals=40, in_slices=8, kinds=6, slices=12, versions=4)
    assert 40 * budget.of_all.alarm_share + 8 * 6 * budget.of_slice.alarm_share == pytest.approx(1.0)
    sliced = budget.of_slice.detector(REFUSED)
    assert (sliced.slices, sliced.alarm_share) == (48, pytest.approx(0.5 / 48))
    assert sliced.risk == pytest.approx(0.05 * 0.5 / 48 / 48)
    assert Budget(requests=1e6, signals=2).of_all.alarm_share == 0.5


@pytest.mark.slow  # importing river takes seconds
def test_river_is_for_exploration_and_says_so() -> None:
    pytest.importorskip("river")
    rng = np.random.default_rng(12)
    values = np.r_[rng.normal(0.0, 1.0, 600), rng.normal(4.0, 1.0, 400)]
    for method in METHODS:
        explorer = Explorer(method)
        for i, value in enumerate(values):
            explorer.take(Observed(request=str(i), at_s=float(i), numbers={"total_ms": float(value), "steady": 1.0}))
        found = explorer.document()
        (row,) = found["signals"]
        assert (row["signal"], row["n"]) == ("total_ms", 1000)
        assert any(600 <= at_s < 800 for at_s in row["last_s"])
        assert len(row["last_s"]) == min(row["hints"], 5)
        assert found["method"] == f"{method} of river: for exploration, with no stated number of false alarms"


def test_exploring_with_what_is_not_there() -> None:
    with pytest.raises(InputError, match="adwin, page-hinkley, kswin"):
        Explorer("cusum")
