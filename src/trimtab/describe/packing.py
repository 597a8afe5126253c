"""How a quantised Hugging Face checkpoint stores its matrices, from the `quantization_config` of its config.json.

The entries are those that AutoAWQ, GPTQModel, compressed-tensors, DeepSeek's FP8 and gpt-oss write. They are untrusted: a value of another
type counts as not told, and what no reader here unpacks keeps a layout of "" and is named as the checkpoint names it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

LAYOUTS = {
    "awq-gemm": "AWQ (gemm)",
    "gptq": "GPTQ",
    "gptq-v2": "GPTQ (v2)",
    "fp8": "FP8 (e4m3)",
    "mxfp4": "MXFP4 (e2m1)",
    "pack-quantized": "compressed-tensors (pack-quantized)",
    "int-quantized": "compressed-tensors (int-quantized)",
    "float-quantized": "compressed-tensors (float-quantized, e4m3)",
}
"""Layouts that compress/quantized_checkpoint.py unpacks, with their names for people."""
MAX_PATTERNS = 4096


@dataclass(frozen=True, kw_only=True)
class StoredScheme:
    """How one kind of matrix is stored.

    layout: a key of LAYOUTS, "" = none that is known here
    bits: of one weight, 0 = not told
    group_size: weights of one row that share a scale; 0 = all of a row; -1 = all of the matrix
    block: rows and columns that share a scale, None = it goes by group_size
    symmetric: without zero points
    activations: what the format does to inputs of the matrix as well, in words; empty if nothing
    targets: module names, `re:` patterns or class names that it holds for; empty = every linear layer
    """

    layout: str
    bits: int
    group_size: int = 0
    block: tuple[int, int] | None = None
    symmetric: bool = True
    activations: str = ""
    targets: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`4 bits, groups of 128, symmetric`."""
        if self.block:
            share = f"blocks of {self.block[0]} x {self.block[1]}"
        else:
            share = {0: "one scale a row", -1: "one scale a matrix"}.get(self.group_size, f"groups of {self.group_size}")
        zero = "" if self.layout in ("fp8", "mxfp4", "float-quantized") else "symmetric" if self.symmetric else "with zero points"
        inputs = f"inputs {self.activations}" if self.activations else ""
        return ", ".join(part for part in (f"{self.bits} bits" if self.bits else "bits not told", share, zero, inputs) if part)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What a checkpoint says of its own quantisation.

    method: as it names itself (`awq`, `gptq`, `compressed-tensors` ...)
    schemes: the common one first, then those of single modules
    kept: module names or patterns that stay in floats; a leading `re:` marks a pattern
    by_activation: columns are grouped in an order of their own (GPTQ's desc_act, compressed-tensors' actorder)
    why_not: why no reader here unpacks it, empty if one may
    """

    method: str
    schemes: tuple[StoredScheme, ...]
    kept: tuple[str, ...] = ()
    by_activation: bool = False
    why_not: str = ""

    @property
    def title(self) -> str:
        """The method and the layout, for people."""
        layout = self.schemes[0].layout if self.schemes else ""
        return LAYOUTS.get(layout, self.method)

    @property
    def text(self) -> str:
        """`GPTQ, 4 bits, groups of 128, symmetric, by activation`."""
        parts = [self.title, *(scheme.text for scheme in self.schemes[:1]), "by activation" if self.by_activation else ""]
        return ", ".join(part for part in parts if part)

    @property
    def exceptions(self) -> str:
        """Modules that are stored otherwise than the rest, in words; empty if the checkpoint names none."""
        told = [f"{_listed(scheme.targets)}: {scheme.text}" for scheme in self.schemes[1:]]
        if self.kept:
            told.append(f"in floats: {_listed(self.kept)}")
        return "; ".join(told)

    def scheme_of(self, module: str) -> StoredScheme:
        """The scheme of a packed module: of its name, of a pattern, else of the common kind (class names are not looked up)."""
        for exact in (True, False):
            for scheme in reversed(self.schemes):
                if any(_names(target, module) if exact else _fits(target, module) for target in scheme.targets):
                    return scheme
        return self.schemes[0]


def packing_of(metadata: Mapping[str, Any]) -> Packing | None:
    """The packing that config.json tells of (its own or that of `text_config`); None for a model in plain floats."""
    config = _config(metadata)
    if config is None:
        return None
    method = config.get("quant_method")
    method = method.replace("_", "-") if isinstance(method, str) and method else "unknown"
    if config.get("load_in_4bit") is True or config.get("load_in_8bit") is True:
        method = "bitsandbytes"
    reader = {"awq": _awq, "gptq": _gptq, "fp8": _fp8, "mxfp4": _mxfp4, "compressed-tensors": _compressed}.get(method)
    if reader is None:
        bits = 4 if config.get("load_in_4bit") is True else 8 if config.get("load_in_8bit") is True else _whole(config, "bits")
        scheme = StoredScheme(layout="", bits=bits, group_size=_whole(config, "group_size"))
        return Packing(method=method, schemes=(scheme,), why_not=f"no reader here knows {method}")
    return replace(reader(config), method=method)


def _config(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for holder in (metadata, metadata.get("text_config")):
        if isinstance(holder, Mapping):
            for key in ("quantization_config", "compression_config"):
                if isinstance(holder.get(key), Mapping):
                    found: Mapping[str, Any] = holder[key]
                    return found
    return None


def _awq(config: Mapping[str, Any]) -> Packing:
    version = config.get("version", config.get("format", "gemm"))
    known = isinstance(version, str) and version.lower() in ("gemm", "exllama", "ipex")  # the last two are ways to run the first
    bits = _whole(config, "bits", "w_bit") or 4
    size = _whole(config, "group_size", "q_group_size")
    scheme = StoredScheme(
        layout="awq-gemm" if known and bits == 4 else "",
        bits=bits,
        group_size=0 if size == -1 else size or 128,
        symmetric=config.get("zero_point") is False,
    )
    why = "" if scheme.layout else f"only 4 bits in layout gemm are read, not {bits} in {_short(version)}"
    return Packing(method="awq", schemes=(scheme,), kept=_texts(config.get("modules_to_not_convert")), why_not=why)


def _gptq(config: Mapping[str, Any]) -> Packing:
    told = config.get("checkpoint_format", config.get("format", "gptq"))
    layout = {"gptq": "gptq", "gptq_v2": "gptq-v2", "": "gptq"}.get(told, "") if isinstance(told, str) else ""
    bits = _whole(config, "bits") or 4
    size = _whole(config, "group_size")
    common = StoredScheme(layout=layout, bits=bits, group_size=0 if size == -1 else size or 128, symmetric=config.get("sym") is not False)
    kept = [*_texts(config.get("modules_to_not_convert"))]
    schemes = [common]
    dynamic = config.get("dynamic")
    for pattern, own in list(dynamic.items())[:MAX_PATTERNS] if isinstance(dynamic, Mapping) else ():
        if not isinstance(pattern, str):
            continue
        if pattern.startswith("-:"):
            kept.append(f"re:{pattern[2:]}")
        elif isinstance(own, Mapping):
            size = _whole(own, "group_size")
            schemes.append(
                replace(
                    common,
                    bits=_whole(own, "bits") or bits,
                    group_size=0 if size == -1 else size or common.group_size,
                    targets=(f"re:{pattern.removeprefix('+:')}",),
                )
            )
    why = "" if layout else f"only checkpoint formats gptq and gptq_v2 are read, not {_short(told)}"
    if not why and any(scheme.bits not in (2, 3, 4, 8) for scheme in schemes):
        why = "only 2, 3, 4 and 8 bits are read"
    return Packing(method="gptq", schemes=tuple(schemes), kept=tuple(kept), by_activation=config.get("desc_act") is True, why_not=why)


def _fp8(config: Mapping[str, Any]) -> Packing:
    size = config.get("weight_block_size")
    block = _pair(size)
    scheme = config.get("activation_scheme")
    kind = config.get("fmt", "e4m3")
    known = kind in ("e4m3", "float8_e4m3fn", None)
    stored = StoredScheme(
        layout="fp8" if known else "",
        bits=8,
        group_size=-1,
        block=block,
        activations="in e4m3" if scheme in ("dynamic", "static") else "",
    )
    kept = _texts(config.get("modules_to_not_convert")) or _texts(config.get("ignored_layers"))
    why = "" if known else f"only e4m3 is read, not {_short(kind)}"
    return Packing(method="fp8", schemes=(stored,), kept=kept, why_not=why)


def _mxfp4(config: Mapping[str, Any]) -> Packing:
    scheme = StoredScheme(layout="mxfp4", bits=4, group_size=32, targets=("re:.*\\.experts",))
    return Packing(method="mxfp4", schemes=(scheme,), kept=_texts(config.get("modules_to_not_convert")))


def _compressed(config: Mapping[str, Any]) -> Packing:
    groups = config.get("config_groups")
    common = config.get("format")
    schemes: list[StoredScheme] = []
    ordered = False
    for group in list(groups.values())[:MAX_PATTERNS] if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            schemes.append(_group(group, weights, group.get("format") or common))
            ordered = ordered or weights.get("actorder") in ("group", "weight", "static", "dynamic", True)
    schemes.sort(key=lambda scheme: "Linear" not in scheme.targets)
    why = ""
    unread = next((scheme for scheme in schemes if not scheme.layout), None)
    if not schemes:
        why = "its quantization_config names no group of weights"
    elif unread is not None:
        formats = sorted({_short(common), *(_short(group.get("format")) for group in _mappings(groups))} - {"nothing"})
        why = f"no reader here knows {unread.bits} bits in its format ({', '.join(formats) or 'none named'})"
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format") not in (None, "dense"):
        why = f"its weights are also packed as sparse ({_short(sparsity.get('format'))})"
    if isinstance(config.get("transform_config"), Mapping) and config["transform_config"].get("config_groups"):
        why = "its inputs are rotated while it runs (transform_config), which plain floats do not say"
    return Packing(
        method="compressed-tensors",
        schemes=tuple(schemes) or (StoredScheme(layout="", bits=0),),
        kept=_texts(config.get("ignore")),
        by_activation=ordered,
        why_not=why,
    )


def _group(group: Mapping[str, Any], weights: Mapping[str, Any], told: Any) -> StoredScheme:
    bits, kind = _whole(weights, "num_bits"), weights.get("type", "int")
    strategy = weights.get("strategy")
    size = _whole(weights, "group_size")
    if strategy is None:
        strategy = "group" if size > 0 else "channel" if size == -1 else "tensor"
    layout = told if isinstance(told, str) else ""
    if layout == "naive-quantized":  # the format before it was told which kind of number it holds
        layout = "int-quantized" if kind == "int" else "float-quantized"
    fits = {"pack-quantized": kind == "int" and 2 <= bits <= 8, "int-quantized": kind == "int" and bits == 8}
    fits["float-quantized"] = kind == "float" and bits == 8
    inputs = group.get("input_activations")
    return StoredScheme(
        layout=layout if fits.get(layout) and strategy in ("group", "channel", "tensor", "block") else "",
        bits=bits,
        group_size={"group": size, "channel": 0}.get(strategy, -1) if isinstance(strategy, str) else -1,
        block=_pair(weights.get("block_structure")) if strategy == "block" else None,
        symmetric=weights.get("symmetric") is not False,
        activations=f"in {_whole(inputs, 'num_bits')} bits" if isinstance(inputs, Mapping) else "",
        targets=_texts(group.get("targets")),
    )


def _mappings(groups: Any) -> list[Mapping[str, Any]]:
    return [group for group in groups.values() if isinstance(group, Mapping)] if isinstance(groups, Mapping) else []


def _whole(config: Mapping[str, Any], *keys: str) -> int:
    """The first of these entries that is a whole number of at most six digits; 0 if none is."""
    for key in keys:
        value = config.get(key)
        if type(value) is int and -1 <= value < 1_000_000:
            return value
    return 0


def _pair(value: Any) -> tuple[int, int] | None:
    good = isinstance(value, Sequence) and len(value) == 2 and all(type(one) is int and 0 < one < 1_000_000 for one in value)
    return (value[0], value[1]) if good else None


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    return tuple(text for text in value[:MAX_PATTERNS] if isinstance(text, str) and 0 < len(text) <= 1024 and text.isprintable())


def _short(value: Any) -> str:
    """An untrusted entry, fit for a sentence."""
    return "nothing" if value is None else "".join(letter for letter in str(value)[:40] if letter.isprintable())


def _listed(names: Sequence[str]) -> str:
    """The first few of many names, with `layers.*` for names that differ in their layer only."""
    short = list(dict.fromkeys(re.sub(r"\.(\d+)\.", ".*.", name.removeprefix("re:")) for name in names))
    return ", ".join(short[:6]) + (f" and {len(short) - 6} more" if len(short) > 6 else "")


def _names(target: str, module: str) -> bool:
    return target == module


def _fits(target: str, module: str) -> bool:
    """Whether a pattern holds for a module. A pattern that is no regular expression holds for nothing."""
    if not target.startswith("re:"):
        return False
    try:
        return re.match(target[3:], module) is not None
    except (re.error, RecursionError):
        return False
