"""What a simulated course comes to: latencies, attainment, money, energy, cold starts, a time line; and the spread over repeated runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import InputError
from trimtab.core.workload import SloTerm
from trimtab.plan.fleet.events import Course, Life
from trimtab.plan.fleet.replica import ANSWERED, OPEN, STATUSES
from trimtab.plan.fleet.settings import Fleet
from trimtab.plan.fleet.traces import Trace

Floats = npt.NDArray[np.float64]
PERCENTILES = (50.0, 90.0, 95.0, 99.0)
REQUEST_METRICS = ("ttft", "tpot", "e2e")
N_BUCKETS = 60


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Of the answered requests, in ms, [n] each; tpot_ms leaves out answers of one token. wait_ms: until in a batch."""

    ttft_ms: Floats
    tpot_ms: Floats
    e2e_ms: Floats
    wait_ms: Floats


def latencies(trace: Trace, fleet: Fleet, course: Course) -> Latencies:
    requests = course.requests
    answered = np.flatnonzero(np.array(requests.status) == ANSWERED)
    arrival = trace.arrival_s[answered]
    overheads = np.array([life.kind.overhead_s for life in course.lives] or [0.0])
    overhead = overheads[np.array(requests.where)[answered]]
    first, end, started = (np.array(times)[answered] for times in (requests.first_s, requests.end_s, requests.started_s))
    output = trace.output_tokens[answered]
    several = output > 1
    return Latencies(
        ttft_ms=1e3 * (first - arrival + overhead),
        tpot_ms=1e3 * (end - first)[several] / (output[several] - 1),
        e2e_ms=1e3 * (end - arrival + overhead),
        wait_ms=1e3 * (started - arrival),
    )


def result(trace: Trace, fleet: Fleet, course: Course, slo: Sequence[SloTerm] = ()) -> dict[str, Any]:
    """One run as plain types: figures that `spread` can average, and `timeline`, `statuses`, `slo`."""
    found = latencies(trace, fleet, course)
    statuses = np.bincount(np.array(course.requests.status), minlength=len(STATUSES))
    n_answered = int(statuses[ANSWERED])
    return {
        "requests": len(trace),
        "answered": n_answered,
        "statuses": {name: int(n) for name, n in zip(STATUSES, statuses, strict=True) if n and name != STATUSES[OPEN]},
        "ttft_ms": _percentiles(found.ttft_ms),
        "tpot_ms": _percentiles(found.tpot_ms),
        "e2e_ms": _percentiles(found.e2e_ms),
        "wait_ms": _percentiles(found.wait_ms),
        "slo": _attainment(trace, fleet, course, slo),
        **_replicas(fleet, course, n_answered),
        "output_tok_s": float(trace.output_tokens[np.array(course.requests.status) == ANSWERED].sum() / course.end_s)
        if course.end_s
        else 0.0,
        "seconds": course.end_s,
        "timeline": timeline(trace, course),
    }


def _percentiles(values: Floats) -> dict[str, float] | None:
    """Mean, percentiles and the largest; None where nothing was answered."""
    if not len(values):
        return None
    found = dict(zip((f"p{q:g}" for q in PERCENTILES), np.percentile(values, PERCENTILES).tolist(), strict=True))
    return {"mean": float(values.mean()), **found, "max": float(values.max())}


def check_slo(slo: Sequence[SloTerm]) -> None:
    """Raises InputError for a demand that a simulation of requests cannot answer."""
    for term in slo:
        if term.metric not in REQUEST_METRICS:
            raise InputError(f"--slo {term.text!r}: a simulated fleet is judged by {', '.join(REQUEST_METRICS)}.")


def _attainment(trace: Trace, fleet: Fleet, course: Course, slo: Sequence[SloTerm]) -> dict[str, Any] | None:
    """Share of all requests, those not answered included, that keep each limit, and all of them; and whether percentiles hold."""
    if not slo:
        return None
    found = latencies(trace, fleet, course)
    n = len(trace)
    one_token = int((trace.output_tokens[np.array(course.requests.status) == ANSWERED] == 1).sum())
    terms, both = [], np.ones(len(found.e2e_ms), bool)
    several = trace.output_tokens[np.array(course.requests.status) == ANSWERED] > 1
    for term in slo:
        within = getattr(found, f"{term.metric}_ms") <= term.limit
        kept = int(within.sum()) + (one_token if term.metric == "tpot" else 0)
        if term.metric == "tpot":
            whole = np.ones(len(both), bool)
            whole[several] = within
            within = whole
        both &= within
        share = kept / n
        terms.append({"text": term.text, "share": share, "met": share >= (term.percentile or 100.0) / 100.0})
    return {"share": float(both.sum()) / n, "met": all(term["met"] for term in terms), "terms": terms}


def _replicas(fleet: Fleet, course: Course, n_answered: int) -> dict[str, Any]:
    hours, usd, joules, busy_s, up_s = 0.0, 0.0, 0.0, 0.0, 0.0
    for life in course.lives:
        span_s = max(0.0, life.end_s - life.start_s)
        busy = min(life.replica.busy_s, span_s)
        hours += span_s / 3600
        usd += life.kind.usd_h * span_s / 3600
        joules += life.kind.idle_w * (span_s - busy) + life.kind.busy_w * busy
        busy_s += busy
        up_s += max(0.0, life.end_s - life.up_s) if life.up_s < math.inf else 0.0
    per_1000 = 1000.0 / n_answered if n_answered else math.nan
    has = {"usd": any(kind.usd_h for kind in fleet.kinds), "power": any(kind.busy_w for kind in fleet.kinds)}
    kwh = joules / 3.6e6
    return {
        "replica_hours": hours,
        "usd": usd if has["usd"] else None,
        "usd_per_1000": usd * per_1000 if has["usd"] and n_answered else None,
        "kwh_per_1000": kwh * per_1000 if has["power"] and n_answered else None,
        "g_co2_per_1000": kwh * fleet.g_co2_kwh * per_1000 if has["power"] and fleet.g_co2_kwh and n_answered else None,
        "utilisation": busy_s / up_s if up_s else None,
        "mean_running": _running_s(course) / up_s if up_s else None,
        "most_replicas": _most_at_once(course.lives),
        "cold_starts": course.n_cold,
        "saw_cold_start": sum(course.requests.is_cold),
        "failures": sum(life.n_failures for life in course.lives),
        "spot_losses": sum(life.is_taken for life in course.lives),
        "preemptions": sum(life.replica.n_preempted for life in course.lives),
        "moved": sum(n > 0 for n in course.requests.n_moves),
        "cached_prompt_tokens": sum(life.replica.hit_tokens for life in course.lives),
        "most_kv_tokens": max((life.replica.most_kv for life in course.lives), default=0),
    }


def _running_s(course: Course) -> float:
    """Seconds that requests spent from their start to their end, of all together."""
    began, end = np.array(course.requests.started_s), np.array(course.requests.end_s)
    return float((end - began)[began >= 0].sum())


def _most_at_once(lives: Sequence[Life]) -> int:
    changes = sorted(
        (moment, change) for life in lives for moment, change in ((life.start_s, 1), (life.end_s, -1)) if life.end_s > life.start_s
    )
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def timeline(trace: Trace, course: Course, n_buckets: int = N_BUCKETS) -> dict[str, list[float | None]]:
    """By bucket of time: its start, requests that came a second, replicas up, waiting and running requests at its end, median TTFT."""
    requests = course.requests
    edges = np.linspace(0.0, max(course.end_s, 1e-9), n_buckets + 1)
    began = np.array(requests.started_s)
    end = np.array(requests.end_s)
    first = np.array(requests.first_s)
    came = np.searchsorted(trace.arrival_s, edges, side="right")
    taken = np.where(began >= 0, began, end)  # whoever never began stopped waiting when refused
    n_taken = np.searchsorted(np.sort(taken), edges, side="right")
    n_began = np.searchsorted(np.sort(began[began >= 0]), edges, side="right")
    n_ended = np.searchsorted(np.sort(end[began >= 0]), edges, side="right")
    up = [sum(life.up_s <= at_s < life.end_s or (at_s == life.end_s == course.end_s) for life in course.lives) for at_s in edges[1:]]
    return {
        "start_s": edges[:-1].tolist(),
        "requests_s": (np.diff(came, prepend=0)[1:] / np.diff(edges)).tolist(),
        "replicas": [float(n) for n in up],
        "waiting": (came - n_taken)[1:].astype(float).tolist(),
        "running": (n_began - n_ended)[1:].astype(float).tolist(),
        "ttft_p50_ms": [_median_ms(trace, first, low, high) for low, high in zip([0, *came[1:-1]], came[1:], strict=True)],
    }


def _median_ms(trace: Trace, first: Floats, low: int, high: int) -> float | None:
    times = first[low:high] - trace.arrival_s[low:high]
    times = times[first[low:high] >= 0]
    return 1e3 * float(np.median(times)) if len(times) else None


def spread(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each figure over repeated runs, and under `spread` its (least, most). Time line and terms are those of the first run."""
    merged = {key: value for key, value in runs[0].items() if key != "timeline"}
    ends: dict[str, Any] = {}
    for key, value in merged.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            merged[key], ends[key] = _mean_and_ends([run[key] for run in runs])
        elif key.endswith("_ms") and isinstance(value, Mapping) and all(run[key] for run in runs):
            pairs = {name: _mean_and_ends([run[key][name] for run in runs]) for name in value}
            merged[key] = {name: mean for name, (mean, _) in pairs.items()}
            ends[key] = {name: pair for name, (_, pair) in pairs.items()}
    if merged.get("slo"):
        share, pair = _mean_and_ends([run["slo"]["share"] for run in runs])
        merged["slo"], ends["slo"] = {**merged["slo"], "share": share}, pair
    return {**merged, "runs": len(runs), "spread": ends if len(runs) > 1 else None, "timeline": runs[0]["timeline"]}


def _mean_and_ends(values: Sequence[float | None]) -> tuple[float | None, tuple[float, float] | None]:
    known = [float(value) for value in values if value is not None]
    return (fmean(known), (min(known), max(known))) if known else (None, None)
