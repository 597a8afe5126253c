"""What the steps of a training say: tokens a second, use of the machine, waiting, time left. Pure functions of step records."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trimtab.core.training import StepRecord, TrainConfig

WINDOW_STEPS = 20
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Of the newest steps. tok_s: target tokens that count; computed_tok_s: all positions of the batch; data_wait_share: of the time."""

    step_s: float
    tok_s: float
    computed_tok_s: float
    data_wait_share: float


def pace(steps: Sequence[StepRecord], step_tokens: int, window_steps: int = WINDOW_STEPS) -> Pace | None:
    """The pace of the last `window_steps` steps; None before there is one. step_tokens: positions of one step's whole batch."""
    late = [step for step in steps[-window_steps:] if step.step_s > 0]
    total_s = sum(step.step_s for step in late)
    if not total_s:
        return None
    return Pace(
        step_s=statistics.median(step.step_s for step in late),
        tok_s=sum(step.tokens for step in late) / total_s,
        computed_tok_s=step_tokens * len(late) / total_s,
        data_wait_share=sum(step.data_wait_s for step in late) / total_s,
    )


def mfu(computed_tok_s: float, flops_per_token: float, peak_flop_s: float) -> float | None:
    """Share of the peak that the model's own FLOPs use (arXiv:2204.02311, appendix B), by the convention of `flops_per_token`."""
    return computed_tok_s * flops_per_token / peak_flop_s if peak_flop_s > 0 and flops_per_token > 0 else None


def steps_asked(config: TrainConfig, n_sequences: int = 0) -> int | None:
    """Steps of the whole run; None where it is told in epochs and the number of sequences is not known yet (0)."""
    run = config.train
    if run.steps:
        return run.steps
    if run.tokens:
        return math.ceil(run.tokens / (run.global_batch_seqs * run.seq_tokens))
    return max(1, math.ceil(run.epochs * n_sequences / run.global_batch_seqs)) if n_sequences else None


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of a number in `width` characters at most, each the mean of its part; what is no number is a gap."""
    if not values or width < 1:
        return ""
    parts = min(width, len(values))
    edges = [len(values) * part // parts for part in range(parts + 1)]
    means = [_mean(values[start:end]) for start, end in pairwise(edges)]
    known = [value for value in means if math.isfinite(value)]
    if not known:
        return " " * parts
    low, high = min(known), max(known)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in means)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
