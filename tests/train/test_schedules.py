"""Learning rates as functions of the step."""

from itertools import pairwise

import pytest

from trimtab.core.training import TrainOptimizer
from trimtab.train.schedules import lr_at


def rates(total: int, **choice: object) -> list[float]:
    chosen = TrainOptimizer(lr=1.0, end_lr_share=0.1, **choice)
    return [lr_at(step, total, chosen) for step in range(total)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("total", [1, 2, 10, 101])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_rises_to_lr_and_never_again(schedule: str, total: int, warmup: int) -> None:
    found = rates(total, schedule=schedule, warmup_steps=warmup)
    assert found[:warmup] == [(step + 1) / warmup for step in range(min(warmup, total))]
    after = found[warmup:]
    assert all(one >= other for one, other in pairwise(after))
    assert all(0.1 <= rate <= 1.0 for rate in after)
    if schedule != "constant" and len(after) > 2:
        assert after[0] == 1.0
        assert after[-1] == pytest.approx(0.1)


def test_cosine_is_half_way_in_the_middle() -> None:
    assert rates(101, schedule="cosine")[50] == pytest.approx(0.55)


def test_wsd_falls_over_its_share_only() -> None:
    found = rates(100, schedule="wsd", decay_share=0.2, warmup_steps=10)
    assert found[10:80] == [1.0] * 70
    assert found[80] < 1.0
    assert found[89] == pytest.approx(1.0 - 0.9 * 10 / 20)
    assert found[-1] == pytest.approx(0.1)
