"""Layout from a Hugging Face config.json (names: transformers' configuration files of each model type)."""

from collections.abc import Mapping
from typing import Any, Literal

from trimtab.describe.layout import Layer, Layout, bounded_layers, pattern_is_sliding, per_layer, text_part, whole
from trimtab.describe.tensors import LayerTraits

# Every N-th layer is full, where neither layer_types nor sliding_window_pattern says so; 0 = all layers slide.
_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gemma3n": 5, "gemma3n_text": 5, "gpt_oss": 2, "cohere2": 4, "exaone4": 4}
_PATTERNS |= {"llama4": 4, "llama4_text": 4}
_ALL_SLIDE = frozenset({"mistral", "mixtral", "phi3", "phimoe", "starcoder2", "olmo3"})
_RECURRENT_TYPES = frozenset({"mamba", "mamba2", "rwkv", "rwkv5", "rwkv6", "rwkv7", "falcon_mamba", "codestral_mamba"})
_RECURRENT_WORDS = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "rwkv", "hybrid"})
KNOWN = frozenset(
    {
        "llama",
        "llama4",
        "llama4_text",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "gemma",
    }
    | {"gemma2", "gemma3", "gemma3_text", "gemma3n", "mistral", "mistral3", "mixtral", "phi", "phi3", "phimoe", "gpt_oss", "deepseek_v2"}
    | {
        "deepseek_v3",
        "deepseek_v32",
        "kimi_k2",
        "jamba",
        "falcon",
        "falcon_h1",
        "granite",
        "granitemoe",
        "granitemoehybrid",
        "bamba",
        "lfm2",
    }
    | {"lfm2_moe", "gpt2", "gpt_neox", "gpt_bigcode", "starcoder2", "olmo", "olmo2", "olmo3", "olmoe", "cohere", "cohere2", "glm", "glm4"}
    | {"glm4_moe", "chatglm", "minicpm3", "smollm3", "exaone4", "nemotron", "nemotron_h", "stablelm", "internlm2", "mpt", "bloom", "opt"}
    | {"qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "glm_moe_dsa", "kimi_k25"}
    | {"recurrent_gemma", "zamba2", "seed_oss", "ernie4_5", "ernie4_5_moe", "hunyuan_v1_dense", "hunyuan_v1_moe", "minimax_m2", "apertus"}
    | _RECURRENT_TYPES
)


def hf_layout(metadata: Mapping[str, Any], architecture: str, traits: Mapping[int, LayerTraits]) -> Layout:
    """Layout of a Hugging Face model; the text part of a multimodal config is what counts."""
    config = text_part(metadata)
    kind = config.get("model_type") if isinstance(config.get("model_type"), str) else architecture
    n_layers, notes = bounded_layers(whole(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"), list(traits))
    hidden = whole(config, "hidden_size", "n_embd", "d_model")
    attention = _attention(config, str(kind), n_layers, hidden)
    state = _state_values(config, hidden)
    told = _told_kinds(config, n_layers)
    layers = []
    for index in range(n_layers):
        attends, recurrent = _which(index, str(kind), told, traits)
        plain = attention[index] if attends else Layer()
        layers.append(
            Layer(
                kind=plain.kind,
                values_per_token=plain.values_per_token,
                window_tokens=plain.window_tokens,
                attn_flops=plain.attn_flops,
                recurrent=recurrent,
                state_values=state if recurrent else 0,
            )
        )
    if architecture not in KNOWN and kind not in KNOWN:
        notes += (f"Architecture {architecture!r} is not known to trimtab; its layers are read from generic keys and tensor names.",)
    if any(layer.recurrent for layer in layers) and not state:
        notes += ("Recurrent layers were found, but not the size of their state.",)
    if any(layer.kind == "mla" for layer in layers):
        notes += ("Latent attention: FLOPs over the context count the absorbed form that engines use for decoding.",)
    return Layout(
        layers=tuple(layers),
        hidden_size=hidden,
        context_tokens=whole(config, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length"),
        vocab_size=whole(config, "vocab_size", "padded_vocab_size"),
        n_experts=whole(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
        n_experts_used=whole(config, "num_experts_per_tok", "experts_per_token", "moe_topk", "moe_top_k", "moe_k"),
        notes=notes,
    )


def _which(index: int, kind: str, told: list[str], traits: Mapping[int, LayerTraits]) -> tuple[bool, bool]:
    """(attends, recurrent) of one layer: what its tensors show, else what the config says."""
    if index in traits and (traits[index].attention or traits[index].recurrent):
        return traits[index].attention and kind not in _RECURRENT_TYPES, traits[index].recurrent
    if told:
        return told[index] not in (_RECURRENT_WORDS - {"hybrid"}) and told[index] != "mlp", told[index] in _RECURRENT_WORDS
    if kind == "falcon_h1":
        return True, True
    if index in traits and any(trait.attention or trait.recurrent for trait in traits.values()):
        return False, False
    return kind not in _RECURRENT_TYPES, kind in _RECURRENT_TYPES


def _told_kinds(config: Mapping[str, Any], n_layers: int) -> list[str]:
    """One word a layer, from the several ways configs say it; [] if they do not."""
    for key in ("layer_types", "layers_block_type", "block_types", "_block_types"):
        words = config.get(key)
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            return [words[index % len(words)] for index in range(n_layers)]
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and len(pattern) >= n_layers:
        return [{"M": "mamba", "*": "attention"}.get(letter, "mlp") for letter in pattern[:n_layers]]
    interval, period = whole(config, "full_attention_interval"), whole(config, "attn_layer_period")
    if interval:
        return ["full_attention" if (index + 1) % interval == 0 else "linear_attention" for index in range(n_layers)]
    if period:
        offset = whole(config, "attn_layer_offset")
        return ["attention" if index % period == offset else "mamba" for index in range(n_layers)]
    for key, other in (("full_attn_idxs", "conv"), ("attn_layer_indices", "mamba")):
        indices = config.get(key)
        if isinstance(indices, list):
            return ["attention" if index in indices else other for index in range(n_layers)]
    return []


def _windows(config: Mapping[str, Any], kind: str, n_layers: int) -> list[int]:
    """Window of each layer, 0 = all."""
    window = whole(config, "sliding_window", "attention_window_size", "attention_chunk_size")
    words = config.get("layer_types")
    if isinstance(words, list) and any("sliding" in str(word) or "chunked" in str(word) for word in words):
        slides = [str(words[index % len(words)]).startswith(("sliding", "chunked")) for index in range(n_layers)]
    elif kind == "recurrent_gemma":
        slides = [True] * n_layers
    elif config.get("use_sliding_window") is True:  # Qwen: the first max_window_layers are full
        slides = [index >= whole(config, "max_window_layers") for index in range(n_layers)]
    elif kind in _PATTERNS or "sliding_window_pattern" in config:
        slides = pattern_is_sliding(config.get("sliding_window_pattern", _PATTERNS.get(kind, 0)), n_layers)
    else:
        slides = [kind in _ALL_SLIDE] * n_layers
    return [window if flag else 0 for flag in slides]


def _attention(config: Mapping[str, Any], kind: str, n_layers: int, hidden: int) -> list[Layer]:
    """What each layer would keep if it attends."""
    heads = whole(config, "num_attention_heads", "n_head", "n_heads")
    rank, rope = whole(config, "kv_lora_rank"), whole(config, "qk_rope_head_dim")
    if rank:
        values = rank + rope + whole(config, "index_head_dim")
        return [Layer(kind="mla", values_per_token=values, attn_flops=2 * heads * (2 * rank + rope))] * n_layers
    one_head = config.get("multi_query") is True and not config.get("new_decoder_architecture")
    default = 1 if one_head else heads
    given = config.get("num_key_value_heads", config.get("num_kv_heads", config.get("n_head_kv", config.get("multi_query_group_num"))))
    if one_head:
        given = 1
    kv_heads = per_layer(given, n_layers, default)
    length = whole(config, "head_dim", "attention_head_dim", "kv_channels", default=hidden // heads if heads else 0)
    value_length = whole(config, "v_head_dim", default=length)
    own = n_layers - whole(config, "num_kv_shared_layers")
    layers = []
    for index, window in enumerate(_windows(config, kind, n_layers)):
        form: Literal["full", "sliding"] = "sliding" if window else "full"
        values = kv_heads[index] * (length + value_length) if index < own else 0
        layers.append(Layer(kind=form, values_per_token=values, window_tokens=window, attn_flops=2 * heads * (length + value_length)))
    return layers


def _state_values(config: Mapping[str, Any], hidden: int) -> int:
    """Fixed state of one recurrent layer: convolution tail of (kernel - 1) steps plus state."""
    if "linear_num_value_heads" in config:  # gated delta net: state of key x value for each value head
        keys = whole(config, "linear_num_key_heads") * whole(config, "linear_key_head_dim")
        values = whole(config, "linear_num_value_heads") * whole(config, "linear_value_head_dim")
        tail = max(whole(config, "linear_conv_kernel_dim") - 1, 0)
        return tail * (2 * keys + values) + values * whole(config, "linear_key_head_dim")
    if "conv_L_cache" in config:
        return hidden * max(whole(config, "conv_L_cache") - 1, 0)
    if "lru_width" in config:
        return whole(config, "lru_width", default=hidden) * max(whole(config, "conv1d_width"), 1)
    if str(config.get("model_type", "")).startswith("rwkv"):
        return 2 * hidden + hidden * whole(config, "head_size", "head_dim")
    size = whole(config, "mamba_d_state", "ssm_state_size", "state_size")
    tail = max(whole(config, "mamba_d_conv", "conv_kernel") - 1, 0)
    heads = whole(config, "mamba_n_heads", "mamba_num_heads") or (whole(config, "num_heads") if "state_size" in config else 0)
    head = whole(config, "mamba_d_head", "mamba_head_dim") or whole(config, "head_dim")
    expanded = hidden * whole(config, "mamba_expand", "expand")
    inner = whole(config, "mamba_d_ssm") or heads * head or expanded
    if not heads and "state_size" in config:
        inner = whole(config, "intermediate_size") or expanded
    groups = whole(config, "mamba_n_groups", "n_groups", "mamba_ngroups") if heads else 0
    return tail * (inner + 2 * groups * size) + inner * size
