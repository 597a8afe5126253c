"""What is to be best, and what must hold: how candidates are ranked, what the user is told of it, what cannot be met at all."""

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.core.decision import SloResult
from trimtab.core.errors import InputError, MissingError
from trimtab.core.measurement import Estimate
from trimtab.core.workload import OBJECTIVES, Objective, SloTerm, Workload
from trimtab.decide.objectives import UNITS, objective_value, times_better
from trimtab.decide.slo import excess
from trimtab.flows.parts.timing import Probe, Timed, log_gain
from trimtab.measure.meters import joules_between, read_energy
from trimtab.plan.slo import parse_slo
from trimtab.stats.binomial import more_needed
from trimtab.stats.ratios import log_ratio_interval

BETTER: Mapping[Objective, str] = {
    "latency": "faster",
    "throughput": "of higher throughput",
    "memory": "smaller in memory",
    "energy": "using less energy",
    "cost": "cheaper",
}
BEST: Mapping[Objective, str] = {
    "latency": "the fastest",
    "throughput": "the one of highest throughput",
    "memory": "the one that needs least memory",
    "energy": "the one that uses least energy",
    "cost": "the cheapest",
}
ENERGY_LOOK_S = 0.3
LATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a search is for. price_per_hour: of this machine, in the user's currency; None = not said."""

    objective: Objective = "latency"
    slo: tuple[SloTerm, ...] = ()
    price_per_hour: float | None = None


def make_aim(objective: str | None, slo: str | None, price_per_hour: float | None) -> Aim:
    """Checked before anything runs. Raises InputError, or MissingError where energy is asked for and cannot be measured here."""
    name = objective or "latency"
    if name not in OBJECTIVES:
        raise InputError(f"Unknown objective {name!r}; give one of {', '.join(OBJECTIVES)}.")
    if price_per_hour is not None and not (math.isfinite(price_per_hour) and price_per_hour > 0):
        raise InputError(f"--price-per-hour must be a number above zero, not {price_per_hour!r}.")
    if name == "cost" and price_per_hour is None:
        raise InputError("--objective cost needs what this machine costs; give --price-per-hour, such as 0.40.")
    terms = parse_slo(slo) if slo is not None else ()
    if name == "energy" or any(term.metric == "energy" for term in terms):
        _check_energy()
    return Aim(objective=name, slo=terms, price_per_hour=price_per_hour)


def _check_energy() -> None:
    before = read_energy()
    time.sleep(ENERGY_LOOK_S)
    if before.reason or joules_between(before, read_energy()) is None:
        raise MissingError(
            f"Energy cannot be measured here: {before.reason or 'its counters stand still, as in a virtual machine'}.",
            "choose another objective, or run on a machine that exposes RAPL or amd_energy counters to you.",
        )


def value_of(aim: Aim, measurement: Mapping[str, Any] | None) -> float | None:
    """The objective's own number, in `UNITS`, at the highest concurrency; None = not measured. Latency: median request."""
    return objective_value(aim.objective, measurement, aim.price_per_hour)


def gain_of(aim: Aim, own: Timed | None, base: Timed | None, base_id: str) -> float:
    """Log of how many times better than the baseline timed beside it; minus infinity where that was not measured.

    Latency goes by the ratios of rounds; a session of one round has none, and goes by its medians, which rank and claim nothing.
    """
    if own is None:
        return -math.inf
    if aim.objective == "latency":
        ratios = own.ratios.get(base_id)
        return log_gain(ratios) if ratios else _gain_of_medians(own, base)
    mine, other = value_of(aim, own.measurement), value_of(aim, base.measurement if base else None)
    if not mine or not other:
        return -math.inf
    return math.log(times_better(aim.objective, mine, other))


def gain_range(aim: Aim, own: Timed | None, base: Timed | None, base_id: str) -> tuple[float, float]:
    """Ends of the interval of `gain_of`, of which memory and energy have none; minus and plus infinity where too few rounds tell.

    Latency: means over concurrencies of the ends of each one's interval, at least as wide as the interval of the mean.
    """
    if aim.objective == "latency":
        by_level = own.ratios.get(base_id, {}) if own else {}
        known = [by_metric["e2e_ms_p50"] for by_metric in by_level.values() if "e2e_ms_p50" in by_metric]
        if not known:
            return -math.inf, math.inf
        return sum(_log(one["low"]) for one in known) / len(known), sum(_log(one["high"]) for one in known) / len(known)
    if aim.objective in ("throughput", "cost"):
        mine, other = _rounds(own), _rounds(base)
        if len(mine) != len(other) or len(mine) < 2:
            return -math.inf, math.inf
        ratio = log_ratio_interval(mine, other)
        return _log(ratio.low), _log(ratio.high)
    gain = gain_of(aim, own, base, base_id)
    return gain, gain


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _gain_of_medians(own: Timed, base: Timed | None) -> float:
    """Mean over concurrencies of the log of baseline / own median request; minus infinity where they share no level."""
    medians = [{point["concurrency"]: point["e2e_ms"]["p50"] for point in _points(timed)} for timed in (own, base)]
    shared = [level for level in medians[0] if level in medians[1]]
    return sum(math.log(medians[1][level] / medians[0][level]) for level in shared) / len(shared) if shared else -math.inf


def objective_row(aim: Aim, chosen: Timed | None, base: Timed | None) -> dict[str, Any]:
    """What decision.json says of the objective. ratio: how many times better the chosen one is; with low and high where rounds tell."""
    mine, other = (value_of(aim, timed.measurement if timed else None) for timed in (chosen, base))
    row: dict[str, Any] = {"name": aim.objective, "unit": UNITS[aim.objective], "chosen": mine, "baseline": other}
    if aim.price_per_hour is not None:
        row["price_per_hour"] = aim.price_per_hour
    if mine and other:
        row["ratio"] = {"ratio": times_better(aim.objective, mine, other), "low": None, "high": None}
    if aim.objective in ("throughput", "cost") and chosen is not base:
        own_rounds, base_rounds = _rounds(chosen), _rounds(base)
        if len(own_rounds) == len(base_rounds) >= 2:
            row["ratio"] = log_ratio_interval(own_rounds, base_rounds)
    if aim.objective != "memory" and (points := _points(chosen or base)):
        row["concurrency"] = max(point["concurrency"] for point in points)
    return row


def _points(timed: Timed | None) -> Sequence[Mapping[str, Any]]:
    return (timed.measurement or {}).get("points") or () if timed else ()


def _rounds(timed: Timed | None) -> Sequence[float]:
    points = _points(timed)
    return max(points, key=lambda point: point["concurrency"]).get("round_tok_s") or () if points else ()


def as_finalist(aim: Aim, probe: Probe, size_bytes: int, base_size_bytes: int) -> Probe:
    """A probe whose ratio says how promising a candidate is for the aim: by the size of its weights where memory counts.

    What a short turn shows to be beyond a limit comes after everything else.
    """
    ratio = base_size_bytes / size_bytes if aim.objective == "memory" else probe.ratio
    seen = {"ttft": probe.ttft_ms, "tpot": probe.tpot_ms, "e2e": probe.e2e_ms, "memory": size_bytes}
    misses = any(term.metric in seen and seen[term.metric] > term.limit for term in aim.slo)
    return dataclasses.replace(probe, ratio=ratio * (LATE if misses else 1.0))


def nearest(by_id: Mapping[str, Sequence[SloResult]]) -> tuple[str, SloResult] | None:
    """Of deployments that miss a demand, the one whose worst miss is smallest, with that miss."""
    worst = {name: max((row for row in rows if row.verdict == "fail"), key=excess, default=None) for name, rows in by_id.items()}
    found = [(excess(row), name, row) for name, row in worst.items() if row is not None]
    return min(found, key=lambda each: each[:2])[1:] if found else None


def best_case(term: SloTerm, by_level: Mapping[int, Mapping[str, Estimate]], workload: Workload, end: str) -> float | None:
    """What the prediction says of a demand, at its hardest level: the interval's best end (`low`), or what is expected (`value`).

    Of latencies it predicts medians, which no percentile asked for is below. None where it says nothing.
    """
    if term.metric == "throughput":
        return max(1000 * level * workload.output_tokens / float(getattr(each["e2e_ms"], end)) for level, each in by_level.items())
    name = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "e2e_ms", "memory": "memory_bytes"}.get(term.metric)
    return max(float(getattr(each[name], end)) for each in by_level.values()) if name else None


def beyond_reach(
    terms: Iterable[SloTerm], forecasts: Mapping[str, Mapping[int, Mapping[str, Estimate]]], workload: Workload
) -> tuple[list[str], list[str]]:
    """Demands that no candidate can meet even at its best, and those that none is expected to, a sentence each, before anything is run.

    Where prompts share their start an engine may keep its cache, which the prediction does not know: no demand on time is then impossible.
    """
    impossible: list[str] = []
    unlikely: list[str] = []
    for term in terms:
        sure = impossible if term.metric == "memory" or not workload.shared_prefix_tokens else unlikely
        for end, found, words in (("low", sure, "the best case of all candidates"), ("value", unlikely, "the best that is expected")):
            cases = {name: case for name, by_level in forecasts.items() if (case := best_case(term, by_level, workload, end)) is not None}
            if not cases:
                break
            name = min(cases, key=lambda each: cases[each]) if term.upper else max(cases, key=lambda each: cases[each])
            if (cases[name] > term.limit) if term.upper else (cases[name] < term.limit):
                found.append(f"{term.text} is beyond {words}: {_shown(term, cases[name])} ({name}, {_basis(forecasts[name])}).")
                break
    return impossible, unlikely


def too_many_requests(terms: Iterable[SloTerm], forecasts: Mapping[str, Mapping[int, Mapping[str, Estimate]]], limit_s: float) -> list[str]:
    """Percentiles that take more requests than the quickest candidate is expected to answer in the whole time limit, a sentence each."""
    found: list[str] = []
    for term in terms:
        if term.percentile is None:
            continue
        n = more_needed(0, 0, term.percentile / 100)
        seconds = min(sum(n / level * each["e2e_ms"].value / 1000 for level, each in by_level.items()) for by_level in forecasts.values())
        if seconds > limit_s:
            found.append(
                f"It can probably not be shown that {term.text} holds: p{term.percentile:g} takes at least {n:,} requests at each "
                f"concurrency, about {seconds:,.0f} s of the quickest candidate; give a longer --time-limit or a lower percentile."
            )
    return found


def _shown(term: SloTerm, value: float) -> str:
    if term.metric == "memory":
        return f"{value / 1e6:,.0f} MB"
    return f"{value:.3g} {'tok/s' if term.metric == 'throughput' else 'ms'}"


def _basis(by_level: Mapping[int, Mapping[str, Estimate]]) -> str:
    return next(iter(by_level.values()))["e2e_ms"].basis.split(",")[0]
