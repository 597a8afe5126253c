"""Directories made for CTranslate2: the variables of model.bin, from its headers alone (format: ctranslate2/specs/model_spec.py).

Headers are untrusted: bounded counts and lengths, known types, sizes that fit shapes and the file.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trimtab.core.ctranslate2_files import TEXT_FOLDER
from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader, TensorInfo
from trimtab.sources.safetensors import architecture_of, chat_template_of, read_config

MODEL_BIN, VOCABULARY = "model.bin", "vocabulary.json"
TYPES = (("F32", 4), ("I8", 1), ("I16", 2), ("I32", 4), ("F16", 2), ("BF16", 2))
"""Name and bytes of a value, by the type's number."""
VERSIONS = (6,)
MOST_VARIABLES = 1 << 18
MOST_DIMENSIONS = 8


def is_ctranslate2(folder: Path) -> bool:
    return (folder / MODEL_BIN).is_file() and (folder / VOCABULARY).is_file()


def snapshot_paths(folder: Path) -> tuple[Path, ...]:
    """Weights, then all that a recipe put beside them."""
    others = [folder / "config.json", folder / VOCABULARY, *sorted((folder / TEXT_FOLDER).glob("*"))]
    return (folder / MODEL_BIN, *(path for path in others if path.is_file()))


def read_ctranslate2_header(folder: Path) -> ModelHeader:
    """metadata is config.json of the model that it was made from; tensors are named in dots, as in other formats. Raises InputError."""
    tensors = tuple(_matrices(folder / MODEL_BIN))
    if not tensors:
        raise InputError(f"{folder / MODEL_BIN} holds no weights; convert the model again.")
    text = folder / TEXT_FOLDER
    if not (text / "config.json").is_file():
        raise InputError(f"{folder} was not made by trimtab: it lacks {TEXT_FOLDER}/config.json; give the model that it was made from.")
    metadata = read_config(text)
    return ModelHeader(
        format="ctranslate2",
        architecture=architecture_of(metadata, text),
        metadata=metadata,
        tensors=tensors,
        chat_template=chat_template_of(text, metadata),
        quantization="int8" if any(tensor.type_name == "I8" for tensor in tensors) else "none",
    )


def _matrices(path: Path) -> Iterator[TensorInfo]:
    """Variables with a shape; the others are options of layers."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            (version,) = _numbers(file, path, "<I")
            if version not in VERSIONS:
                raise InputError(f"{path} is not a CTranslate2 model of binary version {VERSIONS[0]}; convert it again.")
            spec = _text(file, path)
            _revision, count = _numbers(file, path, "<II")
            if spec != "TransformerDecoderSpec" or count > MOST_VARIABLES:
                raise InputError(f"{path} holds no language model ({spec[:40]!r}, {count} variables).")
            for _ in range(count):
                tensor = _variable(file, path, size)
                if tensor.shape:
                    yield tensor
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path and its permissions.") from error


def _variable(file: BinaryIO, path: Path, size: int) -> TensorInfo:
    """The next variable; its values are passed over."""
    name = _text(file, path)
    (rank,) = _numbers(file, path, "<B")
    if rank > MOST_DIMENSIONS:
        raise InputError(f"{path} is not usable: variable {name[:80]!r} has {rank} dimensions.")
    shape = _numbers(file, path, f"<{rank}I")
    kind, n_bytes = _numbers(file, path, "<BI")
    if kind >= len(TYPES):
        raise InputError(f"{path} is not usable: variable {name[:80]!r} has the unknown type {kind}.")
    type_name, item_bytes = TYPES[kind]
    if n_bytes != math.prod(shape) * item_bytes or file.tell() + n_bytes > size:
        raise InputError(f"{path} is cut short or damaged at variable {name[:80]!r}; convert the model again.")
    file.seek(n_bytes, os.SEEK_CUR)
    return TensorInfo(name=_dotted(name), shape=shape, type_name=type_name, size_bytes=n_bytes)


def _dotted(name: str) -> str:
    """`decoder/layer_0/self_attention/linear_0/weight` as decoder.layers.0.self_attention.qkv.weight."""
    name = re.sub(r"layer_(\d+)/", r"layers.\1.", name).replace("/", ".")
    return name.replace("self_attention.linear_0", "self_attention.qkv").replace("decoder.projection.", "lm_head.")


def _text(file: BinaryIO, path: Path) -> str:
    (length,) = _numbers(file, path, "<H")
    return _bytes(file, path, length).rstrip(b"\0").decode("utf-8", errors="replace")


def _numbers(file: BinaryIO, path: Path, form: str) -> tuple[int, ...]:
    return struct.unpack(form, _bytes(file, path, struct.calcsize(form)))


def _bytes(file: BinaryIO, path: Path, count: int) -> bytes:
    found = file.read(count)
    if len(found) < count:
        raise InputError(f"{path} is cut short; convert the model again.")
    return found
