"""Of layouts that were all measured for one job, which one the planner would pick, and how much slower that is than the best of them."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trimtab.plan.training.layouts import DEFAULTS
from trimtab.plan.training.rows import Run, read
from trimtab.plan.training.time import step


@dataclass(frozen=True, kw_only=True)
class Picks:
    """Over the jobs that were measured with two layouts or more.

    best: jobs of which the pick is the fastest that was measured
    regret_pct: how much longer the pick takes than that, mean over jobs; ninth_pct: nine jobs in ten lie below
    chance_pct: the mean over all layouts, what picking by chance costs
    """

    jobs: int
    best: int
    regret_pct: float
    ninth_pct: float
    chance_pct: float


def picks(path: Path) -> Picks:
    """Of a table of published runs."""
    with path.open(encoding="utf-8", newline="") as file:
        runs, _ = read(csv.DictReader(file))
    regrets, chances = [], []
    for group in _jobs(runs).values():
        if len(group) < 2:
            continue
        seconds = {layout: statistics.median(measured) for layout, (measured, _) in group.items()}
        pick = min(group, key=lambda layout: (group[layout][1], layout))
        fastest = min(seconds.values())
        regrets.append(100.0 * (seconds[pick] / fastest - 1.0))
        chances.append(100.0 * (statistics.mean(seconds.values()) / fastest - 1.0))
    return Picks(
        jobs=len(regrets),
        best=sum(regret == 0.0 for regret in regrets),
        regret_pct=statistics.mean(regrets),
        ninth_pct=statistics.quantiles(regrets, n=10)[-1],
        chance_pct=statistics.mean(chances),
    )


Group = dict[tuple[int, ...], tuple[list[float], float]]


def _jobs(runs: Iterable[Run]) -> dict[tuple[object, ...], Group]:
    """By job, source and release of the framework: each layout with its measured times of a token, and the predicted one."""
    found: dict[tuple[object, ...], Group] = defaultdict(dict)
    for run in runs:
        seconds = _token_s(run)
        if run.kind != "measured" or seconds is None:
            continue
        job = run.job
        key = (run.source, job.architecture.name, job.device.name, job.n_devices, job.seq_tokens, job.global_batch_seqs, job.precision)
        layout = tuple(run.layout.one(0)[name] for name in DEFAULTS)
        predicted = 1.0 / float(step(job, run.layout).tok_s_per_device[0])
        found[(*key, job.framework, run.release)].setdefault(layout, ([], predicted))[0].append(seconds)
    return found


def _token_s(run: Run) -> float | None:
    if "step_time_s" in run.measured:
        return run.measured["step_time_s"]
    rate = run.measured.get("tok_s_per_device")
    return 1.0 / rate if rate else None
