"""OpenVINO directories: constants and state variables of openvino_model.xml, found without building an XML tree.

OpenVINO writes its XML with one fixed layout, so bounded patterns find every weight in milliseconds; files that declare entities
or a document type are refused.
"""

import html
import re
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader, TensorInfo
from trimtab.sources.safetensors import chat_template_of, quantization_of, read_bounded, read_config

MODEL_XML, MODEL_BIN = "openvino_model.xml", "openvino_model.bin"
COMPANIONS = (
    "openvino_tokenizer.xml", "openvino_tokenizer.bin", "openvino_detokenizer.xml", "openvino_detokenizer.bin", "openvino_config.json",
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
MAX_XML_BYTES = 64 << 20
TYPE_BITS = {
    "f64": 64, "i64": 64, "u64": 64, "f32": 32, "i32": 32, "u32": 32, "f16": 16, "bf16": 16, "i16": 16, "u16": 16, "i8": 8, "u8": 8,
    "boolean": 8, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8, "nf4": 4, "f4e2m1": 4, "i4": 4, "u4": 4, "u3": 3, "u2": 2, "u1": 1, "string": 0,
}  # fmt: skip
_CONST = re.compile(rb'<layer id="\d{1,9}" name="([^"<]{0,512})" type="Const"[^<>]{0,200}>\s{0,64}<data ([^<>]{0,2048})/>')
_STATE = re.compile(rb'<data variable_id="([^"<]{1,512})"[^<>]{0,200}variable_shape="([^"<>]{0,200})"')
_ATTRIBUTE = re.compile(rb'(\w{1,32})="([^"<>]{0,512})"')
_TEMPLATE = re.compile(rb'<(?:simplified_)?chat_template value="([^"<]{0,4000000})"')


def snapshot_paths(folder: Path) -> tuple[Path, ...]:
    """Weights, graph, then the companions that are there. Raises InputError if the .bin is missing."""
    if not (folder / MODEL_BIN).is_file():
        raise InputError(f"{folder} has {MODEL_XML} but not {MODEL_BIN}; fetch or export both.")
    return (folder / MODEL_BIN, folder / MODEL_XML, *(folder / name for name in COMPANIONS if (folder / name).is_file()))


def _constants(path: Path, xml: bytes, bin_bytes: int) -> tuple[TensorInfo, ...]:
    """Constants, each place in the .bin counted once."""
    found: dict[int, TensorInfo] = {}
    for match in _CONST.finditer(xml):
        name = html.unescape(match[1].decode("utf-8", errors="replace"))
        fields = {key.decode(): value.decode("utf-8", errors="replace") for key, value in _ATTRIBUTE.findall(match[2])}
        try:
            shape = tuple(int(part) for part in fields.get("shape", "").split(",") if part.strip())
            offset, size = int(fields["offset"]), int(fields["size"])
        except (KeyError, ValueError) as error:
            raise InputError(f"{path} is not usable: constant {name!r} has no proper shape, offset and size.") from error
        kind = fields.get("element_type", "")
        if kind not in TYPE_BITS or min((*shape, offset, size)) < 0:
            raise InputError(f"{path} is not usable: constant {name!r} has the unknown type {kind!r} or a negative shape.")
        tensor = TensorInfo(name=name, shape=shape, type_name=kind.upper(), size_bytes=size)
        if offset + size > bin_bytes:
            raise InputError(f"{path} is not usable: constant {name!r} lies beyond the end of {MODEL_BIN} (cut short? export it again).")
        if TYPE_BITS[kind] and size < tensor.n_params * TYPE_BITS[kind] // 8:
            raise InputError(f"{path} is not usable: constant {name!r} has a shape larger than its {size} bytes.")
        found.setdefault(offset, tensor)
    return tuple(found.values())


def read_openvino_header(folder: Path) -> ModelHeader:
    """Header of an OpenVINO directory. metadata is config.json where present, and `openvino_state`: variable name -> shape with -1
    for free lengths. Raises InputError.
    """
    path = folder / MODEL_XML
    xml = read_bounded(path, MAX_XML_BYTES)
    if not xml.strip():
        raise InputError(f"{path} is empty; export the model again.")
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        raise InputError(f"{path} declares a document type or entities, which OpenVINO never writes; export the model again.")
    if b"<net " not in xml[:4096] or b"</net>" not in xml[-4096:]:
        raise InputError(f"{path} is not a whole OpenVINO model (cut short?); export the model again.")
    bin_bytes = (folder / MODEL_BIN).stat().st_size
    tensors = _constants(path, xml, bin_bytes)
    if not bin_bytes or not tensors:
        raise InputError(f"{folder} holds no weights ({MODEL_BIN} has {bin_bytes} bytes); export the model again.")
    metadata: dict[str, Any] = read_config(folder)
    metadata["openvino_state"] = _state(xml)
    architecture = metadata.get("model_type")
    return ModelHeader(
        format="openvino",
        architecture=architecture if isinstance(architecture, str) and architecture else "unknown",
        metadata=metadata,
        tensors=tensors,
        chat_template=_template(folder) or chat_template_of(folder, metadata),
        quantization=quantization_of(metadata),
    )


def _state(xml: bytes) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in _STATE.findall(xml):
        lengths = [part.strip() for part in shape.decode("utf-8", errors="replace").split(",")]
        found[name.decode("utf-8", errors="replace")] = tuple(int(part) if part.isascii() and part.isdigit() else -1 for part in lengths)
    return found


def _template(folder: Path) -> str:
    """The chat template that OpenVINO GenAI keeps in its tokenizer's rt_info; empty if none."""
    path = folder / "openvino_tokenizer.xml"
    if not path.is_file():
        return ""
    match = _TEMPLATE.search(read_bounded(path, MAX_XML_BYTES))
    return html.unescape(match[1].decode("utf-8", errors="replace")) if match else ""
