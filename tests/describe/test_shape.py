"""Shapes for plans: the demo model's own tensors, and public configurations against the catalog's shapes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader, Snapshot, SnapshotFile, TensorInfo
from trimtab.core.planning import Architecture
from trimtab.describe.card import model_card
from trimtab.describe.shape import architecture_of
from trimtab.plan import operators
from trimtab.plan.architectures import architecture
from trimtab.sources.open import open_source, read_header
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_safetensors

SNAPSHOT = Snapshot(source="x", format="safetensors", root=Path("/m/x"), files=(SnapshotFile(name="x", size_bytes=1, sha256="ab" * 32),))


def shape_of(header: ModelHeader) -> Architecture:
    return architecture_of(header, model_card(header, SNAPSHOT))


def of_config(**config: object) -> Architecture:
    return shape_of(ModelHeader(format="safetensors", architecture=str(config["model_type"]), metadata=config, tensors=()))


def dense(kind: str, width: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int, **more: object) -> dict[str, object]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    return {"model_type": kind, **sizes, "intermediate_size": inner, "vocab_size": vocab, **more}


LATENT = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "q_lora_rank": 1536}
DEEPSEEK = {
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
}
DELTA = {"linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4}
NANO = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"

CONFIGS: dict[str, dict[str, object]] = {
    "llama-3.1-8b": dense("llama", 4096, 32, 32, 8, 14336, 128256, tie_word_embeddings=False),
    "llama-3.2-3b": dense("llama", 3072, 28, 24, 8, 8192, 128256, head_dim=128),
    "qwen2.5-7b": dense(
        "qwen2", 3584, 28, 28, 4, 18944, 152064, tie_word_embeddings=False, sliding_window=131072, use_sliding_window=False
    ),
    "mistral-7b": dense("mistral", 4096, 32, 32, 8, 14336, 32000, tie_word_embeddings=False, sliding_window=4096),
    "gemma-2-9b": dense("gemma2", 3584, 42, 16, 8, 14336, 256000, head_dim=256, sliding_window=4096),
    "gemma-3-27b": {
        "model_type": "gemma3",
        "text_config": dense("gemma3_text", 5376, 62, 32, 16, 21504, 262208, head_dim=128, sliding_window=1024),
    },
    "falcon-7b": {"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "multi_query": True}
    | {"vocab_size": 65024},
    "gpt2-1.5b": {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024, "vocab_size": 50257},
    "mixtral-8x7b": dense("mixtral", 4096, 32, 32, 8, 14336, 32000, tie_word_embeddings=False, num_local_experts=8, num_experts_per_tok=2)
    | {"sliding_window": None},
    "qwen3-30b-a3b": dense("qwen3_moe", 2048, 48, 32, 4, 6144, 151936, head_dim=128, tie_word_embeddings=False)
    | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "gpt-oss-20b": dense("gpt_oss", 2880, 24, 64, 8, 2880, 201088, head_dim=64, tie_word_embeddings=False, sliding_window=128)
    | {"num_local_experts": 32, "num_experts_per_tok": 4, "layer_types": ["sliding_attention", "full_attention"] * 12},
    "deepseek-v3": dense("deepseek_v3", 7168, 61, 128, 128, 18432, 129280, tie_word_embeddings=False, num_nextn_predict_layers=1)
    | LATENT
    | DEEPSEEK,
    "glm-5": dense("glm_moe_dsa", 6144, 78, 64, 64, 12288, 154880, tie_word_embeddings=False, num_nextn_predict_layers=1)
    | {"kv_lora_rank": 512, "q_lora_rank": 2048, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256}
    | {"index_n_heads": 32, "index_head_dim": 128, "index_topk": 2048}
    | DEEPSEEK,
    "llama-4-maverick": {
        "model_type": "llama4",
        "text_config": dense("llama4_text", 5120, 48, 40, 8, 8192, 202048, head_dim=128, tie_word_embeddings=False)
        | {"intermediate_size_mlp": 16384, "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2}
        | {"attention_chunk_size": 8192},
        "tie_word_embeddings": False,
    },
    "qwen3.5-397b-a17b": {
        "model_type": "qwen3_5_moe",
        "text_config": dense("qwen3_5_moe_text", 4096, 60, 32, 2, 0, 248320, head_dim=256, attn_output_gate=True)
        | DELTA
        | {"linear_num_value_heads": 64, "full_attention_interval": 4, "num_experts": 512, "num_experts_per_tok": 10}
        | {"moe_intermediate_size": 1024, "shared_expert_intermediate_size": 1024, "mlp_only_layers": [], "mtp_num_hidden_layers": 1},
        "tie_word_embeddings": False,
    },
    "nemotron-3-nano": dense("nemotron_h", 2688, 52, 32, 2, 1856, 131072, head_dim=128, tie_word_embeddings=False)
    | {"hybrid_override_pattern": NANO, "ssm_state_size": 128, "conv_kernel": 4, "n_groups": 8, "mamba_num_heads": 64, "mamba_head_dim": 64}
    | {"n_routed_experts": 128, "num_experts_per_tok": 6, "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712},
    "mamba2-2.7b": {
        "model_type": "mamba2",
        "hidden_size": 2560,
        "num_hidden_layers": 64,
        "num_heads": 80,
        "head_dim": 64,
        "state_size": 128,
    }
    | {"conv_kernel": 4, "n_groups": 1, "vocab_size": 50288},
    "jamba-1.5-mini": dense("jamba", 4096, 32, 32, 8, 14336, 65536, tie_word_embeddings=False)
    | {"attn_layer_period": 8, "attn_layer_offset": 4, "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 16}
    | {"num_experts_per_tok": 2, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 256},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_alone_gives_the_catalogs_shape(name):
    found, known = of_config(**CONFIGS[name]), architecture(name)
    assert operators.params_by_part(found) == operators.params_by_part(known)
    assert operators.active_params(found) == operators.active_params(known)
    assert operators.attention_kinds(found) == operators.attention_kinds(known)
    lengths = np.array([1, 1000, 100_000])
    assert operators.kv_bytes(found, lengths) == pytest.approx(operators.kv_bytes(known, lengths))
    assert operators.attention_flops(found, 10, 20_000) == pytest.approx(operators.attention_flops(known, 10, 20_000))
    assert found.predict_layers == known.predict_layers


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cache_is_what_the_card_says(name):
    config = CONFIGS[name]
    header = ModelHeader(format="safetensors", architecture=str(config["model_type"]), metadata=config, tensors=())
    card = model_card(header, SNAPSHOT)
    for tokens in (1, 700, 9000):
        assert float(operators.kv_bytes(shape_of(header), tokens)) == pytest.approx(card.kv_bytes(tokens))


def tensor(name, *shape):
    return TensorInfo(name=name, shape=shape, type_name="F16", size_bytes=2 * int(np.prod(shape)))


def test_gguf_tensors_of_mixed_layers_are_counted_where_they_lie():
    keys = {"block_count": 3, "embedding_length": 64, "attention.head_count": 8, "attention.head_count_kv": 2, "expert_count": 4}
    keys |= {"expert_used_count": 2, "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.time_step_rank": 8}
    mixer = (tensor("blk.0.ssm_in.weight", 256, 64), tensor("blk.0.ssm_conv1d.weight", 128, 4), tensor("blk.0.ssm_out.weight", 64, 128))
    attention = (
        *(tensor(f"blk.1.attn_{part}.weight", rows, 64) for part, rows in (("q", 64), ("k", 16), ("v", 16))),
        tensor("blk.1.attn_output.weight", 64, 64),
        *(tensor(f"blk.1.ffn_{part}.weight", 96, 64) for part in ("gate", "up")),
        tensor("blk.1.ffn_down.weight", 64, 96),
    )
    experts = (
        tensor("blk.2.ffn_gate_inp.weight", 4, 64),
        *(tensor(f"blk.2.ffn_{part}_exps.weight", 4, 32, 64) for part in ("gate", "up")),
        tensor("blk.2.ffn_down_exps.weight", 4, 64, 32),
        *(tensor(f"blk.2.ffn_{part}_shexp.weight", 48, 64) for part in ("gate", "up")),
        tensor("blk.2.ffn_down_shexp.weight", 64, 48),
    )
    held = (tensor("token_embd.weight", 100, 64), *mixer, *attention, *experts)
    header = ModelHeader(format="gguf", architecture="jamba", metadata={f"jamba.{key}": value for key, value in keys.items()}, tensors=held)
    found = shape_of(header)
    assert operators.attention_kinds(found) == {"recurrent": 1, "full": 1}
    assert operators.n_params(found) == sum(item.n_params for item in held)
    parts = operators.params_by_part(found)
    assert parts["mlp"] == 3 * 96 * 64 + 3 * 48 * 64
    assert parts["experts"] == 4 * 3 * 32 * 64
    assert parts["attention"] == sum(item.n_params for item in mixer) + 2 * 64 * 64 + 2 * 16 * 64
    assert found.tied


@pytest.mark.parametrize(
    ("names", "gated", "d_ff"),
    [
        ({"ffn_up": (96, 64), "ffn_gate": (96, 64), "ffn_down": (64, 96)}, True, 96),
        ({"ffn_up": (192, 64), "ffn_down": (64, 96)}, True, 96),  # gate and up in one, as of Phi-3
        ({"ffn_up": (256, 64), "ffn_down": (64, 256)}, False, 256),
    ],
)
def test_a_gate_is_seen_by_what_the_matrices_hold(names, gated, d_ff):
    attention = [tensor(f"blk.0.attn_{part}.weight", 64, 64) for part in ("q", "k", "v", "output")]
    network = [tensor(f"blk.0.{name}.weight", *shape) for name, shape in names.items()]
    keys = {"llama.block_count": 1, "llama.embedding_length": 64, "llama.attention.head_count": 4}
    held = (tensor("token_embd.weight", 100, 64), *attention, *network)
    (block,) = shape_of(ModelHeader(format="gguf", architecture="llama", metadata=keys, tensors=held)).blocks
    assert (block.feedforward.gated, block.feedforward.d_ff) == (gated, d_ff)


def test_experts_without_a_gate_are_not_taken_for_gated_by_their_router():
    prefix = "backbone.layers.0.mixer."
    experts = [tensor(f"{prefix}experts.{k}.{name}.weight", *shape) for k in range(4) for name, shape in _TWO.items()]
    held = (
        tensor("backbone.embeddings.weight", 100, 64),
        tensor("lm_head.weight", 100, 64),
        tensor(f"{prefix}gate.weight", 4, 64),
        *experts,
    )
    config = dense("nemotron_h", 64, 1, 4, 2, 48, 100, hybrid_override_pattern="E", n_routed_experts=4, num_experts_per_tok=2)
    (block,) = shape_of(ModelHeader(format="safetensors", architecture="nemotron_h", metadata=config, tensors=held)).blocks
    assert block.attention is None
    assert (block.feedforward.gated, block.feedforward.d_ff, block.feedforward.n_experts) == (False, 48, 4)


_TWO = {"up_proj": (48, 64), "down_proj": (64, 48)}


@pytest.mark.parametrize("form", ["gguf", "none", "gptq", "mxfp4"])
def test_a_files_tensors_are_counted_exactly(tmp_path, form):
    path = write_tiny_gguf(tmp_path / "tiny.gguf") if form == "gguf" else write_tiny_safetensors(tmp_path / "tiny", quantization=form)
    snapshot = open_source(str(path), cache_dir=tmp_path / "cache")
    header = read_header(snapshot)
    found = architecture_of(header, model_card(header, snapshot))
    assert operators.n_params(found) == model_card(header, snapshot).n_params
    assert found.weight_bytes == sum(tensor.size_bytes for tensor in header.tensors)
    assert operators.shape_params(found) == pytest.approx(operators.n_params(found), rel=0.01)


@pytest.mark.model
def test_the_demo_model_is_smollm2(demo_model, tmp_path):
    snapshot = open_source(str(demo_model), cache_dir=tmp_path)
    header = read_header(snapshot)
    found, known = architecture_of(header, model_card(header, snapshot)), architecture("smollm2-135m")
    assert found.blocks == known.blocks
    assert operators.n_params(found) == 134_515_008
    assert found.tied
    assert found.weight_bytes == sum(tensor.size_bytes for tensor in header.tensors)
    assert operators.weight_bytes(found, "stored") == pytest.approx(operators.weight_bytes(known, "Q4_1"), rel=0.1)


def test_a_header_that_tells_too_little_is_refused():
    with pytest.raises(InputError, match="does not tell its layers, width and vocabulary"):
        of_config(model_type="llama")
    with pytest.raises(InputError, match="width of the feed-forward layers"):
        of_config(model_type="llama", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=100)
    with pytest.raises(InputError, match="attention heads"):
        of_config(model_type="llama", hidden_size=64, num_hidden_layers=2, intermediate_size=128, vocab_size=100)
    with pytest.raises(InputError, match="recurrent layers"):
        of_config(**dense("lfm2", 64, 2, 4, 4, 128, 100, conv_L_cache=3, layer_types=["conv", "full_attention"]))


KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size", "head_dim")
KEYS += (
    "kv_lora_rank",
    "qk_rope_head_dim",
    "v_head_dim",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "sliding_window",
)
KEYS += ("moe_latent_size", "first_k_dense_replace", "n_shared_experts", "full_attention_interval", "mamba_d_state", "mamba_num_heads")
KEYS += ("linear_num_value_heads", "linear_key_head_dim", "expert_layer_period", "index_head_dim", "index_topk", "state_size", "head_size")
VALUES = st.one_of(st.integers(-1, 12), st.sampled_from([64, 1000, 2**31, 2**45, True, None, "x", 1.5, [], [3, "y"]]))


@given(
    st.dictionaries(st.sampled_from(KEYS), VALUES),
    st.sampled_from(
        ["llama", "mistral", "mixtral", "deepseek_v3", "qwen3_next", "jamba", "mamba2", "nemotron_h", "gpt2", "lfm2", "rwkv6", "x"]
    ),
)
def test_nonsense_is_refused_in_a_sentence_or_gives_a_shape_that_counts(config, kind):
    base = dense(kind, 64, 4, 4, 2, 128, 100)
    try:
        found = of_config(**{**base, **config, "model_type": kind})
    except InputError:
        return
    assert found.n_layers > 0
    assert operators.shape_params(found) > 0
    assert float(operators.kv_bytes(found, 1000)) >= 0
    assert float(operators.attention_flops(found, 10, 1000)) >= 0
    assert operators.weight_bytes(found, "Q4_K_M") > 0
