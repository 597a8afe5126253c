"""Demands on speed, memory and energy, judged on what was measured: met, missed, or not to be told from so few requests.

A percentile is judged by counting (stats.binomial): it is met only if the lower 95 % bound on the share of requests within the limit is
at least the percentile, and missed if the upper bound is below it. Requests count as independent: what slows several at once makes them
less so, and the answer more certain than it should be. A demand that depends on the concurrency has to be met at every level.
"""

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from trimtab.core.decision import SloResult, Verdict
from trimtab.core.workload import SloTerm
from trimtab.stats.binomial import more_needed, share_bounds

ALPHA = 0.05
UNITS = {
    "ttft": "ms",
    "tpot": "ms",
    "itl": "ms",
    "e2e": "ms",
    "throughput": "tok/s",
    "memory": "bytes",
    "cold_start": "ms",
    "load": "s",
    "energy": "J/token",
}
SINGLE = {"memory": "peak_memory_bytes", "cold_start": "cold_ttft_ms", "load": "load_s"}
"""Demands that no concurrency belongs to, with the measurement's field."""


def judge_slo(terms: Sequence[SloTerm], measurement: Mapping[str, Any] | None) -> tuple[SloResult, ...]:
    """Every demand at every level, in the order of the terms. measurement: core.measurement.Measurement as JSON types, None = not timed."""
    rows: list[SloResult] = []
    points = (measurement or {}).get("points") or ()
    for term in terms:
        if term.metric in SINGLE:
            rows.append(judge_value(term, [_number((measurement or {}).get(SINGLE[term.metric]))], None))
        elif not points:
            rows.append(judge_value(term, [None], None))
        elif term.percentile is not None:
            for point in points:
                values = (point.get("latencies_ms") or {}).get(term.metric) or ()
                rows.append(judge_latency(term, values, _failed(point, len(values)), point["concurrency"]))
        else:  # throughput and energy: of the machine at its fullest
            fullest = max(points, key=lambda point: point["concurrency"])
            rounds = fullest.get("round_tok_s") or [fullest["output_tok_s"]]
            values = rounds if term.metric == "throughput" else [_number(fullest.get("energy_j_per_token"))]
            rows.append(judge_value(term, values, fullest["concurrency"]))
    return tuple(rows)


def _failed(point: Mapping[str, Any], n_kept: int) -> int:
    """Failed requests, in the proportion in which finished ones were kept; rounded up, as a failure must not vanish."""
    failed: int = point["failed"]
    finished = point["n_requests"] - failed
    return ceil(failed * n_kept / finished) if finished else failed


def verdict_of(rows: Sequence[SloResult]) -> Verdict:
    """Met only if every row is; missed if one row is."""
    verdicts = {row.verdict for row in rows}
    return "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"


def judge_latency(
    term: SloTerm, values_ms: Sequence[float], n_failed: int = 0, concurrency: int | None = None, alpha: float = ALPHA
) -> SloResult:
    """Single latencies of finished requests against a percentile's limit; `n_failed` others did not finish and count as beyond it."""
    assert term.percentile is not None
    share = term.percentile / 100
    n, within = len(values_ms) + n_failed, sum(value <= term.limit for value in values_ms)
    if not values_ms:
        return _row(term, concurrency, None, "inconclusive", f"{_what(term, concurrency)} was not measured by single requests.", n=n)
    bounds = share_bounds(within, n, alpha)
    value = _percentile([*values_ms, *[float("inf")] * n_failed], share)
    verdict: Verdict = "pass" if bounds.low >= share else "fail" if bounds.high < share else "inconclusive"
    needed = more_needed(within, n, share, alpha) if verdict == "inconclusive" else None
    found = f"{_what(term, concurrency)}: {_value(term, value)}, {within} of {n} requests within {_value(term, term.limit)}"
    if verdict == "fail":
        reason = f"Misses {found}{_beyond(term, value)}."
    elif verdict == "pass":
        reason = f"Meets {found}, at least {100 * bounds.low:.1f} % of all."
    else:
        reason = f"Cannot tell {found}, which may be {100 * bounds.low:.0f} to {100 * bounds.high:.0f} % of all; " + (
            f"at least {needed:,} more requests would be needed, all within it."
        )
    return _row(
        term,
        concurrency,
        value,
        verdict,
        reason,
        share_within=within / n,
        low=bounds.low,
        high=bounds.high,
        n=n,
        n_within=within,
        more_needed=needed,
    )


def judge_value(term: SloTerm, values: Sequence[float | None], concurrency: int | None) -> SloResult:
    """A number as it was measured; of several rounds the mean, with one-sided t bounds at 95 % that it has to keep the limit with."""
    known = [value for value in values if value is not None]
    if not known:
        return _row(term, concurrency, None, "inconclusive", f"{_what(term, concurrency)}: {term.metric} was not measured here.")
    value = fmean(known)
    reach = float(stdtrit(len(known) - 1, 1 - ALPHA)) * stdev(known) / sqrt(len(known)) if len(known) > 1 else 0.0
    low, high = value - reach, value + reach
    good, bad = (high, low) if term.upper else (low, high)  # the ends that must keep, or must miss, the limit
    verdict: Verdict = "pass" if _keeps(term, good) else "fail" if not _keeps(term, bad) else "inconclusive"
    found = f"{_what(term, concurrency)}: {_value(term, value)}"
    if len(known) > 1:
        found += f" [{_value(term, low)}, {_value(term, high)}] over {len(known)} rounds"
    words = {"pass": f"Meets {found}.", "fail": f"Misses {found}{_beyond(term, value)}.", "inconclusive": f"Cannot tell {found}."}
    return _row(term, concurrency, value, verdict, words[verdict], low=low, high=high, n=len(known))


def _keeps(term: SloTerm, value: float) -> bool:
    return value <= term.limit if term.upper else value >= term.limit


def excess(row: SloResult) -> float:
    """How many times the limit is exceeded (or not reached): above 1 = missed. What the nearest candidate is chosen by."""
    if row.value is None or row.value <= 0.0:
        return float("inf")
    return row.limit / row.value if row.metric == "throughput" else row.value / row.limit


def _percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; None if that is a request that did not finish."""
    found = sorted(values)[max(0, ceil(share * len(values) - 1e-9) - 1)]
    return found if found != float("inf") else None


def _what(term: SloTerm, concurrency: int | None) -> str:
    return term.text + ("" if concurrency is None else f" at concurrency {concurrency}")


def _beyond(term: SloTerm, value: float | None) -> str:
    """`, 28 % over`; empty where the value itself is within and only too few requests are, or is not known."""
    if value is None or _keeps(term, value):
        return ""
    over = value / term.limit if term.upper else term.limit / value if value else float("inf")
    if over >= 2:
        return f", {over:,.1f} times {'the limit' if term.upper else 'too little'}"
    percent = 100 * abs(value / term.limit - 1)
    return f", {percent:.{0 if percent >= 10 else 1}f} % {'over' if term.upper else 'short'}"


def _value(term: SloTerm, value: float | None) -> str:
    if value is None:
        return "not finished"
    if term.metric == "memory":
        return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"
    unit = UNITS[term.metric]
    if unit == "ms" and value >= 10_000:
        return f"{value / 1000:.3g} s"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _row(term: SloTerm, concurrency: int | None, value: float | None, verdict: Verdict, reason: str, **more: Any) -> SloResult:
    return SloResult(
        term=term.text,
        metric=term.metric,
        percentile=term.percentile,
        limit=term.limit,
        unit=UNITS[term.metric],
        concurrency=concurrency,
        value=value,
        verdict=verdict,
        reason=reason,
        **more,
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
