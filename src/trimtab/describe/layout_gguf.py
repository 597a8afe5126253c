"""Layout from GGUF keys (names: gguf-py/gguf/constants.py; per-architecture rules: llama.cpp src/llama-model.cpp, llama-hparams.cpp)."""

from collections.abc import Mapping
from typing import Any, Literal

from trimtab.describe.layout import Layer, Layout, bounded_layers, pattern_is_sliding, per_layer, whole
from trimtab.describe.tensors import LayerTraits

# Every N-th layer is full where the file does not say which; N = 0 means all layers slide.
_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "cohere2moe": 4, "exaone4": 4, "exaone-moe": 4, "olmo2": 4}
_PATTERNS |= {"llama4": 4, "smallthinker": 4, "afmoe": 4, "plamo3": 8}
_FULL_FIRST = frozenset({"smallthinker"})
KNOWN = frozenset(
    {
        "llama",
        "llama4",
        "qwen2",
        "qwen2moe",
        "qwen3",
        "qwen3moe",
        "qwen3next",
        "qwen35",
        "qwen35moe",
        "qwen2vl",
        "qwen3vl",
        "gemma",
        "gemma2",
    }
    | {"gemma3", "gemma3n", "gpt-oss", "phi2", "phi3", "phimoe", "deepseek", "deepseek2", "mamba", "mamba2", "jamba", "falcon", "falcon-h1"}
    | {
        "granite",
        "granitemoe",
        "granitehybrid",
        "lfm2",
        "lfm2moe",
        "rwkv6",
        "rwkv7",
        "rwkv6qwen2",
        "arwkv7",
        "gpt2",
        "gptneox",
        "starcoder",
    }
    | {
        "starcoder2",
        "olmo",
        "olmo2",
        "olmoe",
        "command-r",
        "cohere2",
        "glm4",
        "glm4moe",
        "chatglm",
        "mistral3",
        "minicpm3",
        "smollm3",
        "exaone",
    }
    | {"exaone4", "nemotron", "nemotron_h", "stablelm", "internlm2", "mpt", "bloom", "dots1", "ernie4_5", "ernie4_5-moe", "hunyuan-moe"}
    | {"hunyuan-dense", "smallthinker", "kimi-linear", "plm", "seed_oss", "apertus", "bailingmoe", "bailingmoe2", "minimax-m2", "mistral4"}
)


class _Keys:
    """Keys of one architecture without its prefix."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self.metadata, self.prefix = metadata, architecture

    def raw(self, key: str) -> Any:
        return self.metadata.get(f"{self.prefix}.{key}")

    def number(self, key: str, default: int = 0) -> int:
        return whole(self.metadata, f"{self.prefix}.{key}", default=default)


def gguf_layout(metadata: Mapping[str, Any], architecture: str, traits: Mapping[int, LayerTraits]) -> Layout:
    """Layout of a GGUF model; `traits` (from the tensors) tells which layers attend and which are recurrent."""
    keys = _Keys(metadata, architecture)
    told = max(keys.number("block_count") - keys.number("nextn_predict_layers"), 0)
    n_layers, notes = bounded_layers(told, list(traits))
    hidden = keys.number("embedding_length")
    windows, more = _windows(keys, architecture, n_layers)
    notes += more
    attention, more = _attention(keys, n_layers, hidden, windows)
    notes += more
    state = _state_values(keys, architecture, hidden)
    recurrent_only = architecture.startswith(("rwkv", "arwkv")) or architecture in ("mamba", "mamba2")
    layers = []
    for index in range(n_layers):
        seen = traits.get(index, LayerTraits(attention=not recurrent_only, recurrent=recurrent_only))
        plain = attention[index] if seen.attention and not recurrent_only else Layer()
        layers.append(
            Layer(
                kind=plain.kind,
                values_per_token=plain.values_per_token,
                window_tokens=plain.window_tokens,
                attn_flops=plain.attn_flops,
                recurrent=seen.recurrent,
                state_values=state if seen.recurrent else 0,
            )
        )
    if architecture not in KNOWN:
        notes += (f"Architecture {architecture!r} is not known to trimtab; its layers are read from generic keys and tensor names.",)
    if any(layer.recurrent for layer in layers) and not state:
        notes += ("Recurrent layers were found, but not the size of their state.",)
    return Layout(
        layers=tuple(layers),
        hidden_size=hidden,
        context_tokens=keys.number("context_length"),
        vocab_size=_vocabulary(metadata, keys),
        n_experts=keys.number("expert_count"),
        n_experts_used=keys.number("expert_used_count"),
        notes=notes,
    )


def _vocabulary(metadata: Mapping[str, Any], keys: _Keys) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, tuple):
        return len(tokens)
    return whole(tokens, "length") if isinstance(tokens, dict) else keys.number("vocab_size")


def _windows(keys: _Keys, architecture: str, n_layers: int) -> tuple[list[int], tuple[str, ...]]:
    """(window of each layer, 0 = all, notes)."""
    window = keys.number("attention.sliding_window") or keys.number("attention.chunk_size")
    if architecture == "llama4":
        window = window or 8192
    pattern = keys.raw("attention.sliding_window_pattern")
    if not window:
        return [0] * n_layers, ()
    if pattern is None and architecture not in _PATTERNS:
        note = f"A sliding window of {window} tokens is named without a layer pattern; llama.cpp ignores it, so full attention is counted."
        return [0] * n_layers, (note,)
    chosen = pattern if isinstance(pattern, (int, tuple)) and not isinstance(pattern, bool) else _PATTERNS.get(architecture, 0)
    slides = pattern_is_sliding(chosen, n_layers, full_first=architecture in _FULL_FIRST)
    return [window if flag else 0 for flag in slides], ()


def _attention(keys: _Keys, n_layers: int, hidden: int, windows: list[int]) -> tuple[list[Layer], tuple[str, ...]]:
    """What each layer would keep if it attends. Layers that share an earlier layer's cache keep nothing of their own."""
    heads = per_layer(keys.raw("attention.head_count"), n_layers, 0)
    kv_heads = per_layer(keys.raw("attention.head_count_kv"), n_layers, -1)
    kv_heads = [count if count >= 0 else heads[index] for index, count in enumerate(kv_heads)]
    most = max(heads, default=0)
    key_length = keys.number("attention.key_length", hidden // most if most else 0)
    value_length = keys.number("attention.value_length", hidden // most if most else 0)
    sliding_key, sliding_value = (
        keys.number("attention.key_length_swa", key_length),
        keys.number("attention.value_length_swa", value_length),
    )
    own = n_layers - keys.number("attention.shared_kv_layers")
    rank, rope, index_keys = (
        keys.number("attention.kv_lora_rank"),
        keys.number("rope.dimension_count"),
        keys.number("attention.indexer.key_length"),
    )
    if rank and keys.number("attention.key_length_mla"):
        layers = [
            Layer(kind="mla", values_per_token=rank + rope + index_keys, attn_flops=2 * heads[index] * (2 * rank + rope))
            for index in range(n_layers)
        ]
        return layers, ("Latent attention: FLOPs over the context count the absorbed form that engines use for decoding.",)
    layers = []
    for index in range(n_layers):
        k, v = (sliding_key, sliding_value) if windows[index] else (key_length, value_length)
        values = kv_heads[index] * (k + v) if index < own else 0
        kind: Literal["full", "sliding"] = "sliding" if windows[index] else "full"
        layers.append(Layer(kind=kind, values_per_token=values, window_tokens=windows[index], attn_flops=2 * heads[index] * (k + v)))
    old = (
        "This file predates latent attention in GGUF: engines keep full keys and values for every head; convert it again to save memory.",
    )
    return layers, old if rank else ()


def _state_values(keys: _Keys, architecture: str, hidden: int) -> int:
    """Fixed state of one recurrent layer: convolution tail plus state (llama.cpp n_embd_r + n_embd_s)."""
    if architecture.startswith(("rwkv", "arwkv")) or keys.number("wkv.head_size"):
        return keys.number("token_shift_count", 2) * hidden + hidden * keys.number("wkv.head_size")
    if keys.number("shortconv.l_cache"):
        return hidden * max(keys.number("shortconv.l_cache") - 1, 0)
    tail, inner, size = max(keys.number("ssm.conv_kernel") - 1, 0), keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    head = keys.number("kda.head_dim")
    if head:
        heads = max(per_layer(keys.raw("attention.head_count"), 1, 0))
        return 3 * tail * heads * head + heads * head * head
    return tail * (inner + 2 * keys.number("ssm.group_count") * size) + inner * size
