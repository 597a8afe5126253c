"""Physics, corrected by what published runs and this user's own measurements say: speeds, times and peaks as numbers of a plan.

Where nothing that was measured supports a number it is unknown, and only the bound that peak rates set is told.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.core.planning import ServeJob, TrainJob, Unknown
from trimtab.flows.parts.plan_told import Number, certain, told
from trimtab.plan.anchors.fitted import prediction, shipped
from trimtab.plan.anchors.measured import OWN, kept, with_own
from trimtab.plan.anchors.stored import Published
from trimtab.plan.search.serve import ServePhysics
from trimtab.plan.search.train import TrainPlan
from trimtab.plan.serving.features import features as serving_features
from trimtab.plan.serving.rows import Case
from trimtab.plan.serving.time import ServeTime, predict, speed_of_light
from trimtab.plan.training.features import memory_features, time_features
from trimtab.plan.training.layouts import Layouts, layouts
from trimtab.plan.training.memory import peak
from trimtab.plan.training.time import step
from trimtab.record.home import state_dir

Features = Mapping[str, float | str]
Factors = tuple[list[float], list[float]]
LEVELS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Numbers in flight that a correction is computed at; between them it is drawn straight."""
CANNOT_BE: Any = {
    "basis": "extrapolated",
    "why": "Published runs that are near were told to be faster than peak rates allow, so that physics alone stands here.",
}
LOG_LEVELS = [math.log(level) for level in LEVELS]
MEASUREMENTS = "planner/measurements.jsonl"
"""Of this user, under TRIMTAB_HOME."""


def predict_train(plan: TrainPlan) -> tuple[Number, Number]:
    """Tokens a second and device, and the peak of the fullest device."""
    return predict_layout(plan.job, layouts(**plan.layout))


def predict_layout(job: TrainJob, many: Layouts) -> tuple[Number, Number]:
    """The same of the first of these layouts, also where it does not fit the memory."""
    took, held = step(job, many), peak(job, many)
    speed_physics, memory_physics = float(took.tok_s_per_device[0]), float(held.total_bytes[0])
    light = speed_physics * float(took.step_s[0]) / float(took.light_s[0])
    speed = _rate("tok_s_per_device", speed_physics, _named(time_features(job, many, took), job.architecture.name), light)
    fit, seen = _fit("peak_memory_bytes", _named(memory_features(job, many, held), job.architecture.name))
    memory = prediction(fit, "peak_memory_bytes", "bytes", memory_physics, seen)
    if isinstance(memory, Unknown):
        return speed, certain(memory_physics, "bytes", f"Counted from the shape alone. {memory.why}")
    return speed, told(memory)


def predict_serve(job: ServeJob) -> dict[str, Number]:
    """Means of the time to the first token and of each token after it, with every place of a replica taken."""
    took, light = predict(job), speed_of_light(job)
    setting = _case(job).setting

    def number(name: str, physics: float, best: float) -> Number:
        fit, seen = _fit(name, _serving_features(job, name))
        found = prediction(fit, name, "ms", physics, seen, setting=setting, speed_of_light=best)
        if isinstance(found, Unknown):
            return _bounded(found, best, "ms")
        return told(found if found.value > best else replace(found, value=physics, high=max(found.high, physics), **CANNOT_BE))

    return {"ttft_ms": number("ttft_ms", took.ttft_ms, light.ttft_ms), "tpot_ms": number("tpot_ms", took.tpot_ms, light.tpot_ms)}


def corrected_physics() -> ServePhysics:
    """What a search weighs deployments by: physics times what published runs say of it at about as many in flight."""
    known: dict[tuple[str, str, int], Factors] = {}

    def time(job: ServeJob) -> ServeTime:
        took = predict(job)
        plain = replace(job, concurrency=1)
        key = (_case(plain).setting, job.kv, job.cached_prompt_tokens)
        if key not in known:
            known[key] = _factors(plain)
        first, each = (math.exp(np.interp(math.log(job.concurrency), LOG_LEVELS, column)) for column in known[key])
        light = speed_of_light(job)
        ttft = took.ttft_ms * (first if took.ttft_ms * first > light.ttft_ms else 1.0)
        tpot = took.tpot_ms * (each if took.tpot_ms * each > light.tpot_ms else 1.0)
        rest = max(0, job.output_tokens - 1)
        slower = (ttft + tpot * rest) / (took.ttft_ms + took.tpot_ms * rest)
        return replace(took, ttft_ms=ttft, tpot_ms=tpot, request_ms=took.request_ms * slower, output_tok_s=took.output_tok_s / slower)

    return ServePhysics(time=time)


def _factors(plain: ServeJob) -> Factors:
    """At each of `LEVELS`: ln(measured over physics) of the first token and of each after it; 0 where nothing measured is near."""
    jobs = [replace(plain, concurrency=level) for level in LEVELS]
    rows = [_serving_features(job, "") for job in jobs]
    columns = []
    for name in ("ttft_ms", "tpot_ms"):
        fit, first = _fit(name, rows[0])
        if fit is None or isinstance(prediction(fit, name, "ms", 1.0, first), Unknown):
            columns.append([0.0] * len(jobs))
        else:
            source = {"source": first["source"]} if "source" in first else {}
            columns.append([float(mean) for mean in fit.residual.means([{**row, **source} for row in rows])])
    return columns[0], columns[1]


def _serving_features(job: ServeJob, name: str) -> Features:
    return _named(serving_features(_case(job), name), job.architecture.name)


def _case(job: ServeJob) -> Case:
    """The job as published rows are told."""
    form = "disaggregated" if job.prefill_devices else "aggregated" if job.concurrency > 1 else "alone"
    return Case(id="", job=job, form=form, measured={}, source="")


def predict_fit(job: ServeJob) -> dict[str, Number]:
    """Speeds of one conversation by itself."""
    took, light = predict(job), speed_of_light(job)
    case = Case(id="", job=job, form="alone", measured={}, source="")

    def number(name: str, physics: float, best: float) -> Number:
        return _rate(name, physics, _named(serving_features(case, name), job.architecture.name), best, case.setting)

    return {
        "decode_tok_s": number("decode_tok_s", 1000.0 / took.tpot_ms, 1000.0 / light.tpot_ms),
        "prefill_tok_s": number("prefill_tok_s", took.prefill_tok_s, light.prefill_tok_s),
    }


def _rate(name: str, physics: float, seen: Features, light: float, setting: str = "") -> Number:
    fit, seen = _fit(name, seen)
    found = prediction(fit, name, "tok/s", physics, seen, setting=setting, speed_of_light=light, slower_is_larger=False)
    return _bounded(found, light, "tok/s") if isinstance(found, Unknown) else told(found)


def _bounded(found: Unknown, light: float, unit: str) -> Number:
    """An unknown number with the bound that nothing can pass."""
    return {"unknown": found.why, "unit": unit, "speed_of_light": light}


def _fit(quantity: str, seen: Features) -> tuple[Published | None, Features]:
    """What shipped, corrected by this user's measurements; a device that was measured here is known by them."""
    path = state_dir() / MEASUREMENTS
    if not path.is_file():
        return shipped(quantity), seen
    fit, devices = _own_fit(quantity, path, path.stat().st_mtime_ns)
    return fit, {**seen, "source": OWN} if seen.get("device") in devices else seen


@lru_cache(maxsize=16)
def _own_fit(quantity: str, path: Path, stamp: int) -> tuple[Published | None, frozenset[str]]:
    """The corrected fit, and the devices whose quantity was measured. stamp: when the file was written; another time is another answer."""
    fit = shipped(quantity)
    own = kept(path).measurements
    devices = frozenset(str(one.features.get("device", "")) for one in own if one.quantity == quantity)
    return (None, frozenset()) if fit is None else (with_own(fit, own), devices)


def _named(seen: Features, model: str) -> Features:
    """As anchors are told of their model; the source is the user's own, which is a new one."""
    return {**seen, "model": model}
