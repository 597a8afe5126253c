"""A BERT of sentence-transformers as a GGUF file for llama.cpp, matrices in the type they are stored in and vectors in 32-bit floats.

Its pooling is written too, so that llama.cpp gives one vector a text. Where the tensors are not those of a plain BERT it is refused. The
WordPiece vocabulary is written as llama.cpp's own converter does; trimtab hands over token ids and does not depend on it.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from trimtab.compress.base import Progress
from trimtab.compress.safetensors import StoredTensor, read_tensors
from trimtab.core.embedding import read_form
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import sync_folder
from trimtab.core.model import Snapshot

WHOLE = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""What a plain BERT stores and sentence-transformers does not use."""


def is_bert(source: Snapshot) -> bool:
    """Whether a Hugging Face directory holds a BERT encoder. Raises InputError."""
    config = _json(source.root / "config.json")
    return config.get("model_type") == "bert" and "ForMaskedLM" not in str(config.get("architectures"))


def write_bert(source: Snapshot, target: Path, *, progress: Progress | None = None) -> None:
    """Write the model as one GGUF file. Raises InfeasibleError for another model than a plain BERT, InputError, OSError."""
    config = _json(source.root / "config.json")
    form = read_form(source.root)
    if config.get("hidden_act") != "gelu" or config.get("position_embedding_type", "absolute") != "absolute":
        raise InfeasibleError(f"{source.source} has other activations or positions than a plain BERT; it has no GGUF form here.")
    held = {name.removeprefix("bert."): tensor for name, tensor in read_tensors(source).items()}
    plan = {_named(name, source): tensor for name, tensor in held.items() if name not in UNUSED}
    partial = target.with_name(f".{target.name}.part")
    try:
        writer = gguf.GGUFWriter(partial, "bert")
        writer.add_type("model")
        writer.add_name(source.root.name)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_block_count(int(config["num_hidden_layers"]))
        writer.add_context_length(int(config["max_position_embeddings"]))
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_feed_forward_length(int(config["intermediate_size"]))
        writer.add_head_count(int(config["num_attention_heads"]))
        writer.add_layer_norm_eps(float(config["layer_norm_eps"]))
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN if form.pooling == "mean" else gguf.PoolingType.CLS)
        _add_vocabulary(writer, source, plan["token_embd.weight"].shape[0])
        _write(writer, plan, progress)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except KeyError as error:
        raise InfeasibleError(f"{source.source} lacks {error}, which a plain BERT has.") from error
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(target.parent)


def _named(name: str, source: Snapshot) -> str:
    stem, dot, part = name.rpartition(".")
    layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", stem)
    short = LAYER.get(layer[2]) if layer else WHOLE.get(stem)
    if short is None or part not in ("weight", "bias"):
        raise InfeasibleError(f"{source.source} holds {name}, which is no tensor of a plain BERT.")
    return f"blk.{layer[1]}.{short}{dot}{part}" if layer else f"{short}{dot}{part}"


def _add_vocabulary(writer: Any, source: Snapshot, rows: int) -> None:
    """WordPiece as llama.cpp keeps it: continuations without their ##, beginnings of words with a mark in front."""
    model = _json(source.root / "tokenizer.json").get("model")
    if not isinstance(model, dict) or model.get("type") != "WordPiece":
        raise InfeasibleError(f"{source.source} has a tokenizer of another kind than WordPiece.")
    by_id = {place: token for token, place in model["vocab"].items()}
    tokens = [by_id.get(place, f"[unused{place}]") for place in range(rows)]
    special = [token.startswith("[") and token.endswith("]") for token in tokens]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(
        [
            token if is_special else token[2:] if token.startswith("##") else f"\u2581{token}"
            for token, is_special in zip(tokens, special, strict=True)
        ]
    )
    writer.add_token_types([int(gguf.TokenType.CONTROL if one else gguf.TokenType.NORMAL) for one in special])
    writer.add_token_type_count(2)
    ids = model["vocab"]
    for name, add in (
        ("[CLS]", writer.add_bos_token_id),
        ("[SEP]", writer.add_sep_token_id),
        ("[PAD]", writer.add_pad_token_id),
        ("[UNK]", writer.add_unk_token_id),
        ("[MASK]", writer.add_mask_token_id),
    ):
        if name in ids:
            add(int(ids[name]))


def _write(writer: Any, plan: dict[str, StoredTensor], progress: Progress | None) -> None:
    kinds = {name: _kind(tensor) for name, tensor in plan.items()}
    largest = kinds[max(plan, key=lambda name: plan[name].size_bytes)]
    writer.add_file_type(int(gguf.LlamaFileType["ALL_F32" if largest.name == "F32" else f"MOSTLY_{largest.name}"]))
    for name, tensor in plan.items():
        size = int(np.prod(tensor.shape)) * (4 if kinds[name].name == "F32" else 2)
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), size, raw_dtype=kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for count, (name, tensor) in enumerate(plan.items()):
        if progress:
            progress("writing weights", count / len(plan))
        writer.write_tensor_data(gguf.quants.quantize(tensor.values(), kinds[name]))
    writer.close()


def _kind(tensor: StoredTensor) -> Any:
    wide = len(tensor.shape) == 1 or tensor.type_name not in ("F32", "F16", "BF16")
    return gguf.GGMLQuantizationType["F32" if wide else tensor.type_name]


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from error
    return found
