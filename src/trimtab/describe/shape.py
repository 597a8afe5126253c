"""The shape that a plan speaks of, from a described model: exact where tensors are told, else from config.json or GGUF keys."""

import dataclasses
import re
from collections.abc import Sequence

from trimtab.core.errors import InputError
from trimtab.core.model import ModelCard, ModelHeader
from trimtab.core.planning import Architecture, Attention, Block, Feedforward
from trimtab.describe.card import layout_of
from trimtab.describe.layout import Layer, Layout
from trimtab.describe.shape_config import Sizes, config_sizes, gguf_sizes, network_of_config, recurrent_params_of_config
from trimtab.describe.tensors import Placed, is_side_table, place_tensors

# The matrix back to the model's width, by GGUF, Hugging Face and older names.
_DOWN = re.compile(r"ffn_down|down_proj|\bfc2\b|mlp\.c_proj|\bw2\b|4h_to_h|fc_out|output_linear")


def architecture_of(header: ModelHeader, card: ModelCard) -> Architecture:
    """The architecture of a described model. Parameters and stored bytes are the tensors' own where there are any.

    Towers (vision, audio) and layers beyond the model's own (further-token heads) are left out. Raises InputError where the header tells
    too little: no layers, or no heads in layers that attend.
    """
    layout = layout_of(header)
    placed = [item for item in place_tensors(header) if _counts(item, layout)]
    sizes = _sizes(header, layout, card)
    if not layout.layers or not sizes.d_model or not sizes.vocab_size:
        raise InputError(f"{card.name or 'The model'} does not tell its layers, width and vocabulary, so nothing can be planned for it.")
    inside = _by_layer(placed)
    layers = [_layer(index, layout, sizes, inside.get(index, ())) for index in range(len(layout.layers))]
    tables = [item for item in placed if item.part == "embedding" and item.n_params]
    return Architecture(
        name=card.name,
        d_model=sizes.d_model,
        vocab_size=sizes.vocab_size,
        blocks=_grouped(layers),
        tied=not any(item.part == "output" for item in placed) if tables else sizes.tied,
        position_rows=_position_rows(tables, sizes),
        predict_layers=sizes.predict_layers,
        context_tokens=card.context_tokens,
        n_params=sum(item.n_params for item in placed),
        weight_bytes=float(sum(item.tensor.size_bytes for item in placed)),
        source=card.name,
    )


def _counts(item: Placed, layout: Layout) -> bool:
    return not item.tower and (item.layer is None or item.layer < len(layout.layers))


def _sizes(header: ModelHeader, layout: Layout, card: ModelCard) -> Sizes:
    sizes = gguf_sizes(header) if header.format == "gguf" else config_sizes(header.metadata, header.architecture)
    return dataclasses.replace(
        sizes, d_model=card.hidden_size or layout.hidden_size, vocab_size=card.vocab_size or layout.vocab_size, n_layers=len(layout.layers)
    )


def _by_layer(placed: Sequence[Placed]) -> dict[int, list[Placed]]:
    found: dict[int, list[Placed]] = {}
    for item in placed:
        if item.layer is not None:
            found.setdefault(item.layer, []).append(item)
    return found


def _layer(index: int, layout: Layout, sizes: Sizes, tensors: Sequence[Placed]) -> tuple[Attention | None, Feedforward | None]:
    layer = layout.layers[index]
    network = _network_of_tensors(layout, sizes, tensors) if tensors else network_of_config(index, layout, sizes)
    if layer.kind is None and not layer.recurrent:
        return None, network
    mixed = ("attention", "other") if layer.recurrent else ("attention",)
    mixing = sum(item.n_params for item in tensors if item.part in mixed and item.is_matmul)
    return _attention(index, layer, sizes, mixing, bool(tensors)), network


def _attention(index: int, layer: Layer, sizes: Sizes, n_params: int, from_tensors: bool) -> Attention:
    heads = sizes.heads(index)
    if layer.kind is None:
        inner, width = sizes.state_heads or 1, sizes.state_head_dim or sizes.d_model
        told = n_params if from_tensors else recurrent_params_of_config(sizes)
        return Attention(
            kind="recurrent", n_heads=inner, n_kv_heads=inner, head_dim=width, state_values=max(layer.state_values, 1), n_params=told
        )
    if not heads:
        raise InputError("The header tells no number of attention heads, so the model's shape is not known; use a catalog name.")
    if layer.kind == "mla":
        return Attention(
            kind="mla",
            n_heads=heads,
            n_kv_heads=heads,
            head_dim=sizes.mla_head_dim,
            value_dim=sizes.value_dim,
            q_rank=sizes.q_rank,
            kv_rank=sizes.kv_rank,
            rope_dim=sizes.rope_dim,
            index_heads=sizes.index_heads,
            index_dim=sizes.index_dim,
            index_tokens=sizes.index_tokens if sizes.index_dim else 0,
            n_params=n_params,
        )
    head_dim, value_dim = _head_dims(layer, heads, sizes)
    kv_heads = layer.values_per_token // (head_dim + value_dim)
    plain = sizes.d_model * (heads + kv_heads) * (head_dim + value_dim)
    return Attention(
        kind=layer.kind,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=0 if value_dim == head_dim else value_dim,
        window_tokens=layer.window_tokens,
        state_values=layer.state_values,
        n_params=(0 if n_params == plain else n_params) if from_tensors else sizes.gated_attention_params(index),
    )


def _head_dims(layer: Layer, heads: int, sizes: Sizes) -> tuple[int, int]:
    """(of queries and keys, of values): their sum is in the layer's FLOPs a token of context."""
    both = layer.attn_flops // (2 * heads) or 2 * (sizes.d_model // heads)
    if both < 2:
        raise InputError(f"{heads} attention heads cannot share a width of {sizes.d_model}, so the model's shape is not known.")
    key = sizes.head_dim if 0 < sizes.head_dim < both else both // 2
    return key, both - key


def _network_of_tensors(layout: Layout, sizes: Sizes, tensors: Sequence[Placed]) -> Feedforward | None:
    """Widths from what the layer's tensors hold, so that parameters are theirs. Gated: all hold three times what the last one does."""
    dense = [item for item in tensors if item.part == "mlp" and item.is_matmul]
    routed = [item for item in tensors if item.routed and item.is_matmul]
    total, routed_total = sum(item.n_params for item in dense), sum(item.n_params for item in routed)
    if not total and not routed_total:
        return None
    down = sum(item.n_params for item in (routed or dense) if _DOWN.search(item.tensor.name))
    gated = (routed_total or total) > 2.5 * down if down else sizes.gated
    matrices = 3 if gated else 2
    if not routed_total:
        return Feedforward(d_ff=max(round(total / (matrices * sizes.d_model)), 1), gated=gated)
    latent, experts = sizes.latent_dim, layout.n_experts or 1
    return Feedforward(
        d_ff=max(round(routed_total / (experts * matrices * (latent or sizes.d_model))), 1),
        gated=gated,
        n_experts=experts,
        n_experts_used=layout.n_experts_used or 1,
        d_shared=max(round((total - 2 * sizes.d_model * latent) / (matrices * sizes.d_model)), 0),
        d_latent=latent,
    )


def _position_rows(tables: Sequence[Placed], sizes: Sizes) -> int:
    if not tables:
        return sizes.position_rows
    sides = [item for item in tables if (is_side_table(item.tensor.name) and "position" in item.tensor.name) or "wpe" in item.tensor.name]
    return sum(item.n_params // sizes.d_model for item in sides)


def _grouped(layers: Sequence[tuple[Attention | None, Feedforward | None]]) -> tuple[Block, ...]:
    """Equal layers together, in order of first appearance."""
    counts: dict[tuple[Attention | None, Feedforward | None], int] = {}
    for layer in layers:
        counts[layer] = counts.get(layer, 0) + 1
    return tuple(
        Block(n_layers=count, attention=attention, feedforward=network)
        for (attention, network), count in counts.items()
        if attention is not None or network is not None
    )
