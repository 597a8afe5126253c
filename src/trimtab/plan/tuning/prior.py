"""What a candidate will do, from its header and this machine's measured rates, before anything is run.

The roofline: a decode step reads the weights once and multiplies once per sequence; a prompt multiplies once per token. The low end of
each interval lets reading and multiplying overlap fully at the engine's best efficiency, the high end adds them at its worst (Williams,
Waterman, Patterson, "Roofline", CACM 52(4), 2009, read as an interval). `plan.tuning.shortlist` uses it; nothing is certified by it.
"""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from trimtab.core.deployment import Machine, Recipe
from trimtab.core.errors import InputError
from trimtab.core.measurement import Estimate
from trimtab.core.model import ModelCard
from trimtab.core.workload import Workload

EFFICIENCY_FILE = Path(__file__).parents[2] / "catalog" / "efficiency.toml"
AS_SHIPPED = "as-shipped"


class Range(NamedTuple):
    """Three values in order: least, expected, most. Of times: best, expected, worst case."""

    low: float
    typical: float
    high: float


# Low-bit recipes keep some tensors wider: embeddings, rows that do not divide into super-blocks, mixed ratios.
EXTRA_BITS = 3.0
WIDE_ENOUGH_BITS = 9.0
KV_BYTES_PER_VALUE = Range(1.0, 2.0, 4.0)  # U8, F16, F32
# Engines may repack weights beside the originals, or hold them at 32 bits; buffers and libraries come on top.
WEIGHT_COPIES = Range(0.8, 1.2, 2.5)
RUNTIME_BYTES = Range(20e6, 200e6, 1.5e9)


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Shares of the measured rates; see catalog/efficiency.toml."""

    engine: str
    bits: tuple[float, float]
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
            bits=(entry["bits"][0], entry["bits"][1]),
            decode_of_read=Range(*entry["decode_of_read"]),
            prefill_of_matmul=Range(*entry["prefill_of_matmul"]),
            batch_of_matmul=Range(*entry["batch_of_matmul"]),
            flag=entry.get("flag", ""),
        )
        for entry in entries
    )


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


def nominal_bits(card: ModelCard, recipe: Recipe) -> float:
    """Nominal bits per weight; of the file itself where the recipe leaves it as it is."""
    return 8 * card.size_bytes / max(card.n_params, 1) if recipe.parameters.get("type") == AS_SHIPPED else recipe.bits_per_weight


def weight_bits(card: ModelCard, recipe: Recipe) -> Range:
    """Bits per weight that may come out of the recipe."""
    nominal = nominal_bits(card, recipe)
    if recipe.parameters.get("type") == AS_SHIPPED:
        # Exact for the file, but an engine's reader may widen or narrow it without a word.
        return Range(0.95 * nominal, nominal, 1.3 * nominal)
    most = max(1.1 * nominal, min(nominal + EXTRA_BITS, WIDE_ENOUGH_BITS))
    return Range(0.95 * nominal, math.sqrt(nominal * most), most)


def predict(card: ModelCard, recipe: Recipe, engine: str, workload: Workload, machine: Machine, concurrency: int) -> dict[str, Estimate]:
    """`ttft_ms`, `tpot_ms`, `e2e_ms` (medians over requests that start together) and `memory_bytes` of the serving process.

    card: of the source; the recipe changes its bytes, not its arithmetic. The engine is taken to run `concurrency` sequences at once on
    the CPU. Raises InputError if the machine's rates were not measured.
    """
    if not machine.read_gb_s or not machine.matmul_gflop_s:
        raise InputError("A prediction needs this machine's measured read bandwidth and matrix rate; measure them first.")
    bits = weight_bits(card, recipe)
    able = efficiency_of(engine, nominal_bits(card, recipe), machine)
    read, flop = machine.read_gb_s * 1e9, machine.matmul_gflop_s * 1e9
    prefill_s = _prefill_s(card, workload, able, flop)
    alone_s = _decode_step_s(card, bits, workload, able, read, flop, 1)
    full_s = _decode_step_s(card, bits, workload, able, read, flop, concurrency)
    others, n_steps = concurrency - 1, workload.output_tokens - 1
    half = (concurrency + 1) / 2
    # Prompts one after the other: the median request waits for half of them. Shared out evenly: every request waits for all.
    ttft_s = Range(half * prefill_s.low, half * prefill_s.typical, concurrency * prefill_s.high + (full_s.high if others else 0.0))
    # Early on fewer than all decode together; prompts of others come in between.
    tpot_s = Range(alone_s.low, full_s.typical + others * prefill_s.typical / 2 / n_steps, full_s.high + others * prefill_s.high / n_steps)
    e2e_s = Range(
        min(ttft_s.low + n_steps * full_s.low, half * (prefill_s.low + n_steps * alone_s.low)),
        concurrency * prefill_s.typical + n_steps * full_s.typical,
        concurrency * prefill_s.high + (n_steps + 1) * full_s.high,
    )
    basis = (
        f"roofline of {machine.read_gb_s:.0f} GB/s and {machine.matmul_gflop_s:.0f} GFLOP/s, "
        f"{bits.low:.1f} to {bits.high:.1f} bits a weight, "
        f"{engine} at {able.decode_of_read.low:g} to {able.decode_of_read.high:g} of the bandwidth and "
        f"{able.prefill_of_matmul.low:g} to {able.prefill_of_matmul.high:g} of the matrix rate"
    )
    return {
        "ttft_ms": _estimate(ttft_s, 1000, "ms", basis),
        "tpot_ms": _estimate(tpot_s, 1000, "ms", basis),
        "e2e_ms": _estimate(e2e_s, 1000, "ms", basis),
        "memory_bytes": _estimate(_memory_bytes(card, bits, workload, concurrency), 1, "bytes", "weights, copies, cache and buffers"),
    }


def _prefill_s(card: ModelCard, workload: Workload, able: Efficiency, flop: float) -> Range:
    """Seconds of one prompt alone. At best the output head is left out for all tokens but the last."""
    prompt = workload.prompt_tokens
    head = 2.0 * card.hidden_size * card.vocab_size
    attention = card.attn_flops_per_token_per_context_token * prompt / 2
    least = max(card.flops_per_token - head, card.flops_per_token / 4) + attention
    share = able.prefill_of_matmul
    return Range(
        prompt * least / (flop * share.high),
        prompt * least / (flop * share.typical),
        # Masked halves may be multiplied too.
        prompt * (card.flops_per_token + 2 * attention) / (flop * share.low),
    )


def _decode_step_s(card: ModelCard, bits: Range, workload: Workload, able: Efficiency, read: float, flop: float, n_sequences: int) -> Range:
    """Seconds of one step that gives each of `n_sequences` a token, at the workload's mean context."""
    context = workload.prompt_tokens + workload.output_tokens // 2
    bytes_read = [card.active_params * bits[end] / 8 + n_sequences * card.kv_bytes(context, KV_BYTES_PER_VALUE[end]) for end in range(3)]
    flops = n_sequences * (card.flops_per_token + card.attn_flops_per_token_per_context_token * context)
    # The fewest bytes go with the best efficiency.
    read_s = [bytes_read[end] / (read * able.decode_of_read[2 - end]) for end in range(3)]
    multiply_s = [flops / (flop * able.batch_of_matmul[2 - end]) for end in range(3)]
    return Range(max(read_s[0], multiply_s[0]), math.hypot(read_s[1], multiply_s[1]), read_s[2] + multiply_s[2])


def _memory_bytes(card: ModelCard, bits: Range, workload: Workload, concurrency: int) -> Range:
    return Range(
        *(
            card.n_params * bits[end] / 8 * WEIGHT_COPIES[end]
            + concurrency * card.kv_bytes(workload.context_tokens, KV_BYTES_PER_VALUE[end])
            + RUNTIME_BYTES[end]
            for end in range(3)
        )
    )


def _estimate(of: Range, factor: float, unit: str, basis: str) -> Estimate:
    value = min(max(of.typical, of.low), of.high)
    return Estimate(value=value * factor, low=of.low * factor, high=of.high * factor, unit=unit, basis=basis)
