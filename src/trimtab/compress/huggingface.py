"""Recipes of family `huggingface`: a model as a Hugging Face directory, for training and for engines that open nothing else.

Parameter `dtype`: `float32`, `bfloat16` or `float16`. A GGUF file is expanded: in float32 each weight is exactly the number that the file
stands for. Its vocabulary and template become tokenizer.json and tokenizer_config.json; a tokenizer that would cut text otherwise than
llama.cpp does is refused. A directory of safetensors is left as it is, whatever its type, unless its weights are quantised: those are
unpacked (see compress/quantized_checkpoint.py). An OpenVINO directory is refused: its matrices could be read back, but norms and biases
have no names in it.
"""

import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from trimtab.compress.base import Progress, snapshot_of
from trimtab.compress.hf_config import config_of_gguf
from trimtab.compress.names import Names
from trimtab.compress.safetensors import ITEM_BYTES, write_tensors
from trimtab.compress.vocabulary import Vocabulary, to_tokenizer_json, vocabulary_of_gguf
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InfeasibleError, InputError, MissingError
from trimtab.core.files import write_atomic
from trimtab.core.model import Snapshot

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
FORM = "form 1"
"""Changes when the same source becomes other bytes."""
ROPE_FACTORS = "rope_freqs.weight"
NOT_WEIGHTS = (ROPE_FACTORS,)


def version(recipe: Recipe) -> str:
    """See RecipeBuilder."""
    try:
        return f"gguf {importlib.metadata.version('gguf')} tokenizers {importlib.metadata.version('tokenizers')}; {FORM}"
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingError(
            f"Recipe {recipe.name!r} needs a library that is not installed ({error}).", "pip install 'trimtab[transformers]'"
        ) from error


def product_bytes(recipe: Recipe, source: Snapshot) -> int:
    """See RecipeBuilder."""
    if source.format != "gguf":
        from trimtab.compress.quantized_checkpoint import packing_in, plain_bytes

        return plain_bytes(source, _type_name(recipe)) if packing_in(source) else 0
    n_params = sum(int(np.prod(tensor.shape)) for reader in _readers(source) for tensor in reader.tensors)
    return n_params * ITEM_BYTES[_type_name(recipe)] + 2**25


def build(
    recipe: Recipe, source: Snapshot, out_dir: Path, *, calibration: Sequence[str] = (), progress: Progress | None = None
) -> Snapshot:
    """See RecipeBuilder. Writes model.safetensors, config.json, generation_config.json, tokenizer.json and tokenizer_config.json."""
    type_name = _type_name(recipe)
    if source.format == "safetensors":
        from trimtab.compress.quantized_checkpoint import packing_in, write_plain

        if packing_in(source) is None:
            return source
        return snapshot_of(
            out_dir, write_plain(source, out_dir, type_name, progress=progress), like=source, recipe=recipe, fmt="safetensors"
        )
    if source.format != "gguf":
        raise InfeasibleError(
            f"{source.source} is an OpenVINO directory, which names its matrices only; convert the file it was made from."
        )
    readers = _readers(source)
    metadata = read_metadata(readers[0])
    tensors = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
    shapes = {name: tuple(int(length) for length in reversed(tensor.shape)) for name, tensor in tensors.items()}
    factors = tensors[ROPE_FACTORS].data if ROPE_FACTORS in tensors else None
    config = config_of_gguf(metadata, shapes, factors)
    vocabulary = vocabulary_of_gguf(metadata)
    names = Names(architecture=str(metadata["general.architecture"]), head_size=config["head_dim"])
    kept = {name: _hf_name(names, name, source) for name in tensors if name not in NOT_WEIGHTS}

    def values() -> Iterator[npt.NDArray[np.float32]]:
        for count, (name, hf_name) in enumerate(kept.items()):
            if progress:
                progress("expanding weights", count / len(kept))
            yield names.values_for_hf(hf_name, expanded(tensors[name]))

    write_tensors(out_dir / "model.safetensors", {hf_name: shapes[name] for name, hf_name in kept.items()}, type_name, values())
    others: dict[str, Any] = {
        "config.json": {"_name_or_path": metadata.get("general.name", "")}
        | config
        | {"torch_dtype": recipe.parameters["dtype"]}
        | _token_ids(vocabulary),
        "generation_config.json": _generation(vocabulary),
        "tokenizer.json": to_tokenizer_json(vocabulary),
        "tokenizer_config.json": _tokenizer_config(vocabulary, metadata, config),
    }
    for name, content in others.items():
        write_atomic(out_dir / name, json.dumps(content, indent=2, ensure_ascii=False))
    if metadata.get("general.license"):
        others["README.md"] = ""
        write_atomic(out_dir / "README.md", f"---\nlicense: {metadata['general.license']}\n---\n")
    from trimtab.compress.vocabulary_check import check_vocabulary

    check_vocabulary(source.path, out_dir, vocabulary)
    if progress:
        progress("expanding weights", 1.0)
    return snapshot_of(out_dir, ["model.safetensors", *others], like=source, recipe=recipe, fmt="safetensors")


def read_metadata(reader: Any) -> dict[str, Any]:
    """The key-values of a GGUF file, as Python values."""
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def expanded(tensor: Any) -> npt.NDArray[np.float32]:
    """The numbers that a tensor of a GGUF file stands for, rows first. Raises InfeasibleError for a type that gguf cannot expand."""
    shape = tuple(int(length) for length in reversed(tensor.shape))
    try:
        return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(shape)
    except NotImplementedError as error:
        raise InfeasibleError(f"{tensor.name} is stored as {tensor.tensor_type.name}, which cannot be expanded here.") from error


def _readers(source: Snapshot) -> list[Any]:
    """Of a GGUF file, or of the parts of a split one."""
    try:
        return [gguf.GGUFReader(source.root / file.name) for file in source.files if file.name.endswith(".gguf")]
    except (OSError, ValueError, IndexError) as error:
        raise InfeasibleError(f"{source.source} cannot be read as GGUF ({error}).") from error


def _type_name(recipe: Recipe) -> str:
    for key in recipe.parameters:
        if key != "dtype":
            raise InputError(f"Recipe {recipe.name!r} has an unknown parameter {key!r}; family huggingface knows dtype.")
    dtype = recipe.parameters.get("dtype")
    if dtype not in DTYPES:
        raise InputError(f"Recipe {recipe.name!r} asks for dtype {dtype!r}; the types are {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _hf_name(names: Names, name: str, source: Snapshot) -> str:
    try:
        return names.hf(name)
    except InputError as error:
        raise InfeasibleError(f"{source.source} cannot become a Hugging Face directory: {error}") from None


def _token_ids(vocabulary: Vocabulary) -> dict[str, Any]:
    special = vocabulary.special
    return {f"{key}_token_id": special.get(name) for name, key in (("bos", "bos"), ("eos", "eos"), ("padding", "pad"))}


def _generation(vocabulary: Vocabulary) -> dict[str, Any]:
    """generation_config.json: where an answer ends."""
    ends = list(dict.fromkeys(vocabulary.special[name] for name in ("eos", "eot") if name in vocabulary.special))
    ids = _token_ids(vocabulary) | {"eos_token_id": ends if len(ends) > 1 else ends[0] if ends else None}
    return {"_from_model_config": False, **{key: value for key, value in ids.items() if value is not None}}


def _tokenizer_config(vocabulary: Vocabulary, metadata: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    special = {
        f"{key}_token": vocabulary.tokens[vocabulary.special[name]]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"))
        if name in vocabulary.special
    }
    return {
        "tokenizer_class": "TokenizersBackend",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        **special,
        **({"chat_template": metadata["tokenizer.chat_template"]} if metadata.get("tokenizer.chat_template") else {}),
    }
