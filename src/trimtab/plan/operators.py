"""What a decoder is made of, counted: parameters, matrix products, FLOPs of attention, bytes of weights and of the cache.

Pure. Where tokens are asked for, an integer or an array of them is taken and the answer has the same shape. A multiply-add is 2 FLOPs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.planning import Architecture, Attention, Feedforward
from trimtab.plan.stored_types import STATE_BYTES, bits_by_part, bytes_per_kv_value

PARTS = ("embedding", "attention", "mlp", "experts", "router", "norm", "output")
# Scan of a state: decay, outer product, sum and read-out, as Megatron-LM counts it (training.py, mamba_layer_flops).
FLOPS_PER_STATE_VALUE = 7.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Matmul:
    """Equal matrices of k rows and n columns: a token is multiplied by `count` of them, `stored` of them are kept.

    part: of `PARTS`; the output matrix of tied embeddings is multiplied by but not stored again
    """

    name: str
    k: int
    n: int
    count: int
    stored: int
    part: str

    @property
    def n_params(self) -> int:
        return self.k * self.n * self.stored

    @property
    def flops_per_token(self) -> float:
        return 2.0 * self.k * self.n * self.count


def matmuls(architecture: Architecture) -> tuple[Matmul, ...]:
    """Every matrix product of a token's way through the model, the output matrix last. Look-ups are none."""
    found: list[Matmul] = []
    for block in architecture.blocks:
        if block.attention is not None:
            found += _attention_matmuls(block.attention, architecture.d_model, block.n_layers)
        if block.feedforward is not None:
            found += _feedforward_matmuls(block.feedforward, architecture.d_model, block.n_layers)
    stored = 0 if architecture.tied else 1
    found.append(Matmul(name="output", k=architecture.d_model, n=architecture.vocab_size, count=1, stored=stored, part="output"))
    return tuple(found)


def _attention_matmuls(attention: Attention, d_model: int, n_layers: int) -> list[Matmul]:
    if attention.kind == "mla":
        shapes = _mla_shapes(attention, d_model)
    elif attention.kind == "recurrent":
        shapes = []
    else:
        value_dim = attention.value_dim or attention.head_dim
        shapes = [
            ("q", d_model, attention.n_heads * attention.head_dim),
            ("k", d_model, attention.n_kv_heads * attention.head_dim),
            ("v", d_model, attention.n_kv_heads * value_dim),
            ("o", attention.n_heads * value_dim, d_model),
        ]
    counted = sum(k * n for _, k, n in shapes)
    if 0 < attention.n_params < counted:  # factors of low rank that the header does not tell
        shapes, counted = [], 0
    if attention.n_params > counted:  # gates, indexers, mixers of recurrent layers
        shapes.append(("mixer", d_model, round((attention.n_params - counted) / d_model)))
    return [
        Matmul(name=f"attention {name}", k=k, n=n, count=n_layers, stored=n_layers, part="attention") for name, k, n in shapes if k and n
    ]


def _mla_shapes(attention: Attention, d_model: int) -> list[tuple[str, int, int]]:
    """Latent attention: queries through a latent of `q_rank` (0 = straight), keys and values through one of `kv_rank`."""
    heads, rank, rope = attention.n_heads, attention.kv_rank, attention.rope_dim
    value_dim = attention.value_dim or attention.head_dim
    query = heads * attention.head_dim
    down = [("q down", d_model, attention.q_rank), ("q up", attention.q_rank, query)] if attention.q_rank else [("q", d_model, query)]
    index = attention.index_heads * attention.index_dim
    return [
        *down,
        ("index q", attention.q_rank or d_model, index),
        ("index k", d_model, attention.index_dim),
        ("index weights", d_model, attention.index_heads),
        ("kv down", d_model, rank + rope),
        ("k up", rank, heads * (attention.head_dim - rope)),
        ("v up", rank, heads * value_dim),
        ("o", heads * value_dim, d_model),
    ]


def _feedforward_matmuls(network: Feedforward, d_model: int, n_layers: int) -> list[Matmul]:
    ups = 2 if network.gated else 1

    def pair(name: str, width: int, d_ff: int, count: int, stored: int, part: str) -> list[Matmul]:
        return [
            Matmul(name=f"{name} up", k=width, n=d_ff, count=ups * count, stored=ups * stored, part=part),
            Matmul(name=f"{name} down", k=d_ff, n=width, count=count, stored=stored, part=part),
        ]

    if not network.n_experts:
        return pair("mlp", d_model, network.d_ff, n_layers, n_layers, "mlp") if network.d_ff else []
    inner = network.d_latent or d_model
    found = [Matmul(name="router", k=d_model, n=network.n_experts, count=n_layers, stored=n_layers, part="router")]
    found += pair("experts", inner, network.d_ff, n_layers * network.n_experts_used, n_layers * network.n_experts, "experts")
    if network.d_latent:
        found.append(Matmul(name="latent", k=d_model, n=network.d_latent, count=2 * n_layers, stored=2 * n_layers, part="mlp"))
    if network.d_shared:
        found += pair("shared experts", d_model, network.d_shared, n_layers, n_layers, "mlp")
    return found


def params_by_part(architecture: Architecture) -> dict[str, int]:
    """Parameters from the shape, by `PARTS`. Biases are left out: under 0.1 % where a model has them."""
    counts = dict.fromkeys(PARTS, 0)
    counts["embedding"] = (architecture.vocab_size + architecture.position_rows) * architecture.d_model
    for matmul in matmuls(architecture):
        counts[matmul.part] += matmul.n_params
    norms = sum(block.n_layers * ((block.attention is not None) + (block.feedforward is not None)) for block in architecture.blocks)
    counts["norm"] = (norms + 1) * architecture.d_model
    return counts


def shape_params(architecture: Architecture) -> int:
    """Parameters from the shape, whatever was published."""
    return sum(params_by_part(architecture).values())


def n_params(architecture: Architecture) -> int:
    """Parameters, as published or counted from tensors where that is known."""
    return architecture.n_params or shape_params(architecture)


def active_params(architecture: Architecture) -> int:
    """Parameters that a token passes. Routed experts it is not sent to and the embedding table do not count, the output matrix does."""
    used = sum(matmul.k * matmul.n * matmul.count for matmul in matmuls(architecture))
    return used + params_by_part(architecture)["norm"] + architecture.d_model


def matmul_flops(architecture: Architecture) -> float:
    """FLOPs of all matrix products of one token, forward, output matrix included, attention over the context not."""
    return sum(matmul.flops_per_token for matmul in matmuls(architecture))


def visible_pairs(q_tokens: ArrayLike, context_tokens: ArrayLike, window_tokens: int = 0, *, causal: bool = True) -> Floats:
    """Pairs of a query and a key that attention multiplies: the last q_tokens of a sequence of context_tokens (they among them).

    causal False: as if every query saw the whole context, or a whole window.
    """
    context: Floats = np.asarray(context_tokens, dtype=np.float64)
    query: Floats = np.minimum(np.asarray(q_tokens, dtype=np.float64), context)
    if not causal:
        seen: Floats = np.minimum(context, window_tokens) if window_tokens else context
        return np.multiply(query, seen)
    if not window_tokens:
        return np.multiply(query, 2.0 * context - query + 1.0) / 2.0
    first = context - query + 1.0  # tokens that the first query sees
    capped = np.minimum(context, window_tokens)
    rising = np.clip(capped - first + 1.0, 0.0, None)
    return np.multiply(rising, first + capped) / 2.0 + (query - rising) * window_tokens


def pair_flops(attention: Attention, *, absorbed: bool = False) -> float:
    """FLOPs of one layer for one query-key pair: the score and the weighted sum. 0 for recurrent layers.

    absorbed: latent attention multiplied on the latents themselves, as engines decode; else on the keys and values they expand to.
    """
    if attention.kind == "recurrent":
        return 0.0
    if attention.kind == "mla" and absorbed:
        return 2.0 * attention.n_heads * (2 * attention.kv_rank + attention.rope_dim)
    return 2.0 * attention.n_heads * (attention.head_dim + (attention.value_dim or attention.head_dim))


def attention_flops(
    architecture: Architecture, q_tokens: ArrayLike, context_tokens: ArrayLike, *, causal: bool = True, absorbed: bool = False
) -> Floats:
    """FLOPs of mixing tokens in all layers, forward, for the last q_tokens of one sequence of context_tokens, without projections."""
    query = np.asarray(q_tokens, dtype=float)
    total = np.zeros(np.broadcast_shapes(query.shape, np.shape(context_tokens)))
    for block in architecture.blocks:
        layer = block.attention
        if layer is None:
            continue
        if layer.kind == "recurrent":
            total = total + block.n_layers * FLOPS_PER_STATE_VALUE * layer.state_values * query
            continue
        pairs = visible_pairs(query, context_tokens, layer.window_tokens or layer.index_tokens, causal=causal)
        total = total + block.n_layers * pairs * pair_flops(layer, absorbed=absorbed)
        if layer.index_tokens:
            pairs = visible_pairs(query, context_tokens, causal=causal)
            total = total + block.n_layers * pairs * 2.0 * layer.index_heads * layer.index_dim
    return total


def kv_values_per_token(attention: Attention) -> int:
    """Numbers that one layer keeps for each token that it still sees; 0 for recurrent layers."""
    if attention.kind == "recurrent":
        return 0
    if attention.kind == "mla":
        return attention.kv_rank + attention.rope_dim + attention.index_dim
    return attention.n_kv_heads * (attention.head_dim + (attention.value_dim or attention.head_dim))


def kv_bytes_by_kind(architecture: Architecture, tokens: ArrayLike, kv_type: str = "bf16") -> dict[str, Floats]:
    """Cache bytes of one sequence of `tokens` tokens, by kind of layer. A window keeps at most its length; a recurrent state is fixed.

    A recurrent state is kept in 16 bits or more whatever the type of the cache. Raises InputError for an unknown type.
    """
    length = np.asarray(tokens, dtype=float)
    size = bytes_per_kv_value(kv_type)
    found: dict[str, Floats] = {}
    for block in architecture.blocks:
        layer = block.attention
        if layer is None:
            continue
        kept = np.minimum(length, layer.window_tokens) if layer.window_tokens else length
        held = block.n_layers * size * kv_values_per_token(layer) * kept
        if layer.state_values:
            held = held + block.n_layers * max(size, STATE_BYTES) * layer.state_values
        found[layer.kind] = found.get(layer.kind, np.zeros(length.shape)) + held
    return found


def kv_bytes(architecture: Architecture, tokens: ArrayLike, kv_type: str = "bf16") -> Floats:
    """Cache bytes of one sequence of `tokens` tokens in all layers. Raises InputError for an unknown type."""
    return sum(kv_bytes_by_kind(architecture, tokens, kv_type).values(), start=np.zeros(np.shape(tokens)))


def weight_bytes_by_part(architecture: Architecture, weight_type: str) -> dict[str, float]:
    """Bytes of the weights as usually stored in a type: `plan.stored_types` says which parts a scheme leaves wide.

    "" asks for the weights of the file that the architecture was read from. Raises InputError for an unknown type, or "" without a file.
    """
    counts = params_by_part(architecture)
    if not weight_type or weight_type == "stored":
        total = sum(counts.values())
        share = _stored_bytes(architecture) / total if total else 0.0
        return {part: count * share for part, count in counts.items()}
    bits = bits_by_part(weight_type, architecture)
    return {part: count * bits[part] / 8.0 for part, count in counts.items()}


def _stored_bytes(architecture: Architecture) -> float:
    return architecture.weight_bytes or 2.0 * n_params(architecture)


def weight_bytes(architecture: Architecture, weight_type: str) -> float:
    """Bytes of all weights stored in a type. See `weight_bytes_by_part`."""
    return sum(weight_bytes_by_part(architecture, weight_type).values())


def experts_touched(network: Feedforward, tokens: ArrayLike) -> Floats:
    """Expected number of a layer's routed experts that a batch of `tokens` tokens reads, if the router sends them evenly."""
    count = np.asarray(tokens, dtype=float)
    if not network.n_experts:
        return np.zeros(count.shape)
    share = min(network.n_experts_used / network.n_experts, 1.0)
    return network.n_experts * (1.0 - (1.0 - share) ** count)


def active_weight_bytes(architecture: Architecture, weight_type: str, tokens: ArrayLike = 1) -> Floats:
    """Weight bytes that a forward pass of `tokens` tokens reads: all but untouched experts and rows of the embedding not looked up."""
    count = np.asarray(tokens, dtype=float)
    by_part = weight_bytes_by_part(architecture, weight_type)
    table = by_part["embedding"]
    rows = max(architecture.vocab_size, 1)
    looked_up = table if architecture.tied else table * np.minimum(count / rows, 1.0)
    dense = sum(size for part, size in by_part.items() if part not in ("embedding", "experts"))
    return dense + looked_up + by_part["experts"] * _touched_share(architecture, count)


def _touched_share(architecture: Architecture, tokens: Floats) -> Floats:
    """Share of all routed experts' parameters that a batch reads; layers weigh by what they hold."""
    held, read = 0.0, np.zeros(tokens.shape)
    for block in architecture.blocks:
        network = block.feedforward
        if network is None or not network.n_experts:
            continue
        weight = float(block.n_layers * network.n_experts * network.d_ff * (network.d_latent or architecture.d_model))
        held += weight
        read = read + weight * experts_touched(network, tokens) / network.n_experts
    return read / held if held else read


def is_moe(architecture: Architecture) -> bool:
    return any(block.feedforward is not None and block.feedforward.n_experts for block in architecture.blocks)


def attention_kinds(architecture: Architecture) -> Mapping[str, int]:
    """Layers by kind of attention; layers without any are not counted."""
    counts: dict[str, int] = {}
    for block in architecture.blocks:
        if block.attention is not None:
            counts[block.attention.kind] = counts.get(block.attention.kind, 0) + block.n_layers
    return counts
