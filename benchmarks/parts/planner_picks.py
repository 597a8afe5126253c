"""Of layouts that were all measured for one job, which one the planner would pick, and how much slower that is than the best of them."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.plan.search.serve import devices_of
from trimtab.plan.serving.rows import Case, cases
from trimtab.plan.serving.time import predict
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
    """Of a table of published training runs: the time of a token."""
    with path.open(encoding="utf-8", newline="") as file:
        runs, _ = read(csv.DictReader(file))
    return _held(_jobs(runs).values())


def serving_picks(path: Path) -> Picks:
    """Of a table of measured serving: device-seconds a request, of layouts under one load (model, device, engine, types, lengths)."""
    with path.open(encoding="utf-8", newline="") as file:
        found, _ = cases(csv.DictReader(file))
    return _held(_loads(found).values())


def _held(jobs: Iterable["Group"]) -> Picks:
    """Each job's pick against its best. Layouts are told apart by what they are, not by the order of rows."""
    regrets, chances = [], []
    for group in jobs:
        if len(group) < 2:
            continue
        cost = {layout: statistics.median(measured) for layout, (measured, _) in group.items()}
        pick = min(group, key=lambda layout: (group[layout][1], layout))
        least = min(cost.values())
        regrets.append(100.0 * (cost[pick] / least - 1.0))
        chances.append(100.0 * (statistics.mean(cost.values()) / least - 1.0))
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


def _loads(found: Iterable[Case]) -> dict[tuple[object, ...], Group]:
    """By load: each layout with the device-seconds that a request took, and the predicted ones."""
    loads: dict[tuple[object, ...], Group] = defaultdict(dict)
    for case in found:
        job, measured = case.job, case.measured
        if not {"ttft_ms", "tpot_ms"} <= set(measured):
            continue
        key = (job.architecture.name, job.device.name, job.engine, job.weights, job.kv, job.prompt_tokens, job.output_tokens)
        layout = (job.tp, job.pp, job.ep, job.attention_dp, job.prefill_devices, job.decode_devices, job.prefill_tp, job.prefill_ep)
        request_s = (measured["ttft_ms"] + measured["tpot_ms"] * job.output_tokens) / 1000.0
        group = loads[(*key, job.draft_tokens, job.concurrency)]
        if layout not in group:
            try:
                group[layout] = ([], predict(job).request_ms * devices_of(job))
            except InputError:
                group[layout] = ([], float("inf"))
        group[layout][0].append(request_s * devices_of(job))
    return loads
