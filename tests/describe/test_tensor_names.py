"""Names of tensors in public checkpoints -> layer and part."""

import pytest

from trimtab.core.model import ModelHeader, TensorInfo
from trimtab.describe.tensors import LayerTraits, is_side_table, layer_traits, place_tensors

NAMES = {
    "embedding": "transformer.wte.weight transformer.wpe.weight model.embed_tokens.weight backbone.embeddings.weight "
    "gpt_neox.embed_in.weight transformer.word_embeddings.weight model.decoder.embed_positions.weight token_embd.weight "
    "position_embd.weight model.tok_embeddings.weight",
    "output": "lm_head.weight embed_out.weight output.weight head.weight transformer.output_layer.weight language_model.lm_head.weight",
    "norm": "model.norm.weight transformer.ln_f.weight output_norm.weight token_embd_norm.weight blk.0.attn_q_norm.weight "
    "blk.0.ffn_norm.weight model.layers.0.input_layernorm.weight model.layers.0.self_attn.q_norm.weight "
    "backbone.layers.0.norm.weight transformer.h.0.ln_1.weight",
    "attention": "blk.0.attn_q.weight blk.0.attn_qkv.weight blk.0.attn_kv_a_mqa.weight blk.0.attn_sinks.weight blk.0.indexer.proj.weight "
    "model.layers.0.self_attn.k_proj.weight transformer.h.0.attn.c_attn.weight "
    "gpt_neox.layers.0.attention.query_key_value.weight backbone.layers.0.mixer.q_proj.weight "
    "model.layers.0.temporal_block.k_proj.weight model.layers.0.attention.wqkv.weight",
    "mlp": "blk.0.ffn_gate.weight blk.0.ffn_up_shexp.weight blk.0.ffn_gate_inp_shexp.weight blk.0.channel_mix_key.weight "
    "model.layers.0.mlp.gate_up_proj.weight model.layers.0.mlp.shared_experts.down_proj.weight "
    "model.layers.0.feed_forward.w2.weight transformer.h.0.mlp.dense_h_to_4h.weight backbone.layers.0.mixer.up_proj.weight "
    "model.decoder.layers.0.fc1.weight",
    "experts": "blk.0.ffn_gate_exps.weight blk.0.ffn_gate_up_exps.weight blk.0.ffn_gate_inp.weight model.layers.0.mlp.gate.weight "
    "model.layers.0.mlp.experts.gate_up_proj_blocks model.layers.0.block_sparse_moe.experts.1.w1.weight "
    "model.layers.0.block_sparse_moe.input_linear.weight model.layers.0.mlp.router.weight",
    "other": "blk.0.ssm_in.weight blk.0.time_mix_key.weight blk.0.shortconv.conv.weight backbone.layers.0.mixer.in_proj.weight "
    "model.layers.0.linear_attn.in_proj_qkvz.weight rope_freqs.weight vision_tower.encoder.layers.0.self_attn.k_proj.weight",
}
ROUTED = {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_up_exps.weight", "model.layers.0.mlp.experts.gate_up_proj_blocks"}
ROUTED |= {"model.layers.0.block_sparse_moe.experts.1.w1.weight", "model.layers.0.block_sparse_moe.input_linear.weight"}


def header(*names: str) -> ModelHeader:
    tensors = tuple(TensorInfo(name=name, shape=(2, 2), type_name="F16", size_bytes=8) for name in names)
    return ModelHeader(format="gguf", architecture="x", metadata={}, tensors=tensors)


@pytest.mark.parametrize("part", NAMES)
def test_parts(part: str) -> None:
    for item in place_tensors(header(*NAMES[part].split())):
        assert item.part == part, item.tensor.name
        assert item.routed == (item.tensor.name in ROUTED), item.tensor.name
        inside = any(word in item.tensor.name for word in (".0.", "blk."))
        assert (item.layer == 0) == (inside and not item.tower), item.tensor.name


def test_encoders_are_towers() -> None:
    names = (
        "vision_tower.encoder.layers.0.self_attn.k_proj.weight",
        "model.visual.blocks.0.attn.qkv.weight",
        "v.blk.0.attn_q.weight",
        "mm.0.weight",
    )
    assert all(item.tower and item.layer is None for item in place_tensors(header(*names)))
    assert not any(
        item.tower for item in place_tensors(header("language_model.model.layers.3.self_attn.v_proj.weight", "blk.1.attn_v.weight"))
    )


def test_traits() -> None:
    names = [
        "blk.0.attn_k.weight",
        "blk.1.ssm_a",
        "blk.1.attn_qkv.weight",
        "blk.2.ssm_a",
        "blk.2.attn_output.weight",
        "blk.3.ffn_up.weight",
    ]
    assert layer_traits(place_tensors(header(*names))) == {
        0: LayerTraits(attention=True, recurrent=False),
        1: LayerTraits(attention=False, recurrent=True),
        2: LayerTraits(attention=True, recurrent=True),
        3: LayerTraits(attention=False, recurrent=False),
    }


def test_side_tables() -> None:
    assert is_side_table("position_embd.weight")
    assert is_side_table("model.embed_tokens_per_layer.weight")
    assert not is_side_table("token_embd.weight")
