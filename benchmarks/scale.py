"""What changes at 10, 1,000 and 100,000 requests a second, and at 1, 100 and 10,000 models: the figures of docs/scale.md.

usage: python benchmarks/scale.py [--quick]

rates: the least replicas that keep the demands, by simulation of one cell, with step times at the middle and at both ends of their
interval; larger rates are so many cells, each with its share of the requests. A cell is held against a fleet of many times its size that is
simulated whole. Around the devices: gateways, log, weights, failures (parts/scale_around.py).
models: the same requests spread over more models by Zipf's law. A model that needs a replica all the time has as many as the first part
says; every other one is a fleet of its own from zero. The first quarter of the time is left out. Cold starts are held against what
Poisson arrivals and one replica give on paper.

--quick: a smaller cell, fewer models, shorter times, one draw. The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from parts.scale_around import GIVEN, around, log_figures, site_figures

from trimtab.flows.parts.own_hardware import find_device
from trimtab.flows.parts.plan_fleet import Deployed, Wishes, deployed
from trimtab.flows.parts.plan_model import plan_model
from trimtab.flows.parts.plan_prices import price_rows
from trimtab.plan import operators
from trimtab.plan.fleet.events import Course, simulate
from trimtab.plan.fleet.results import latencies
from trimtab.plan.fleet.settings import Fleet, Kind, policy_of
from trimtab.plan.fleet.traces import Trace, made_trace
from trimtab.plan.workloads import load_workload

MODEL, HARDWARE, WORKLOAD = "llama-3.1-8b", "h100-sxm", "chat"
RATES = (10.0, 1_000.0, 100_000.0)
TOTAL_RATE = 100.0
"""Of all models together."""
TTFT_MS, TPOT_MS = 500.0, 50.0
WARM_SHARE = 0.5
KEEPS_S = (60.0, 300.0)
LONG_S = 3_600.0
"""An idle time that is not simulated, but told on paper."""
ZIPF = 1.0
TARGETS = {"cells_over_whole": 1.25, "cold_over_paper": 0.1}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Size:
    """cell: requests/s of the largest fleet that rates are made of; whole: of that which it is held against; seconds: of each

    draws: seeds; models, hours: of the fleets of many models
    """

    cell: float
    whole: float
    seconds: float
    draws: int
    models: tuple[int, ...]
    hours: float


FULL = Size(cell=1_000.0, whole=10_000.0, seconds=36.0, draws=3, models=(1, 100, 10_000), hours=1.0)
QUICK = Size(cell=100.0, whole=500.0, seconds=12.0, draws=1, models=(1, 10, 200), hours=0.25)


def kinds() -> tuple[Deployed, dict[str, float]]:
    """The replica of the page, and what it costs and weighs."""
    on, model = find_device(HARDWARE), plan_model(MODEL, offline=True)
    usd, _ = price_rows([on], "")
    trace = made_trace(load_workload(WORKLOAD), rate=10.0, seconds=10.0)
    found = deployed(model, on, Wishes(), trace, replicas=(1, 1), usd=usd.get(on.name, 0.0))
    weights = operators.weight_bytes(model, "bf16")
    return found, {"usd_h": usd.get(on.name, 0.0), "weights_bytes": weights, "cold_s": found.kind.cold_s}


# Requests a second


def played(kind: Kind, n: int, rate: float, seconds: float, seed: int) -> dict[str, float]:
    """p95s in ms of a fleet of n replicas at a rate, without the requests of the first half."""
    trace = made_trace(load_workload(WORKLOAD), rate=rate, seconds=seconds, seed=seed)
    fleet = Fleet(kinds=(replace(kind, min_replicas=n, max_replicas=n),), policy=policy_of("fixed"), route="power-of-two")
    course = simulate(trace, fleet, seed=seed)
    found = latencies(trace, fleet, course)
    late = trace.arrival_s > seconds * WARM_SHARE
    ttft, tpot, e2e = found.ttft_ms[late], found.tpot_ms[late], found.e2e_ms[late]
    busy = sum(life.replica.busy_s for life in course.lives) / (n * course.end_s)
    return {
        "ttft_p95_ms": float(np.percentile(ttft, 95)),
        "tpot_p95_ms": float(np.percentile(tpot, 95)),
        "e2e_mean_ms": float(e2e.mean()),
        "busy": busy,
    }


def keeps(kind: Kind, n: int, rate: float, seconds: float) -> bool:
    found = played(kind, n, rate, seconds, seed=0)
    return found["ttft_p95_ms"] <= TTFT_MS and found["tpot_p95_ms"] <= TPOT_MS


def least(kind: Kind, rate: float, seconds: float) -> int:
    """Replicas that keep the demands, as few as may be."""
    low, high = 0, max(1, int(rate // 100))
    while not keeps(kind, high, rate, seconds):
        low, high = high, 2 * high
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(kind, middle, rate, seconds) else (middle, high)
    return high


def at_rate(
    rate: float, replica: Deployed, size: Size, needed: Mapping[float, tuple[int, int, int]], about: Mapping[str, Any]
) -> dict[str, Any]:
    """One row of the page. needed: (quick, middle, slow) replicas by cell's rate"""
    cell = min(rate, size.cell)
    cells = math.ceil(rate / cell)
    quick, middle, slow = (cells * n for n in needed[cell])
    draws = [played(replica.kind, needed[cell][1], cell, size.seconds, seed) for seed in range(size.draws)]
    mean = {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}
    return {
        "rate": rate,
        "cells": cells,
        "replicas": [middle, quick, slow],
        "usd_h": middle * about["usd_h"],
        "ttft_p95_ms": [mean["ttft_p95_ms"], *(end([draw["ttft_p95_ms"] for draw in draws]) for end in (min, max))],
        "tpot_p95_ms": mean["tpot_p95_ms"],
        "busy": mean["busy"],
        **around(
            rate,
            middle,
            output_tokens=load_workload(WORKLOAD).output_tokens,
            e2e_s=mean["e2e_mean_ms"] / 1e3,
            weights_bytes=about["weights_bytes"],
            log=about["log"],
        ),
    }


def rates(replica: Deployed, size: Size, about: Mapping[str, Any]) -> dict[str, Any]:
    assert replica.ends is not None
    needed: dict[float, tuple[int, int, int]] = {}
    for cell in sorted({min(rate, size.cell) for rate in RATES}):
        began_s = time.process_time()
        needed[cell] = tuple(least(kind, cell, size.seconds) for kind in (replica.ends[0], replica.kind, replica.ends[1]))  # type: ignore[assignment]
        print(f"{cell:,.0f} requests/s: {needed[cell]} replicas (quick, middle, slow); {time.process_time() - began_s:.0f} s", flush=True)
    whole_n = round(needed[size.cell][1] * size.whole / size.cell)
    began_s = time.process_time()
    whole = played(replica.kind, whole_n, size.whole, size.seconds / 2, seed=0)
    took_s = time.process_time() - began_s
    alone = played(replica.kind, needed[size.cell][1], size.cell, size.seconds / 2, seed=0)
    rows = [at_rate(rate, replica, size, needed, about) for rate in RATES]
    for row in rows:
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return {
        "rows": rows,
        "needed": {f"{cell:g}": n for cell, n in needed.items()},
        "whole": {
            "rate": size.whole,
            "replicas": whole_n,
            "cpu_s": took_s,
            "ttft_p95_ms": whole["ttft_p95_ms"],
            "cell_ttft_p95_ms": alone["ttft_p95_ms"],
            "cells_over_whole": alone["ttft_p95_ms"] / whole["ttft_p95_ms"],
        },
    }


# Models


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Of one model: latencies and cold starts of its counted requests, replicas' lives as (start, end), starts counted."""

    ttft_ms: Floats
    is_cold: npt.NDArray[np.bool_]
    lives: list[tuple[float, float]]
    n_starts: int


def one_model(
    kind: Kind, rate: float, seconds: float, warm_s: float, keep_s: float, per_replica_s: float, rng: np.random.Generator
) -> Seen | None:
    """A model's fleet on Poisson arrivals; None if nobody came. per_replica_s: requests/s that one replica answers within the demands"""
    n = rng.poisson(rate * seconds)
    if not n:
        return None
    load = load_workload(WORKLOAD)
    arrivals = np.sort(rng.uniform(0.0, seconds, n))
    trace = Trace(
        name="one",
        arrival_s=arrivals,
        prompt_tokens=np.full(n, load.prompt_tokens),
        output_tokens=np.full(n, load.output_tokens),
        prefix=np.full(n, -1),
        prefix_tokens=np.zeros(n, int),
    )
    if rate > per_replica_s:
        always = math.ceil(rate / per_replica_s)
        fleet = Fleet(kinds=(replace(kind, min_replicas=always, max_replicas=always),), policy=policy_of("fixed"))
    else:
        policy = policy_of(f"scale-to-zero:keep={keep_s:g}")
        fleet = Fleet(kinds=(replace(kind, min_replicas=0, max_replicas=4),), policy=policy)
    course: Course = simulate(trace, fleet)
    counted = arrivals >= warm_s
    found = latencies(trace, fleet, course)
    return Seen(
        ttft_ms=found.ttft_ms[counted],
        is_cold=np.array(course.requests.is_cold)[counted],
        lives=[(life.start_s, min(life.end_s, seconds)) for life in course.lives if life.start_s < seconds],
        n_starts=sum(warm_s <= life.start_s < seconds for life in course.lives),
    )


def shares(n_models: int) -> Floats:
    """Requests a second of each model, by Zipf's law."""
    weights = np.arange(1, n_models + 1, dtype=float) ** -ZIPF
    return TOTAL_RATE * weights / weights.sum()


def paper(rates_: Floats, keep_s: float, cold_s: float) -> dict[str, float]:
    """Cold requests' share and replicas in the mean, of models with Poisson arrivals and one replica that leaves after `keep_s`.

    From one start to the next such a model gets, in the mean, 1 + rate * cold_s requests before it is up, and then exp(rate * keep_s) - 1
    until a gap is as long as `keep_s`.
    """
    before = 1 + rates_ * cold_s
    after = np.expm1(np.minimum(rates_ * keep_s, 700.0))
    cold = (rates_ * before / (before + after)).sum() / rates_.sum()
    return {"cold_share": float(cold), "replicas_mean": float(((before - 1 + after) / (before + after)).sum())}


def spread_over(n_models: int, kind: Kind, size: Size, keep_s: float, about: Mapping[str, Any]) -> dict[str, float]:
    """All models together, after the first quarter of the time."""
    seconds = size.hours * 3600
    warm_s = seconds / 4
    rates_ = shares(n_models)
    rng = np.random.default_rng(n_models)
    seen = [one_model(kind, rate, seconds, warm_s, keep_s, about["per_replica_s"], rng) for rate in rates_]
    there = [one for one in seen if one is not None]
    ttft = np.concatenate([one.ttft_ms for one in there])
    cold = np.concatenate([one.is_cold for one in there])
    edges = np.arange(warm_s, seconds, 10.0)
    starts, ends = (np.sort([life[i] for one in there for life in one.lives]) for i in (0, 1))
    up = np.searchsorted(starts, edges, side="right") - np.searchsorted(ends, edges, side="right")
    n_starts, span_h = sum(one.n_starts for one in there), (seconds - warm_s) / 3600
    tail = np.concatenate([one.is_cold for one in seen[n_models // 2 :] if one is not None] or [np.zeros(0, bool)])
    always = float(np.ceil(rates_ / about["per_replica_s"]).sum())
    return {
        "requests": float(len(ttft)),
        "replicas_mean": float(up.mean()),
        "replicas_peak": float(up.max()),
        "replicas_always": always,
        "usd_h": float(up.mean()) * about["usd_h"],
        "usd_h_always": always * about["usd_h"],
        "warm_bytes": float(up.mean()) * about["weights_bytes"],
        "warm_bytes_always": always * about["weights_bytes"],
        "cold_share": float(cold.mean()),
        "cold_share_on_paper": paper(rates_, keep_s, kind.cold_s)["cold_share"],
        "cold_share_less_asked_half": float(tail.mean()) if len(tail) else 0.0,
        "starts_h": n_starts / span_h,
        "loaded_bytes_s": n_starts / span_h / 3600 * about["weights_bytes"],
        "ttft_p50_ms": float(np.percentile(ttft, 50)),
        "ttft_p95_ms": float(np.percentile(ttft, 95)),
        "ttft_p99_ms": float(np.percentile(ttft, 99)),
    }


def models(replica: Deployed, size: Size, about: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for n in size.models:
        for keep_s in KEEPS_S if n == size.models[-1] else KEEPS_S[-1:]:
            began_s = time.process_time()
            row = {"models": n, "keep_s": keep_s, **spread_over(n, replica.kind, size, keep_s, about)}
            rows.append({**row, "cpu_s": time.process_time() - began_s})
            print({key: round(value, 4) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True)
    on_paper = {f"{keep_s:g}": paper(shares(size.models[-1]), keep_s, replica.kind.cold_s) for keep_s in (*KEEPS_S, LONG_S)}
    return {"rows": rows, "on_paper": on_paper, "site_read_s": site_figures(size.models)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller cells, shorter hours, one draw")
    size = QUICK if parser.parse_args().quick else FULL
    replica, about = kinds()
    known: dict[str, Any] = {**about, "log": log_figures(2_000 if size is QUICK else 50_000)}
    print(known, flush=True)
    by_rate = rates(replica, size, known)
    known["per_replica_s"] = size.cell / by_rate["needed"][f"{size.cell:g}"][1]
    figures = {
        "replica": {**known, "slots": replica.kind.batching.slots, "steps": replica.about["steps"], "cold": replica.about["cold"]},
        "given": {name: vars(one) for name, one in GIVEN.items()},
        "rates": by_rate,
        "models": models(replica, size, known),
    }
    off = [abs(row["cold_share"] - row["cold_share_on_paper"]) for row in figures["models"]["rows"] if row["models"] > 1]
    ok = figures["rates"]["whole"]["cells_over_whole"] <= TARGETS["cells_over_whole"] and max(off) <= TARGETS["cold_over_paper"]
    ok = ok and figures["rates"]["whole"]["cells_over_whole"] >= 1 / TARGETS["cells_over_whole"]
    print(json.dumps({"name": "scale", "figures": figures, "targets": TARGETS, "ok": bool(ok)}))


if __name__ == "__main__":
    main()
