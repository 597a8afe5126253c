"""Pipeline schedules: how long ranks idle, and how many micro-batches a rank holds.

1F1B and interleaving: arXiv:2104.04473; memory of the first stage under interleaving: arXiv:2205.05198; zero bubble: arXiv:2401.10241.
"""

import numpy as np
from numpy.typing import NDArray

from trimtab.plan.training.layouts import SCHEDULES, Layouts

FloatArray = NDArray[np.float64]
ZERO_BUBBLE_LEFT = 1 / 3  # of 1F1B's bubble: what ZB-H1 leaves with 1F1B's memory, where the two halves of backward and forward take alike


def bubble_micro_batches(many: Layouts) -> FloatArray:
    """Idle time of a pipeline rank in a step, in micro-batches' times on it."""
    idle = (many.pp - 1) / many.vp
    return np.where(many.schedule == SCHEDULES["zero-bubble"], idle * ZERO_BUBBLE_LEFT, idle).astype(float)


def held_micro_batches(many: Layouts) -> FloatArray:
    """Micro-batches of activations that the first stage holds at once, each for all its layers."""
    one_f_one_b = np.minimum(many.pp, many.grad_accum).astype(float)
    warm = 1 + (many.pp - 1) / (many.pp * many.vp)
    interleaved = np.minimum(many.pp * warm, np.maximum(many.grad_accum, 1))
    held = np.where(many.vp > 1, interleaved, one_f_one_b)
    return np.where(many.pp == 1, 1.0, np.where(many.schedule == SCHEDULES["gpipe"], many.grad_accum, held))
