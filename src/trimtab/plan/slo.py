"""Demands on a deployment as a user writes them: `ttft_p95<400ms,memory<1GiB`. What cannot be meant is refused with a sentence."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.core.errors import InputError
from trimtab.core.workload import OBJECTIVES, Objective, SloTerm, WhatIf

WHAT_IF = "--what-if"
MS = {"ms": 1.0, "s": 1000.0}
SECONDS = {"ms": 0.001, "s": 1.0}
BYTES = {"B": 1.0, "KB": 1e3, "KiB": 1024.0, "MB": 1e6, "MiB": 1024.0**2, "GB": 1e9, "GiB": 1024.0**3}
DEFAULT_PERCENTILE = 95.0
"""Of a latency whose percentile is not said: who writes `ttft<400ms` means nearly all requests, not half of them."""
LEAST_PERCENTILE, MOST_PERCENTILE = 50.0, 99.9

TERM = re.compile(
    r"(?P<metric>[a-z][a-z0-9_]*?)(?:_p(?P<percentile>\d+(?:\.\d+)?))?\s*(?P<sign><=|>=|<|>|==|=)\s*"
    r"(?P<value>[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+|nan|inf(?:inity)?))\s*(?P<unit>[a-z/]*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What may be demanded. units: as written -> factor to the limit's unit; upper: must stay below; of_requests: has percentiles."""

    units: Mapping[str, float]
    upper: bool = True
    of_requests: bool = False


METRICS = {
    "ttft": Metric(units=MS, of_requests=True),
    "tpot": Metric(units=MS, of_requests=True),
    "itl": Metric(units=MS, of_requests=True),
    "e2e": Metric(units=MS, of_requests=True),
    "throughput": Metric(units={"tok/s": 1.0}, upper=False),
    "memory": Metric(units=BYTES),
    "cold_start": Metric(units=MS),
    "load": Metric(units=SECONDS),
    "energy": Metric(units={"J/token": 1.0}),
}
IMPLIED_BY = {"ttft": "e2e", "load": "cold_start"}
"""The first is over before the second is: a limit on the second that is no longer leaves the first nothing to say."""


def parse_slo(text: str, flag: str = "--slo") -> tuple[SloTerm, ...]:
    """Terms `metric[_pNN] < value unit`, with commas between; limits come out in ms, tok/s, bytes, s (load) and J per token.

    A latency without a percentile is held at p95. flag: the option that the text was given with, for sentences.
    Raises InputError, with the term, for anything unknown, impossible or contradictory.
    """
    terms = tuple(_term(part.strip(), text, flag) for part in text.split(","))
    for first, second in itertools.combinations(terms, 2):
        if (first.metric, first.percentile) == (second.metric, second.percentile):
            raise InputError(f"{flag} limits {_name(first)} twice, by {first.text!r} and {second.text!r}; keep one of them.")
    _check_order(terms, flag)
    return terms


def parse_what_if(text: str) -> WhatIf:
    """`memory<512MiB,concurrency=4,objective=throughput`: demands as in `parse_slo`, the number in flight and the objective.

    Raises InputError, with the term, for anything unknown, impossible or said twice.
    """
    flag = WHAT_IF
    demands: list[str] = []
    said: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key.lower() not in ("concurrency", "objective"):
            demands.append(part)
        elif key.lower() in said:
            raise InputError(f"{flag} {text!r} says {key.lower()} twice; keep one of them.")
        else:
            said[key.lower()] = value
    return WhatIf(
        terms=parse_slo(",".join(demands), flag) if demands else (),
        concurrency=_concurrency(said["concurrency"], flag) if "concurrency" in said else None,
        objective=_objective(said["objective"], flag) if "objective" in said else None,
        text=text.strip(),
    )


def _concurrency(value: str, flag: str) -> int:
    if not (value.isdecimal() and int(value) > 0):
        raise InputError(f"{flag}: concurrency={value} is no number of requests in flight; give a whole number above zero.")
    return int(value)


def _objective(value: str, flag: str) -> Objective:
    found = next((name for name in OBJECTIVES if name == value.lower()), None)
    if found is None:
        raise InputError(f"{flag}: unknown objective {value!r}; give one of {', '.join(OBJECTIVES)}.")
    return found


def _term(part: str, whole: str, flag: str) -> SloTerm:
    if not part:
        raise InputError(f"{flag} {whole!r} has an empty term; write it as ttft_p95<400ms,memory<1GiB.")
    found = TERM.fullmatch(part)
    if not found:
        raise InputError(f"{flag}: {part!r} is no demand; write METRIC<VALUE UNIT, such as ttft_p95<400ms or memory<1GiB.")
    name = found["metric"].lower()
    metric = METRICS.get(name)
    if metric is None:
        others = "; beside them concurrency=N and objective=NAME" if flag == WHAT_IF else ""
        raise InputError(f"{flag}: unknown metric {found['metric']!r} in {part!r}; the metrics are {', '.join(METRICS)}{others}.")
    sign, better = ("<", "less") if metric.upper else (">", "more")
    if sign not in found["sign"]:
        raise InputError(f"{flag}: {better} {name} is better, so {part!r} must be {part.replace(found['sign'], sign, 1)!r}.")
    factor = _factor(found["unit"], metric, part, flag)
    value = float(found["value"])
    if not (math.isfinite(value * factor) and value * factor > 0.0):
        raise InputError(f"{flag}: {part!r} cannot be met by anything; the limit must be a number above zero.")
    return SloTerm(
        metric=name,
        percentile=_percentile(found["percentile"], name, metric, part, flag),
        limit=value * factor,
        upper=metric.upper,
        text=part,
    )


def _factor(unit: str, metric: Metric, part: str, flag: str) -> float:
    by_lower = {name.lower(): factor for name, factor in metric.units.items()}
    if unit.lower() not in by_lower:
        wrong = f"has the unit {unit!r}" if unit else "has no unit"
        raise InputError(f"{flag}: {part!r} {wrong}; give {' or '.join(metric.units)}.")
    return by_lower[unit.lower()]


def _percentile(written: str | None, name: str, metric: Metric, part: str, flag: str) -> float | None:
    if not metric.of_requests:
        if written is not None:
            raise InputError(f"{flag}: {part!r} asks for a percentile, and {name} has one value only; leave _p{written} out.")
        return None
    percentile = DEFAULT_PERCENTILE if written is None else float(written)
    if not LEAST_PERCENTILE <= percentile <= MOST_PERCENTILE:
        raise InputError(f"{flag}: {part!r} asks for p{percentile:g}; give one of p50 to p99.9.")
    return percentile


def _check_order(terms: Sequence[SloTerm], flag: str) -> None:
    """Refuse terms that say nothing beside another one: their limits were probably swapped."""
    for loose, tight in itertools.permutations(terms, 2):
        if loose.metric == tight.metric:
            implied = (loose.percentile or 0.0) < (tight.percentile or 0.0) and loose.limit >= tight.limit
            why = f"p{loose.percentile:g} of a time is never above its p{tight.percentile:g}" if implied else ""
        else:
            in_seconds = 0.001 if tight.metric == "cold_start" else 1.0  # of load, the other one of that pair
            implied = (
                IMPLIED_BY.get(loose.metric) == tight.metric
                and (loose.percentile or 0.0) <= (tight.percentile or 0.0)
                and loose.limit >= tight.limit * in_seconds
            )
            why = f"{loose.metric} is a part of {tight.metric}"
        if implied:
            raise InputError(f"{flag}: {loose.text!r} says nothing beside {tight.text!r}, as {why}; were the limits swapped?")


def _name(term: SloTerm) -> str:
    return term.metric if term.percentile is None else f"{term.metric}_p{term.percentile:g}"
