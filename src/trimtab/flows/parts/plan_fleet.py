"""Kinds of replicas for a simulated fleet: from a model on devices of the catalog, or from step times that were measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Device, ServeJob
from trimtab.decide.standing import points_by_level
from trimtab.flows.parts.plan_predicted import predict_serve
from trimtab.plan.fleet.settings import Batching, Kind, Reserve
from trimtab.plan.fleet.steps import AffineSteps, Corrected, read_steps, tabled
from trimtab.plan.fleet.traces import Trace
from trimtab.plan.serving.cold import cold_start
from trimtab.plan.serving.memory import budget, step_tokens
from trimtab.plan.serving.time import StepModel as PhysicsSteps
from trimtab.plan.serving.time import predict
from trimtab.plan.training.layouts import parse_layout
from trimtab.record.measured import p50, ranked
from trimtab.record.plan_view import amount
from trimtab.record.run import read_decision

MOST_SLOTS = 256
"""Sequences at once unless --slots says otherwise: what serving engines start with, as far as the cache holds them."""
MEASURED_SLOTS = 8
TYPICAL_BATCH = 16
"""Sequences in flight at which what published runs say of decoding is asked for."""


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A kind with what stands behind its times. ends: the same kind with its steps at the quick and the slow end of their interval"""

    kind: Kind
    ends: tuple[Kind, Kind] | None
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What was asked of every kind; 0, "" and None leave it to what is usual. Seconds, watts, USD a device and hour."""

    engine: str = ""
    weights: str = "bf16"
    kv: str = ""
    layout: str = ""
    slots: int = 0
    batch_tokens: int = 0
    kv_tokens: int | None = None
    reserve: Reserve = "grow"
    chunked: bool = True
    prefix_cache: bool = True
    cold_s: float | None = None
    storage: str = "local-nvme"
    boot_s: float = 30.0
    overhead_s: float = 0.0
    mtbf_s: float = 0.0
    restart_s: float = 0.0
    spot_s: float = 0.0
    notice_s: float = 0.0
    idle_w: float | None = None


def deployed(model: Architecture, on: Device, wishes: Wishes, trace: Trace, *, replicas: tuple[int, int], usd: float) -> Deployed:
    """A model on a device of the catalog. usd: per device and hour, 0 = not known. Raises InputError."""
    prompt, output = (max(1, int(np.median(tokens))) for tokens in (trace.prompt_tokens, trace.output_tokens))
    job = ServeJob(
        architecture=model,
        device=on,
        engine=wishes.engine,
        weights=wishes.weights,
        kv=wishes.kv,
        prompt_tokens=prompt,
        output_tokens=output,
        concurrency=TYPICAL_BATCH,
        **_layout(wishes.layout),
    )
    context = int(np.mean(trace.prompt_tokens + trace.output_tokens))
    memory = budget(job, context_tokens=max(2, context))
    devices = job.tp * job.pp
    if not memory.fits:
        raise InputError(
            f"{model.name} in {job.weights} does not fit {devices} × {on.name}: one request of {context:,} tokens needs "
            f"{amount(memory.total_bytes, 'bytes')} of {amount(memory.memory_bytes, 'bytes')} a device; "
            "name fewer bits with --weights or more devices with --layout tp=2."
        )
    kv_tokens = int(memory.kv_budget_bytes / memory.kv_bytes_per_sequence * memory.context_tokens) if memory.kv_bytes_per_sequence else 0
    batch_tokens = wishes.batch_tokens or step_tokens(job)
    slots = wishes.slots or min(MOST_SLOTS, batch_tokens, max(1, memory.max_concurrency))
    batching = _batching(wishes, slots=slots, batch_tokens=batch_tokens, kv_tokens=kv_tokens)
    factors, why = _factors(job, min(TYPICAL_BATCH, slots))
    physics = PhysicsSteps(job)
    bounds = _contexts(trace)
    busy_w = on.power_w * devices
    cold_s, cold_why = _cold_s(job, wishes)
    made = [
        Kind(
            name=on.name,
            steps=tabled(
                Corrected(model=physics, decode=decode, prefill=prefill),
                max_batch=batching.slots,
                batch_tokens=batching.batch_tokens,
                contexts=bounds,
            ),
            batching=batching,
            min_replicas=replicas[0],
            max_replicas=replicas[1],
            cold_s=cold_s,
            usd_h=usd * devices,
            idle_w=busy_w if wishes.idle_w is None else wishes.idle_w * devices,
            busy_w=busy_w,
        )
        for decode, prefill in factors
    ]
    middle, *ends = (_with_faults(kind, wishes) for kind in made)
    about = {
        "name": on.name,
        "devices": devices,
        "batching": vars(batching),
        "cold_s": cold_s,
        "cold": cold_why,
        "usd_per_hour": usd * devices or None,
        "busy_w": busy_w or None,
        "steps": why,
        "steps_depart": middle.steps.departure,
    }
    idle = (
        ()
        if wishes.idle_w is not None or not busy_w
        else (f"{on.name}: idle power is not known and counted as full power; say --idle-watts.",)
    )
    return Deployed(kind=middle, ends=(ends[0], ends[1]) if ends else None, about=about, notes=(*_bent(middle), *idle))


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Measured step times. slots: sequences at once that they reach; cold_s: None = not measured"""

    name: str
    steps: AffineSteps
    slots: int
    source: str
    cold_s: float | None = None


def read_timed(path: Path) -> Timed:
    """Of a TOML file (see `read_steps`), or of the run in a folder: of what it chose, as it was timed. Raises InputError."""
    if not path.is_dir():
        return Timed(name=path.stem, steps=read_steps(path), slots=MEASURED_SLOTS, source=f"measured: {path.name}")
    decision = read_decision(path)
    chosen = decision.get("chosen") or decision.get("baseline") or {}
    row = next((one for one in ranked(decision) if one["id"] == chosen.get("id")), {})
    points = points_by_level(row)
    prompt, output = (decision["workload"][name] for name in ("prompt_tokens", "output_tokens"))
    gaps = {level: p50(point, "itl_ms") for level, point in points.items()}
    first_ms = p50(points[1], "ttft_ms") if 1 in points else None
    if first_ms is None or not all(gaps.values()):
        raise InputError(
            f"{path} holds no timings of one request at a time; run `trimtab optimize` with timings, or write a file of steps."
        )
    cold_ms = row["measurement"].get("cold_ttft_ms")
    steps = AffineSteps(
        prompt_token_s=first_ms / 1e3 / prompt,
        decode_knots_s=tuple((level, gap / 1e3) for level, gap in sorted(gaps.items()) if gap is not None),
    )
    told = (
        f"measured on {path.name} with prompts of {prompt:,} and answers of {output:,} tokens, {', '.join(map(str, sorted(gaps)))} at once"
    )
    cold_s = None if cold_ms is None else max(0.0, cold_ms - first_ms) / 1e3
    return Timed(name=str(row["id"]), steps=steps, slots=max(gaps), source=told, cold_s=cold_s)


def measured(timed: Timed, wishes: Wishes, trace: Trace, *, replicas: tuple[int, int], usd: float) -> Deployed:
    """Replicas whose step times were measured."""
    slots = wishes.slots or timed.slots
    batching = _batching(wishes, slots=slots, batch_tokens=wishes.batch_tokens or max(2048, slots), kv_tokens=0)
    known_s = wishes.boot_s if timed.cold_s is None else timed.cold_s
    kind = Kind(
        name=timed.name,
        steps=tabled(timed.steps, max_batch=slots, batch_tokens=batching.batch_tokens, contexts=_contexts(trace)),
        batching=batching,
        min_replicas=replicas[0],
        max_replicas=replicas[1],
        cold_s=known_s if wishes.cold_s is None else wishes.cold_s,
        usd_h=usd,
        idle_w=wishes.idle_w or 0.0,
    )
    cold = "not known; --cold-start says it" if timed.cold_s is None else "as it was measured"
    about = {
        "name": kind.name,
        "devices": 1,
        "batching": vars(batching),
        "cold_s": kind.cold_s,
        "cold": cold if wishes.cold_s is None else "as you said",
        "usd_per_hour": usd or None,
        "busy_w": None,
        "steps": timed.source,
        "steps_depart": kind.steps.departure,
    }
    beyond = (f"{slots} sequences at once were never timed; their steps are drawn on from fewer.",) if slots > timed.slots else ()
    return Deployed(kind=_with_faults(kind, wishes), ends=None, about=about, notes=(*_bent(kind), *beyond))


def _layout(text: str) -> dict[str, int]:
    """Degrees of one replica. Raises InputError for what it has not."""
    told = parse_layout(text) if text else {}
    other = sorted(set(told) - {"tp", "pp", "ep"})
    if other:
        raise InputError(f"--layout of a replica takes tp, pp and ep, not {', '.join(other)}; how many replicas there are says --replicas.")
    return told


def _batching(wishes: Wishes, *, slots: int, batch_tokens: int, kv_tokens: int) -> Batching:
    return Batching(
        slots=slots,
        batch_tokens=batch_tokens,
        chunked=wishes.chunked,
        kv_tokens=kv_tokens if wishes.kv_tokens is None else wishes.kv_tokens,
        reserve=wishes.reserve,
        prefix_cache=wishes.prefix_cache,
    )


def _with_faults(kind: Kind, wishes: Wishes) -> Kind:
    return replace(
        kind,
        overhead_s=wishes.overhead_s,
        mtbf_s=wishes.mtbf_s,
        restart_s=wishes.restart_s,
        spot_s=wishes.spot_s,
        notice_s=wishes.notice_s,
    )


def _contexts(trace: Trace) -> tuple[float, float]:
    """Mean contexts that batches of this traffic will have, about."""
    low = float(np.percentile(trace.prompt_tokens, 10))
    return low, max(low + 64.0, float(np.percentile(trace.prompt_tokens + trace.output_tokens, 95)))


def _factors(job: ServeJob, batch: int) -> tuple[Sequence[tuple[float, float]], str]:
    """(decode, prefill) by which published runs correct the physics: the middle, the quick end, the slow end; and what is behind it."""
    together = replace(job, concurrency=batch)
    physics, known = predict(together), predict_serve(together)
    first, each = known["ttft_ms"], known["tpot_ms"]
    if "value" not in first or "value" not in each:
        lacks = _clause(str(first.get("unknown") or each.get("unknown")))
        return [(1.0, 1.0)], f"by peak rates and shares usual for engines, no published run corrects them: {lacks}"
    found = [(each[end] / physics.tpot_ms, first[end] / physics.ttft_ms) for end in ("value", "low", "high")]
    return found, f"decoding {each['basis']} ({_clause(each['why'])}), prompts {first['basis']} ({_clause(first['why'])})"


def _clause(sentence: str) -> str:
    """A sentence as a part of another."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _cold_s(job: ServeJob, wishes: Wishes) -> tuple[float, str]:
    """Seconds from nothing to the first request taken, and how they come about."""
    if wishes.cold_s is not None:
        return wishes.cold_s, "as you said"
    started = cold_start(job, storage=wishes.storage, start_s=wishes.boot_s)
    return started.total_s, started.why.removesuffix(".")


def _bent(kind: Kind) -> tuple[str, ...]:
    """A word where straight lines between looked-up step times are coarse."""
    depart = kind.steps.departure
    return (f"{kind.name}: step times are simulated to within {depart:.0%} of their model.",) if depart > 0.05 else ()
