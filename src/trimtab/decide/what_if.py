"""What would have been chosen under other demands, at another concurrency or by another objective: from what a run measured, never guessed.

What was not measured is not measured: nothing lies "between" two concurrencies, and a candidate that was not timed has no time.
The rules are those of the run: quality first, demands judged by counting, the baseline kept where nothing is better.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import Any, Literal

from trimtab.core.decision import SloResult, Verdict
from trimtab.core.workload import OBJECTIVES, Objective, SloTerm, WhatIf
from trimtab.decide.objectives import UNITS, objective_value, times_better
from trimtab.decide.slo import excess, judge_slo, verdict_of
from trimtab.decide.standing import (
    Plain,
    Standing,
    candidate_rows,
    is_positive,
    lost_on_screen,
    points_by_level,
    ratio_over_baseline,
    standing_of,
)

Outcome = Literal["certified", "baseline", "to_certify", "cannot_tell", "none", "not_measured"]
MOST_BOUNDS = 3
MIB = 1024**2


@dataclass(frozen=True, kw_only=True)
class WhatIfAnswer:
    """The answer to one question.

    outcome: `certified` or `baseline`: `id` could be run as it is; `to_certify`: `id` is best of what was measured, and its quality would
        still have to be certified; `cannot_tell`: the same, but whether it meets a demand (or whether it is no worse) was left open;
        `none`: nothing measured meets the demands, `id` comes nearest; `not_measured`: the question is about something not measured
    is_chosen: `id` is what the run chose
    reason: the answer as a sentence or two; compare: both sides for `trimtab compare`, () where the files are not known or not needed
    objective, unit, value: what it was ranked by, and `id`'s number; at: its concurrency, None for memory
    concurrency: as asked, None = all that were measured
    gain: how many times better than the baseline by the objective; None = not measured beside it
    fallback: the best that is certified, or the baseline, where `id` is not; None = there is none
    slo: what the demands say of `id`
    n_untimed: candidates that nothing is known of here, because they were not timed and not found worse either
    """

    question: str
    outcome: Outcome
    reason: str
    objective: Objective
    unit: str
    concurrency: int | None
    id: str | None = None
    is_chosen: bool = False
    value: float | None = None
    at: int | None = None
    gain: float | None = None
    fallback: str | None = None
    slo: tuple[SloResult, ...] = ()
    compare: tuple[str, ...] = ()
    n_untimed: int = 0


@dataclass(frozen=True, kw_only=True)
class _Entrant:
    """A deployment under the question. gain: log of how many times better than the baseline; None = not measured."""

    id: str
    standing: Standing
    value: float | None
    gain: float | None
    slo: tuple[SloResult, ...]

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.slo)


def answer_what_if(decision: Plain, question: WhatIf, price_per_hour: float | None = None) -> WhatIfAnswer:
    """Answer from a decision of `optimize` (schema trimtab.decision/1, JSON types).

    price_per_hour: for the objective `cost`; None = the run's own
    """
    aim = decision.get("objective") or {}
    objective: Objective = question.objective or (aim["name"] if aim.get("name") in OBJECTIVES else "latency")
    price = price_per_hour if price_per_hour is not None else aim.get("price_per_hour")
    rows = candidate_rows(decision)
    frame: dict[str, Any] = {
        "question": question.text,
        "objective": objective,
        "unit": UNITS[objective],
        "concurrency": question.concurrency,
        "n_untimed": sum(_is_unknown(row, decision) for row in rows),
    }
    terms = demands_of(decision, question)
    if absent := _absent(rows, question, objective, price, terms):
        return WhatIfAnswer(**frame, outcome="not_measured", reason=absent)
    entrants = [_entrant(row, decision, terms, objective, price, question.concurrency) for row in rows if row.get("measurement")]
    best, fallback = _best(entrants), _best([each for each in entrants if each.standing in ("certified", "baseline")])
    if best is None:
        return _nothing(frame, entrants, terms)
    outcome = _outcome(best)
    is_sure = outcome in ("certified", "baseline")
    other = None if is_sure or fallback is None or fallback.verdict == "inconclusive" else fallback.id
    return WhatIfAnswer(
        **frame,
        outcome=outcome,
        reason=_reason(best, outcome, other, decision),
        id=best.id,
        is_chosen=best.id == (decision.get("chosen") or {}).get("id"),
        value=best.value,
        at=None if objective == "memory" else question.concurrency or max(level for row in rows for level in points_by_level(row)),
        gain=None if best.gain is None else exp(best.gain),
        fallback=other,
        slo=best.slo,
        compare=() if is_sure or best.standing in ("certified", "baseline") else compare_sides(best.id, rows, decision),
    )


def demands_of(decision: Plain, question: WhatIf) -> tuple[SloTerm, ...]:
    """The run's demands with the question's in their place."""
    asked = {(term.metric, term.percentile) for term in question.terms}
    kept: dict[tuple[str, float | None], SloTerm] = {}
    for row in decision.get("slo") or ():
        key = (row["metric"], row.get("percentile"))
        if key not in asked:
            upper = row["metric"] != "throughput"
            kept[key] = SloTerm(metric=row["metric"], percentile=row.get("percentile"), limit=row["limit"], upper=upper, text=row["term"])
    return (*kept.values(), *question.terms)


def _is_unknown(row: Plain, decision: Plain) -> bool:
    """Whether nothing is known of a candidate because it was never timed, while nothing speaks against it."""
    return not row.get("measurement") and row.get("status") in ("dropped", "screened") and not lost_on_screen(row, decision)


def _absent(rows: Sequence[Plain], question: WhatIf, objective: Objective, price: Any, terms: Sequence[SloTerm]) -> str:
    """What the question asks for that was not measured, as a sentence; empty if it can be answered."""
    levels = sorted({level for row in rows for level in points_by_level(row)})
    if not levels:
        return "Nothing was timed in this run."
    if question.concurrency is not None and question.concurrency not in levels:
        return f"Not measured: concurrency {question.concurrency}; measured {'was' if len(levels) == 1 else 'were'} {_listed(levels)}."
    if objective == "cost" and not is_positive(price):
        return "Not known: the cost, without a price; give --price-per-hour."
    measured = [row["measurement"] for row in rows if row.get("measurement")]
    if all(objective_value(objective, each, price, question.concurrency) is None for each in measured):
        return f"Not measured: {objective}."
    for term in terms:
        found = [result for each in measured for result in judge_slo([term], _at(each, question.concurrency))]
        if all(result.value is None and result.verdict == "inconclusive" for result in found):
            return f"Not measured: {term.metric}, which {term.text} is about."
    return ""


def _listed(levels: Sequence[int]) -> str:
    words = [str(level) for level in levels]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _at(measurement: Plain, concurrency: int | None) -> Plain:
    """The measurement with the points of that concurrency only; None = all."""
    return {**measurement, "points": [point for point in measurement["points"] if concurrency in (None, point["concurrency"])]}


def _entrant(
    row: Plain, decision: Plain, terms: Sequence[SloTerm], objective: Objective, price: float | None, concurrency: int | None
) -> _Entrant:
    value = objective_value(objective, row["measurement"], price, concurrency)
    return _Entrant(
        id=str(row["id"]),
        standing=standing_of(row, decision),
        value=value,
        gain=_gain(row, decision, objective, value, price, concurrency),
        slo=judge_slo(terms, _at(row["measurement"], concurrency)),
    )


def _gain(
    row: Plain, decision: Plain, objective: Objective, value: float | None, price: float | None, concurrency: int | None
) -> float | None:
    """Log of how many times better than the baseline, which was timed in the same session; of medians where no ratio is known."""
    base = decision.get("baseline") or {}
    if row.get("id") == base.get("id"):
        return 0.0
    if objective == "latency":
        levels = [level for level in points_by_level(row) if concurrency in (None, level)]
        ratios = [found["ratio"] for level in levels if (found := ratio_over_baseline(row, decision, level))]
        if ratios:
            return sum(map(log, ratios)) / len(ratios)
    base_row = next((each for each in candidate_rows(decision) if each.get("id") == base.get("id")), {})
    other = objective_value(objective, base_row.get("measurement"), price, concurrency)
    return log(times_better(objective, value, other)) if is_positive(value) and is_positive(other) else None


def _best(entrants: Iterable[_Entrant]) -> _Entrant | None:
    """What surely meets the demands goes before what may; then by the objective; of equals the certified one, the baseline last."""
    order: Sequence[Standing] = ("certified", "open", "undecided", "baseline")
    fit = [each for each in entrants if each.standing != "rejected" and each.verdict != "fail" and each.gain is not None]
    return min(fit, key=lambda each: (each.verdict != "pass", -(each.gain or 0.0), order.index(each.standing)), default=None)


def _outcome(best: _Entrant) -> Outcome:
    if best.verdict == "inconclusive" or best.standing == "undecided":
        return "cannot_tell"
    return "to_certify" if best.standing == "open" else "certified" if best.standing == "certified" else "baseline"


def _reason(best: _Entrant, outcome: Outcome, fallback: str | None, decision: Plain) -> str:
    sentences = []
    if outcome == "certified":
        sentences.append(f"{best.id}: certified in this run as no worse.")
    elif outcome == "baseline":
        meets = "meets this and " if best.slo else ""
        sentences.append(f"{best.id}: the baseline; nothing else that was timed {meets}is better without losing too much.")
    elif best.standing == "open":
        sentences.append(f"{best.id}: timed, but only screened for quality; it would still have to be certified.")
    elif best.standing == "undecided":
        sentences.append(f"{best.id}: its certification could not tell whether it is no worse.")
    else:
        sentences.append(f"{best.id}: {'certified' if best.standing == 'certified' else 'the baseline'}, but a demand is open.")
    worst: dict[str, SloResult] = {}
    for row in best.slo:
        if row.verdict == "inconclusive" and (row.term not in worst or (row.more_needed or 0) > (worst[row.term].more_needed or 0)):
            worst[row.term] = row
    sentences += [row.reason for row in worst.values()]
    if fallback:
        is_base = fallback == (decision.get("baseline") or {}).get("id")
        sentences.append(f"Until then {fallback}, {'the baseline' if is_base else 'which is certified'}.")
    return " ".join(sentences)


def _nothing(frame: Mapping[str, Any], entrants: Sequence[_Entrant], terms: Sequence[SloTerm]) -> WhatIfAnswer:
    """That nothing measured meets the demands, what comes nearest, and who would, had quality not spoken against it."""
    usable = [each for each in entrants if each.standing != "rejected" and each.gain is not None]
    misses = [(max(excess(row) for row in each.slo if row.verdict == "fail"), each) for each in usable if each.verdict == "fail"]
    asked = ", ".join(term.text for term in terms) or "the question"
    reason = f"Nothing measured meets {asked}"
    if not misses:
        return WhatIfAnswer(**frame, outcome="none", reason=f"{reason}.")
    nearest = min(misses, key=lambda each: (each[0], each[1].id))[1]
    miss = max((row for row in nearest.slo if row.verdict == "fail"), key=excess)
    reason += f"; the nearest is {nearest.id}. {miss.reason}"
    worse = [each.id for each in entrants if each.standing == "rejected" and each.verdict == "pass"]
    if worse:
        reason += f" Only what loses too much quality would: {', '.join(worse)}."
    return WhatIfAnswer(**frame, outcome="none", reason=reason, id=nearest.id, value=nearest.value, slo=nearest.slo)


def compare_sides(candidate_id: str, rows: Sequence[Plain], decision: Plain) -> tuple[str, ...]:
    """Reference and candidate as `trimtab compare` takes them; () for a file of the user's own, whose path no decision holds."""
    source = (decision.get("reference") or {}).get("source")
    row = next(row for row in rows if str(row["id"]) == candidate_id)
    engine, recipe = str(row["engine"]), str(row["recipe"])
    if not source or not candidate_id.startswith(f"{engine} {recipe.removeprefix(f'{engine}-')}"):
        return ()
    common = (decision.get("baseline") or {}).get("settings") or {}
    own = {key: value for key, value in (row.get("settings") or {}).items() if value is not None and common.get(key) != value}
    words = [*([] if recipe == "as-shipped" else [f"recipe={recipe}"]), *(f"{key}={_setting(value)}" for key, value in own.items())]
    return str(source), f"{engine}:{source}" + (f"?{'&'.join(words)}" if words else "")


def _setting(value: Any) -> str:
    """As it is typed in a spec."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def standard_questions(decision: Plain) -> tuple[WhatIf, ...]:
    """What most people ask next: less memory, one concurrency only, another objective. Only what the run can answer differently."""
    rows = candidate_rows(decision)
    timed = [row for row in rows if row.get("measurement") and standing_of(row, decision) != "rejected"]
    if len(timed) < 2:
        return ()
    questions = [_memory(bound) for bound in memory_bounds([row["measurement"].get("peak_memory_bytes") for row in timed])]
    levels = sorted({level for row in timed for level in points_by_level(row)})
    questions += [WhatIf(concurrency=level, text=f"concurrency={level}") for level in levels if len(levels) > 1]
    aim = decision.get("objective") or {}
    for name in OBJECTIVES:
        known = [objective_value(name, row["measurement"], aim.get("price_per_hour")) for row in timed]
        if name != (aim.get("name") or "latency") and all(value is not None for value in known):
            questions.append(WhatIf(objective=name, text=f"objective={name}"))
    return tuple(questions)


def _memory(bound_mib: int) -> WhatIf:
    text = f"memory<{bound_mib}MiB"
    return WhatIf(terms=(SloTerm(metric="memory", percentile=None, limit=float(bound_mib * MIB), upper=True, text=text),), text=text)


def memory_bounds(peaks_bytes: Sequence[int | float | None]) -> list[int]:
    """Round limits in MiB that each tell two measured peaks apart, at the widest gaps, largest first."""
    known = sorted({float(peak) for peak in peaks_bytes if is_positive(peak)}, reverse=True)
    gaps = sorted(((upper / lower, lower, upper) for upper, lower in pairwise(known)), reverse=True)
    bounds = {_roundest(lower / MIB, upper / MIB) for _, lower, upper in gaps[:MOST_BOUNDS]}
    return sorted((bound for bound in bounds if bound is not None), reverse=True)


def _roundest(lower: float, upper: float) -> int | None:
    """The multiple of the largest power of two from `lower` up to below `upper`; None where no whole number lies there."""
    step = 1 << 20
    while step:
        bound = -(-int(-(-lower // 1)) // step) * step  # the first multiple that is not below
        if lower <= bound < upper:
            return bound
        step >>= 1
    return None
