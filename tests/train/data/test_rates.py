"""Whether a run waits for its data, and how fast a stream is."""

from collections.abc import Callable

import numpy as np
import pytest

from trimtab.core.training import StepRecord
from trimtab.plan.search.feed import feed
from trimtab.testing.training_steps import step_of
from trimtab.train.data.rates import StreamRate, data_bound, stream_rate, supply_of
from trimtab.train.data.stream import Stream


def records(waits: list[float], step_s: float = 1.0) -> list[StepRecord]:
    return [step_of(n, step_s=step_s + wait, data_wait_s=wait) for n, wait in enumerate(waits, 1)]


def test_waiting_is_seen() -> None:
    found = data_bound(records([0.25] * 30))
    assert found is not None
    assert found.share == pytest.approx(0.2)
    assert found.least_share == pytest.approx(0.2)
    assert found.text.startswith("20 % of the last 30 steps' time went by waiting for data (at least 20 %")
    noisy = data_bound(records(list(np.random.default_rng(1).exponential(0.3, 60))))
    assert noisy is not None
    assert 0.05 < noisy.least_share < noisy.share
    bursts = data_bound(records([2.0 if n % 5 == 0 else 0.0 for n in range(60)]))
    assert bursts is not None


@pytest.mark.parametrize(
    "waits",
    [
        [],
        [0.0] * 100,
        [0.5] * 19,  # too few to tell
        [0.015] * 100,
        [0.0] * 50 + [30.0] + [0.0] * 49,  # one step's accident, a quarter of the run's time
        [0.0] * 40 + [5.0, 9.0] + [0.0] * 40,
    ],
)
def test_what_is_no_waiting_or_may_be_chance_is_not(waits: list[float]) -> None:
    assert data_bound(records(waits)) is None


def test_false_alarms_are_rare() -> None:
    """Waits whose mean is just below what matters are rarely called out: 1 % by the normal approximation, skewed waits more often."""
    random = np.random.default_rng(7)
    called = sum(data_bound(records(list(random.exponential(0.0204, 50)))) is not None for _ in range(1000))
    assert called < 20


def test_a_stream_is_as_fast_as_its_plan_is_told(opened: Callable[..., Stream], write_lines: Callable[..., str]) -> None:
    stream = opened(write_lines([{"text": f"Document {n}."} for n in range(200)]))
    rate = stream_rate(stream, rank=0, world=1, micro_batch_seqs=4, grad_accum=2, limit_s=0.1)
    assert rate.first_s > 0
    assert rate.tokens_s == pytest.approx(rate.n_steps * 4 * 2 * 16 / rate.wall_s)
    assert 0.1 <= rate.wall_s < 60
    assert rate.bytes_s / rate.tokens_s == pytest.approx(stream.bytes_per_token)
    assert rate.fetch_bytes_s == 0
    told = supply_of(rate)
    assert feed(rate.tokens_s / 4, 1, told).spare == {"workers": pytest.approx(4.0)}
    assert feed(rate.tokens_s * 2, 1, told).bound == "workers"
    far = StreamRate(tokens_s=1000.0, bytes_s=2000.0, fetch_bytes_s=100.0, n_steps=1, wall_s=1.0, first_s=0.5)
    assert feed(500.0, 1, supply_of(far)).bound == "network"
