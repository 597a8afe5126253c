"""Numbers of a training's pace, from its steps."""

import math

import pytest

from trimtab.core.training import StepRecord, TrainConfig, TrainData, TrainModel, TrainRun
from trimtab.testing.training_steps import step_of
from trimtab.train.meters import mfu, pace, sparkline, steps_asked


def step(number: int, *, tokens: int = 90, step_s: float = 0.5, data_wait_s: float = 0.05, loss: float = 2.0) -> StepRecord:
    return step_of(number, tokens=tokens, step_s=step_s, data_wait_s=data_wait_s, loss=loss)


def test_pace_is_of_the_newest_steps() -> None:
    steps = [step(1, step_s=50.0), *(step(n) for n in range(2, 7))]
    found = pace(steps, step_tokens=100, window_steps=5)
    assert found is not None
    assert (found.step_s, found.tok_s, found.computed_tok_s) == (0.5, 180.0, 200.0)
    assert found.data_wait_share == pytest.approx(0.1)
    assert pace([], step_tokens=100) is None
    assert pace([step(1, step_s=0.0)], step_tokens=100) is None


def test_use_of_the_machine() -> None:
    assert mfu(1000.0, 6e6, 6e10) == pytest.approx(0.1)
    assert mfu(1000.0, 6e6, 0.0) is None


@pytest.mark.parametrize(("run", "n_sequences", "asked"), [({"steps": 7}, 0, 7), ({"tokens": 10_000}, 0, 3), ({"epochs": 1.5}, 100, 19)])
def test_how_many_steps(run: dict[str, float], n_sequences: int, asked: int) -> None:
    config = TrainConfig(model=TrainModel(source="m"), data=TrainData(files=("a",)), train=TrainRun(**run))  # type: ignore[arg-type]
    assert steps_asked(config, n_sequences) == asked


def test_epochs_of_unknown_length_are_no_number_of_steps() -> None:
    assert steps_asked(TrainConfig(model=TrainModel(source="m"), data=TrainData(files=("a",)), train=TrainRun(epochs=1.0))) is None


def test_sparkline() -> None:
    assert sparkline([3.0, 2.0, 1.0], 8) == "█▅▁"
    assert sparkline([float(n) for n in range(100)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, math.nan, 1.0], 3) == "▁ ▁"
    assert sparkline([], 8) == sparkline([math.nan], 0) == ""
    assert sparkline([math.nan], 4) == " "
