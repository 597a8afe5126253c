"""Sizes that a plan needs, from GGUF keys or a config.json, for models whose tensors do not show them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader
from trimtab.core.planning import Feedforward
from trimtab.describe.layout import Layout, per_layer, text_part, whole

# Two matrices instead of three, and tables of positions, by transformers' model types.
_NOT_GATED = frozenset({"gpt2", "gpt_neox", "gptj", "gpt_neo", "opt", "bloom", "falcon", "mpt", "phi", "gpt_bigcode", "starcoder2"})
_NOT_GATED |= {"nemotron", "nemotron_h", "codegen", "gptneox", "phi2", "starcoder"}
_POSITIONS = {"gpt2": 0, "opt": 2, "gpt_bigcode": 0, "gpt_neo": 0}
_PURE_RECURRENT = ("mamba", "falcon_mamba", "codestral_mamba")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes as told; 0 where they are not.

    n_heads: a number, or one a layer; mla_head_dim: of queries and keys of latent attention, both parts
    state_heads, state_head_dim: of recurrent layers
    config: the text part of config.json; {} for GGUF
    """

    d_model: int = 0
    vocab_size: int = 0
    n_layers: int = 0
    n_heads: Any = 0
    n_kv_heads: Any = 0
    head_dim: int = 0
    mla_head_dim: int = 0
    value_dim: int = 0
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    index_heads: int = 0
    index_dim: int = 0
    index_tokens: int = 0
    latent_dim: int = 0
    state_heads: int = 0
    state_head_dim: int = 0
    gated: bool = False
    tied: bool = False
    position_rows: int = 0
    predict_layers: int = 0
    kind: str = ""
    config: Mapping[str, Any] | None = None

    def heads(self, index: int) -> int:
        return per_layer(self.n_heads, max(self.n_layers, index + 1), 0)[index]

    def gated_attention_params(self, index: int) -> int:
        """Parameters of projections with an output gate (Qwen3-Next, Qwen3.5), 0 = as the shape says."""
        config = self.config or {}
        if not (config.get("attn_output_gate") is True or self.kind.startswith(("qwen3_next", "qwen3_5"))):
            return 0
        kv_heads = per_layer(self.n_kv_heads, index + 1, 0)[index]
        return self.d_model * self.head_dim * (3 * self.heads(index) + 2 * kv_heads)


def gguf_sizes(header: ModelHeader) -> Sizes:
    """From GGUF keys; widths of networks come from the tensors."""
    name, keys = header.architecture, header.metadata

    def number(key: str) -> int:
        return whole(keys, f"{name}.{key}")

    return Sizes(
        n_heads=keys.get(f"{name}.attention.head_count", 0),
        head_dim=number("attention.key_length"),
        mla_head_dim=number("attention.key_length_mla"),
        value_dim=number("attention.value_length_mla") or number("attention.value_length"),
        q_rank=number("attention.q_lora_rank"),
        kv_rank=number("attention.kv_lora_rank"),
        rope_dim=number("rope.dimension_count"),
        index_heads=number("attention.indexer.head_count"),
        index_dim=number("attention.indexer.key_length"),
        index_tokens=number("attention.indexer.top_k"),
        latent_dim=number("moe_latent_size"),
        state_heads=number("ssm.time_step_rank"),
        state_head_dim=_divided(number("ssm.inner_size"), number("ssm.time_step_rank")),
        predict_layers=number("nextn_predict_layers"),
        kind=name,
    )


def config_sizes(metadata: Mapping[str, Any], architecture: str) -> Sizes:
    """From a config.json; the text part of a multimodal one counts."""
    config = text_part(metadata)
    kind = str(config.get("model_type") or architecture)
    hidden = whole(config, "hidden_size", "n_embd", "d_model")
    heads = whole(config, "num_attention_heads", "n_head", "n_heads")
    rope = whole(config, "qk_rope_head_dim")
    value_heads = whole(config, "linear_num_value_heads")
    mamba_heads = whole(config, "mamba_n_heads", "mamba_num_heads") or (whole(config, "num_heads") if "state_size" in config else 0)
    return Sizes(
        n_heads=heads,
        n_kv_heads=config.get("num_key_value_heads", heads),
        head_dim=whole(config, "head_dim", "attention_head_dim", "kv_channels", default=_divided(hidden, heads)),
        mla_head_dim=whole(config, "qk_nope_head_dim") + rope,
        value_dim=whole(config, "v_head_dim"),
        q_rank=whole(config, "q_lora_rank"),
        kv_rank=whole(config, "kv_lora_rank"),
        rope_dim=rope,
        index_heads=whole(config, "index_n_heads"),
        index_dim=whole(config, "index_head_dim"),
        index_tokens=whole(config, "index_topk"),
        latent_dim=whole(config, "moe_latent_size"),
        state_heads=value_heads or mamba_heads,
        state_head_dim=whole(config, "linear_value_head_dim", "mamba_d_head", "mamba_head_dim")
        or (whole(config, "head_dim") if mamba_heads else 0),
        gated=kind not in _NOT_GATED,
        tied=metadata.get("tie_word_embeddings", config.get("tie_word_embeddings", True)) is not False,
        position_rows=whole(config, "n_positions", "max_position_embeddings") + _POSITIONS[kind] if kind in _POSITIONS else 0,
        predict_layers=whole(config, "num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules"),
        kind=kind,
        config=config,
    )


def _divided(whole_size: int, parts: int) -> int:
    return whole_size // parts if parts else 0


def network_of_config(index: int, layout: Layout, sizes: Sizes) -> Feedforward | None:
    """What a layer's network is if only the config tells. Raises InputError where it does not."""
    config = sizes.config
    if config is None:
        raise InputError("The file lists no tensors of its layers, so the model's shape is not known.")
    if sizes.kind in _PURE_RECURRENT or sizes.kind == "mamba2":
        return None
    letter = _letter(config, index)
    if letter in ("M", "*"):
        return None
    routed = layout.n_experts > 0 and (letter == "E" or (not letter and _is_routed(config, index, layout)))
    if not routed:
        width = _dense_width(config, sizes)
        if not width:
            raise InputError("config.json does not tell the width of the feed-forward layers, so the model's shape is not known.")
        return Feedforward(d_ff=width, gated=sizes.gated)
    width = whole(config, "moe_intermediate_size", "expert_intermediate_size") or whole(config, "intermediate_size", "ffn_hidden_size")
    return Feedforward(
        d_ff=width,
        gated=sizes.gated,
        n_experts=layout.n_experts,
        n_experts_used=layout.n_experts_used or 1,
        d_shared=_shared_width(config, sizes, width),
        d_latent=sizes.latent_dim,
    )


def _letter(config: Mapping[str, Any], index: int) -> str:
    """M, E, - or * of a hybrid whose layers are mixer or network, never both; "" for other models."""
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and index < len(pattern):
        return pattern[index]
    kinds = config.get("layers_block_type")
    if config.get("model_type") == "nemotron_h" and isinstance(kinds, list) and index < len(kinds):
        return {"mamba": "M", "attention": "*", "moe": "E"}.get(str(kinds[index]), "-")
    return ""


def _is_routed(config: Mapping[str, Any], index: int, layout: Layout) -> bool:
    if index < whole(config, "first_k_dense_replace"):
        return False
    dense = config.get("mlp_only_layers")
    if isinstance(dense, list) and index in dense:
        return False
    listed = config.get("moe_layers")
    if isinstance(listed, list):
        return index in listed
    if "expert_layer_period" in config:
        return index % max(whole(config, "expert_layer_period"), 1) == whole(config, "expert_layer_offset")
    step = whole(config, "interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq", default=1)
    return (index + 1) % max(step, 1) == 0


def _dense_width(config: Mapping[str, Any], sizes: Sizes) -> int:
    told = whole(config, "intermediate_size_mlp") or whole(config, "intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", "d_ff")
    ratio = config.get("expansion_ratio")
    if not told and isinstance(ratio, (int, float)) and 0 < ratio < 1000:
        told = round(ratio * sizes.d_model)
    return told or (4 * sizes.d_model if sizes.kind in _NOT_GATED else 0)


def _shared_width(config: Mapping[str, Any], sizes: Sizes, expert_width: int) -> int:
    told = whole(config, "moe_shared_expert_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size")
    if told:
        return told
    if sizes.kind.startswith("llama4"):
        return expert_width
    return whole(config, "n_shared_experts", "num_shared_experts") * expert_width


def recurrent_params_of_config(sizes: Sizes) -> int:
    """Projections of one recurrent layer. Raises InputError for kinds whose sizes a config does not tell."""
    config, d_model = sizes.config or {}, sizes.d_model
    if "linear_num_value_heads" in config:  # gated delta net: query, key, value, gate, two rates a head, convolution, output
        keys = whole(config, "linear_num_key_heads") * whole(config, "linear_key_head_dim")
        values = whole(config, "linear_num_value_heads") * whole(config, "linear_value_head_dim")
        rates = 2 * whole(config, "linear_num_value_heads")
        return d_model * (2 * keys + 3 * values + rates) + whole(config, "linear_conv_kernel_dim") * (2 * keys + values)
    state, kernel = whole(config, "mamba_d_state", "ssm_state_size", "state_size"), whole(config, "mamba_d_conv", "conv_kernel")
    if sizes.state_heads and sizes.state_head_dim and state:  # Mamba-2
        inner = sizes.state_heads * sizes.state_head_dim
        groups = whole(config, "mamba_n_groups", "n_groups", default=1)
        return d_model * (2 * inner + 2 * groups * state + sizes.state_heads) + inner * d_model + kernel * (inner + 2 * groups * state)
    if state:  # Mamba
        inner = whole(config, "mamba_expand", "expand", default=2) * d_model
        rank = whole(config, "mamba_dt_rank", "time_step_rank", default=-(-d_model // 16))
        return d_model * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * (state + kernel) + inner * d_model
    raise InputError("config.json alone does not tell the size of the recurrent layers; give the weights' header, or a catalog name.")
