"""A quantised Hugging Face checkpoint (AWQ, GPTQ, FP8, MXFP4, compressed-tensors) as a plain directory: each weight is the number that the
packed form stands for.

In float32 nothing is lost: products of integers or 8-bit floats with 16-bit scales are exact, those with 32-bit scales are rounded once.
What the tensors do not say whole is refused. Inputs that a format quantises as well (W8A8, FP8 with input scales) are not: the plain
directory computes them in floats, and its README says so.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.compress import packed_layouts as layouts
from trimtab.compress.base import Progress
from trimtab.compress.packed_layouts import PackedError
from trimtab.compress.safetensors import ITEM_BYTES, StoredTensor, read_tensors, write_tensors
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import write_atomic
from trimtab.core.model import Snapshot
from trimtab.describe.packing import Packing, StoredScheme, packing_of

Floats = npt.NDArray[np.float32]
FLOATS = ("F32", "F16", "BF16")
ITEM_TYPES = {"I8": "i1", "U8": "u1", "I16": "<i2", "I32": "<i4", "U32": "<u4", "I64": "<i8"}
CONFIG_KEYS = ("quantization_config", "compression_config")
NOT_KEPT = ("config.json", "quantize_config.json", "hf_quant_config.json", "model.safetensors.index.json", "README.md")
RUNTIME = (
    "input_scale", "output_scale", "activation_scale", "k_scale", "v_scale", "q_scale", "input_zero_point", "output_zero_point",
    "k_zero_point", "v_zero_point",
)  # fmt: skip
"""Ends of names of what a format keeps for inputs and caches: no part of a weight."""
PARTS = ("qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_scale_inv", "weight_shape", "weight_zero_point",
         "weight_g_idx")  # fmt: skip
WITHOUT_BIASES = ("llama", "mistral")
"""Model types whose linear layers have biases only where config.json says so; GPTQ's first packers wrote biases of zeros everywhere."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One tensor of the plain model, computed when asked for."""

    shape: tuple[int, ...]
    values: Callable[[], Floats]


def packing_in(source: Snapshot) -> Packing | None:
    """How a snapshot's weights are packed; None for plain floats and for what is no Hugging Face directory. Raises InputError."""
    if source.format != "safetensors":
        return None
    return packing_of(_config(source))


def write_plain(source: Snapshot, folder: Path, type_name: str, *, progress: Progress | None = None) -> list[str]:
    """Write the plain model into `folder` and return its files' names, weights first. type_name: F32 or BF16.

    Raises InfeasibleError for a packing or tensors that are not understood, InputError for broken files, OSError.
    """
    config = _config(source)
    packing = packing_of(config)
    if packing is None:
        raise InputError(f"The weights of {source.source} are plain floats; there is nothing to unpack.")
    weights = plain_weights(source, packing)

    def values() -> Iterator[Floats]:
        for count, (name, weight) in enumerate(weights.items()):
            if progress:
                progress("unpacking weights", count / len(weights))
            yield _computed(source, name, weight)

    write_tensors(folder / "model.safetensors", {name: weight.shape for name, weight in weights.items()}, type_name, values())
    dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[type_name]
    write_atomic(
        folder / "config.json",
        json.dumps({"_name_or_path": source.root.name, **_plain_config(config, dtype)}, indent=2, ensure_ascii=False),
    )
    write_atomic(folder / "README.md", _readme(source, packing))
    names = ["model.safetensors", "config.json", "README.md"]
    for file in source.files:
        if not file.name.endswith(".safetensors") and file.name not in NOT_KEPT:
            shutil.copyfile(source.root / file.name, folder / file.name)
            names.append(file.name)
    return names


def plain_bytes(source: Snapshot, type_name: str) -> int:
    """Of the plain model, upper estimate. Raises like write_plain."""
    packing = packing_in(source)
    weights = plain_weights(source, packing) if packing else {}
    return sum(int(np.prod(weight.shape, dtype=np.int64)) for weight in weights.values()) * ITEM_BYTES[type_name] + 2**25


def plain_weights(source: Snapshot, packing: Packing) -> dict[str, Weight]:
    """Every tensor of the plain model by name. Raises InfeasibleError naming the tensor that is missing, left over or of a wrong type."""
    if packing.why_not:
        raise InfeasibleError(f"The weights of {source.source} are quantised ({packing.title}) and cannot be unpacked: {packing.why_not}.")
    reader = _Reader(source=source, packing=packing, tensors=read_tensors(source))
    found = reader.weights()
    if not reader.n_packed:
        raise InfeasibleError(f"{source.source} says that it is quantised ({packing.title}), and holds no tensor packed so.")
    return found


class _Reader:
    """The tensors of one checkpoint, taken one after another. n_packed: matrices that were packed."""

    def __init__(self, *, source: Snapshot, packing: Packing, tensors: Mapping[str, StoredTensor]) -> None:
        self.source = source
        self.packing = packing
        self.tensors = dict(tensors)
        self.without_biases = _has_no_biases(_config(source))
        self.n_packed = 0

    def weights(self) -> dict[str, Weight]:
        readers = {
            "awq": self._awq, "gptq": self._gptq, "fp8": self._fp8, "mxfp4": self._mxfp4, "compressed-tensors": self._compressed,
        }  # fmt: skip
        read = readers[self.packing.method]
        found: dict[str, Weight] = {}
        for name in list(self.tensors):
            made = read(name) if name in self.tensors else None
            if made is not None:
                self.n_packed += 1
                self._put(found, *made)
        for name, tensor in list(self.tensors.items()):
            if name.endswith(RUNTIME):
                continue
            if name.rpartition(".")[2] in PARTS or name.endswith(("_scale_inv", "_blocks")):
                raise InfeasibleError(f"{self.source.source} holds {name} without the tensors that belong to it; fetch its weights again.")
            if tensor.type_name not in FLOATS:
                raise InfeasibleError(
                    f"{self.source.source} holds {name} in {tensor.type_name}, which is no part of {self.packing.title} as known here."
                )
            if self._is_empty_bias(name, found):
                continue
            self._put(found, name, Weight(shape=tensor.shape, values=tensor.values))
        return found

    def _put(self, found: dict[str, Weight], name: str, weight: Weight) -> None:
        if name in found:
            raise InfeasibleError(f"{self.source.source} holds {name} twice, packed and plain; keep one of them.")
        found[name] = weight

    def _is_empty_bias(self, name: str, found: Mapping[str, Weight]) -> bool:
        if not self.without_biases or self.packing.method != "gptq" or not name.endswith(".bias"):
            return False
        return name.removesuffix(".bias") + ".weight" in found and not self.tensors[name].values().any()

    def _take(self, module: str, part: str, *types: str) -> StoredTensor:
        """A tensor that must be there, and is then used up. Raises InfeasibleError."""
        name = f"{module}{part}"
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            raise InfeasibleError(f"{self.source.source} lacks {name}, without which {module} cannot be unpacked; fetch its weights again.")
        if tensor.type_name not in types:
            raise InfeasibleError(f"{self.source.source} holds {name} in {tensor.type_name}; {self.packing.title} has it in {types[0]}.")
        return tensor

    def _maybe(self, module: str, part: str, *types: str) -> StoredTensor | None:
        return self._take(module, part, *types) if f"{module}{part}" in self.tensors else None

    def _awq(self, name: str) -> tuple[str, Weight] | None:
        if not name.endswith(".qweight"):
            return None
        module = name.removesuffix(".qweight")
        scheme = self.packing.scheme_of(module)
        words, zeros = self._take(module, ".qweight", "I32"), self._take(module, ".qzeros", "I32")
        scales = self._take(module, ".scales", *FLOATS)
        self._matrix(name, words)
        shape = (words.shape[1] * 8, words.shape[0])

        def values() -> Floats:
            return layouts.awq(stored(words), stored(zeros), scales.values(), group_size=scheme.group_size)

        return f"{module}.weight", Weight(shape=shape, values=values)

    def _gptq(self, name: str) -> tuple[str, Weight] | None:
        if not name.endswith(".qweight"):
            return None
        module = name.removesuffix(".qweight")
        scheme = self.packing.scheme_of(module)
        words, zeros = self._take(module, ".qweight", "I32"), self._take(module, ".qzeros", "I32")
        scales, places = self._take(module, ".scales", *FLOATS), self._maybe(module, ".g_idx", "I32", "I64")
        self._matrix(name, words)
        shape = (words.shape[1], words.shape[0] * 32 // scheme.bits)
        if self.packing.by_activation and places is None:
            raise InfeasibleError(f"{self.source.source} lacks {module}.g_idx, which its desc_act calls for; fetch its weights again.")

        def values() -> Floats:
            return layouts.gptq(
                stored(words),
                stored(zeros),
                scales.values(),
                None if places is None else stored(places),
                bits=scheme.bits,
                group_size=scheme.group_size,
                zeros_less_one=scheme.layout == "gptq",
            )

        return f"{module}.weight", Weight(shape=shape, values=values)

    def _fp8(self, name: str) -> tuple[str, Weight] | None:
        tensor = self.tensors[name]
        if tensor.type_name != "F8_E4M3":
            return None
        scheme = self.packing.scheme_of(name.removesuffix(".weight"))
        codes = self._codes(name)
        part = "_scale_inv" if f"{name}_scale_inv" in self.tensors or f"{name}_scale" not in self.tensors else "_scale"
        return name, self._of_codes(codes, self._take(name, part, *FLOATS, "F8_E8M0", "U8"), scheme)

    def _codes(self, name: str) -> StoredTensor:
        codes = self._take(name, "", "F8_E4M3")
        if len(codes.shape) < 2 or 0 in codes.shape:
            raise InfeasibleError(f"{self.source.source} holds {name} in the shape {list(codes.shape)}, which is no matrix.")
        return codes

    def _of_codes(self, codes: StoredTensor, scales: StoredTensor, scheme: StoredScheme) -> Weight:
        def values() -> Floats:
            given = layouts.e8m0(scales.bytes().reshape(scales.shape)) if scales.type_name in ("F8_E8M0", "U8") else scales.values()
            numbers = codes.bytes().reshape(codes.shape)
            if scheme.group_size > 0 and not scheme.block:
                return layouts.scaled(layouts.E4M3[numbers], given, None, None, group_size=scheme.group_size)
            return layouts.fp8(numbers, given, block=scheme.block)

        return Weight(shape=codes.shape, values=values)

    def _mxfp4(self, name: str) -> tuple[str, Weight] | None:
        if not name.endswith("_blocks"):
            return None
        plain = name.removesuffix("_blocks")
        blocks, scales = self._take(plain, "_blocks", "U8"), self._take(plain, "_scales", "U8", "F8_E8M0")
        if len(blocks.shape) != 4:
            raise InfeasibleError(f"{self.source.source} holds {name} with {len(blocks.shape)} dimensions; gpt-oss has 4.")
        shape = (blocks.shape[0], blocks.shape[2] * layouts.MX_BLOCK, blocks.shape[1])

        def values() -> Floats:
            return layouts.mxfp4(blocks.bytes().reshape(blocks.shape), scales.bytes().reshape(scales.shape))

        return plain, Weight(shape=shape, values=values)

    def _compressed(self, name: str) -> tuple[str, Weight] | None:
        if name.endswith(".weight_packed"):
            return self._packed_integers(name.removesuffix(".weight_packed"))
        if not name.endswith(".weight") or self.tensors[name].type_name not in ("I8", "F8_E4M3"):
            return None
        module = name.removesuffix(".weight")
        scheme = self.packing.scheme_of(module)
        if self.tensors[name].type_name == "F8_E4M3":
            self._no_zeros(module)
            return name, self._of_codes(self._codes(name), self._take(module, ".weight_scale", *FLOATS), scheme)
        levels, scales = self._take(module, ".weight", "I8"), self._take(module, ".weight_scale", *FLOATS)
        zeros = self._zeros(module, scheme, "I8")
        places = self._maybe(module, ".weight_g_idx", "I32", "I64")

        def values() -> Floats:
            return layouts.scaled(
                stored(levels).astype(np.float32),
                scales.values(),
                None if zeros is None else stored(zeros).astype(np.float32),
                None if places is None else stored(places),
                group_size=scheme.group_size,
            )

        return name, Weight(shape=levels.shape, values=values)

    def _packed_integers(self, module: str) -> tuple[str, Weight]:
        scheme = self.packing.scheme_of(module)
        words, scales = self._take(module, ".weight_packed", "I32"), self._take(module, ".weight_scale", *FLOATS)
        shape = tuple(int(length) for length in stored(self._take(module, ".weight_shape", "I64", "I32")).reshape(-1))
        zeros = self._zeros(module, scheme, "I32")
        places = self._maybe(module, ".weight_g_idx", "I32", "I64")
        self._matrix(f"{module}.weight_packed", words)
        if len(shape) != 2 or shape[0] != words.shape[0] or not 0 < shape[1] <= words.shape[1] * 32 // scheme.bits:
            raise InfeasibleError(
                f"{module}.weight_shape of {self.source.source} is {list(shape)}, which {list(words.shape)} words of "
                f"{scheme.bits}-bit numbers do not hold."
            )

        def values() -> Floats:
            return layouts.pack_quantized(
                stored(words),
                scales.values(),
                None if zeros is None else stored(zeros),
                None if places is None else stored(places),
                shape=shape,
                bits=scheme.bits,
                group_size=scheme.group_size,
            )

        return f"{module}.weight", Weight(shape=shape, values=values)

    def _zeros(self, module: str, scheme: StoredScheme, type_name: str) -> StoredTensor | None:
        """Zero points where the scheme has them. compressed-tensors 0.9 and older also wrote zeros of symmetric schemes."""
        if scheme.symmetric:
            self._no_zeros(module)
            return None
        return self._take(module, ".weight_zero_point", type_name)

    def _no_zeros(self, module: str) -> None:
        held = self.tensors.pop(f"{module}.weight_zero_point", None)
        if held is not None and held.bytes().any():
            raise InfeasibleError(f"{self.source.source} holds zero points of {module}, whose scheme says that it has none.")

    def _matrix(self, name: str, tensor: StoredTensor) -> None:
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise InfeasibleError(f"{self.source.source} holds {name} in the shape {list(tensor.shape)}, which is no matrix.")


def stored(tensor: StoredTensor) -> npt.NDArray[Any]:
    """The integers of a tensor, in its shape."""
    return tensor.bytes().view(ITEM_TYPES[tensor.type_name]).reshape(tensor.shape)


def _computed(source: Snapshot, name: str, weight: Weight) -> Floats:
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            values = weight.values()
    except PackedError as error:
        raise InfeasibleError(f"{name} of {source.source} cannot be unpacked: {error}.") from error
    if values.shape != weight.shape:
        raise InfeasibleError(f"{name} of {source.source} unpacks to {list(values.shape)}, not to {list(weight.shape)}.")
    if not np.isfinite(values).all():
        raise InfeasibleError(f"{name} of {source.source} holds numbers that are not finite.")
    return values


def _config(source: Snapshot) -> dict[str, Any]:
    """config.json, with AutoGPTQ's quantize_config.json in its place. Raises InputError."""
    try:
        config: dict[str, Any] = json.loads((source.root / "config.json").read_text(encoding="utf-8"))
        own = source.root / "quantize_config.json"
        if "quantization_config" not in config and own.is_file():
            config["quantization_config"] = {"quant_method": "gptq", **json.loads(own.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{source.source} has no readable config.json ({error}).") from error
    return config


def _plain_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config of the plain model: without what tells of the packing, and with the type that its weights have now."""
    made = {key: value for key, value in config.items() if key not in (*CONFIG_KEYS, "torch_dtype")}
    made["dtype"] = made["torch_dtype"] = dtype
    if isinstance(made.get("text_config"), dict):
        inner = {key: value for key, value in made["text_config"].items() if key not in (*CONFIG_KEYS, "torch_dtype", "dtype")}
        made["text_config"] = {**inner, "dtype": dtype, "torch_dtype": dtype}
    return made


def _has_no_biases(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") in WITHOUT_BIASES and not config.get("attention_bias") and not config.get("mlp_bias")


def _readme(source: Snapshot, packing: Packing) -> str:
    from trimtab.compress.gguf_from_hf import licence_of

    licence = licence_of(source.root)
    front = f"---\nlicense: {licence}\n---\n" if licence else ""
    activations = packing.schemes[0].activations
    inputs = f" The packed form also rounds inputs ({activations}); here they are computed in floats." if activations else ""
    return f"{front}Weights that were quantised before ({packing.text}), as plain floats.{inputs}\n"
