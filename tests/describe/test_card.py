"""Known answers: the demo model, and small headers whose figures are worked out by hand in the comments."""

import time
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.model import KvLayers, ModelCard, ModelHeader, Snapshot, SnapshotFile, TensorInfo
from trimtab.describe.card import card_rows, layer_rows, model_card
from trimtab.sources.open import open_source, read_header
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_safetensors

SNAPSHOT = Snapshot(source="x", format="gguf", root=Path("/m"), files=(SnapshotFile(name="x.gguf", size_bytes=1000, sha256="ab" * 32),))


def tensors(**shapes: tuple[int, ...]) -> tuple[TensorInfo, ...]:
    """F16 tensors; `__` stands for a dot."""
    found = []
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        found.append(TensorInfo(name=name.replace("__", "."), shape=shape, type_name="F16", size_bytes=size))
    return tuple(found)


def card_of(header: ModelHeader) -> ModelCard:
    return model_card(header, SNAPSHOT)


@pytest.mark.model
def test_demo_model_known_answers(demo_model: Path, tmp_path: Path) -> None:
    snapshot = open_source(str(demo_model), cache_dir=tmp_path)
    started = time.process_time()
    header = read_header(snapshot)
    card = model_card(header, snapshot)
    assert time.process_time() - started < 0.25
    assert (card.n_layers, card.hidden_size, card.context_tokens, card.vocab_size) == (30, 576, 8192, 49152)
    assert card.licence == "apache-2.0"
    # 49152*576 + 30 * (2*576*576 + 2*576*192 + 3*576*1536 + 2*576) + 576
    assert card.n_params == card.active_params == 134_515_008
    assert card.n_params_by_part == {
        "embedding": 28_311_552,
        "attention": 30 * (2 * 576 * 576 + 2 * 576 * 192),
        "mlp": 30 * 3 * 576 * 1536,
        "experts": 0,
        "norm": 61 * 576,
        "output": 0,
        "other": 0,
    }
    assert {name: sum(t.type_name == name for t in header.tensors) for name in card.bytes_by_type} == {"Q4_1": 210, "Q8_0": 1, "F32": 61}
    assert card.kv_layers == (KvLayers(kind="full", n_layers=30, values_per_token=2 * 3 * 64),)
    assert card.kv_bytes_per_token == 2 * 30 * 3 * 64 * 2
    assert card.flops_per_token == 2 * (134_515_008 - 61 * 576)
    assert card.attn_flops_per_token_per_context_token == 30 * 9 * 2 * (64 + 64)
    assert card.decode_bytes_per_token == sum(t.size_bytes for t in header.tensors)  # the embedding is the output matrix too
    rows = layer_rows(header)
    assert [(row.name, row.n_layers) for row in rows] == [("embedding", 1), ("layers 0-29", 30), ("norm", 1)]
    assert (rows[0].kind, rows[1].kind) == ("look-up and output matrix", "full attention + mlp")
    assert rows[1].types == "Q4_1 x7, F32 x2"


def test_untied_embeddings_read_one_row() -> None:
    header = ModelHeader(
        format="gguf",
        architecture="llama",
        metadata={"llama.block_count": 1, "llama.attention.head_count": 1, "llama.embedding_length": 4},
        tensors=tensors(token_embd__weight=(10, 4), output__weight=(10, 4), output_norm__weight=(4,), blk__0__attn_k__weight=(4, 4)),
    )
    card = card_of(header)
    assert card.n_params == 40 + 40 + 4 + 16
    assert card.active_params == 4 + 40 + 4 + 16  # one row of the table
    assert card.decode_bytes_per_token == 2 * card.active_params
    assert card.flops_per_token == 2 * (40 + 16)  # look-up and norm are no matrix products


def test_position_tables_are_looked_up_and_never_an_output() -> None:
    config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 4, "n_head": 1, "vocab_size": 10}
    header = ModelHeader(
        format="safetensors",
        architecture="gpt2",
        metadata=config,
        tensors=tensors(wte__weight=(10, 4), wpe__weight=(100, 4), h__0__attn__c_attn__weight=(4, 12), h__0__ln_1__weight=(4,)),
    )
    card = card_of(header)
    assert card.flops_per_token == 2 * (40 + 48)
    assert card.active_params == 40 + 4 + 48 + 4
    assert card.hidden_size == 4


def test_experts_count_by_the_share_that_is_routed() -> None:
    metadata = {"qwen3moe.block_count": 1, "qwen3moe.attention.head_count": 1, "qwen3moe.embedding_length": 4}
    metadata |= {"qwen3moe.expert_count": 8, "qwen3moe.expert_used_count": 2}
    header = ModelHeader(
        format="gguf",
        architecture="qwen3moe",
        metadata=metadata,
        tensors=tensors(
            token_embd__weight=(10, 4),
            blk__0__attn_k__weight=(4, 4),
            blk__0__ffn_gate_inp__weight=(8, 4),
            blk__0__ffn_up_exps__weight=(8, 6, 4),
            blk__0__ffn_up_shexp__weight=(6, 4),
        ),
    )
    card = card_of(header)
    assert card.n_params == 40 + 16 + 32 + 192 + 24
    assert card.active_params == 40 + 16 + 32 + 192 // 4 + 24
    assert card.flops_per_token == 2 * card.active_params
    assert card.decode_bytes_per_token == 2 * card.active_params
    assert card.n_params_by_part["experts"] == 192 + 32
    assert card.n_params_by_part["mlp"] == 24
    assert layer_rows(header)[1].kind == "full attention + 2 of 8 experts"


def test_experts_of_a_hugging_face_checkpoint() -> None:
    shapes = {f"model__layers__0__mlp__experts__{number}__up_proj__weight": (6, 4) for number in range(8)}
    config = {"model_type": "mixtral", "num_hidden_layers": 1, "num_local_experts": 8, "num_experts_per_tok": 2, "hidden_size": 4}
    header = ModelHeader(
        format="safetensors",
        architecture="mixtral",
        metadata={**config, "num_attention_heads": 1},
        tensors=tensors(
            model__embed_tokens__weight=(10, 4),
            lm_head__weight=(10, 4),
            model__layers__0__mlp__gate__weight=(8, 4),
            model__layers__0__mlp__shared_expert__up_proj__weight=(6, 4),
            model__layers__0__self_attn__k_proj__weight=(4, 4),
            **shapes,
        ),
    )
    card = card_of(header)
    assert card.n_params == 40 + 40 + 32 + 24 + 16 + 192
    assert card.active_params == 4 + 40 + 32 + 24 + 16 + 48
    assert card.n_params_by_part["mlp"] == 24


@pytest.mark.parametrize("scheme", ["none", "awq", "gptq", "compressed-tensors", "fp8", "mxfp4", "bitsandbytes"])
def test_packed_checkpoints_have_the_parameters_of_the_original(tmp_path: Path, scheme: str) -> None:
    folder = write_tiny_safetensors(tmp_path / "m", quantization=scheme)
    snapshot = open_source(str(folder), cache_dir=tmp_path / "c")
    card = model_card(read_header(snapshot), snapshot)
    # 256*64 + 2 * (2*64*64 + 2*32*64 + 3*64*128 + 2*64) + 64
    assert card.n_params == 90_432
    assert card.quantization == scheme
    assert card.licence == "apache-2.0"
    assert card.kv_layers == (KvLayers(kind="full", n_layers=2, values_per_token=2 * 2 * 16),)
    if scheme != "none":
        matrices = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
        assert sum(card.bytes_by_type.values()) < 2 * 90_432 - matrices / 2


def test_openvino_without_names_or_config() -> None:
    state = {f"past.{layer}.{part}": (-1, 3, -1, 64) for layer in range(2) for part in ("key", "value")}
    header = ModelHeader(
        format="openvino",
        architecture="unknown",
        metadata={"openvino_state": state},
        tensors=(
            TensorInfo(name="Constant_5", shape=(100, 2, 32), type_name="U8", size_bytes=6400),
            TensorInfo(name="Constant_7", shape=(100, 2, 1), type_name="F16", size_bytes=400),
            TensorInfo(name="Constant_9", shape=(64, 2, 32), type_name="U4", size_bytes=2048),
        ),
    )
    card = card_of(header)
    assert card.kv_layers == (KvLayers(kind="full", n_layers=2, values_per_token=2 * 3 * 64),)
    assert (card.n_params, card.vocab_size, card.hidden_size) == (6400 + 4096, 100, 64)
    assert any("no names" in note for note in card.notes)


def test_adapter_and_projector_files_are_recognised() -> None:
    lora = ModelHeader(
        format="gguf", architecture="llama", metadata={"general.type": "adapter"}, tensors=tensors(blk__0__attn_q__weight__lora_a=(8, 4))
    )
    assert card_of(lora).adapters == ("x.gguf",)
    assert "adapter" in card_of(lora).notes[-1]
    clip = ModelHeader(
        format="gguf", architecture="clip", metadata={"general.type": "mmproj"}, tensors=tensors(v__blk__0__attn_q__weight=(8, 4))
    )
    assert card_of(clip).projector == "x.gguf"
    assert card_of(clip).active_params == 0


def test_unknown_architecture_is_read_generically_and_said() -> None:
    metadata: dict[str, Any] = {"newarch.block_count": 2, "newarch.attention.head_count": 4, "newarch.attention.head_count_kv": 1}
    header = ModelHeader(
        format="gguf",
        architecture="newarch",
        metadata={**metadata, "newarch.embedding_length": 32},
        tensors=tensors(token_embd__weight=(10, 32), blk__0__attn_k__weight=(8, 32), blk__1__attn_k__weight=(8, 32)),
    )
    card = card_of(header)
    assert card.kv_layers == (KvLayers(kind="full", n_layers=2, values_per_token=16),)
    assert any("not known" in note for note in card.notes)


def test_layers_for_several_tokens_at_once_are_not_counted() -> None:
    metadata = {
        "glm4moe.block_count": 2,
        "glm4moe.nextn_predict_layers": 1,
        "glm4moe.attention.head_count": 1,
        "glm4moe.embedding_length": 4,
    }
    header = ModelHeader(
        format="gguf",
        architecture="glm4moe",
        metadata=metadata,
        tensors=tensors(output__weight=(10, 4), blk__0__attn_k__weight=(4, 4), blk__1__attn_k__weight=(4, 4)),
    )
    card = card_of(header)
    assert card.n_layers == 1
    assert card.n_params == 72
    assert card.active_params == 56


def test_absurd_numbers_in_metadata_cost_nothing() -> None:
    for value in (1 << 40, 0, -5, "x", None, (1,) * 5, 1.5):
        metadata = {
            f"llama.{key}": value for key in ("block_count", "attention.head_count", "embedding_length", "expert_count", "context_length")
        }
        card = card_of(ModelHeader(format="gguf", architecture="llama", metadata=metadata, tensors=tensors(blk__0__attn_k__weight=(4, 4))))
        assert card.n_layers <= 5
        config = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "hidden_size", "sliding_window", "layer_types"), value)
        card_of(ModelHeader(format="safetensors", architecture="llama", metadata=config, tensors=tensors(model__layers__0__mlp__w=(4, 4))))


def test_names_from_the_file_are_fit_for_a_terminal() -> None:
    metadata = {"general.name": "\x1b]0;own\x07 good\u202e name\n", "general.license": "\x1b[31mmit", "llama.block_count": 1}
    card = card_of(ModelHeader(format="gguf", architecture="llama", metadata=metadata, tensors=tensors(blk__0__attn_k__weight=(4, 4))))
    assert card.name == "]0;own good name"
    assert card.licence == "[31mmit"


def test_further_templates_are_named() -> None:
    metadata = {"tokenizer.chat_template.tool_use": "x", "llama.block_count": 1}
    header = ModelHeader(format="gguf", architecture="llama", metadata=metadata, tensors=tensors(blk__0__attn_k__weight=(4, 4)))
    assert any("tool_use" in note for note in card_of(header).notes)


def test_rows_are_text_for_a_terminal(tmp_path: Path) -> None:
    snapshot = open_source(str(write_tiny_gguf(tmp_path / "t.gguf", architecture="gemma3")), cache_dir=tmp_path)
    rows = {row.label: row for row in card_rows(model_card(read_header(snapshot), snapshot))}
    assert rows["Cache, sliding"].value == "256 B a token"
    assert rows["Cache, sliding"].note == "2 layers at F16, at most 64 tokens"
    assert rows["Licence"].value == "apache-2.0"
    assert rows["Context"].value == "512 tokens"
