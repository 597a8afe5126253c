"""What `optimize` timed on this machine, kept for the planner: later plans of `this-machine` are corrected by it and surer."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from trimtab.core.deployment import Recipe
from trimtab.core.errors import InputError, MissingError
from trimtab.core.planning import Architecture, Device, ServeJob
from trimtab.core.workload import Workload
from trimtab.describe.shape import architecture_of
from trimtab.flows.parts.own_hardware import THIS_MACHINE, find_device
from trimtab.flows.parts.search import Row, Search
from trimtab.plan.anchors.measured import Measurement, remember
from trimtab.plan.anchors.scheme import UNITS
from trimtab.plan.serving.features import features, physics
from trimtab.plan.serving.rows import Case
from trimtab.record.home import state_dir

MEASUREMENTS = "planner/measurements.jsonl"
AS_SHIPPED = "as-shipped"
MODES = {"int8": "int8", "int4": "int4"}


def remember_timings(search: Search) -> int:
    """Keep the timings of a finished search; returns how many: none where `trimtab plan measure` never told the planner of this machine.

    Nothing here ends a run: what cannot be kept is not.
    """
    try:
        device, shape = find_device(THIS_MACHINE), architecture_of(search.opened.header, search.card)
    except (InputError, MissingError):
        return 0
    n_kept = 0
    for row in search.rows.values():
        for measurement in _measurements(row, shape, device, search.workload, search.card.bytes_by_type):
            try:
                remember(state_dir() / MEASUREMENTS, measurement)
                n_kept += 1
            except (InputError, OSError):
                continue
    return n_kept


def _measurements(row: Row, shape: Architecture, device: Device, workload: Workload, stored: Mapping[str, int]) -> Iterator[Measurement]:
    """Each quantity at each level that was timed without failures; none where the planner does not know the type of the weights."""
    timed = row.timed.measurement if row.timed else None
    for point in (timed or {}).get("points", ()):
        if point["failed"] or (timed or {}).get("noisy"):
            continue
        case = _case(row, shape, device, workload, point, weights_of(row.plan.recipe, stored))
        for quantity, value in case.measured.items():
            try:
                said, seen = physics(case, quantity), features(case, quantity)
            except InputError:
                continue
            yield Measurement(
                quantity=quantity,
                unit=UNITS[quantity],
                value=value,
                physics=said,
                features={**seen, "model": shape.name},
                setting=case.setting,
                model=shape.name,
                when=datetime.now(UTC).date().isoformat(),
                conditions={"candidate": row.plan.id},
            )


def _case(row: Row, shape: Architecture, device: Device, workload: Workload, point: Mapping[str, Any], weights: str) -> Case:
    """A timed level as a published row is told."""
    concurrency = int(point["concurrency"])
    measured = {"ttft_ms": float(point["ttft_ms"]["mean"]), "tpot_ms": float(point["tpot_ms"]["mean"])}
    if concurrency == 1:
        measured |= {"decode_tok_s": 1000.0 / measured["tpot_ms"], "prefill_tok_s": 1000.0 * workload.prompt_tokens / measured["ttft_ms"]}
    job = ServeJob(
        architecture=shape,
        device=device,
        engine=row.plan.engine,
        weights=weights,
        concurrency=concurrency,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        cached_prompt_tokens=workload.shared_prefix_tokens,
    )
    return Case(id="", job=job, form="alone" if concurrency == 1 else "aggregated", measured=measured, source="own")


def weights_of(recipe: Recipe, bytes_by_type: Mapping[str, int]) -> str:
    """The stored type that a recipe makes: `Q4_K_M` of a GGUF, `int8` of `int8_asym`; as it came, the type that most of its bytes have."""
    told = str(recipe.parameters.get("type") or recipe.parameters.get("mode") or AS_SHIPPED)
    if told == AS_SHIPPED and bytes_by_type:
        told = max(bytes_by_type, key=lambda kind: bytes_by_type[kind])
    return next((name for start, name in MODES.items() if told.startswith(start)), told)
