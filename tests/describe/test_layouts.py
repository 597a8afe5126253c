"""What each kind of layer keeps, in GGUF keys and in config.json, worked out by hand from the models' public configurations."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from trimtab.core.model import KvLayers, ModelHeader, TensorInfo
from trimtab.describe.card import layout_of


def full(n: int, values: int) -> KvLayers:
    return KvLayers(kind="full", n_layers=n, values_per_token=values)


def sliding(n: int, values: int, window: int) -> KvLayers:
    return KvLayers(kind="sliding", n_layers=n, values_per_token=values, window_tokens=window)


def mla(n: int, values: int) -> KvLayers:
    return KvLayers(kind="mla", n_layers=n, values_per_token=values)


def recurrent(n: int, state: int) -> KvLayers:
    return KvLayers(kind="recurrent", n_layers=n, values_per_token=0, state_values=state)


def gguf(architecture: str, keys: Mapping[str, Any], names: Sequence[Sequence[str]] = ()) -> ModelHeader:
    """A header with `names[layer]` as the tensors of each layer, attention where not given."""
    n_layers = keys["block_count"]
    tensors = [
        TensorInfo(name=f"blk.{layer}.{name}", shape=(2, 2), type_name="F16", size_bytes=8)
        for layer in range(n_layers)
        for name in (names[layer] if names else ["attn_k.weight", "attn_output.weight"])
    ]
    metadata = {f"{architecture}.{key}": value for key, value in keys.items()}
    return ModelHeader(format="gguf", architecture=architecture, metadata=metadata, tensors=tuple(tensors))


def hf(config: Mapping[str, Any], names: Sequence[Sequence[str]] = ()) -> ModelHeader:
    tensors = [
        TensorInfo(name=f"model.layers.{layer}.{name}", shape=(2, 2), type_name="BF16", size_bytes=8)
        for layer, inside in enumerate(names)
        for name in inside
    ]
    return ModelHeader(format="safetensors", architecture=str(config["model_type"]), metadata=config, tensors=tuple(tensors))


ATTENTION, SSM = ["attn_q.weight", "attn_k.weight", "attn_output.weight"], ["ssm_in.weight", "ssm_conv1d.weight", "ssm_a", "ssm_out.weight"]
DELTA = ["attn_qkv.weight", "attn_gate.weight", "ssm_conv1d.weight", "ssm_a", "ssm_out.weight"]
HEADS = {"block_count": 4, "embedding_length": 64, "attention.head_count": 8}

GGUF_CASES: dict[str, tuple[ModelHeader, tuple[KvLayers, ...]]] = {
    "llama, grouped heads": (gguf("llama", {**HEADS, "attention.head_count_kv": 2}), (full(4, 2 * (8 + 8)),)),
    "gpt2, all heads": (gguf("gpt2", HEADS), (full(4, 8 * 16),)),
    "own head length": (
        gguf("qwen3", {**HEADS, "attention.head_count_kv": 2, "attention.key_length": 32, "attention.value_length": 16}),
        (full(4, 96),),
    ),
    "heads by layer": (gguf("openelm", {**HEADS, "attention.head_count_kv": (1, 2, 2, 4)}), (full(1, 16), full(2, 32), full(1, 64))),
    "gemma2": (gguf("gemma2", {**HEADS, "attention.sliding_window": 4096}), (sliding(2, 128, 4096), full(2, 128))),
    "gemma3": (gguf("gemma3", {**HEADS, "block_count": 26, "attention.sliding_window": 512}), (sliding(22, 128, 512), full(4, 128))),
    "gemma3, pattern told": (
        gguf("gemma3", {**HEADS, "attention.sliding_window": 512, "attention.sliding_window_pattern": 2}),
        (sliding(2, 128, 512), full(2, 128)),
    ),
    "pattern as flags": (
        gguf("gemma4", {**HEADS, "attention.sliding_window": 512, "attention.sliding_window_pattern": (True, True, False, True)}),
        (sliding(3, 128, 512), full(1, 128)),
    ),
    "gpt-oss alternates": (gguf("gpt-oss", {**HEADS, "attention.sliding_window": 128}), (sliding(2, 128, 128), full(2, 128))),
    "phi3, window unused": (gguf("phi3", {**HEADS, "attention.sliding_window": 2047}), (full(4, 128),)),
    "gemma3n shares caches": (
        gguf("gemma3n", {**HEADS, "block_count": 6, "attention.sliding_window": 512, "attention.shared_kv_layers": 3}),
        (sliding(3, 128, 512),),
    ),
    "deepseek2 latent": (
        gguf(
            "deepseek2",
            {**HEADS, "attention.kv_lora_rank": 512, "rope.dimension_count": 64, "attention.key_length_mla": 192},
            [["attn_kv_a_mqa.weight", "attn_output.weight"]] * 4,
        ),
        (mla(4, 576),),
    ),
    "deepseek2, old file": (
        gguf("deepseek2", {**HEADS, "attention.kv_lora_rank": 512, "attention.key_length": 192, "attention.value_length": 128}),
        (full(4, 8 * 320),),
    ),
    "mamba": (
        gguf(
            "mamba",
            {"block_count": 3, "embedding_length": 64, "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16},
            [SSM] * 3,
        ),
        (recurrent(3, 3 * 128 + 16 * 128),),
    ),
    "mamba2 with groups": (
        gguf(
            "mamba2",
            {
                "block_count": 3,
                "embedding_length": 64,
                "ssm.conv_kernel": 4,
                "ssm.inner_size": 128,
                "ssm.state_size": 16,
                "ssm.group_count": 2,
            },
            [SSM] * 3,
        ),
        (recurrent(3, 3 * (128 + 2 * 2 * 16) + 16 * 128),),
    ),
    "rwkv7": (
        gguf(
            "rwkv7",
            {"block_count": 3, "embedding_length": 64, "wkv.head_size": 16},
            [["time_mix_key.weight", "channel_mix_key.weight"]] * 3,
        ),
        (recurrent(3, 2 * 64 + 64 * 16),),
    ),
    "jamba mixes": (
        gguf(
            "jamba",
            {**HEADS, "attention.head_count_kv": (0, 2, 0, 0), "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16},
            [SSM, ATTENTION, SSM, SSM],
        ),
        (recurrent(3, 3 * 128 + 16 * 128), full(1, 32)),
    ),
    "falcon-h1 has both": (
        gguf(
            "falcon-h1",
            {**HEADS, "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.group_count": 1},
            [SSM + ATTENTION] * 4,
        ),
        (full(4, 128), recurrent(4, 3 * (128 + 32) + 16 * 128)),
    ),
    "lfm2": (
        gguf("lfm2", {**HEADS, "shortconv.l_cache": 3}, [["shortconv.conv.weight"], ATTENTION, ["shortconv.conv.weight"], ATTENTION]),
        (recurrent(2, 64 * 2), full(2, 128)),
    ),
    "qwen3next": (
        gguf(
            "qwen3next",
            {**HEADS, "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.group_count": 2},
            [DELTA, DELTA, DELTA, ATTENTION],
        ),
        (recurrent(3, 3 * (128 + 64) + 16 * 128), full(1, 128)),
    ),
    "nemotron_h has layers that keep nothing": (
        gguf(
            "nemotron_h",
            {**HEADS, "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16},
            [SSM, ["ffn_up.weight"], ATTENTION, SSM],
        ),
        (recurrent(2, 3 * 128 + 16 * 128), full(1, 128)),
    ),
}


@pytest.mark.parametrize("name", GGUF_CASES)
def test_gguf_layers(name: str) -> None:
    header, expected = GGUF_CASES[name]
    assert layout_of(header).kv_layers() == expected


SIZES = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2}
HF_ATTENTION = ["self_attn.k_proj.weight"]
HF_CASES: dict[str, tuple[ModelHeader, tuple[KvLayers, ...]]] = {
    "llama": (hf({**SIZES, "model_type": "llama"}), (full(4, 32),)),
    "gpt2": (hf({"model_type": "gpt2", "n_layer": 4, "n_embd": 64, "n_head": 8}), (full(4, 128),)),
    "falcon, one head": (
        hf({"model_type": "falcon", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 8, "multi_query": True}),
        (full(4, 16),),
    ),
    "chatglm": (
        hf(
            {
                "model_type": "chatglm",
                "num_layers": 4,
                "hidden_size": 64,
                "num_attention_heads": 8,
                "multi_query_attention": True,
                "multi_query_group_num": 2,
            }
        ),
        (full(4, 32),),
    ),
    "mistral, all slide": (hf({**SIZES, "model_type": "mistral", "sliding_window": 4096}), (sliding(4, 32, 4096),)),
    "mistral, no window": (hf({**SIZES, "model_type": "mistral", "sliding_window": None}), (full(4, 32),)),
    "qwen2, window off": (hf({**SIZES, "model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}), (full(4, 32),)),
    "qwen2, window on": (
        hf({**SIZES, "model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 3}),
        (full(3, 32), sliding(1, 32, 4096)),
    ),
    "gemma2": (hf({**SIZES, "model_type": "gemma2", "sliding_window": 4096, "head_dim": 32}), (sliding(2, 128, 4096), full(2, 128))),
    "gemma3 in a multimodal config": (
        hf({"model_type": "gemma3", "text_config": {**SIZES, "num_hidden_layers": 6, "model_type": "gemma3_text", "sliding_window": 512}}),
        (sliding(5, 32, 512), full(1, 32)),
    ),
    "gpt_oss": (
        hf({**SIZES, "model_type": "gpt_oss", "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 2}),
        (sliding(2, 32, 128), full(2, 32)),
    ),
    "deepseek_v3": (hf({**SIZES, "model_type": "deepseek_v3", "kv_lora_rank": 512, "qk_rope_head_dim": 64}), (mla(4, 576),)),
    "mamba": (
        hf(
            {"model_type": "mamba", "num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 128, "state_size": 16, "conv_kernel": 4}
        ),
        (recurrent(3, 3 * 128 + 16 * 128),),
    ),
    "mamba2": (
        hf(
            {
                "model_type": "mamba2",
                "num_hidden_layers": 3,
                "hidden_size": 64,
                "num_heads": 8,
                "head_dim": 16,
                "state_size": 16,
                "conv_kernel": 4,
                "n_groups": 2,
            }
        ),
        (recurrent(3, 3 * (128 + 64) + 16 * 128),),
    ),
    "jamba": (
        hf(
            {
                **SIZES,
                "model_type": "jamba",
                "attn_layer_period": 4,
                "attn_layer_offset": 1,
                "mamba_d_state": 16,
                "mamba_d_conv": 4,
                "mamba_expand": 2,
            }
        ),
        (recurrent(3, 3 * 128 + 16 * 128), full(1, 32)),
    ),
    "granitemoehybrid": (
        hf(
            {
                **SIZES,
                "model_type": "granitemoehybrid",
                "layer_types": ["mamba", "mamba", "attention", "mamba"],
                "mamba_d_state": 16,
                "mamba_d_conv": 4,
            }
            | {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1}
        ),
        (recurrent(3, 3 * (128 + 32) + 16 * 128), full(1, 32)),
    ),
    "falcon_h1": (
        hf(
            {
                **SIZES,
                "model_type": "falcon_h1",
                "mamba_d_state": 16,
                "mamba_d_conv": 4,
                "mamba_d_ssm": 128,
                "mamba_n_heads": 8,
                "mamba_n_groups": 1,
            }
        ),
        (full(4, 32), recurrent(4, 3 * (128 + 32) + 16 * 128)),
    ),
    "lfm2": (
        hf({**SIZES, "model_type": "lfm2", "conv_L_cache": 3, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}),
        (recurrent(2, 128), full(2, 32)),
    ),
    "qwen3_next": (
        hf(
            {**SIZES, "model_type": "qwen3_next", "full_attention_interval": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16}
            | {"linear_num_value_heads": 8, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4},
            [["linear_attn.conv1d.weight", "linear_attn.A_log"]] * 3 + [HF_ATTENTION],
        ),
        (recurrent(3, 3 * (2 * 32 + 128) + 128 * 16), full(1, 32)),
    ),
    "recurrent_gemma": (
        hf(
            {
                **SIZES,
                "model_type": "recurrent_gemma",
                "block_types": ["recurrent", "recurrent", "attention"],
                "attention_window_size": 2048,
            }
            | {"lru_width": 64, "conv1d_width": 4}
        ),
        (recurrent(3, 64 * 3 + 64), sliding(1, 32, 2048)),
    ),
    "nemotron_h": (
        hf(
            {**SIZES, "model_type": "nemotron_h", "hybrid_override_pattern": "M-*M", "ssm_state_size": 16, "conv_kernel": 4, "n_groups": 1}
            | {"mamba_num_heads": 8, "mamba_head_dim": 16}
        ),
        (recurrent(2, 3 * (128 + 32) + 16 * 128), full(1, 32)),
    ),
}


@pytest.mark.parametrize("name", HF_CASES)
def test_hugging_face_layers(name: str) -> None:
    header, expected = HF_CASES[name]
    assert layout_of(header).kv_layers() == expected


def test_sliding_layers_stop_growing() -> None:
    layers = sliding(2, 100, 512)
    assert layers.values_at(100) == 2 * 100 * 100
    assert layers.values_at(10_000) == 2 * 100 * 512


def test_attention_cost_of_latent_layers_counts_the_absorbed_form() -> None:
    header = GGUF_CASES["deepseek2 latent"][0]
    assert layout_of(header).layers[0].attn_flops == 2 * 8 * (512 + 64 + 512)
