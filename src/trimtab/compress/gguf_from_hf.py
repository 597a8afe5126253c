"""A Hugging Face directory as a GGUF file, matrices in the type they are stored in and vectors in 32-bit floats: nothing is rounded.

For plain Llama, Mistral, Qwen2, Qwen3 and Gemma models. A Llama whose layers have widths of their own, as pruning leaves them, becomes
llama.cpp's architecture `deci`: its loader of `llama` reads the widths of the first layer only. What the form cannot say is refused, and
so is a tokenizer that llama.cpp would follow otherwise (see compress/vocabulary_check.py).
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from trimtab.compress.base import Progress
from trimtab.compress.hf_config import llama3_factors, metadata_of_config, rotary_of, with_defaults
from trimtab.compress.names import Names, names_of
from trimtab.compress.safetensors import StoredTensor, read_tensors
from trimtab.compress.vocabulary import add_to_gguf, vocabulary_of_folder
from trimtab.compress.vocabulary_check import check_vocabulary
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import sync_folder
from trimtab.core.model import Snapshot

BUFFERS = ("rotary_emb.inv_freq", "attn.masked_bias")
"""Ends of names of what some releases stored beside the weights, and nobody reads."""


def write_gguf_of(source: Snapshot, target: Path, *, progress: Progress | None = None) -> None:
    """Write the model in a Hugging Face directory as one GGUF file.

    Raises InfeasibleError for a model or tokenizer that has no GGUF form here, InputError for broken files, OSError.
    """
    config = read_config(source)
    tensors = {name: each for name, each in read_tensors(source).items() if not name.endswith(BUFFERS)}
    if "model.embed_tokens.weight" not in tensors:
        raise InfeasibleError(f"{source.source} has no model.embed_tokens.weight; only plain causal language models can be converted.")
    names = names_of(config)
    metadata = metadata_of_config(config, {name: each.shape for name, each in tensors.items()})
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    elif "lm_head.weight" not in tensors:
        raise InputError(f"{source.source} has no lm_head.weight, and its config.json does not tie the output to the embedding.")
    plan = {_gguf_name(names, name, source): (name, each) for name, each in tensors.items()}
    vocabulary = vocabulary_of_folder(source.root, tensors["model.embed_tokens.weight"].shape[0])
    partial = target.with_name(f".{target.name}.part")
    try:
        writer = gguf.GGUFWriter(partial, metadata["general.architecture"])
        _add_metadata(writer, metadata, config, source)
        add_to_gguf(writer, vocabulary)
        template = chat_template_of(source.root)
        if template:
            writer.add_chat_template(template)
        _write(writer, plan, names, config, progress)
        check_vocabulary(partial, source.root, vocabulary)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(target.parent)


def read_config(source: Snapshot) -> dict[str, Any]:
    """config.json of a directory, what it leaves out filled in.

    Raises InputError if it cannot be read, InfeasibleError for quantised weights.
    """
    try:
        config: dict[str, Any] = json.loads((source.root / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{source.source} has no readable config.json ({error}).") from error
    if config.get("quantization_config"):
        raise InfeasibleError(f"The weights of {source.source} are quantised; take the model they were made from.")
    missing = [key for key in ("hidden_size", "num_hidden_layers", "num_attention_heads") if key not in config]
    if config.get("model_type") and missing:
        raise InfeasibleError(
            f"config.json of {source.source} lacks {', '.join(missing)}; only plain causal language models can be converted."
        )
    return with_defaults(config)


def chat_template_of(folder: Path) -> str:
    """The template beside a tokenizer, from its own file or tokenizer_config.json; of several the one named default. Empty if none."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return ""
    held = json.loads(path.read_text(encoding="utf-8")).get("chat_template") or ""
    if isinstance(held, list):
        return next((str(each["template"]) for each in held if each.get("name") == "default"), "")
    return str(held)


def licence_of(folder: Path) -> str:
    """The licence that the front matter of README.md names, empty if none."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.search(r"^license:[ \t]*([^\s#]+)", text.split("\n---", 1)[0], re.MULTILINE) if text.startswith("---") else None
    return found[1] if found else ""


def _gguf_name(names: Names, name: str, source: Snapshot) -> str:
    try:
        return names.gguf(name)
    except InputError as error:
        raise InfeasibleError(f"{source.source} cannot become a GGUF file: {error}") from None


def _add_metadata(writer: Any, metadata: dict[str, Any], config: dict[str, Any], source: Snapshot) -> None:
    writer.add_type("model")
    writer.add_name(str(config.get("_name_or_path") or source.root.name))
    licence = licence_of(source.root)
    if licence:
        writer.add_license(licence)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
    for key, value in metadata.items():
        if key != "general.architecture":
            kinds[type(value)](key, value)


def _write(writer: Any, plan: dict[str, tuple[str, StoredTensor]], names: Names, config: dict[str, Any], progress: Progress | None) -> None:
    """The tensors, one after another, and what stands before them."""
    scaling = rotary_of(config)
    factors = llama3_factors(scaling, names.head_size) if scaling["rope_type"] == "llama3" else None
    kinds = {name: _kind(each) for name, (_, each) in plan.items()}
    largest = max(plan, key=lambda name: plan[name][1].size_bytes)
    writer.add_file_type(int(gguf.LlamaFileType["ALL_F32" if kinds[largest].name == "F32" else f"MOSTLY_{kinds[largest].name}"]))
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for name, (_, each) in plan.items():
        size = int(np.prod(each.shape)) * (4 if kinds[name].name == "F32" else 2)
        writer.add_tensor_info(name, each.shape, np.dtype(np.float32), size, raw_dtype=kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for count, (name, (hf_name, each)) in enumerate(plan.items()):
        if progress:
            progress("writing weights", count / len(plan))
        values = names.values_for_gguf(hf_name, each.values())
        writer.write_tensor_data(gguf.quants.quantize(values, kinds[name]))
    writer.close()


def _kind(tensor: StoredTensor) -> Any:
    """The type a tensor is stored in: its own for matrices, 32-bit floats for vectors, which llama.cpp wants so."""
    if len(tensor.shape) == 1 or tensor.type_name not in ("F32", "F16", "BF16"):
        return gguf.GGMLQuantizationType.F32
    return gguf.GGMLQuantizationType[tensor.type_name]
