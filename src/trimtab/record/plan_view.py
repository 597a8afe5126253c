"""A plan (schema trimtab.plan/1) in words: its numbers, layouts and bars as a terminal and a page show them. Pure.

A number of a plan is `{value, low, high, unit, basis, why, speed_of_light}` or `{unknown: why}`, with
`unit` and `speed_of_light` where a bound is known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.core.phrases import count, is_number, megabytes, milliseconds, percent, significant

Plain = Mapping[str, Any]

BASES: Mapping[str, tuple[str, str]] = {
    "measured": ("●", "runs like it were measured"),
    "interpolated": ("◐", "between measured runs"),
    "extrapolated": ("○", "beyond what was measured"),
    "speed-of-light": ("◇", "by peak rates alone; nothing measured is near, and it will be slower"),
}
"""Sign and meaning of what stands behind a number."""
LIGHT = "speed-of-light"
MORE_IS_BETTER = ("tok/s", "share")
"""Units of numbers that a bound by peak rates lies above."""
COLUMNS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "train": (
        ("duration_s", "time"),
        ("cost_usd", "cost"),
        ("tok_s_per_device", "tok/s a device"),
        ("mfu", "MFU"),
        ("peak_memory_bytes", "memory"),
        ("energy_kwh", "energy"),
    ),
    "serve": (
        ("ttft_ms", "first token"),
        ("tpot_ms", "per token"),
        ("cost_usd_per_hour", "cost an hour"),
        ("cost_usd_per_mtok", "cost of 1M out"),
        ("peak_memory_bytes", "memory"),
        ("energy_j_per_token", "energy a token"),
    ),
    "fit": (
        ("weight_bytes", "weights"),
        ("context_tokens", "longest context"),
        ("concurrency", "chats at once"),
        ("decode_tok_s", "tok/s writing"),
        ("prefill_tok_s", "tok/s reading"),
        ("peak_memory_bytes", "memory"),
    ),
}
"""Quantities of the table of options, with their titles, the most wanted first."""
TIGHT = {"energy_kwh", "energy_j_per_token", "prefill_tok_s"}
"""Columns that a narrow terminal leaves out."""
TITLES = {
    "train": "Ways to train it, best first",
    "serve": "Ways to serve it, best first",
    "fit": "Weights that fit, the largest first",
}
PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations",
    "logits": "logits",
    "kv_cache": "KV cache",
    "buffers": "buffers for communication",
    "overhead": "context, fragments, unaccounted",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number as it is shown. text: value with unit; ends: its interval, or empty; sign, basis, why: what stands behind it"""

    text: str
    ends: str = ""
    sign: str = ""
    basis: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A part of a bar. share: of the whole bar, 0 to 1; text: its amount"""

    name: str
    share: float
    text: str


def title(document: Plain) -> str:
    """Of the table of options."""
    return TITLES[document["kind"]] if document["found"] else "What comes nearest"


def cell(number: Plain | None) -> Cell:
    """Of a number of the document, or of none."""
    if number is None:
        return Cell(text="–")
    if "unknown" in number:
        why, light = str(number["unknown"]), number.get("speed_of_light")
        if not is_number(light):
            return Cell(text="unknown", why=why)
        text = f"{'≤' if number['unit'] in MORE_IS_BETTER else '≥'} {amount(light, number['unit'])}"
        return Cell(text=text.removesuffix(" tok/s"), ends="else unknown", sign=BASES[LIGHT][0], basis=LIGHT, why=why)
    unit, basis = number["unit"], number["basis"]
    text = amount(number["value"], unit)
    ends = between(number["low"], number["high"], unit) if number["low"] != number["high"] else ""
    return Cell(
        text=text.removesuffix(" tok/s"),  # the column's title says so
        ends=ends.removesuffix(f" {text.rpartition(' ')[2]}"),
        sign=BASES.get(basis, ("", ""))[0],
        basis=basis,
        why=number["why"],
    )


def amount(value: Any, unit: str) -> str:
    """A value in a unit of the document as a person says it: 62.1 GB, 12.3 days, $41.2k, 38 %."""
    if not is_number(value):
        return "unknown"
    match unit:
        case "bytes":
            return megabytes(value)
        case "ms":
            return milliseconds(value)
        case "s":
            return _time(value)
        case "share":
            return percent(value)
        case "usd" | "usd/h" | "usd/Mtok":
            return _money(value)
        case "tokens" | "":
            return count(value)
        case "kWh":
            return f"{significant(value / 1000)} MWh" if value >= 10_000 else f"{significant(value)} kWh"
        case _:
            return f"{significant(value)} {unit}"


def between(low: Any, high: Any, unit: str) -> str:
    """Both ends, the unit said once where it is the same: `10.4–14.9 days`."""
    if not is_number(low) or not is_number(high):
        return "interval not known"
    first, last = amount(low, unit), amount(high, unit)
    number, space, name = first.rpartition(" ")
    if space and last.endswith(f" {name}"):
        first = number
    for ending in ("k", "M"):
        if first.startswith("$") and first.endswith(ending) and last.endswith(ending):
            first = first.removesuffix(ending)
    return f"{first}–{last.removeprefix('$') if first.startswith('$') else last}"


def columns(document: Plain, *, narrow: bool = False) -> list[tuple[str, str]]:
    """Those of the kind that at least one option has a number for."""
    rows = document["options"]
    return [
        (name, title)
        for name, title in COLUMNS[document["kind"]]
        if not (narrow and name in TIGHT) and any(name in row["numbers"] for row in rows)
    ]


def memory_bar(option: Plain) -> tuple[list[Slice], float]:
    """The parts of the fullest device's memory as shares of what it has, and the share that is taken in all (may be above 1)."""
    memory = option["memory"]
    whole = max(memory["capacity_bytes"] or 0.0, memory["total_bytes"])
    return _slices(memory["parts"], whole, "bytes", PARTS), memory["total_bytes"] / whole if whole else 0.0


def time_bar(option: Plain) -> list[Slice]:
    """The parts of a step (or of a request) as shares of it."""
    parts = option["time"]["parts"]
    return _slices(parts, sum(part["value"] for part in parts), option["time"]["unit"], {})


def _slices(parts: Sequence[Plain], whole: float, unit: str, names: Mapping[str, str]) -> list[Slice]:
    return [
        Slice(name=names.get(part["name"], part["name"].replace("_", " ")), share=part["value"] / whole, text=amount(part["value"], unit))
        for part in parts
        if part["value"] > 0 and whole > 0
    ]


def bases_used(document: Plain) -> list[tuple[str, str, str]]:
    """(sign, name, meaning) of each basis that an option's numbers have."""
    shown = [name for name, _ in columns(document)]
    used = {cell(row["numbers"].get(name)).basis for row in document["options"] for name in shown}
    return [(sign, name, meaning) for name, (sign, meaning) in BASES.items() if name in used]


def why_numbers(option: Plain) -> Iterator[tuple[str, str]]:
    """(title, sentence) of what stands behind each number of an option, alike ones together."""
    titles = {"step_time_s": "a step", **dict(pair for group in COLUMNS.values() for pair in group)}
    told: dict[str, list[str]] = {}
    for name, number in option["numbers"].items():
        sentence = str(number.get("unknown") or number.get("why") or "")
        if sentence:
            told.setdefault(sentence, []).append(titles.get(name, name.replace("_", " ")))
    for sentence, names in told.items():
        yield ", ".join(names), sentence


def price_lines(document: Plain) -> list[tuple[str, bool]]:
    """A sentence a price, and whether it is stale."""
    found = []
    for row in document["prices"]:
        kind = f", {row['commitment']}" if row["commitment"] else ""
        age = f"; {row['age_days']} days old, look it up again" if row["is_stale"] else ""
        where = f"{row['provider']}{kind}, as of {row['as_of'] or 'an unknown day'}{age}"
        found.append((f"{row['device']}: ${row['usd_per_hour']:.2f} a device and hour ({where})", bool(row["is_stale"])))
    return found


def loser_lines(document: Plain, *, each: int = 0) -> list[str]:
    """Why the others lose, a sentence each; at most `each` of what they are about (0 = all)."""
    seen: dict[str, int] = {}
    found = []
    for row in document["losers"]:
        seen[row["about"]] = seen.get(row["about"], 0) + 1
        if not each or seen[row["about"]] <= each:
            found.append(row["text"])
    return found


def _time(value: float) -> str:
    if value < 1:
        return milliseconds(1000 * value)
    if value < 120:
        return f"{significant(value)} s"
    if value < 7200:
        return f"{significant(value / 60)} min"
    if value < 2 * 86_400:
        return f"{significant(value / 3600)} h"
    if value < 730 * 86_400:
        return f"{significant(value / 86_400)} days"
    return f"{significant(value / (365.25 * 86_400))} years"


def _money(value: float) -> str:
    if value >= 999_500:
        return f"${significant(value / 1e6)}M"
    if value >= 9_995:
        return f"${significant(value / 1e3)}k"
    if value >= 100:
        return f"${count(value)}"
    return f"${value:.2f}" if value >= 0.1 or value == 0 else f"${significant(value, 2)}"
