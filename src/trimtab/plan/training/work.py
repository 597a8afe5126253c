"""What a token costs one device in a layer: the matrix products with the side that tensor parallelism splits, and the values kept for
the backward pass. Scalars of the architecture alone; `time` and `memory` spread them over layouts."""

from dataclasses import dataclass, replace

from trimtab.core.planning import Architecture, Attention, Block, Feedforward
from trimtab.plan.operators import matmuls

# The side of a product that tensor parallelism splits: columns of what widens, rows of what narrows; others are whole on every rank
SPLITS = {
    **dict.fromkeys(
        ("attention q", "attention k", "attention v", "attention q up", "attention k up", "attention v up", "attention mixer"), "n"
    ),
    **dict.fromkeys(("mlp up", "shared experts up", "experts up"), "n"),
    **dict.fromkeys(("attention o", "mlp down", "shared experts down", "experts down"), "k"),
}


@dataclass(frozen=True, kw_only=True)
class Product:
    """tokens x k times k x n, `count` alike.

    split: the side that tp divides, `k` or `n`, or neither; expert: done by routed experts, `count` is of one
    """

    k: int
    n: int
    count: int = 1
    split: str = ""
    expert: bool = False


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a block, and how many such there are.

    dense_params, expert_params: of its matrices and norms; all experts together
    n_heads, head_dim, kv_dim, window_tokens: of its attention; 0 heads = it mixes tokens by a recurrence or not at all
    kept_full, kept_split: values kept a token, whole on every tp rank without sequence parallelism, and divided by tp; dropout masks
        apart; kept_expert: a token and expert
    some_full, some_split, some_expert: likewise under torchtitan's selective policy: the layer's input, every other product's output, and
        what attention gives
    light_full, light_split, light_expert: of the kept, what is computed again without products: outputs of norms and activations
    n_sums: results that tensor ranks sum, and inputs that sequence parallelism gathers: one of attention, one of the network
    """

    n_layers: int
    products: tuple[Product, ...]
    dense_params: int
    expert_params: int
    n_experts: int
    n_experts_used: int
    n_heads: int
    head_dim: int
    kv_dim: int
    window_tokens: int
    state_values: int
    kept_full: float
    kept_split: float
    kept_expert: float
    some_full: float
    some_split: float
    some_expert: float
    light_full: float
    light_split: float
    light_expert: float
    n_sums: int


def layers(a: Architecture) -> tuple[Layer, ...]:
    return tuple(_layer(a, block) for block in a.blocks)


def _layer(a: Architecture, block: Block) -> Layer:
    d, attention, feedforward = a.d_model, block.attention, block.feedforward
    products = _products(a, block)
    softmax = attention is not None and attention.kind != "recurrent"
    parts = (attention is not None) + (feedforward is not None)
    return Layer(
        n_layers=block.n_layers,
        products=products,
        dense_params=sum(p.k * p.n * p.count for p in products if not p.expert) + d * parts,
        expert_params=sum(p.k * p.n * p.count for p in products if p.expert) * (feedforward.n_experts if feedforward else 0),
        n_experts=feedforward.n_experts if feedforward else 0,
        n_experts_used=feedforward.n_experts_used if feedforward else 0,
        n_heads=attention.n_heads if attention and softmax else 0,
        head_dim=_score_dim(attention) if attention and softmax else 0,
        kv_dim=_kv_dim(attention) if attention and softmax else 0,
        window_tokens=(attention.window_tokens or attention.index_tokens) if attention else 0,
        state_values=attention.state_values if attention else 0,
        kept_full=2.0 * d * parts,
        kept_split=_kept(attention) + (_kept_network(feedforward, dense=True) if feedforward else 0.0),
        kept_expert=_kept_network(feedforward, dense=False) + 2 * (feedforward.d_latent or d)
        if feedforward and feedforward.n_experts
        else 0.0,
        some_full=float(d),
        some_split=_outputs(products, expert=False) / 2 + (_mixed(attention) if attention else 0),
        some_expert=_outputs(products, expert=True) / 2,
        light_full=float(d * parts),
        light_split=float((feedforward.d_shared if feedforward.n_experts else feedforward.d_ff) if feedforward else 0),
        light_expert=float(feedforward.d_ff if feedforward and feedforward.n_experts else 0),
        n_sums=parts,
    )


def _score_dim(x: Attention) -> int:
    """Mean of the query-key and the value dimension of a head, the two products of attention."""
    return (x.head_dim + (x.value_dim or x.head_dim)) // 2


def _kv_dim(x: Attention) -> int:
    return x.kv_rank + x.rope_dim if x.kind == "mla" else x.n_kv_heads * (x.head_dim + (x.value_dim or x.head_dim))


def _products(a: Architecture, block: Block) -> tuple[Product, ...]:
    alone = replace(a, blocks=(replace(block, n_layers=1),), n_params=0)
    used = block.feedforward.n_experts_used if block.feedforward else 1
    return tuple(
        Product(
            k=m.k,
            n=m.n,
            count=m.count // used if m.part == "experts" else m.count,
            split=SPLITS.get(m.name, ""),
            expert=m.part == "experts",
        )
        for m in matmuls(alone)
        if m.part != "output"
    )


def _kept(x: Attention | None) -> float:
    """Queries, keys, values and what goes into the output product."""
    if x is None:
        return 0.0
    value = x.value_dim or x.head_dim
    if x.kind == "recurrent":
        return 4.0 * x.n_heads * x.head_dim
    if x.kind == "mla":
        heads = x.n_heads * (2 * x.head_dim + 2 * value)
        return heads + x.q_rank + x.kv_rank + x.rope_dim
    return x.n_heads * (x.head_dim + value) + x.n_kv_heads * (x.head_dim + value)


def _kept_network(x: Feedforward, *, dense: bool) -> float:
    """Before and after the activation; gated: gate, up and their product."""
    width = (x.d_shared if x.n_experts else x.d_ff) if dense else x.d_ff
    return (3.0 if x.gated else 2.0) * width


def _outputs(products: tuple[Product, ...], *, expert: bool) -> float:
    return float(sum(p.n * p.count for p in products if p.expert == expert))


def _mixed(x: Attention) -> float:
    return float(x.n_heads * (x.value_dim or x.head_dim))
