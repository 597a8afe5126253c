"""What if there were more tokens, more requests, a longer context, another price? A plan's small grid, computed anew. Pure.

The page's script does the same arithmetic where its sliders stand elsewhere; see templates/plan.js.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.phrases import count, significant
from trimtab.record.plan_view import amount

Plain = Mapping[str, Any]
FACTORS = (0.5, 1.0, 2.0, 5.0)
CONTEXTS = (4096, 32_768, 131_072)


def what_if_table(grid: Plain) -> tuple[list[str], list[tuple[str, str, list[str]]]]:
    """(heads, rows) of the grid at a few fixed places; a row is (name, how, cells)."""
    rows = grid["rows"]
    if grid["kind"] == "train":
        heads = [f"{_short(factor * grid['tokens'])} tokens" for factor in FACTORS]
        return heads, [(row["name"], row["how"], [_trained(row, factor * grid["tokens"]) for factor in FACTORS]) for row in rows]
    if grid["kind"] == "serve":
        heads = [f"{significant(factor * grid['rate'])} requests/s" for factor in FACTORS]
        return heads, [(row["name"], row["how"], [_served(row, factor * grid["rate"]) for factor in FACTORS]) for row in rows]
    contexts = contexts_of(grid)
    heads = [f"{count(context)} tokens" for context in contexts]
    return heads, [(row["name"], row["how"], [_held(row, context) for context in contexts]) for row in rows]


def contexts_of(grid: Plain) -> Sequence[int]:
    """The usual lengths up to the model's, and its own."""
    longest = grid["context_tokens"] or CONTEXTS[-1]
    return sorted({*(length for length in CONTEXTS if length < longest), longest})


def training(row: Plain, tokens: float) -> tuple[float, float | None]:
    """Seconds and US dollars (None: no price is known)."""
    seconds = tokens / row["tok_s"]
    price = row["usd_per_device_hour"]
    return seconds, None if price is None else seconds / 3600 * row["n_devices"] * price


def serving(row: Plain, rate: float) -> tuple[int, float | None]:
    """Replicas and US dollars an hour (None: no price is known)."""
    replicas = max(1, math.ceil(rate / row["req_s"] - 1e-9))
    price = row["usd_per_device_hour"]
    return replicas, None if price is None else replicas * row["n_devices"] * price


def _trained(row: Plain, tokens: float) -> str:
    seconds, usd = training(row, tokens)
    return amount(seconds, "s") + ("" if usd is None else f", {amount(usd, 'usd')}")


def _served(row: Plain, rate: float) -> str:
    replicas, usd = serving(row, rate)
    return f"{count(replicas)}×" + ("" if usd is None else f", {amount(usd, 'usd')}/h")


def holding(row: Plain, context: int, at_once: int = 1) -> tuple[float, bool]:
    """Bytes taken by so many conversations of a context, and whether there is room for them."""
    cache = at_once * (row["sequence_bytes"] + context * row["token_bytes"])
    return row["fixed_bytes"] + cache, cache <= row["room_bytes"]


def _held(row: Plain, context: int) -> str:
    taken, fits = holding(row, context)
    if not fits:
        return f"no: {amount(taken, 'bytes')}"
    one = row["sequence_bytes"] + context * row["token_bytes"]
    at_once = int(row["room_bytes"] // one) if one > 0 else 1
    return f"{amount(taken, 'bytes')}" + (f", {count(at_once)} at once" if at_once > 1 else "")


def _short(tokens: float) -> str:
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if tokens >= size:
            return f"{significant(tokens / size)}{name}"
    return count(tokens)
