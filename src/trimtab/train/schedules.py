"""Learning rates as pure functions of the step, so that a resumed run needs to remember nothing."""

import math

from trimtab.core.training import TrainOptimizer


def lr_at(step: int, total_steps: int, choice: TrainOptimizer) -> float:
    """Learning rate of step `step` (from 0) of `total_steps`.

    Warm-up rises linearly and reaches `lr` on its last step. Then `cosine` follows half a cosine (Loshchilov and Hutter 2017,
    arXiv:1608.03983), `wsd` stays and falls linearly over the last `decay_share` of the run (Hu et al. 2024, arXiv:2404.06395) and
    `constant` stays. Both falls reach `lr * end_lr_share` on the last step.
    """
    if step < choice.warmup_steps:
        return choice.lr * (step + 1) / choice.warmup_steps
    end = choice.lr * choice.end_lr_share
    if choice.schedule == "constant":
        return choice.lr
    first = choice.warmup_steps
    if choice.schedule == "wsd":
        first = max(first, total_steps - round(choice.decay_share * total_steps) - 1)
    if step <= first:
        return choice.lr
    share = min(1.0, (step - first) / max(1, total_steps - 1 - first))
    if choice.schedule == "wsd":
        return end + (choice.lr - end) * (1.0 - share)
    return end + (choice.lr - end) * (1.0 + math.cos(math.pi * share)) / 2.0
