"""Engine by engine and reason by reason: what was best of each engine, what was tried, and why the rest lost. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.phrases import line, megabytes, milliseconds, times, times_interval
from trimtab.decide.standing import lost_on_screen, points_by_level, standing_of, time_ms
from trimtab.record.conditions import mapping
from trimtab.record.trade import STANDING_WORDS

Plain = Mapping[str, Any]
FATES = (
    ("worse", "Worse than the margins allow"),
    ("unsure", "Certified without a clear answer"),
    ("not better", "Timed, and not certified"),
    ("slow", "Looked at, and not among the finalists"),
    ("broken", "Cannot run here"),
    ("untried", "Not tried"),
    ("left out", "Left out of the search"),
)


def engine_rows(decision: Plain, rows: Sequence[Plain]) -> list[dict[str, Any]]:
    """A row an engine. Keys: engine, certified, timed (each: id, note), tried, lost_to."""
    found = []
    for engine in dict.fromkeys(str(row.get("engine", "")) for row in rows):
        own = [row for row in rows if str(row.get("engine", "")) == engine]
        timed = sorted((row for row in own if _fullest_ms(row, decision)), key=lambda row: _fullest_ms(row, decision) or 0.0)
        certified = next((row for row in timed if row.get("verdict") == "pass"), None)
        found.append(
            {
                "engine": line(engine),
                "certified": _best(certified, decision),
                "timed": _best(timed[0] if timed else None, decision),
                "tried": _tried(own, decision),
                "lost_to": _lost_to(engine, certified or (timed[0] if timed else None), decision),
            }
        )
    return found


def _fullest_ms(row: Plain, decision: Plain) -> float | None:
    points = points_by_level(row)
    time = time_ms(row, decision, max(points)) if points else None
    return time.value if time else None


def _best(row: Plain | None, decision: Plain) -> dict[str, str]:
    """Its name, and time, memory and standing in a line."""
    if row is None:
        return {"id": "", "note": "none"}
    figures = [
        f"{milliseconds(time.value)} at {level}"
        for level in sorted(points_by_level(row))
        if (time := time_ms(row, decision, level)) is not None
    ]
    peak = mapping(row.get("measurement")).get("peak_memory_bytes")
    parts = [*figures, megabytes(peak), "" if row.get("verdict") == "pass" else STANDING_WORDS[standing_of(row, decision)]]
    return {"id": line(row.get("id", "")), "note": ", ".join(part for part in parts if part)}


def _tried(rows: Sequence[Plain], decision: Plain) -> str:
    """`6: 1 certified, 2 worse than the margins, 3 not tried`."""
    words = {
        "chosen": "chosen",
        "baseline": "baseline",
        "worse": "worse",
        "unsure": "undecided",
        "not better": "timed",
        "slow": "too slow",
        "broken": "cannot run",
        "untried": "not tried",
        "certified": "certified",
    }
    counted = Counter(words[fate_of(row, decision)] for row in rows)
    return f"{len(rows)}: " + ", ".join(f"{n} {word}" for word, n in counted.items())


def fate_of(row: Plain, decision: Plain) -> str:
    """What became of a candidate: a key of `FATES`, or `chosen`, `baseline`, or `certified` for one that passed and was not chosen."""
    for role in ("chosen", "baseline"):
        if row.get("id") == mapping(decision.get(role)).get("id"):
            return role
    if row.get("status") == "infeasible":
        return "broken"
    if row.get("status") == "dropped":
        return "untried"
    if row.get("verdict") == "fail" or lost_on_screen(row, decision):
        return "worse"
    if row.get("verdict") in ("pass", "inconclusive"):
        return "certified" if row.get("verdict") == "pass" else "unsure"
    return "not better" if row.get("measurement") else "slow"


def _lost_to(engine: str, best: Plain | None, decision: Plain) -> str:
    """The chosen one, with how many times faster it was than this engine's best in the same session."""
    chosen = mapping(decision.get("chosen"))
    if not chosen:
        return "nothing was chosen"
    if str(chosen.get("engine")) == engine:
        return f"nothing: {line(chosen.get('id', ''))} was chosen"
    row = next((mapping(row) for row in decision.get("candidates") or () if row.get("id") == chosen.get("id")), mapping(None))
    name = str(best.get("id")) if best else ""
    over = mapping(mapping(mapping(row.get("details")).get("speed_over_baseline")).get(name))
    if not over and name == mapping(decision.get("baseline")).get("id"):
        over = mapping(mapping(decision.get("speedup")).get("over_baseline"))
    ratios = [
        f"{times(ratio['ratio'])} {times_interval(ratio.get('low'), ratio.get('high'))} as fast at {line(level)}"
        for level, by_metric in over.items()
        if (ratio := mapping(mapping(by_metric).get("e2e_ms_p50"))).get("ratio")
    ]
    return f"{line(chosen.get('id', ''))}{': ' if ratios else ''}{'; '.join(ratios)}"


def negative_groups(decision: Plain, rows: Sequence[Plain]) -> list[dict[str, Any]]:
    """What was tried without success and what was not done, by what became of it; those of one reason share a line.

    Each group: title, n, lines (names, why).
    """
    by_fate: dict[str, list[tuple[str, str]]] = {key: [] for key, _ in FATES}
    for row in rows:
        fate = fate_of(row, decision)
        if fate in by_fate:
            by_fate[fate].append((line(row.get("id", "")), " ".join(line(reason) for reason in row.get("reasons") or ())))
    by_fate["left out"] = [(line(item.get("what", "")), line(item.get("why", ""))) for item in decision.get("skipped") or ()]
    groups = []
    for key, title in FATES:
        by_reason: dict[str, list[str]] = {}
        for name, why in by_fate[key]:
            by_reason.setdefault(why or "no reason recorded", []).append(name)
        lines = [(", ".join(names), why) for why, names in by_reason.items()]
        if lines:
            groups.append({"title": title, "n": len(by_fate[key]), "lines": lines})
    return groups
