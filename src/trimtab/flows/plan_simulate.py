"""Simulate a serving fleet on a trace: the question as it was typed, every policy played, and the document (schema trimtab.fleet/1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.core.errors import InputError
from trimtab.core.workload import SloTerm
from trimtab.flows.parts.own_hardware import find_device as device
from trimtab.flows.parts.own_hardware import usual_hardware
from trimtab.flows.parts.plan_fleet import Deployed, Wishes, deployed, measured, read_timed
from trimtab.flows.parts.plan_model import plan_model
from trimtab.flows.parts.plan_prices import price_rows
from trimtab.flows.parts.plan_told import prices_of
from trimtab.plan.fleet.events import simulate
from trimtab.plan.fleet.replica import STATUSES, TOO_LONG
from trimtab.plan.fleet.results import check_slo, result, spread
from trimtab.plan.fleet.settings import Batching, Fleet, Retry, Route, check, policy_of
from trimtab.plan.fleet.traces import Trace, faster, made_trace, read_fleet_trace
from trimtab.plan.prices import grid, grids
from trimtab.plan.quantities import listed, per_second
from trimtab.plan.slo import parse_slo
from trimtab.plan.workloads import load_workload

SCHEMA = "trimtab.fleet/1"
MANY = 200_000
"""Requests above which a policy is played once, and not also with step times at both ends of their interval."""
RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What comes: a recorded trace, or requests of a workload made up at a rate. burstiness: see `made_trace`"""

    trace: Path | None = None
    workload: str = ""
    rate: str = ""
    duration_s: float = 600.0
    burstiness: float = 1.0
    speed: float = 1.0

    def requests(self, seed: int) -> Trace:
        """Raises InputError."""
        if (self.trace is None) == (not self.rate):
            raise InputError("Say what comes: either --trace FILE, or --workload NAME with --rate 20/s.")
        if self.trace is not None:
            if self.workload:
                raise InputError("--workload goes with --rate; a trace has lengths of its own.")
            return faster(read_fleet_trace(self.trace), self.speed)
        workload = load_workload(self.workload or "chat")
        made = made_trace(workload, rate=per_second(self.rate), seconds=self.duration_s, seed=seed, burstiness=self.burstiness)
        return faster(made, self.speed)


def plan_simulate(
    model: str = "",
    *,
    traffic: Traffic,
    replicas: str = "1",
    policies: Sequence[str] = ("fixed",),
    routes: Sequence[Route] = ("least-outstanding",),
    hardware: str = "",
    steps: Path | None = None,
    wishes: Wishes | None = None,
    slo: str = "",
    queue_at_gateway: bool = False,
    queue_limit: int = 0,
    queue_wait_s: float = 0.0,
    retry: Retry = "unstarted",
    price: str = "",
    commitment: str = "on-demand",
    region: str = "",
    repeats: int = 0,
    seed: int = 0,
    offline: bool = False,
) -> dict[str, Any]:
    """Every policy with every route on the same traffic. Raises InputError, MissingError.

    hardware: names with commas; "" = this machine if it was measured, else what most services run on
    repeats: runs of each, with seeds from `seed` on; 0 = some where anything is left to chance, else one
    """
    demands = parse_slo(slo) if slo else ()
    check_slo(demands)
    trace = traffic.requests(seed)
    assumed = []
    if model and not hardware and steps is None:
        hardware = usual_hardware()
        assumed = [f"No --hardware was given: {hardware} is taken; name what you have or would rent."]
    kinds, prices = _kinds(model, hardware, steps, wishes or Wishes(), trace, replicas, (price, commitment), offline)
    where = grid(region) if region else grids()[0]
    carbon = where.g_co2_kwh.value if where.g_co2_kwh else 0.0
    fleets = [
        Fleet(
            kinds=tuple(one.kind for one in kinds),
            policy=policy_of(text),
            route=route,
            queue_at_gateway=queue_at_gateway,
            queue_limit=queue_limit,
            queue_wait_s=queue_wait_s,
            retry=retry,
            g_co2_kwh=carbon,
        )
        for text in policies
        for route in routes
    ]
    for fleet in fleets:
        check(fleet)
    traces = [trace]
    is_random = traffic.trace is None or any(fleet.is_random for fleet in fleets)
    n_runs = repeats or (RUNS if is_random and len(trace) <= MANY else 1)
    traces += [traffic.requests(seed + k) if traffic.trace is None else trace for k in range(1, n_runs)]
    runs = [_played(fleet, kinds, traces, demands, seed) for fleet in fleets]
    best = _best(runs, demands)
    return {
        "schema": SCHEMA,
        "kind": "simulate",
        "found": best is not None and runs[best]["answered"] > 0,
        "headline": _headline(runs, best, demands),
        "question": {
            "model": model,
            "hardware": hardware,
            "trace": trace.name,
            "replicas": replicas,
            "slo": [term.text for term in demands],
            "speed": traffic.speed,
            "seed": seed,
            "runs": n_runs,
        },
        "traffic": _told(trace),
        "kinds": [dict(one.about) for one in kinds],
        "runs": runs,
        "best": best,
        "prices": prices,
        "notes": [*assumed, *trace.notes, *(note for one in kinds for note in one.notes), *_refused(runs)],
        "assumptions": _assumptions(fleets[0], kinds, f"{where.name}, {carbon:g} g CO2e a kWh"),
    }


def _kinds(
    model: str, hardware: str, steps: Path | None, wishes: Wishes, trace: Trace, replicas: str, money: tuple[str, str], offline: bool
) -> tuple[list[Deployed], list[dict[str, Any]]]:
    """Raises InputError where it is not said what answers."""
    if steps is not None:
        if hardware or model:
            raise InputError("--steps has the times already; leave MODEL and --hardware out, or leave --steps out.")
        timed = read_timed(steps)
        usd = prices_of(money[0], [timed.name]).get(timed.name, 0.0)
        return [measured(timed, wishes, trace, replicas=_ranges(replicas, [timed.name])[timed.name], usd=usd)], []
    if not model:
        raise InputError("Say what answers: a MODEL, best with --hardware, or --steps FILE with times of your own.")
    chosen = [device(name) for name in listed(hardware, "--hardware")]
    usd_by, prices = price_rows(chosen, *money)
    architecture = plan_model(model, offline=offline)
    ranges = _ranges(replicas, [one.name for one in chosen])
    found = [deployed(architecture, on, wishes, trace, replicas=ranges[on.name], usd=usd_by.get(on.name, 0.0)) for on in chosen]
    return found, prices


def _ranges(text: str, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """`0..8` for every kind, or `h100-sxm=1..2,l40s=0..8`: how many there are of each. Raises InputError."""
    found: dict[str, tuple[int, int]] = {}
    for part in text.split(","):
        name, _, numbers = part.strip().rpartition("=")
        if name and name not in names and len(names) > 1:
            name = device(name).name
        match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", numbers.strip())
        if not match or (name and name not in names):
            raise InputError(
                f"--replicas: {part.strip()!r} is no number of replicas of {', '.join(names)}; write 4, 0..8 or {names[0]}=0..8."
            )
        low = int(match[1])
        high = int(match[2] or match[1])
        if high < low:
            raise InputError(f"--replicas: {part.strip()!r} runs backwards; write the smaller number first, as in 0..8.")
        found |= {name: (low, high)} if name else dict.fromkeys(names, (low, high))
    for name in names:
        if name not in found:
            raise InputError(f"--replicas {text!r} does not say how many there are of {name}.")
    return found


def _played(fleet: Fleet, kinds: Sequence[Deployed], traces: Sequence[Trace], demands: Sequence[SloTerm], seed: int) -> dict[str, Any]:
    """One policy and route on each trace with a seed of its own; and on the first one with quick and with slow steps."""

    def run(trace: Trace, fleet: Fleet, seed: int) -> dict[str, Any]:
        return result(trace, fleet, simulate(trace, fleet, seed=seed), demands)

    row = spread([run(trace, fleet, seed + k) for k, trace in enumerate(traces)])
    sides = [one.ends for one in kinds if one.ends]
    ends: list[dict[str, Any]] | None = None
    if len(sides) == len(kinds) and len(traces[0]) <= MANY:
        ends = []
        for side in (0, 1):
            other = run(traces[0], replace(fleet, kinds=tuple(pair[side] for pair in sides)), seed)
            ends.append({name: value for name, value in other.items() if name not in ("timeline", "statuses")})
    return {"policy": fleet.policy.name, "route": fleet.route, **row, "quick_and_slow": ends}


def _best(runs: Sequence[dict[str, Any]], demands: Sequence[SloTerm]) -> int | None:
    """Place of the cheapest run that meets all demands, by money, else by replica hours; without demands of those that answer all."""
    met = [place for place, run in enumerate(runs) if (run["slo"]["met"] if demands else run["answered"] == run["requests"])]
    if not met:
        return None if demands else max(range(len(runs)), key=lambda place: runs[place]["answered"])
    return min(met, key=lambda place: (runs[place]["usd"] or 0.0, runs[place]["replica_hours"], runs[place]["e2e_ms"]["p95"]))


def _headline(runs: Sequence[dict[str, Any]], best: int | None, demands: Sequence[SloTerm]) -> str:
    if best is None:
        nearest = max(runs, key=lambda run: run["slo"]["share"])
        return f"No policy keeps the demands; nearest is {_name(nearest)} with {nearest['slo']['share']:.1%} of requests within them"
    run = runs[best]
    cost = f", {run['usd_per_1000']:.3g} USD per 1,000 requests" if run["usd_per_1000"] else f", {run['replica_hours']:.3g} replica hours"
    kept = (
        f"keeps the demands for {run['slo']['share']:.1%} of requests"
        if demands
        else f"answers {run['answered']:,.0f} of {run['requests']:,.0f}"
    )
    return f"{_name(run)} {kept}{cost}"


def _name(run: dict[str, Any]) -> str:
    return f"{run['policy']} ({run['route']})"


def _told(trace: Trace) -> dict[str, Any]:
    lengths = {"prompt_tokens": trace.prompt_tokens, "output_tokens": trace.output_tokens}
    return {
        "name": trace.name,
        "requests": len(trace),
        "span_s": trace.span_s,
        **{
            name: {"mean": float(values.mean()), "p50": float(np.median(values)), "p95": float(np.percentile(values, 95))}
            for name, values in lengths.items()
        },
        "share_with_prefix": float((trace.prefix >= 0).mean()),
    }


def _refused(runs: Sequence[dict[str, Any]]) -> list[str]:
    n = max(run["statuses"].get(STATUSES[TOO_LONG], 0) for run in runs)
    return [f"{n:,} requests are too long for any replica's cache (or, without chunks, for a step) and were refused."] if n else []


def _assumptions(fleet: Fleet, kinds: Sequence[Deployed], power: str) -> list[str]:
    """The scheduler that was simulated, in sentences: what a real one that differs would do otherwise."""
    rows = [f"{one.kind.name}: {_scheduler(one.kind.batching)}." for one in kinds]
    rows += [
        f"{one.about['name']}: step times {one.about['steps']}. A cold start takes {one.about['cold_s']:,.1f} s: {one.about['cold']}."
        for one in kinds
    ]
    rows.append(
        "Requests wait in one queue before the replicas."
        if fleet.queue_at_gateway
        else "Each request goes to a replica when it comes and waits there; before one is up, in one queue."
    )
    return [
        *rows,
        "Replicas of the minimum are up at the start.",
        f"Carbon: {power}; energy of devices alone.",
        "Prices are of devices alone.",
    ]


def _scheduler(batching: Batching) -> str:
    prompts = "prompts in chunks beside decoding" if batching.chunked else "whole prompts in steps of their own"
    cache = (
        "no limit of the cache"
        if not batching.kv_tokens
        else f"a cache of {batching.kv_tokens:,} tokens, "
        + (
            "reserved for prompt and whole answer"
            if batching.reserve == "whole"
            else "filled as answers grow, the last to start computed again when full"
        )
    )
    shared = "shared beginnings computed once" if batching.prefix_cache else "no prefix cache"
    return f"in order of arrival, {batching.slots} at once, {batching.batch_tokens:,} tokens a step, {prompts}, {cache}, {shared}"
