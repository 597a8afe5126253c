"""What one device of a replica holds, reads, multiplies and sends: a model's sums, divided as the layout divides them.

Attention projections, dense layers, shared experts, embedding and head are split over `tp` and repeated on every rank of attention data
parallelism; routed experts are split over all `tp * attention_dp` devices, whole between ranks of `ep`; layers are split over `pp`.
Key-value heads that are fewer than `tp` are repeated; latents of MLA are repeated over `tp` always.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Attention, Device, ServeJob
from trimtab.plan import operators
from trimtab.plan.stored_types import STATE_BYTES, bytes_per_kv_value

NARROW = {"nvfp4": "fp4", "fp4": "fp4", "fp8": "fp8", "mxfp8": "fp8", "e4m3": "fp8"}
HALF = ("bf16", "fp16", "tf32", "fp32")


def multiplied_in(weights: str, device: Device) -> str:
    """The operand type that the device multiplies such weights in: native, else 16 bits that they are unpacked to; "" = none known."""
    name = weights.strip().lower()
    native = next((operand for prefix, operand in NARROW.items() if name.startswith(prefix)), "")
    if native and device.peak_flop_s.get(native):
        return native
    return next((half for half in HALF if device.peak_flop_s.get(half)), "")


def product_flop_s(weights: str, device: Device) -> float:
    """Peak rate of products with such weights, capped by what was measured; 0 = not known."""
    operand = multiplied_in(weights, device)
    peak, measured = device.peak_flop_s.get(operand, 0.0), device.matmul_flop_s.get(operand, 0.0)
    return min(peak, measured) if peak and measured else peak or measured


@dataclass(frozen=True, kw_only=True)
class Cache:
    """KV cache of one sequence on one device: bytes a token, (window, bytes a token) of layers that keep a window, bytes of states."""

    full: float = 0.0
    windows: tuple[tuple[int, float], ...] = ()
    state: float = 0.0

    def bytes_at(self, tokens: float) -> float:
        """Of one sequence of so many tokens."""
        return self.full * tokens + self.state + sum(size * min(tokens, window) for window, size in self.windows)


def _values_per_token(attention: Attention, tp: int) -> float:
    """Of one layer, on one of `tp` devices."""
    values = float(operators.kv_values_per_token(attention))
    if attention.kind == "mla" or not attention.n_kv_heads:
        return values
    return values * max(1.0, attention.n_kv_heads / tp) / attention.n_kv_heads


def cache_of(architecture: Architecture, *, tp: int = 1, pp: int = 1, kv: str = "") -> Cache:
    """What is kept of one sequence on one device. InputError for a cache type that is not known."""
    return _cache(architecture, tp=tp, pp=pp, kv=kv, sparse=False)


def read_of(architecture: Architecture, *, tp: int = 1, kv: str = "") -> Cache:
    """What one step reads of it, all layers: the picked tokens only where attention is sparse, and every key of the indexer."""
    return _cache(architecture, tp=tp, pp=1, kv=kv, sparse=True)


def _cache(architecture: Architecture, *, tp: int, pp: int, kv: str, sparse: bool) -> Cache:
    size, full, state = bytes_per_kv_value(kv), 0.0, 0.0
    windows: dict[int, float] = {}
    for block in architecture.blocks:
        attention = block.attention
        if attention is None:
            continue
        layers = block.n_layers / pp
        state += layers * attention.state_values * max(size, STATE_BYTES) / tp
        kept = layers * _values_per_token(attention, tp) * size
        seen = attention.window_tokens or (attention.index_tokens if sparse else 0)
        if not seen:
            full += kept
            continue
        keys = layers * attention.index_dim * size if attention.index_tokens else 0.0
        full += keys
        windows[seen] = windows.get(seen, 0.0) + kept - keys
    return Cache(full=full, windows=tuple(sorted(windows.items())), state=state)


@dataclass(frozen=True, kw_only=True)
class Loads:
    """Of one device. `*_bytes`: weights; `*_flops`: of one token; all layers together, pipeline apart.

    dense: projections, dense layers, shared experts, router; experts: routed ones, held, resp. of one token's share of the products
    untouched: share of experts that one token leaves alone; padding: experts of a layer by those a token passes
    read: KV bytes of one sequence that a step reads; pairs: (window or 0, FLOPs of one query-key pair) of prefill; absorbed: of decode
    hop_bytes: of one token's hidden state; reduces, exchanges: collectives a step, over tp and between ranks of attention data parallelism;
        experts spread over tp alone need none of their own, as every rank has all tokens
    expert_copies: devices that a token is sent to; mixer_layers: of latent or recurrent attention; index_layers: of sparse attention
    """

    dense_bytes: float
    table_bytes: float
    expert_bytes: float
    dense_flops: float
    expert_flops: float
    table_flops: float
    untouched: float
    padding: float
    read: Cache
    pairs: tuple[tuple[int, float], ...]
    absorbed: tuple[tuple[int, float], ...]
    state_flops: float
    hop_bytes: float
    expert_copies: float
    reduces: int
    exchanges: int
    n_layers: int
    moe_layers: int
    mixer_layers: int
    index_layers: int


def loads_of(job: ServeJob) -> Loads:
    """InputError for weights that are not known."""
    architecture, world = job.architecture, job.tp * job.attention_dp
    stored = operators.weight_bytes_by_part(architecture, job.weights)
    flops = dict.fromkeys(operators.PARTS, 0.0)
    for matmul in operators.matmuls(architecture):
        flops[matmul.part] += matmul.flops_per_token
    inside = ("attention", "mlp", "router", "norm")
    networks = [(block.feedforward, block.n_layers) for block in architecture.blocks if block.feedforward]
    experts = [(network, layers) for network, layers in networks if network.n_experts]
    used, of = max(((network.n_experts_used, network.n_experts) for network, _ in experts), default=(0, 1))
    blocks = [(block.attention, block.n_layers) for block in architecture.blocks if block.attention]
    return Loads(
        dense_bytes=sum(stored[part] for part in inside) / job.tp,
        table_bytes=(stored["output"] or stored["embedding"]) / job.tp,
        expert_bytes=stored["experts"] / world,
        dense_flops=sum(flops[part] for part in inside) / job.tp,
        expert_flops=flops["experts"] / world,
        table_flops=flops["output"] / job.tp,
        untouched=1.0 - used / of,
        padding=of / used if used else 0.0,
        read=read_of(architecture, tp=job.tp, kv=job.kv),
        pairs=tuple((a.window_tokens or a.index_tokens, layers * operators.pair_flops(a) / job.tp) for a, layers in blocks),
        absorbed=tuple(
            (a.window_tokens or a.index_tokens, layers * operators.pair_flops(a, absorbed=True) / job.tp) for a, layers in blocks
        ),
        state_flops=sum(layers * operators.FLOPS_PER_STATE_VALUE * a.state_values / job.tp for a, layers in blocks),
        hop_bytes=2.0 * architecture.d_model,
        expert_copies=float(min(used, max(job.ep, job.attention_dp))) if experts else 0.0,
        reduces=_n_layers(blocks) + _n_layers(networks) if job.tp > 1 else 0,
        exchanges=2 * _n_layers(experts) if job.attention_dp > 1 else 0,
        n_layers=architecture.n_layers,
        moe_layers=_n_layers(experts),
        mixer_layers=sum(layers for attention, layers in blocks if attention.kind in ("mla", "recurrent")),
        index_layers=sum(layers for attention, layers in blocks if attention.index_tokens),
    )


def _n_layers(pairs: Sequence[tuple[object, int]]) -> int:
    return sum(layers for _, layers in pairs)


def weight_bytes_per_device(job: ServeJob) -> float:
    """What the fullest device of the replica holds; of a pipeline's ends, the one with the larger table."""
    stored, world = operators.weight_bytes_by_part(job.architecture, job.weights), job.tp * job.attention_dp
    layers = (stored["attention"] + stored["mlp"] + stored["router"] + stored["norm"]) / job.tp + stored["experts"] / world
    both = (stored["embedding"], stored["output"])
    return layers / job.pp + (max(both) if job.pp > 1 else sum(both)) / job.tp


def check(job: ServeJob) -> None:
    """InputError where a degree is nonsense or does not divide what it should."""
    for name in ("tp", "pp", "ep", "attention_dp", "concurrency", "prompt_tokens", "output_tokens"):
        if getattr(job, name) < 1:
            raise InputError(f"`{name}` of a serving job is {getattr(job, name)}; it must be 1 or more.")
    if not 0 <= job.cached_prompt_tokens <= job.prompt_tokens:
        raise InputError(f"{job.cached_prompt_tokens} cached prompt tokens do not fit a prompt of {job.prompt_tokens}.")
    if job.draft_tokens < 0 or not 0 <= job.accept_rate <= 1:
        raise InputError(
            f"Speculative decoding with {job.draft_tokens} draft tokens taken at a rate of {job.accept_rate:g} makes no sense."
        )
    if job.pp > job.architecture.n_layers:
        raise InputError(f"{job.architecture.name} has {job.architecture.n_layers} layers, too few for a pipeline of {job.pp}.")
    if job.ep > 1 and not operators.is_moe(job.architecture):
        raise InputError(f"{job.architecture.name} has no experts to spread over ep={job.ep}; leave ep at 1.")
    if (job.tp * job.attention_dp) % job.ep:
        raise InputError(
            f"ep={job.ep} does not divide the {job.tp * job.attention_dp} devices of tp={job.tp} and attention_dp={job.attention_dp}."
        )
