"""Does it fit, and how many requests at once: weights, work space and the KV budget of one device, each with its assumption in words.

The fullest device of the replica is counted. A sequence is never promised memory that the budget does not hold:
`ServeMemory.max_concurrency` caps the batch everywhere, and what exceeds it queues.
"""

from dataclasses import dataclass
from typing import Literal

from trimtab.core.errors import InputError
from trimtab.core.planning import ServeJob
from trimtab.plan.serving.loads import cache_of, check, weight_bytes_per_device

Rule = Literal["fraction-of-total", "fraction-of-free", "all-free"]

BUDGETS: dict[str, tuple[Rule, float]] = {
    "vllm": ("fraction-of-total", 0.90),
    "sglang": ("fraction-of-total", 0.88),
    "trtllm": ("fraction-of-free", 0.90),
}
"""What an engine keeps for its cache by default. vLLM: gpu_memory_utilization of the total holds weights, work space and cache.
SGLang: mem_fraction_static of the total holds weights and cache. TensorRT-LLM: kv_cache_free_gpu_memory_fraction of what weights and work
space leave."""

STATIC_ONLY = ("sglang",)
"""Engines whose fraction of the total holds weights and cache but not the work space."""

STEP_TOKENS = {"vllm": 8192, "sglang": 8192, "trtllm": 8192, "llamacpp": 512, "mlx": 512}
"""Most tokens of one step: the length of a chunk of prefill."""
OTHER_STEP_TOKENS = 2048

CONTEXT_BYTES = 0.6e9
"""Of the driver's context and loaded kernels on a GPU."""
GRAPH_BYTES = 1.0e9
"""Of captured graphs, in engines that serve batches."""
COLLECTIVE_BYTES = 0.8e9
"""Of communication buffers, where devices work together."""
UNIFIED_SHARE = 0.75
"""Of a system on a chip's memory that its GPU may hold, the default of Apple's Metal."""


@dataclass(frozen=True, kw_only=True)
class ServeMemory:
    """One device of a replica. Bytes.

    kv_budget_bytes: 0 where the weights leave nothing; kv_bytes_per_sequence: at `context_tokens`, on this device
    max_concurrency: sequences of that context that the replica's budgets hold at once
    fits: weights, work space and at least one sequence
    assumptions: in words, what the figures rest on
    """

    memory_bytes: float
    weights_bytes: float
    activation_bytes: float
    overhead_bytes: float
    kv_budget_bytes: float
    kv_bytes_per_sequence: float
    context_tokens: int
    max_concurrency: int
    fits: bool
    assumptions: tuple[str, ...]

    @property
    def total_bytes(self) -> float:
        """Weights, work space, overhead and the smallest useful cache, one sequence: what the device must have at least."""
        return self.weights_bytes + self.activation_bytes + self.overhead_bytes + self.kv_bytes_per_sequence


def step_tokens(job: ServeJob) -> int:
    return STEP_TOKENS.get(job.engine, OTHER_STEP_TOKENS)


def activation_bytes(job: ServeJob) -> float:
    """Of the largest step: a few 16-bit copies of the residual stream, the widest feed-forward layer, 32-bit logits of a full batch."""
    architecture, tokens = job.architecture, min(step_tokens(job), job.prompt_tokens * job.concurrency)
    widest = max(
        (max(f.d_ff * max(1, f.n_experts_used), f.d_shared) * (2 if f.gated else 1) for b in architecture.blocks if (f := b.feedforward)),
        default=0,
    )
    return 2.0 * tokens * (6 * architecture.d_model + widest / job.tp) + 4.0 * min(job.concurrency, 256) * architecture.vocab_size


def overhead_bytes(job: ServeJob) -> float:
    if job.device.kind == "cpu":
        return 0.3e9
    if job.device.kind == "soc":
        return 0.3e9 + (1 - UNIFIED_SHARE) * job.device.memory_bytes
    batched = GRAPH_BYTES if job.engine in BUDGETS else 0.0
    together = COLLECTIVE_BYTES if job.tp * job.pp * job.attention_dp > 1 else 0.0
    return CONTEXT_BYTES + batched + together


def _budget_bytes(rule: Rule, fraction: float, *, total: float, weights: float, work: float, overhead: float, static_only: bool) -> float:
    if rule == "fraction-of-total":
        room = fraction * total - weights - (0.0 if static_only else work + overhead)
        return max(0.0, min(room, total - weights - work - overhead))
    free = max(0.0, total - weights - work - overhead)
    return fraction * free if rule == "fraction-of-free" else free


def budget(job: ServeJob, *, context_tokens: int = 0, rule: Rule | None = None, fraction: float | None = None) -> ServeMemory:
    """Of one device of the job's replica.

    context_tokens: of a sequence, 0 = prompt and output; rule, fraction: other than the engine's default

    InputError for a layout that cannot be, or a device whose memory is not known.
    """
    check(job)
    total = job.device.memory_bytes
    if total <= 0:
        raise InputError(f"The memory of {job.device.name} is not known, so nothing can be said to fit; give it in the hardware catalog.")
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(f"A share of the memory of {fraction:g} makes no sense; give more than 0 and at most 1.")
    default_rule, default_fraction = BUDGETS.get(job.engine, ("all-free", 1.0))
    rule, fraction = rule or default_rule, fraction if fraction is not None else default_fraction
    context = context_tokens or job.prompt_tokens + job.output_tokens
    weights, work, overhead = weight_bytes_per_device(job), activation_bytes(job), overhead_bytes(job)
    room = _budget_bytes(rule, fraction, total=total, weights=weights, work=work, overhead=overhead, static_only=job.engine in STATIC_ONLY)
    sequence = cache_of(job.architecture, tp=job.tp, pp=job.pp, kv=job.kv).bytes_at(context)
    ranks = job.attention_dp
    most = ranks * int(room / sequence) if sequence else (ranks * 10**6 if room > 0 else 0)
    return ServeMemory(
        memory_bytes=total,
        weights_bytes=weights,
        activation_bytes=work,
        overhead_bytes=overhead,
        kv_budget_bytes=room,
        kv_bytes_per_sequence=sequence,
        context_tokens=context,
        max_concurrency=most,
        fits=most >= 1,
        assumptions=_assumptions(job, rule, fraction, context),
    )


def _assumptions(job: ServeJob, rule: Rule, fraction: float, context: int) -> tuple[str, ...]:
    kept = {
        "fraction-of-total": f"the engine keeps {fraction:.0%} of the memory for weights and cache",
        "fraction-of-free": f"the engine keeps {fraction:.0%} of what weights and work space leave for the cache",
        "all-free": "all that weights and work space leave is cache",
    }[rule]
    words = [kept, f"a step takes at most {step_tokens(job):,} tokens", f"every sequence reaches {context:,} tokens"]
    if job.device.kind == "gpu":
        words.append(f"driver context, graphs and communication buffers take {overhead_bytes(job) / 1e9:.1f} GB")
    if job.device.kind == "soc":
        words.append(f"the GPU may hold {UNIFIED_SHARE:.0%} of the unified memory")
    if not job.kv:
        words.append("the cache is kept in 16 bits")
    return tuple(words)


USUAL_WEIGHTS = {"gpu": ("bf16", "fp8", "int4"), "tpu": ("bf16", "int8"), "accelerator": ("bf16", "fp8")}
LOCAL_WEIGHTS = ("fp16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M")


def longest_context(job: ServeJob) -> int:
    """Tokens of the longest single sequence the budget holds, up to what the model was made for; 0 where nothing fits."""
    ceiling = job.architecture.context_tokens or 1_048_576
    if budget(job, context_tokens=1).max_concurrency < 1:
        return 0
    low, high = 1, ceiling
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if budget(job, context_tokens=middle).fits else (low, middle - 1)
    return low
