"""Documents of `trimtab fairness` in words and numbers as people read them; what the terminal and the page share."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.phrases import count, fixed, is_number, line, percent

Plain = Mapping[str, Any]

METRIC_WORDS = {
    "selection_rate": "selection rate",
    "base_rate": "base rate",
    "tpr": "true positive rate",
    "fpr": "false positive rate",
    "ppv": "predictive value",
    "accuracy": "accuracy",
}
VERDICT_WORDS = {"pass": "passed", "fail": "failed", "inconclusive": "cannot tell"}
_STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def points(value: Any, *, signed: bool = False) -> str:
    """A difference of rates in percentage points: `+4.5 pts`."""
    return f"{fixed(100 * value, 1, signed=signed)} pts" if is_number(value) else "not measured"


def points_range(low: Any, high: Any) -> str:
    if not is_number(low) or not is_number(high):
        return "interval not known"
    return f"[{fixed(100 * low, 1)}, {fixed(100 * high, 1)}]"


def rate_and_range(rate: Plain) -> str:
    """`45.3 % [44.1, 46.4]`, or that it cannot be told at this n."""
    if rate["value"] is None:
        return f"cannot tell (n = {count(rate['n'])})"
    return f"{percent(rate['value'], 1)} {points_range(rate['low'], rate['high'])}"


def cell_of(group: Plain, metric: str) -> tuple[str, str, str]:
    """A rate, its interval, and how far it is from all others, with a star where that is a finding at 0.05 (Holm)."""
    rate = group["rates"][metric]
    if rate["value"] is None:
        return f"cannot tell (n = {count(rate['n'])})", "", ""
    against = group["against_rest"].get(metric)
    rest = ""
    if against:
        star = "*" if against["p_holm"] < 0.05 else ""
        rest = f"{points(against['value'], signed=True)}{star}"
    return percent(rate["value"], 1), points_range(rate["low"], rate["high"]), rest


def gap_of(gap: Plain) -> str:
    """`Male above Female by 4.5 pts [1.6, 7.4], ratio 0.90`."""
    ratio = f", ratio {fixed(gap['ratio']['value'], 2)}" if gap["ratio"] else ""
    return (
        f"{line(gap['high_group'])} above {line(gap['low_group'])} by {points(gap['value'])} {points_range(gap['low'], gap['high'])}{ratio}"
    )


def gate_words(gate: Plain) -> tuple[str, str, str]:
    """Name, answer and colour of a gate; what is only told is said to be so."""
    name = gate["metric"].replace("_", " ") + ("" if gate["required"] else " (told)")
    return name, VERDICT_WORDS[gate["verdict"]], _STYLES[gate["verdict"]]


def mitigation_rows(found: Plain) -> list[tuple[str, str]]:
    """What a mitigation changed, a label and a text a row; its weights or thresholds first."""
    rows = [
        (line(weight["group"]), f"label {'positive' if weight['label'] else 'negative'}: weight {fixed(weight['weight'], 3)}")
        for weight in found.get("weights", ())
    ]
    if "thresholds" in found:
        small = set(found["thresholds"]["too_small"])
        for name, threshold in found["thresholds"]["by_group"].items():
            rows.append(
                (line(name), f"positive from {fixed(threshold, 3)}" + (" (too few cases: the threshold of all)" if name in small else ""))
            )
    if "accuracy_change" not in found:
        return rows
    for before, after in zip(found["gates_before"], found["gates_after"], strict=True):
        rows.append((before["metric"].replace("_", " "), f"{_worst(before)} before, {_worst(after)} after"))
    change = found["accuracy_change"]
    rows.append(
        (
            "cost, change of accuracy",
            f"{points(change['value'], signed=True)} {points_range(change['low'], change['high'])}, n = {count(change['n'])}",
        )
    )
    return rows


def _worst(gate: Plain) -> str:
    gap = gate["worst"]
    size = f" (worst {points(abs(gap['value']))})" if gap else ""
    return VERDICT_WORDS[gate["verdict"]] + size


def forest(rows: Sequence[Plain], metric: str) -> list[dict[str, Any]]:
    """Places in 0..100 of each group's rate and interval, for a picture without a script; groups that cannot be told have none."""
    found = []
    for row in rows:
        rate = row["rates"][metric]
        known = rate["value"] is not None
        found.append(
            {
                "group": line(row["group"]),
                "text": rate_and_range(rate),
                "known": known,
                "at": round(100 * rate["value"], 2) if known else 0,
                "low": round(100 * rate["low"], 2) if known else 0,
                "wide": round(100 * (rate["high"] - rate["low"]), 2) if known else 0,
            }
        )
    return found
