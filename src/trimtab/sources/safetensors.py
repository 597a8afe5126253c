"""Hugging Face directories: safetensors headers, config.json and what stands beside them (format: huggingface/safetensors).

Headers are untrusted: 8-byte length, bounded JSON without duplicate keys, known dtypes, offsets that tile the data exactly.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader, TensorInfo

MAX_HEADER_BYTES = 32 << 20
MAX_JSON_BYTES = 32 << 20
MAX_TENSORS = 262_144
MAX_TENSOR_VALUES = 1 << 45
MAX_DIMENSIONS = 8

DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "I8": 8, "U8": 8, "BOOL": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
INDEX = "model.safetensors.index.json"
# Small files that decide what a model says or how it is run, and so belong to its identity.
COMPANIONS = (
    "config.json", "generation_config.json", "adapter_config.json", "quantize_config.json", "hf_quant_config.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", INDEX,
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json", "vocab.txt",
)  # fmt: skip
_LICENCE = re.compile(r"^licen[sc]e:[ \t]*([^\r\n#]{1,80})", re.MULTILINE)


def _pairs_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found


def parse_json(raw: bytes, path: Path, what: str) -> dict[str, Any]:
    """A JSON object from untrusted bytes. Raises InputError for anything else, naming `path` and `what`."""
    try:
        value = json.loads(raw, object_pairs_hook=_pairs_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not usable: {what} is not valid JSON ({str(error)[:80]}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not usable: {what} is not a JSON object.")
    return value


def read_bounded(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """A file's bytes. Raises InputError if it cannot be read or is larger than max_bytes."""
    try:
        with path.open("rb") as file:
            # The size bounds the buffer: read(n) sets aside n bytes however short the file is.
            raw = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions.") from error
    if len(raw) > max_bytes:
        raise InputError(f"{path} is larger than {max_bytes >> 20} MiB, too large for what it should be.")
    return raw


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from an untrusted file. Raises InputError."""
    return parse_json(read_bounded(path), path, "the file")


def _tensor(path: Path, name: str, entry: Any) -> tuple[int, int, TensorInfo]:
    """(begin, end, tensor) of one header entry."""
    if not isinstance(entry, dict) or not name or len(name) > 1024 or not name.isprintable():
        raise InputError(f"{path} is not usable: its header entry {name[:80]!r} does not describe a tensor.")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise InputError(f"{path} is not usable: tensor {name!r} has the unknown dtype {str(dtype)[:40]!r}.")
    if not isinstance(shape, list) or not isinstance(offsets, list) or not _lengths(shape + offsets):
        raise InputError(f"{path} is not usable: tensor {name!r} has no proper shape and offsets.")
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        raise InputError(f"{path} is not usable: tensor {name!r} has no proper shape and offsets.")
    n_values = 1
    for length in shape:
        n_values *= length
    if n_values > MAX_TENSOR_VALUES:
        raise InputError(f"{path} is not usable: tensor {name!r} has an absurd shape.")
    n_bytes = -(-n_values * DTYPE_BITS[dtype] // 8)
    begin, end = offsets
    if end - begin != n_bytes:
        raise InputError(f"{path} is not usable: tensor {name!r} needs {n_bytes} bytes but its offsets span {end - begin}.")
    return begin, end, TensorInfo(name=name, shape=tuple(shape), type_name=dtype, size_bytes=n_bytes)


def _lengths(values: list[Any]) -> bool:
    return all(type(item) is int and 0 <= item < 1 << 62 for item in values)


def read_safetensors(path: Path) -> tuple[TensorInfo, ...]:
    """The tensor table of one .safetensors file, in file order. No weights are read. Raises InputError."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if size == 0:
                raise InputError(f"{path} is empty (0 bytes); fetch it again.")
            if len(first) < 8 or length < 2:
                raise InputError(f"{path} is not a safetensors file: it has no header.")
            if length > MAX_HEADER_BYTES:
                raise InputError(f"{path} is not usable: it claims a header of {length} bytes, more than {MAX_HEADER_BYTES >> 20} MiB.")
            if 8 + length > size:
                raise InputError(f"{path} is cut short: its header claims {length} bytes, the file has {size}; fetch it again.")
            raw = file.read(length)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions.") from error
    entries = parse_json(raw, path, "its header")
    entries.pop("__metadata__", None)
    if len(entries) > MAX_TENSORS:
        raise InputError(f"{path} is not usable: it claims {len(entries)} tensors.")
    tensors = sorted((_tensor(path, name, entry) for name, entry in entries.items()), key=lambda item: item[:2])
    place = 0
    for begin, end, tensor in tensors:
        if begin != place:
            raise InputError(f"{path} is not usable: tensor {tensor.name!r} overlaps another or leaves a gap before it.")
        place = end
    if 8 + length + place != size:
        told = "cut short" if 8 + length + place > size else "longer than its header says"
        raise InputError(f"{path} is {told}: {8 + length + place} bytes expected, {size} found; fetch it again.")
    return tuple(tensor for _, _, tensor in tensors)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The weight files of a Hugging Face directory: those its index names, or model.safetensors, or all *.safetensors.

    Raises InputError if the index names a file that is missing or outside the folder.
    """
    index = folder / INDEX
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise InputError(f"{index} has no usable weight_map.")
        shards = sorted(set(names.values()))
        for name in shards:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise InputError(f"{index} names the weight file {name[:80]!r}, which is not a .safetensors file of its own folder.")
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder} lacks {len(missing)} of its {len(shards)} weight files: {', '.join(missing[:3])}; fetch them too.")
        return tuple(folder / name for name in shards)
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    found = sorted(folder.glob("*.safetensors"))
    # Mistral's own repositories hold the same weights a second time under the first name; an adapter is no part of a whole model.
    return tuple(path for path in found if not path.name.startswith(("consolidated", "adapter_model"))) or tuple(found)


def snapshot_paths(folder: Path) -> tuple[Path, ...]:
    """Weight files, then the companions that are there."""
    return (*weight_files(folder), *(folder / name for name in COMPANIONS if (folder / name).is_file()))


def read_hf_header(folder: Path) -> ModelHeader:
    """Header of a Hugging Face directory. metadata is config.json with `tokenizer_config`, `generation_config`, `adapter_config`
    and `licence` added where present. Raises InputError.
    """
    shards = weight_files(folder)
    tensors = tuple(tensor for shard in shards for tensor in read_safetensors(shard))
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise InputError(f"{folder} holds a tensor twice in its weight files; keep one set of weights.")
    _check_index(folder, tensors)
    if not tensors:
        raise InputError(f"{folder} holds no tensors in its weight files.")
    metadata = read_config(folder)
    return ModelHeader(
        format="safetensors",
        architecture=architecture_of(metadata, folder),
        metadata=metadata,
        tensors=tensors,
        chat_template=chat_template_of(folder, metadata),
        quantization=quantization_of(metadata),
    )


def read_config_header(path: Path) -> ModelHeader:
    """Header of a config.json alone: no tensors. Raises InputError."""
    metadata = read_json(path)
    name = architecture_of(metadata, path.parent)
    return ModelHeader(format="safetensors", architecture=name, metadata=metadata, tensors=(), quantization=quantization_of(metadata))


def _check_index(folder: Path, tensors: tuple[TensorInfo, ...]) -> None:
    if (folder / INDEX).is_file():
        named = set(read_json(folder / INDEX)["weight_map"])
        missing = named - {tensor.name for tensor in tensors}
        if missing:
            raise InputError(
                f"{folder} lacks {len(missing)} tensors its index names, the first is {min(missing)!r}; fetch the weights again."
            )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json with its neighbours nested in it. Raises InputError if one of them is not valid."""
    metadata = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    for name in ("tokenizer_config", "generation_config", "adapter_config"):
        if (folder / f"{name}.json").is_file():
            metadata[name] = read_json(folder / f"{name}.json")
    if "quantization_config" not in metadata and (folder / "quantize_config.json").is_file():
        metadata["quantization_config"] = {"quant_method": "gptq", **read_json(folder / "quantize_config.json")}
    if "quantization_config" not in metadata and (folder / "hf_quant_config.json").is_file():
        metadata["quantization_config"] = {"quant_method": "modelopt", **read_json(folder / "hf_quant_config.json")}
    if (folder / "config_sentence_transformers.json").is_file() or (folder / "1_Pooling").is_dir():
        metadata["sentence_transformers"] = True
    readme = folder / "README.md"
    if "licence" not in metadata and readme.is_file() and readme.stat().st_size <= 4 << 20:
        front = read_bounded(readme).decode("utf-8", errors="replace")[:8192]
        match = _LICENCE.search(front.split("\n---", 1)[0]) if front.startswith("---") else None
        metadata["licence"] = match.group(1).strip().strip("'\"") if match else ""
    return metadata


def architecture_of(metadata: Mapping[str, Any], folder: Path) -> str:
    """`model_type`, or the class name in `architectures`, or `adapter` for a lone adapter. Raises InputError if there is none."""
    named = metadata.get("architectures")
    for value in (metadata.get("model_type"), named[0] if isinstance(named, list) and named else None):
        if isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable():
            return value
    if "adapter_config" in metadata:
        return "adapter"
    raise InputError(f"{folder} has no config.json that names the architecture (model_type); fetch config.json too.")


def quantization_of(metadata: Mapping[str, Any]) -> str:
    """The checkpoint's own scheme: `none`, `awq`, `gptq`, `compressed-tensors`, `fp8`, `mxfp4`, `bitsandbytes` or as it names itself."""
    config = metadata.get("quantization_config")
    if not isinstance(config, dict):
        inner = metadata.get("text_config")
        config = inner.get("quantization_config") if isinstance(inner, dict) else None
    if not isinstance(config, dict):
        return "none"
    if config.get("load_in_4bit") or config.get("load_in_8bit"):
        return "bitsandbytes"
    method = config.get("quant_method")
    return method.replace("_", "-") if isinstance(method, str) and method else "unknown"


def chat_template_of(folder: Path, metadata: Mapping[str, Any]) -> str:
    """The default chat template: chat_template.jinja, else chat_template.json, else tokenizer_config.json; empty if none."""
    if (folder / "chat_template.jinja").is_file():
        return read_bounded(folder / "chat_template.jinja", 4 << 20).decode("utf-8", errors="replace")
    held = read_json(folder / "chat_template.json") if (folder / "chat_template.json").is_file() else metadata.get("tokenizer_config", {})
    template = held.get("chat_template", "")
    if isinstance(template, list):  # several named ones
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default") or next(iter(named.values()), "")
    return template if isinstance(template, str) else ""
