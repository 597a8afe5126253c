"""Pieces of a plan's document (schema trimtab.plan/1) that all its kinds share: numbers, the model, prices, layouts in words."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.phrases import significant
from trimtab.core.planning import Architecture, Prediction, Unknown
from trimtab.plan.operators import active_params, is_moe, n_params
from trimtab.plan.serving.rates import ENGINES
from trimtab.plan.stored_types import bytes_per_kv_value
from trimtab.plan.training.layouts import RECOMPUTE, SCHEDULES

Number = dict[str, Any]
FEW_BITS = 12.0
"""A file with fewer bits a weight is quantised already."""
STORED = "stored"
"""The type of weights that a file has, whatever it is; see `plan.operators.weight_bytes_by_part`."""
_RECOMPUTE = {value: word for word, value in RECOMPUTE.items()}
_SCHEDULES = {value: word for word, value in SCHEDULES.items()}


def told(found: Prediction | Unknown) -> Number:
    """A prediction as the document has it."""
    if isinstance(found, Unknown):
        return {"unknown": found.why}
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "unit": found.unit,
        "basis": found.basis,
        "why": found.why,
        "level": found.level,
        "speed_of_light": found.speed_of_light,
    }


def scaled(number: Number, factor: float | None, unit: str, why: str = "", *, missing: str = "") -> Number:
    """The number times a factor that is known for sure, its interval with it; unknown where the factor is None."""
    if factor is None:
        return {"unknown": missing}
    light = number.get("speed_of_light")
    if "unknown" in number:
        return number | {"unit": unit, "speed_of_light": None if light is None else light * factor}
    ends = {name: number[name] * factor for name in ("value", "low", "high")}
    return number | ends | {"unit": unit, "why": why or number["why"], "speed_of_light": None if light is None else light * factor}


def inverse(number: Number, of: float, unit: str, why: str = "") -> Number:
    """`of` divided by the number: a time from a speed, the low end from the high one."""
    light = number.get("speed_of_light")
    if "unknown" in number:
        return number | {"unit": unit, "speed_of_light": None if not light else of / light}
    ends = {"value": of / number["value"], "low": of / number["high"], "high": of / number["low"]}
    return number | ends | {"unit": unit, "why": why or number["why"], "speed_of_light": None if not light else of / light}


def certain(value: float, unit: str, why: str) -> Number:
    """A number that follows from the shape alone, without an interval."""
    return {"value": value, "low": value, "high": value, "unit": unit, "basis": "", "why": why, "level": 1.0, "speed_of_light": None}


def model_row(architecture: Architecture) -> dict[str, Any]:
    """The model in a line, and its numbers."""
    whole, active = n_params(architecture), active_params(architecture)
    size = f"{_params(whole)} parameters" + (f" ({_params(active)} a token)" if is_moe(architecture) else "")
    text = f"{size}, {architecture.n_layers} layers, width {architecture.d_model:,}"
    if architecture.context_tokens:
        text += f", context {architecture.context_tokens:,}"
    return {
        "name": architecture.name,
        "text": text,
        "n_params": whole,
        "active_params": active,
        "n_layers": architecture.n_layers,
        "d_model": architecture.d_model,
        "context_tokens": architecture.context_tokens,
        "source": architecture.source,
    }


def prices_of(text: str, devices: Sequence[str]) -> dict[str, float]:
    """--price: `2.5` for every device, or `h100-sxm=2.5,l40s=1` by name; empty = none were given. Raises InputError."""
    if not text.strip():
        return {}
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.rpartition("="))
        if equals and name not in devices:
            raise InputError(f"--price: {name!r} in {text!r} is none of the devices asked for; they are {', '.join(devices)}.")
        try:
            price = float(value.removeprefix("$").lower().removesuffix("usd"))
        except ValueError:
            price = -1.0
        if not 0 < price < 1e6:
            raise InputError(f"--price: {part.strip()!r} is no price; write US dollars a device and hour, such as 2.5 or h100-sxm=2.5.")
        found |= {name: price} if equals else dict.fromkeys(devices, price)
    return found


def one_of(text: str, known: Iterable[str], flag: str) -> str:
    """A name that is known, or none. Raises InputError."""
    names = [name for name in known if name]
    if text and text not in names:
        raise InputError(f"{flag}: {text!r} is not known; give one of {', '.join(names)}.")
    return text


def check_engine(engine: str, kv: Sequence[str]) -> None:
    """Raises InputError for an engine or a type of cache that nothing is known of."""
    one_of(engine, ENGINES, "--engine")
    for kind in kv:
        try:
            bytes_per_kv_value(kind)
        except InputError as error:
            raise InputError(f"--kv: {error}") from None


def found_as(spec: str, architecture: Architecture) -> tuple[str, tuple[str, ...]]:
    """What a program is told to load, and a note where that is to be filled in: a path or hub name as typed, else the catalog's source."""
    plain = spec.strip().removeprefix("hf:")
    if "/" in plain or plain.endswith(".gguf"):
        return plain, ()
    source = re.match(r"hf:([\w.\-]+/[\w.\-]+)/", architecture.source)
    if source:
        return source[1], ()
    return plain, (f"{plain} is the catalog's name of the model: put the path or hub name of its weights in its place.",)


def weight_words(kind: str) -> str:
    """`fp8 weights`, or that they stay as the file has them."""
    return "weights as stored" if kind == STORED else f"{kind} weights"


def is_stored(architecture: Architecture) -> bool:
    """Whether it was read from a file whose weights are quantised already."""
    return 0 < 8.0 * architecture.weight_bytes / n_params(architecture) < FEW_BITS


def layout_words(layout: Mapping[str, int]) -> str:
    """`DP 8, TP 8, ZeRO 1, micro-batch 1 × 16, selective recomputation`: what is not 1 or off."""
    names = {"dp": "DP", "tp": "TP", "pp": "PP", "vp": "VP", "cp": "CP", "ep": "EP"}
    words = [f"{title} {layout[name]}" for name, title in names.items() if layout.get(name, 1) > 1]
    if stage := layout.get("zero_stage", 0):
        words.append("FSDP" if stage == 3 else f"ZeRO {stage}")
    words.append(f"micro-batch {layout.get('micro_batch', 1)} × {layout.get('grad_accum', 1)}")
    if layout.get("recompute", 0):
        words.append(f"{_RECOMPUTE[layout['recompute']]} recomputation")
    if layout.get("pp", 1) > 1 and layout.get("schedule", 0):
        words.append(_SCHEDULES[layout["schedule"]])
    words += [text for name, text in (("sequence_parallel", "sequence parallel"), ("offload", "offload")) if layout.get(name, 0)]
    if layout.get("grad_sync_each", 0) and layout.get("grad_accum", 1) > 1:
        words.append("gradients sent each time")
    if not layout.get("flash_attention", 1):
        words.append("no flash attention")
    return ", ".join(words)


def front_point(name: str, rank: int, on_front: bool, x: Number, y: Number) -> dict[str, Any] | None:
    """A point of a plot; None where one of its numbers is not known."""
    if "unknown" in x or "unknown" in y:
        return None
    return {"name": name, "rank": rank, "on_front": on_front, "x": x["value"], "x_low": x["low"], "x_high": x["high"], "y": y["value"]}


def plot(title: str, x: tuple[str, str], y: tuple[str, str], points: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Points of two quantities; x, y: (title, unit)."""
    known = [point for point in points if point is not None]
    return {"title": title, "x": {"title": x[0], "unit": x[1]}, "y": {"title": y[0], "unit": y[1]}, "points": known}


def _params(count: float) -> str:
    return f"{significant(count / 1e9)} B" if count >= 1e9 else f"{significant(count / 1e6)} M"
