"""Candidates of a decision in reading order, and the numbers of one that several parts of the page show. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trimtab.core.phrases import is_number
from trimtab.decide.standing import candidate_rows, points_by_level
from trimtab.record.conditions import mapping

Role = Literal["chosen", "baseline", "other"]
_ORDER = {"certified": 0, "timed": 1, "screened": 2, "infeasible": 3, "dropped": 4}


def role_of(row: Mapping[str, Any], decision: Mapping[str, Any]) -> Role:
    """What a candidate is in the answer."""
    if row.get("id") == mapping(decision.get("chosen")).get("id"):
        return "chosen"
    return "baseline" if row.get("id") == mapping(decision.get("baseline")).get("id") else "other"


def ranked(decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Candidates with the baseline among them: chosen, baseline, then how far each came, then latency."""
    first = {"chosen": 0, "baseline": 1, "other": 2}

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        points = points_by_level(row)
        latency = p50(points[min(points)], "e2e_ms") if points else None
        return (first[role_of(row, decision)], _ORDER.get(str(row.get("status")), 9), latency is None, latency or 0.0, str(row.get("id")))

    return sorted(candidate_rows(decision), key=key)


def p50(point: Mapping[str, Any], name: str) -> float | None:
    """The median of one of a load point's distributions."""
    value = mapping(point.get(name)).get("p50")
    return float(value) if is_number(value) else None


def levels_timed(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Concurrencies at which any of the candidates was timed, ascending."""
    return sorted({level for row in rows for level in points_by_level(row)})
