"""Objective, demands and capacity of a decision as texts, for the terminal, the page and `explain()`. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.phrases import (
    MISSING,
    count,
    is_number,
    line,
    megabytes,
    milliseconds,
    percent,
    rounded_down,
    significant,
    times,
    with_unit,
)

_WORSE = {"fail": 0, "inconclusive": 1, "pass": 2}
_NOUNS = {
    "latency": "median time of a request",
    "throughput": "throughput",
    "memory": "peak memory",
    "energy": "energy per token",
    "cost": "cost of a million output tokens",
}
NOTHING_BETTER = {
    "throughput": "nothing of higher throughput",
    "memory": "nothing smaller",
    "energy": "nothing more frugal",
    "cost": "nothing cheaper",
}


def quantity(value: Any, unit: Any) -> str:
    """A value with its unit as a person reads it."""
    if unit == "bytes":
        return megabytes(value)
    if unit == "ms":
        return milliseconds(value)
    return significant(value) if unit == "per million output tokens" else with_unit(value, line(unit))


def objective_claim(decision: Mapping[str, Any]) -> str:
    """`throughput 31.2 tok/s with 2 in flight, the baseline 15.8 tok/s, at least 1.90x as good`; empty for latency or what is unknown."""
    row = decision.get("objective") or {}
    name, unit = row.get("name"), row.get("unit")
    if name not in _NOUNS or name == "latency" or not is_number(row.get("chosen")):
        return ""
    level = row.get("concurrency")
    text = f"{_NOUNS[name]} {quantity(row['chosen'], unit)}" + (f" with {level} in flight" if is_number(level) else "")
    ratio = row.get("ratio") or {}
    if is_number(row.get("baseline")) and row["baseline"] != row["chosen"]:
        text += f", the baseline {quantity(row['baseline'], unit)}"
        low = ratio.get("low")
        text += f", at least {times(rounded_down(low))} as good" if is_number(low) else f" ({times(ratio.get('ratio'))})"
    return text


def demand_rows(decision: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each demand on each deployment, at the level where it fares worst; chosen first, then the baseline.

    Keys: candidate, demand, at, measured, kept (requests within), bound, verdict, reason.
    """
    worst: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in decision.get("slo") or ():
        key = (line(row.get("candidate", "")), line(row.get("term", "")))
        if key not in worst or _hardness(row) < _hardness(worst[key]):
            worst[key] = row
    first = [_id(decision.get("chosen")), _id(decision.get("baseline"))]
    order = sorted(worst, key=lambda key: first.index(key[0]) if key[0] in first else len(first))
    return [_demand(candidate, term, worst[candidate, term]) for candidate, term in order]


def _hardness(row: Mapping[str, Any]) -> tuple[int, float]:
    share = row.get("share_within")
    return _WORSE.get(str(row.get("verdict")), 1), float(share) if is_number(share) else 1.0


def _demand(candidate: str, term: str, row: Mapping[str, Any]) -> dict[str, str]:
    is_share = is_number(row.get("share_within"))
    level = row.get("concurrency")
    low, high, unit = row.get("low"), row.get("high"), row.get("unit")
    if is_share:
        bound = f"{percent(low, 1)} to {percent(high, 1)}"
    else:
        bound = f"{quantity(low, unit)} to {quantity(high, unit)}" if is_number(low) and low != high else ""
    return {
        "candidate": candidate,
        "demand": term,
        "at": count(level) if is_number(level) else "",
        "measured": quantity(row.get("value"), unit) if is_number(row.get("value")) else MISSING,
        "kept": f"{row.get('n_within')} of {row.get('n')}" if is_share else "",
        "bound": bound,
        "verdict": str(row.get("verdict")),
        "reason": line(row.get("reason", "")),
    }


def capacity_lines(decision: Mapping[str, Any]) -> list[str]:
    """A sentence for each deployment whose capacity was, or could not be, measured."""
    capacity = decision.get("capacity") or {}
    return [_capacity_of(capacity[role]) for role in ("chosen", "baseline") if isinstance(capacity.get(role), Mapping)]


def _capacity_of(row: Mapping[str, Any]) -> str:
    name, low, high = line(row.get("id", "")), row.get("low"), row.get("high")
    if not is_number(low):
        return f"Capacity of {name}: {line(row.get('why') or MISSING)}"
    points: Sequence[Mapping[str, Any]] = row.get("points") or ()
    tried = f"{len(points)} rate{'' if len(points) == 1 else 's'} tried"
    beyond = f"; at {significant(high, 2)} they were not shown to hold" if is_number(high) else ""
    if low == 0:
        return f"Capacity of {name}: the demands were not shown to hold at any rate ({tried}){beyond}."
    ended = "; the time limit ended the search" if row.get("stopped") == "time" else ""
    return f"Capacity of {name}: the demands hold at {significant(low, 2)} requests a second{beyond} ({tried}{ended})."


def unmet(decision: Mapping[str, Any]) -> bool:
    """Whether every deployment that was timed misses a demand."""
    rows = decision.get("slo") or ()
    missed = {row.get("candidate") for row in rows if row.get("verdict") == "fail"}
    return bool(rows) and {row.get("candidate") for row in rows} == missed


def untold(decision: Mapping[str, Any]) -> bool:
    """Whether it cannot be told of the chosen deployment that it meets every demand."""
    chosen = _id(decision.get("chosen"))
    return any(row.get("candidate") == chosen and row.get("verdict") == "inconclusive" for row in decision.get("slo") or ())


def _id(deployment: Any) -> str:
    return line(deployment.get("id", "")) if isinstance(deployment, Mapping) else ""
