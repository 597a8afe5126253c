"""Losses that are no longer a training's: not a number, or far above where the last steps were heading, and still there a step later.

How far is far: the residuals of the last losses around their median line (Theil 1950, Sen 1968: the median of the slopes of all pairs), in
standard deviations, robust (1.4826 times their median absolute value) or plain, whichever is larger. One loss far above is an odd batch;
two in a row are a model that was hurt. How often that is wrong on losses that only fluctuate, and how often a planted spike is found, is
measured in docs/train-checkpoints.md.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.core.training import TrainWatch
from trimtab.train.data.order import batch_of_step

Verdict = Literal["fine", "suspect", "spike", "nan"]

_LEAST_STEPS = 16
"""Losses before a spike is spoken of: a line and a spread of fewer say little, and early steps fall steeply."""
_LEAST_DEVIATION = 0.01
"""Of the loss: less than `spike_factor` times this above the others is no spike, however still the others stood."""


class SpikeWatch:
    """Judges losses one after another. All processes see the same losses and come to the same verdicts.

    losses: `fine_losses` of the watch that a resumed run had
    """

    def __init__(self, choice: TrainWatch, losses: Iterable[float] = ()) -> None:
        self._factor = choice.spike_factor
        self._fine: deque[float] = deque(losses, maxlen=max(choice.spike_window, _LEAST_STEPS))
        self._suspect = False

    @property
    def fine_losses(self) -> list[float]:
        """The last `spike_window` losses that were fine: all that it knows after a fine one. For a checkpoint's extra."""
        return list(self._fine)

    def judge(self, loss: float, grad_norm: float) -> Verdict:
        """Of the step that gave this loss and this gradient norm. After `suspect` comes `spike`, or `fine` when the loss is back.

        A checkpoint is saved after `fine` only: what hurts a model shows one step later.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return "nan"
        if len(self._fine) >= _LEAST_STEPS and deviations_above(loss, self._fine) > self._factor:
            if self._suspect:
                return "spike"
            self._suspect = True
            return "suspect"
        self._suspect = False
        self._fine.append(loss)
        return "fine"


def deviations_above(loss: float, before: Collection[float]) -> float:
    """How many standard deviations a loss lies above the line of those before it, which falls or stays; negative below."""
    known = np.fromiter(before, dtype=np.float64)
    at = np.arange(len(known), dtype=np.float64)
    first, second = _pairs(len(known))
    slope = min(0.0, float(np.median((known[second] - known[first]) / (at[second] - at[first]))))
    level = float(np.median(known - slope * at))
    residuals = known - (level + slope * at)
    spread = max(1.4826 * float(np.median(np.abs(residuals))), float(np.std(residuals)))
    expected = max(level + slope * len(known), float(known.min()))
    return (loss - expected) / max(spread, _LEAST_DEVIATION * abs(expected), 1e-12)


@lru_cache(maxsize=64)
def _pairs(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(n, k=1)


def batches_to_leave_out(verdict: Verdict, step: int, leave_out: Collection[int]) -> list[int]:
    """Positions of the batches that may have hurt the model, judged so at this step (from 0): of this step, where the loss is no number;
    for a spike also of the suspect step before it and of the one before that, whose change is what the suspect loss was computed with.
    """
    first = step if verdict == "nan" else max(0, step - 2)
    return [batch_of_step(one, leave_out) for one in range(first, step + 1)]
