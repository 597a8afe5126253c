"""What of a model fits a device: weights by type, the context each leaves room for, and how fast it writes (schema trimtab.plan/1)."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.phrases import line
from trimtab.core.planning import Architecture, Device, ServeJob
from trimtab.flows.parts.own_hardware import find_device as device
from trimtab.flows.parts.plan_kept import SCHEMA
from trimtab.flows.parts.plan_model import plan_model
from trimtab.flows.parts.plan_predicted import predict_fit
from trimtab.flows.parts.plan_told import STORED, certain, check_engine, model_row, weight_words
from trimtab.plan.operators import weight_bytes
from trimtab.plan.quantities import listed, whole
from trimtab.plan.serving.memory import LOCAL_WEIGHTS, USUAL_WEIGHTS, ServeMemory, budget, longest_context
from trimtab.record.plan_view import amount

LEAST_CONTEXT = 2048
"""Tokens that must fit where nothing else is said: less is no conversation."""
ANSWER_TOKENS = 128
MOST_SPLIT = 128
NEAR = 65_536
"""Tokens between the two contexts that the growth of a cache is told by."""


def plan_fit(
    model: str,
    *,
    hardware: str,
    devices: str = "1",
    context: str = "",
    weights: str = "",
    kv: str = "",
    engine: str = "",
    offline: bool = False,
) -> dict[str, Any]:
    """What fits, best weights first. All quantities as the command line takes them. Raises InputError, MissingError."""
    names = listed(hardware, "--hardware")
    if len(names) > 1:
        raise InputError(f"--hardware: one device at a time is looked at here, not {len(names)}; `trimtab plan serve` compares several.")
    on = device(names[0])
    n_devices = whole(devices, "--devices", most=1024)
    check_engine(engine, (kv,) if kv else ())
    architecture = plan_model(model, offline=offline)
    heads = math.gcd(*(block.attention.n_heads for block in architecture.blocks if block.attention))
    if heads % n_devices:
        raise InputError(
            f"--devices: {n_devices} devices cannot share the {heads} attention heads of {architecture.name} evenly; give a divisor."
        )
    asked = whole(context, "--context", least=2) if context else min(LEAST_CONTEXT, architecture.context_tokens or LEAST_CONTEXT)
    if architecture.context_tokens and asked > architecture.context_tokens:
        raise InputError(
            f"--context: {architecture.name} was made for {architecture.context_tokens:,} tokens, not for {asked:,}; ask for less."
        )
    jobs = [_job(architecture, on, kind, kv, engine, n_devices, asked) for kind in _kinds(weights, on, engine, architecture)]
    rows = [(job, budget(job, context_tokens=asked)) for job in jobs]
    fitting = [(job, memory) for job, memory in rows if memory.fits]
    options = [_option(job, memory, rank) for rank, (job, memory) in enumerate(fitting, 1)]
    where = on.name if n_devices == 1 else f"{n_devices} × {on.name}"
    return {
        "schema": SCHEMA,
        "kind": "fit",
        "found": bool(options),
        "headline": _headline(options, line(architecture.name), where, asked),
        "reasons": [] if options else _relax(rows, where),
        "question": {
            "model": model,
            "hardware": [on.name],
            "devices": n_devices,
            "context_tokens": asked,
            "weights": [job.weights for job in jobs],
            "kv": kv,
            "engine": engine,
        },
        "model": model_row(architecture),
        "options": options,
        "plots": [],
        "losers": [
            {"about": job.weights, "text": f"{weight_words(job.weights)}: {_short_of(memory)}."} for job, memory in rows if not memory.fits
        ],
        "assumptions": [f"{text[0].upper()}{text[1:]}." for text in rows[0][1].assumptions],
        "conventions": "Speed is of one conversation at the start of the context that was asked for.",
        "prices": [],
        "searched": None,
        "what_if": _grid(fitting, architecture),
        "emitted": {},
    }


def _kinds(text: str, on: Device, engine: str, architecture: Architecture) -> Sequence[str]:
    """The types to try, the largest first. Raises InputError for an unknown one."""
    kinds = listed(text, "--weights") if text else tuple(USUAL_WEIGHTS.get(on.kind, ()))
    if not text and engine in ("", "llamacpp") and on.kind != "tpu":
        kinds = tuple(dict.fromkeys((*kinds, *(LOCAL_WEIGHTS[1:] if kinds else LOCAL_WEIGHTS))))
    own = architecture.weight_bytes
    sizes = {kind: weight_bytes(architecture, kind) for kind in kinds}
    if own and not text:  # nothing is won by storing a file's weights in more bytes than it has
        sizes = {STORED: own} | {kind: size for kind, size in sizes.items() if size < own}
    return sorted(sizes, key=lambda kind: -sizes[kind])


def _job(architecture: Architecture, on: Device, kind: str, kv: str, engine: str, n_devices: int, context: int) -> ServeJob:
    answer = min(ANSWER_TOKENS, context - 1)
    return ServeJob(
        architecture=architecture,
        device=on,
        engine=engine or _usual_engine(on, kind),
        weights=kind,
        kv=kv,
        tp=n_devices,
        prompt_tokens=context - answer,
        output_tokens=answer,
    )


def _usual_engine(on: Device, kind: str) -> str:
    """What runs such weights on such a device where nothing is said: llama.cpp for files and GGUF types, laptops and CPUs, else vLLM."""
    is_local = on.kind in ("soc", "cpu") or kind == STORED
    return "llamacpp" if is_local or re.match(r"(?i)i?q\d", kind) else "vllm"


def _option(job: ServeJob, memory: ServeMemory, rank: int) -> dict[str, Any]:
    longest = longest_context(job)
    return {
        "rank": rank,
        "id": f"{job.device.name}:{job.weights}",
        "what": weight_words(job.weights),
        "how": f"{job.engine}, KV cache in {job.kv or 'bf16'}",
        "device": job.device.name,
        "n_devices": job.tp,
        "layout": {"weights": job.weights, "kv": job.kv or "bf16", "tp": job.tp},
        "on_front": False,
        "numbers": {
            "weight_bytes": certain(memory.weights_bytes * job.tp, "bytes", "Counted from the shape and the bits of the type."),
            "context_tokens": certain(longest, "tokens", "The longest single conversation that the room left by the weights holds."),
            "concurrency": certain(memory.max_concurrency, "tokens", f"Conversations of {memory.context_tokens:,} tokens held at once."),
            **predict_fit(job),
        },
        "memory": {
            "parts": [
                {"name": "weights", "value": memory.weights_bytes},
                {"name": "kv_cache", "value": memory.kv_bytes_per_sequence},
                {"name": "activations", "value": memory.activation_bytes},
                {"name": "overhead", "value": memory.overhead_bytes},
            ],
            "total_bytes": memory.total_bytes,
            "low": memory.total_bytes,
            "high": memory.total_bytes,
            "capacity_bytes": memory.memory_bytes,
        },
        "time": None,
    }


def _headline(options: Sequence[dict[str, Any]], name: str, where: str, asked: int) -> str:
    if not options:
        return f"{name} does not fit {where} with {asked:,} tokens"

    def said(row: dict[str, Any]) -> str:
        return f"{row['what']} and up to {row['numbers']['context_tokens']['value']:,.0f} tokens"

    longest = max(options, key=lambda row: row["numbers"]["context_tokens"]["value"])
    more = longest["numbers"]["context_tokens"]["value"] > options[0]["numbers"]["context_tokens"]["value"]
    return f"{name} fits {where} with {said(options[0])}" + (f", or with {said(longest)}" if more else "")


def _short_of(memory: ServeMemory) -> str:
    return f"{amount(memory.total_bytes, 'bytes')} a device with one conversation, and it has {amount(memory.memory_bytes, 'bytes')}"


def _relax(rows: Sequence[tuple[ServeJob, ServeMemory]], where: str) -> list[str]:
    """What comes nearest, and what would make it fit."""
    job, memory = min(rows, key=lambda row: row[1].total_bytes)
    enough = _enough(job)
    more = f"{enough} of them hold it together (--devices {enough}); or name" if enough else "Name"
    return [
        f"Nearest to {where} are {weight_words(job.weights)}: {_short_of(memory)}.",
        f"{more} another device, weights of fewer bits (--weights), or a shorter --context.",
    ]


def _enough(job: ServeJob) -> int:
    """The fewest devices, by doubling, that hold these weights with one conversation; 0 where no split of the model does."""
    tp = job.tp
    while tp < MOST_SPLIT:
        tp *= 2
        try:
            if budget(replace(job, tp=tp)).fits:
                return tp
        except InputError:  # it does not divide
            continue
    return 0


def _grid(fitting: Sequence[tuple[ServeJob, ServeMemory]], architecture: Architecture) -> dict[str, Any] | None:
    """For each type what is taken however long the context is, and what a conversation and each of its tokens add."""
    if not fitting:
        return None
    rows = []
    most = architecture.context_tokens or 2 * NEAR
    for job, memory in fitting:
        short, long = (budget(replace(job), context_tokens=length).kv_bytes_per_sequence for length in (most // 2, most))
        token = (long - short) / (most - most // 2)
        rows.append(
            {
                "name": weight_words(job.weights),
                "how": "",
                "fixed_bytes": memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes,
                "sequence_bytes": long - token * most,
                "token_bytes": token,
                "room_bytes": memory.kv_budget_bytes,
            }
        )
    return {"kind": "fit", "capacity_bytes": fitting[0][1].memory_bytes, "context_tokens": most, "rows": rows}
