"""What a decision document (schema trimtab.decision/1, JSON types) knows of one of its candidates: how it stands, what it lost. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard

from trimtab.core.measurement import Interval

Plain = Mapping[str, Any]
Standing = Literal["certified", "baseline", "open", "undecided", "rejected"]
"""certified: passed every required gate; baseline: what a user would have run, which needs no certificate; open: nothing speaks against
it, but it was never certified; undecided: its certification could not tell; rejected: too great a loss, or it cannot run."""

SURE_SE = 3.0
"""A candidate is left out if its loss exceeds the margin by this many standard errors on the search items."""


def candidate_rows(decision: Plain) -> list[dict[str, Any]]:
    """The candidates, with the baseline among them. Raises TypeError or KeyError for another shape."""
    rows = [dict(row) for row in decision.get("candidates") or ()]
    baseline = dict(decision.get("baseline") or {})
    if baseline.get("measurement") and all(row.get("id") != baseline.get("id") for row in rows):
        why = "The reference, timed as the baseline." if decision.get("kind") != "optimize" else "The baseline."
        rows.append({"status": "timed", "verdict": None, "reasons": [why], **baseline})
    return rows


def standing_of(row: Plain, decision: Plain) -> Standing:
    """How far a candidate may be relied on. Some are timed for comparison although the search texts spoke against them: rejected."""
    if row.get("status") == "infeasible" or row.get("verdict") == "fail":
        return "rejected"
    if row.get("verdict") == "pass":
        return "certified"
    if row.get("id") == (decision.get("baseline") or {}).get("id"):
        return "baseline"
    if lost_on_screen(row, decision):
        return "rejected"
    return "undecided" if row.get("verdict") == "inconclusive" else "open"


def lost_on_screen(row: Plain, decision: Plain) -> bool:
    """Whether a candidate's loss on the search texts surely exceeds the margin of the policy's text gate."""
    margin, screen = text_margin(decision), (row.get("evidence") or {}).get("screen") or {}
    delta, se = screen.get("delta_nats_per_token"), screen.get("delta_se")
    return margin is not None and is_number(delta) and is_number(se) and surely_lost(delta, se, margin)


def text_margin(decision: Plain) -> float | None:
    """What the policy allows on text, nats/token; None if it has no such gate that is required."""
    for gate in (decision.get("policy") or {}).get("gates") or ():
        if gate.get("suite") == "text" and gate.get("required", True) and is_positive(gate.get("margin")):
            return float(gate["margin"])
    return None


def surely_lost(delta: float, se: float, margin: float) -> bool:
    """Whether a change (negative = worse) is beyond the margin by more than chance on few items can do."""
    return delta + SURE_SE * se < -margin


def points_by_level(row: Plain) -> dict[int, Plain]:
    """Load points of a candidate by concurrency; empty where it was not timed."""
    points: Sequence[Plain] = (row.get("measurement") or {}).get("points") or ()
    return {int(point["concurrency"]): point for point in points}


def ratio_over_baseline(row: Plain, decision: Plain, level: int) -> Plain:
    """Ratio, low and high of the end-to-end time over the baseline timed in turns with it; empty for what was not."""
    base_id = (decision.get("baseline") or {}).get("id")
    over = ((row.get("details") or {}).get("speed_over_baseline") or {}).get(base_id) or {}
    if not over and row.get("id") == (decision.get("chosen") or {}).get("id"):
        over = (decision.get("speedup") or {}).get("over_baseline") or {}
    found: Plain = (over.get(str(level)) or {}).get("e2e_ms_p50") or {}
    return found if is_positive(found.get("ratio")) else {}


def time_ms(row: Plain, decision: Plain, level: int) -> Interval | None:
    """Median time of a request, with an interval as wide as that of its ratio over the baseline; None = not timed at this level.

    The baseline is what the others are measured by, so its interval is a point. Where too few rounds were timed for a ratio, the ends are
    the fastest and the slowest request.
    """
    spread = (points_by_level(row).get(level) or {}).get("e2e_ms") or {}
    value = spread.get("p50")
    if not is_positive(value):
        return None
    ratio = ratio_over_baseline(row, decision, level)
    low, high = ratio.get("low"), ratio.get("high")
    if is_positive(low) and is_positive(high):
        return Interval(
            value=value, low=value * ratio["ratio"] / high, high=value * ratio["ratio"] / low, n=int(ratio.get("n_rounds") or 1)
        )
    is_measure = row.get("id") == (decision.get("baseline") or {}).get("id")
    if is_measure and any(ratio_over_baseline(other, decision, level) for other in decision.get("candidates") or ()):
        return Interval(value=value, low=value, high=value)
    ends = (spread.get("min"), spread.get("max"))
    return Interval(value=value, low=ends[0], high=ends[1]) if all(map(is_number, ends)) else Interval(value=value)


def loss_of(row: Plain, decision: Plain) -> Interval | None:
    """Quality loss in nats/token, of the text gate where certified, else of the search texts; None = not measured.

    The reference loses nothing.
    """
    if row.get("id") == (decision.get("reference") or {}).get("id"):
        return Interval(value=0.0, low=0.0, high=0.0)
    evidence = row.get("evidence") or {}
    for gate in evidence.get("gates") or ():
        if gate.get("suite") == "text" and is_number(gate.get("delta")):
            return _negated(gate["delta"], gate.get("low"), gate.get("high"))
    screen = evidence.get("screen") or {}
    delta = screen.get("delta_nats_per_token")
    return _negated(delta, screen.get("low"), screen.get("high")) if is_number(delta) else None


def _negated(delta: float, low: Any, high: Any) -> Interval:
    return Interval(value=0.0 - delta, low=0.0 - high if is_number(high) else None, high=0.0 - low if is_number(low) else None)


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def is_positive(value: Any) -> TypeGuard[float]:
    """A finite number above zero."""
    return is_number(value) and value > 0
