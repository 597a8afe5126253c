"""The number that each objective ranks by, from a measurement. Pure."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.workload import Objective

UNITS: Mapping[Objective, str] = {
    "latency": "ms",
    "throughput": "tok/s",
    "memory": "bytes",
    "energy": "J/token",
    "cost": "per million output tokens",
}


def objective_value(
    objective: Objective, measurement: Mapping[str, Any] | None, price_per_hour: float | None = None, concurrency: int | None = None
) -> float | None:
    """The objective's own number, in `UNITS`, at `concurrency` (None = the highest one); None = not measured. Latency: median request.

    measurement: core.measurement.Measurement as JSON types. Memory is the peak of the whole session, whatever the concurrency.
    """
    points = [point for point in (measurement or {}).get("points") or () if concurrency in (None, point["concurrency"])]
    if measurement is None or not points:
        return None
    fullest = max(points, key=lambda point: point["concurrency"])
    if objective == "latency":
        value: float | None = fullest["e2e_ms"]["p50"]
    elif objective == "memory":
        value = measurement.get("peak_memory_bytes")
    elif objective == "energy":
        value = fullest.get("energy_j_per_token")
    else:
        value = fullest.get("output_tok_s")
    return cost_per_million(price_per_hour, value) if objective == "cost" else value


def cost_per_million(price_per_hour: float | None, tok_s: float | None) -> float | None:
    """Price of a million output tokens from a machine that is always this busy; None without a price or a rate."""
    return price_per_hour / 3600 / tok_s * 1e6 if price_per_hour is not None and tok_s else None


def times_better(objective: Objective, value: float, other: float) -> float:
    """How many times better the first is: above 1 = better."""
    return value / other if objective == "throughput" else other / value
