"""What a candidate will do, from its header and this machine's measured rates, before anything is run.

The roofline: a decode step reads the weights once and multiplies once per sequence; a prompt multiplies once per token. The low end of
each interval lets reading and multiplying overlap fully at the engine's best efficiency, the high end adds them at its worst (Williams,
Waterman, Patterson, "Roofline", CACM 52(4), 2009, read as an interval). Estimates say what may be dropped unseen, and decide nothing else.
"""

import math
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trimtab.core.deployment import Machine, Recipe
from trimtab.core.errors import InputError
from trimtab.core.measurement import Estimate
from trimtab.core.model import ModelCard
from trimtab.core.workload import Workload

EFFICIENCY_FILE = Path(__file__).parent.parent / "catalog" / "efficiency.toml"
AS_SHIPPED = "as-shipped"

# Low-bit recipes keep some tensors wider: embeddings, rows that do not divide into super-blocks, mixed ratios.
EXTRA_BITS = 3.0
WIDE_ENOUGH_BITS = 8.0
# Cache values: one byte (U8) to four (F32).
KV_BYTES_PER_VALUE = (1.0, 4.0)
# Engines may repack weights beside the originals, or hold them at 32 bits; buffers and libraries come on top.
WEIGHT_COPIES = (0.8, 2.5)
RUNTIME_BYTES = (20e6, 1.5e9)

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Shares of the measured rates, (low, high) each; see catalog/efficiency.toml."""

    engine: str
    bits: Range
    decode_of_read: Range
    prefill_of_matmul: Range
    batch_of_matmul: Range
    flag: str = ""


@cache
def shipped_efficiencies() -> tuple[Efficiency, ...]:
    """The table that ships with trimtab."""
    entries = tomllib.loads(EFFICIENCY_FILE.read_text(encoding="utf-8"))["efficiency"]
    return tuple(
        Efficiency(
            engine=entry["engine"],
            bits=_range(entry["bits"]),
            decode_of_read=_range(entry["decode_of_read"]),
            prefill_of_matmul=_range(entry["prefill_of_matmul"]),
            batch_of_matmul=_range(entry["batch_of_matmul"]),
            flag=entry.get("flag", ""),
        )
        for entry in entries
    )


def _range(ends: Sequence[float]) -> Range:
    low, high = ends
    return float(low), float(high)


def efficiency_of(engine: str, bits: float, machine: Machine) -> Efficiency:
    """The entry for an engine at so many bits per weight on this machine; any engine's entry if it has none of its own."""
    for name in (engine, "*"):
        fitting = [
            entry
            for entry in shipped_efficiencies()
            if entry.engine == name and entry.bits[0] <= bits < entry.bits[1] and (not entry.flag or entry.flag in machine.flags)
        ]
        if fitting:
            return max(fitting, key=lambda entry: bool(entry.flag))
    raise InputError(f"{bits:g} bits per weight are outside what the prior knows; a recipe has 0 to 64.")


def weight_bits(card: ModelCard, recipe: Recipe) -> Range:
    """Bits per weight that may come out of the recipe, (least, most)."""
    if recipe.parameters.get("type") == AS_SHIPPED:
        # Exact for the file; an engine's reader may widen or narrow it without a word.
        shipped = 8 * card.size_bytes / card.n_params
        return shipped * 0.95, shipped * 1.3
    nominal = recipe.bits_per_weight
    return nominal * 0.95, max(nominal * 1.1, min(nominal + EXTRA_BITS, WIDE_ENOUGH_BITS + 1.0))


def predict(card: ModelCard, recipe: Recipe, engine: str, workload: Workload, machine: Machine, concurrency: int) -> dict[str, Estimate]:
    """`ttft_ms`, `tpot_ms`, `e2e_ms` (medians over requests that start together) and `memory_bytes` of the serving process.

    card: of the source; the recipe changes its bytes, not its arithmetic. The engine is taken to run `concurrency` sequences at once on
    the CPU. `value` is the geometric middle of the interval. Raises InputError if the machine's rates were not measured.
    """
    if not machine.read_gb_s or not machine.matmul_gflop_s:
        raise InputError("A prediction needs this machine's measured read bandwidth and matrix rate; measure them first.")
    bits = weight_bits(card, recipe)
    able = efficiency_of(engine, recipe_bits(card, recipe), machine)
    prefill_s = _prefill_s(card, workload, able, machine.matmul_gflop_s * 1e9)
    rates = (machine.read_gb_s * 1e9, machine.matmul_gflop_s * 1e9)
    first = _decode_step_s(card, bits, workload, able, rates, 1)
    full = _decode_step_s(card, bits, workload, able, rates, concurrency)
    n_steps = workload.output_tokens - 1
    # Prompts one after the other: the median request waits for half of them. Shared out evenly: every request waits for all.
    ttft_s = (prefill_s[0] * (concurrency + 1) / 2, prefill_s[1] * concurrency + full[1] * (concurrency > 1))
    # Early on fewer than all decode together; prompts of others come in between.
    tpot_s = (first[0], full[1] + (concurrency - 1) * prefill_s[1] / n_steps)
    all_at_once = ttft_s[0] + n_steps * full[0]
    one_by_one = (concurrency + 1) / 2 * (prefill_s[0] + n_steps * first[0])
    e2e_s = (min(all_at_once, one_by_one), concurrency * prefill_s[1] + full[1] * (n_steps + 1))
    basis = (
        f"roofline of {machine.read_gb_s:.0f} GB/s and {machine.matmul_gflop_s:.0f} GFLOP/s, {bits[0]:.1f} to {bits[1]:.1f} bits a weight, "
        f"{engine} at {able.decode_of_read[0]:g} to {able.decode_of_read[1]:g} of the bandwidth and "
        f"{able.prefill_of_matmul[0]:g} to {able.prefill_of_matmul[1]:g} of the matrix rate"
    )
    return {
        "ttft_ms": _estimate(_scaled(ttft_s, 1000), "ms", basis),
        "tpot_ms": _estimate(_scaled(tpot_s, 1000), "ms", basis),
        "e2e_ms": _estimate(_scaled(e2e_s, 1000), "ms", basis),
        "memory_bytes": _estimate(_memory_bytes(card, bits, workload, concurrency), "bytes", "weights, copies, cache and buffers"),
    }


def recipe_bits(card: ModelCard, recipe: Recipe) -> float:
    """Nominal bits per weight, of the file itself where the recipe leaves it as it is."""
    return 8 * card.size_bytes / card.n_params if recipe.parameters.get("type") == AS_SHIPPED else recipe.bits_per_weight


def _prefill_s(card: ModelCard, workload: Workload, able: Efficiency, flop_s: float) -> Range:
    """Seconds of one prompt alone. At least the output head may be left out for all tokens but the last."""
    prompt = workload.prompt_tokens
    head = 2.0 * card.hidden_size * card.vocab_size
    attention = card.attn_flops_per_token_per_context_token * prompt / 2
    least = max(card.flops_per_token - head, card.flops_per_token / 4) + attention
    most = card.flops_per_token + 2 * attention
    return least * prompt / (flop_s * able.prefill_of_matmul[1]), most * prompt / (flop_s * able.prefill_of_matmul[0])


def _decode_step_s(card: ModelCard, bits: Range, workload: Workload, able: Efficiency, rates: Range, n_sequences: int) -> Range:
    """Seconds of one step that gives each of `n_sequences` a token, at the workload's mean context. rates: bytes and FLOPs per second."""
    context = workload.prompt_tokens + workload.output_tokens // 2
    kv = [card.kv_bytes(context, bytes_per_value) * n_sequences for bytes_per_value in KV_BYTES_PER_VALUE]
    flops = n_sequences * (card.flops_per_token + card.attn_flops_per_token_per_context_token * context)
    read_s = [(card.active_params * bits[end] / 8 + kv[end]) / (rates[0] * able.decode_of_read[1 - end]) for end in (0, 1)]
    multiply_s = [flops / (rates[1] * able.batch_of_matmul[1 - end]) for end in (0, 1)]
    return max(read_s[0], multiply_s[0]), read_s[1] + multiply_s[1]


def _memory_bytes(card: ModelCard, bits: Range, workload: Workload, concurrency: int) -> Range:
    weights = [card.n_params * bits[end] / 8 * WEIGHT_COPIES[end] for end in (0, 1)]
    kv = [card.kv_bytes(workload.context_tokens, bytes_per_value) * concurrency for bytes_per_value in KV_BYTES_PER_VALUE]
    return weights[0] + kv[0] + RUNTIME_BYTES[0], weights[1] + kv[1] + RUNTIME_BYTES[1]


def _estimate(ends: Range, unit: str, basis: str) -> Estimate:
    return Estimate(value=math.sqrt(ends[0] * ends[1]), low=ends[0], high=ends[1], unit=unit, basis=basis)


def _scaled(ends: Range, factor: float) -> Range:
    return ends[0] * factor, ends[1] * factor


@dataclass(frozen=True, kw_only=True)
class Shortlist:
    """Candidates worth running, in the order given, and why each other one is not."""

    kept: tuple[str, ...]
    dropped: Mapping[str, str]


def drop_hopeless(
    estimates: Mapping[str, Mapping[int, Mapping[str, Estimate]]],
    *,
    memory_bytes: int,
    baseline: str = "",
    keep: Collection[str] = (),
    n_rivals: int = 3,
    metric: str = "e2e_ms",
) -> Shortlist:
    """Drop candidates that cannot fit the memory, or cannot win at any concurrency. Nothing is dropped for its quality.

    estimates: candidate -> concurrency -> `predict`'s answer, the same levels for all
    baseline: what is kept if nothing wins. A candidate whose best case does not beat its worst case is of no use
    keep: never dropped (the baseline never is)
    n_rivals: a candidate whose best case is behind the worst case of so many others will not be reached, as no more than that many are
        tried on the certify items. With 1, a fast candidate that fails on quality later would have dropped the ones that pass.
    If every true value lies in its interval, then none of the n_rivals fastest that fit is dropped unless the baseline is at least as fast.
    """
    safe = {*keep, baseline}
    dropped: dict[str, str] = {}
    for name, by_level in estimates.items():
        need = max(each["memory_bytes"].low for each in by_level.values())
        if name not in safe and need > memory_bytes:
            dropped[name] = f"It needs at least {need / 1e9:.1f} GB of memory; this machine has {memory_bytes / 1e9:.1f} GB."
    # Only what surely fits can be relied upon to be there instead.
    reliable = [
        name for name, by_level in estimates.items() if all(each["memory_bytes"].high <= memory_bytes for each in by_level.values())
    ]
    for name, by_level in estimates.items():
        if name in safe or name in dropped:
            continue
        reasons = []
        for level, own in by_level.items():
            bounds = {rival: estimates[rival][level][metric].high for rival in reliable if rival != name}
            if reason := _why_hopeless(own[metric], bounds, baseline, n_rivals, level):
                reasons.append(reason)
        if len(reasons) == len(by_level):
            dropped[name] = reasons[0]
    return Shortlist(kept=tuple(name for name in estimates if name not in dropped), dropped=dropped)


def _why_hopeless(own: Estimate, bounds: Mapping[str, float], baseline: str, n_rivals: int, level: int) -> str:
    """Why a candidate cannot win at one concurrency against others' worst cases, empty if it may."""
    best = f"Its best case, {own.low:,.0f} {own.unit} at concurrency {level}, "
    if baseline in bounds and own.low >= bounds[baseline]:
        return best + f"does not beat the baseline's worst, {bounds[baseline]:,.0f} {own.unit}."
    ahead = sorted((high, name) for name, high in bounds.items() if high <= own.low)
    if len(ahead) >= n_rivals:
        return best + f"is behind the worst case of {len(ahead)} others, such as {ahead[0][1]} at {ahead[0][0]:,.0f} {own.unit}."
    return ""
