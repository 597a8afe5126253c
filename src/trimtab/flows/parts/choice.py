"""From what was found to the answer: who is certified first, who is chosen, and why in words."""

from collections.abc import Sequence
from math import exp, inf, log
from typing import Any

from trimtab.core.decision import SloResult, Verdict
from trimtab.core.files import to_plain
from trimtab.flows.parts.objective import BEST, BETTER, nearest
from trimtab.flows.parts.search import NOT_TRIED, Row, Search, gain, gain_ends

WORTHWHILE = 1.1
"""Times as good as the baseline: while so much is not excluded of something that passed, the baseline is kept for want of evidence only."""


def to_certify(search: Search) -> list[Row]:
    """Rows that may replace the baseline, in the order to certify them: those that surely meet the demands first, then by the objective.

    What is no better than the baseline is noted as such, unless the baseline itself misses a demand.
    """
    runnable = [row for row in search.rows.values() if row.status == "timed" and not row.reasons and row is not search.baseline]
    is_open = search.baseline.slo_verdict == "fail"
    better = [row for row in runnable if is_open or gain(search, row) > 0.0]
    for row in runnable:
        if row not in better:
            search.note(row, row.status, f"Not {BETTER[search.aim.objective]} than the baseline when timed in turns with it.")
    return _best_first(search, better)


def passed(search: Search) -> list[Row]:
    """What passed every required gate and misses no demand, best first."""
    rows = [row for row in search.rows.values() if row.verdict == "pass" and row.slo_verdict != "fail" and row.status != "infeasible"]
    is_open = search.baseline.slo_verdict == "fail"
    return _best_first(search, [row for row in rows if is_open or gain(search, row) > 0.0])


def is_shown(search: Search, row: Row) -> bool:
    """Whether a row's whole interval lies above the baseline; beside one that misses a demand, nothing need be shown."""
    return search.baseline.slo_verdict == "fail" or gain_ends(search, row)[0] > 0.0


def not_shown(search: Search) -> list[tuple[Row, str]]:
    """What passed and was not shown to be better than the baseline, each with what it lacks."""
    found = []
    for row in passed(search):
        if not is_shown(search, row):
            low, high = gain_ends(search, row)
            gained = f"{exp(gain(search, row)):.2f}× [{exp(low):.2f}×, {exp(high):.2f}×]" if high < inf else "too few rounds were timed"
            found.append((row, f"not shown to be {BETTER[search.aim.objective]} than the baseline: {gained}"))
    return found


def note_not_shown(search: Search, chosen: Row | None) -> None:
    """Where the baseline is kept, say of what passed first that it was not shown to be better: its gates are not why it lost."""
    if chosen is search.baseline:
        for row, lack in not_shown(search):
            row.reasons.insert(0, f"It was {lack}.")


def _best_first(search: Search, rows: Sequence[Row]) -> list[Row]:
    """By the objective; one that surely meets all demands goes before one of which that cannot be told."""
    return sorted(rows, key=lambda row: (row.slo_verdict != "pass", -gain(search, row)))


def choose(search: Search) -> tuple[Row | None, Verdict]:
    """The deployment to run and how sure that is; None if there is none that could be.

    Something else than the baseline must be shown to be better: its whole interval lies above it. A row that misses a demand is never
    chosen, the baseline neither. Whoever is shown to meet them all goes before the baseline, the baseline before those of which it cannot
    be told.
    """
    base = search.baseline
    rows = passed(search)
    fit = [row for row in rows if is_shown(search, row)]
    open_ended = any(row.verdict == "inconclusive" and row.slo_verdict != "fail" for row in search.rows.values())
    open_ended = open_ended or any(gain_ends(search, row)[1] > log(WORTHWHILE) for row in rows if not is_shown(search, row))
    if fit and fit[0].slo_verdict == "pass":
        return fit[0], "pass"
    if base.slo_verdict == "pass":
        return base, "inconclusive" if open_ended and not fit else "pass"
    if fit:
        return fit[0], "inconclusive"
    if base.slo_verdict == "inconclusive":
        return base, "inconclusive"
    return None, "inconclusive" if open_ended else "fail"


def reasons_for(search: Search, chosen: Row | None, own: Row | None) -> list[str]:
    """Why this one, and what was tempting."""
    best = BEST[search.aim.objective]
    if chosen is None:
        reasons = _nothing_fits(search)
    elif chosen is search.baseline:
        reasons = [f"The baseline is kept: nothing {BETTER[search.aim.objective]} was shown to be no worse."]
        reasons += [
            f"{row.plan.id} passed every required gate, but was {lack}; a longer --time-limit or a quieter machine may tell."
            for row, lack in not_shown(search)
        ]
    else:
        among = " and misses no demand" if search.aim.slo else ""
        reasons = [f"{chosen.plan.id} is {best} that passed every required gate{among}."]
    if chosen is not None and search.aim.slo:
        reasons += _untold(chosen) or [f"It meets {_demands(search)}."]
    if search.baseline.slo_verdict == "fail" and chosen is not None:
        reasons += [f"The baseline is out. {row.reason}" for row in search.baseline.slo if row.verdict == "fail"][:1]
    if own is not None and own is not chosen:
        reasons.append(f"{own.plan.id} is {best} of the baseline's own engine that passed.")
    for row in search.rows.values():
        if (row.timed and row.status == "screened") or (row.timed and row.reasons and row.verdict is None and row is not search.baseline):
            reasons.append(f"{row.plan.id} is {_tempting(search, row)} but not chosen. {row.reasons[0]}")
    untried = [name for name, row in search.rows.items() if row.reasons and row.reasons[0].startswith(NOT_TRIED)]
    if untried:
        reasons.append(
            f"{len(untried)} candidates were not tried for want of time, such as {untried[0]}; a longer --time-limit tries them."
        )
    if search.bench.weak is None:
        reasons.append(f"No planted loss of quality could be built: {search.bench.weak_missing}")
    return reasons


def _tempting(search: Search, row: Row) -> str:
    """`fast`, where it is better than the baseline; else only that it was timed."""
    words = {"latency": "fast", "throughput": "of high throughput", "memory": "small", "energy": "frugal", "cost": "cheap"}
    return words[search.aim.objective] if gain(search, row) > 0.0 else "timed"


def _nothing_fits(search: Search) -> list[str]:
    """That no deployment meets the demands, and which comes nearest."""
    found = nearest({name: row.slo for name, row in search.rows.items()})
    close = f": the nearest is {found[0]}. {found[1].reason}" if found else "."
    return [f"Nothing that was timed here meets {_demands(search)}{close}"]


def _untold(row: Row) -> list[str]:
    """A sentence for each demand of which it cannot be told whether the row meets it, at the level where most requests are lacking."""
    found: dict[str, SloResult] = {}
    for result in row.slo:
        known = found.get(result.term)
        if result.verdict == "inconclusive" and (known is None or (result.more_needed or 0) > (known.more_needed or 0)):
            found[result.term] = result
    return [result.reason for result in found.values()]


def _demands(search: Search) -> str:
    return ", ".join(term.text for term in search.aim.slo)


def slo_rows(search: Search) -> list[dict[str, Any]]:
    """One row for each demand on each timed deployment, at each concurrency it depends on."""
    return [{"candidate": name, **to_plain(result)} for name, row in search.rows.items() for result in row.slo]
