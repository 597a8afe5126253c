"""A causal language model as transformers opens it, in a number format, on a device, and one call of it.

Weights come from safetensors alone, and no code of a repository runs. A tensor that a checkpoint lacks is a refusal: transformers would
fill it with random numbers and say so in a warning.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_log

from trimtab.core.errors import EngineRefused
from trimtab.core.number_format import NumberFormat
from trimtab.describe.packing import packing_of
from trimtab.engines.tally import Logits
from trimtab.engines.transformers_cache import new_cache

PADDED_TYPES = ("full_attention", "sliding_attention", "chunked_attention", "dummy")
"""Kinds of layers for which left padding is exact and that keep one tensor of keys and one of values."""
LEAST_SHARE = 0.5
"""Of the weights between embedding and output that a number format must reach to be named after it."""
ROUNDED_GROUP = 32
"""Weights that share a scale where they are rounded to 3 bits."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the model on sequences that end at the same column.

    ids: [rows, columns] new tokens; mask: [rows, cached and new columns], 0 = padding; positions: [rows, columns]
    cache: what came before, and where the new columns go; None = neither; keep: so many of the last columns whose logits are wanted
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    cache: Any
    keep: int


class Model:
    """See `Call`. threads: None = torch's own choice; device_layers: None = all of them on an accelerator if there is one.

    batches: whether rows of several sequences may lie beside each other and begin with padding; models that keep a state may not
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        number_format: NumberFormat,
        *,
        attention: str | None,
        threads: int | None,
        device_layers: int | None,
    ) -> None:
        self.source = source
        self.threads = threads
        self._quiet()
        self._use_threads()
        self._net = _opened(folder, source, number_format, attention)
        config = self._net.config.get_text_config(decoder=True)
        self.device = _device(device_layers, int(getattr(config, "num_hidden_layers", 0) or 0), source)
        self._net.to(self.device).eval()
        quantize_net(self._net, number_format, self.device, source)
        self.attention = str(getattr(self._net.config, "_attn_implementation", "") or "eager")
        self.vocab_size = int(config.vocab_size)
        takes = inspect.signature(self._net.forward).parameters
        self._cache_name = "cache" if "cache" in takes else "past_key_values"
        self._takes_positions = "position_ids" in takes
        self._takes_keep = "logits_to_keep" in takes
        kinds = getattr(config, "layer_types", None) or ()
        stateful = bool(getattr(self._net, "_is_stateful", False)) or self._cache_name not in takes
        self.batches = not stateful and all(kind in PADDED_TYPES for kind in kinds)

    def new_cache(self) -> Any:
        """An empty cache of the kind that this model fills."""
        if self.batches:
            return new_cache()
        return transformers.DynamicCache(config=self._net.config)

    def call(self, call: Call) -> Logits:
        """Logits of the last `keep` columns in float32, [rows, keep, vocab_size]. Raises EngineRefused if torch cannot compute them."""
        self._use_threads()
        given: dict[str, Any] = {"input_ids": call.ids, "use_cache": call.cache is not None}
        if self.batches:  # else there is no padding, and models with a state multiply theirs with a mask of the prompt's shape
            given["attention_mask"] = call.mask
        if call.cache is not None:
            given[self._cache_name] = call.cache
        if self._takes_positions:
            given["position_ids"] = call.positions
        if self._takes_keep:
            given["logits_to_keep"] = call.keep
        try:
            with torch.inference_mode():
                on_device = {key: value.to(self.device) if isinstance(value, torch.Tensor) else value for key, value in given.items()}
                logits = self._net(**on_device).logits[:, -call.keep :]
                found: Logits = logits.float().cpu().numpy()
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise EngineRefused(f"transformers cannot compute with {self.source}: {sentence_of(error)}.") from error
        if found.shape[2] != self.vocab_size:
            raise EngineRefused(f"{self.source} gives {found.shape[2]} logits, and its config.json tells of {self.vocab_size}.")
        return found

    def _use_threads(self) -> None:
        """The number of threads is the process's, and another engine may have set it."""
        if self.threads is not None and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    @staticmethod
    def _quiet() -> None:
        transformers_log.set_verbosity_error()
        transformers_log.disable_progress_bar()


def left_padded(rows: Sequence[Sequence[int]], width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids, mask, positions), each [rows, width], of sequences that end at the last column."""
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, width - len(row) :] = torch.tensor(row, dtype=torch.int64)
        mask[place, width - len(row) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return ids, mask, positions


def sentence_of(error: BaseException) -> str:
    """The first line of an exception, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")[:300]


def _opened(folder: Path, source: str, number_format: NumberFormat, attention: str | None) -> Any:
    dtype = getattr(torch, number_format.dtype) if number_format.dtype else "auto"
    try:
        net, told = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **({"attn_implementation": attention} if attention else {}),
            **_unpacking(folder),
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        raise EngineRefused(f"transformers cannot open {source}: {sentence_of(error)}.") from error
    wrong = [*told["missing_keys"], *(key for key, *_ in told.get("mismatched_keys", ()))]
    if wrong:
        raise EngineRefused(
            f"transformers cannot open {source}: {len(wrong)} tensors are missing or of another shape, the first is {sorted(wrong)[0]}."
        )
    return net


def _unpacking(folder: Path) -> dict[str, Any]:
    """What asks transformers to turn the weights of a quantised checkpoint into floats as it loads them, on any machine."""
    packing = packing_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    kinds = {"fp8": transformers.FineGrainedFP8Config, "mxfp4": transformers.Mxfp4Config}
    return {"quantization_config": kinds[packing.method](dequantize=True)} if packing is not None and packing.method in kinds else {}


def _device(device_layers: int | None, n_layers: int, source: str) -> torch.device:
    """Where the whole model goes. Raises EngineRefused for some layers here and some there, and for an accelerator that is not there."""
    name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else ""
    if device_layers == 0 or (device_layers is None and not name):
        return torch.device("cpu")
    if not name:
        raise EngineRefused(f"transformers cannot open {source}: torch finds no accelerator, so device_layers must be 0.")
    if device_layers is not None and device_layers < n_layers:
        raise EngineRefused(
            f"transformers cannot open {source}: it places a model as a whole, so device_layers must be 0 or at least {n_layers}."
        )
    return torch.device(name)


def quantize_net(net: Any, number_format: NumberFormat, device: torch.device, source: str) -> None:
    """Weights of the linear layers in fewer bits, by torchao. The output matrix gets 8 where the others get 4. Raises EngineRefused."""
    if not number_format.weights:
        return
    if number_format.weights == "int3":
        _round_to_three_bits(net)
        return
    from torchao.quantization import quantize_

    head = net.get_output_embeddings()
    kinds = {id(module): number_format for module in net.modules() if isinstance(module, torch.nn.Linear)}
    if id(head) in kinds and number_format.weights == "int4":
        kinds[id(head)] = NumberFormat(dtype=number_format.dtype, weights="int8")
    _check_share(net, kinds, head, source)
    try:
        for kind in dict.fromkeys(kinds.values()):
            quantize_(net, _torchao_config(kind, device), filter_fn=lambda module, _, kind=kind: kinds.get(id(module)) == kind)
    except (RuntimeError, ValueError, ImportError, NotImplementedError, AssertionError) as error:
        raise EngineRefused(f"torchao cannot quantise {source} to {number_format.text}: {sentence_of(error)}.") from error
    left = [name for name, module in net.named_modules() if id(module) in kinds and type(module.weight.data) is torch.Tensor]
    if left:
        shape = tuple(net.get_submodule(left[0]).weight.shape)
        raise EngineRefused(
            f"torchao cannot quantise {source} to {number_format.text}: the rows of {left[0]}, {shape}, are no multiple of the group size."
        )


def _round_to_three_bits(net: Any) -> None:
    """Round every matrix but embedding and output to the nearest of eight levels between the least and the greatest of each group."""
    outer = {id(part.weight) for part in (net.get_output_embeddings(), net.get_input_embeddings()) if part is not None}
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim < 2 or id(weight) in outer:
                continue
            size = ROUNDED_GROUP if weight.shape[-1] % ROUNDED_GROUP == 0 else weight.shape[-1]
            groups = weight.float().reshape(-1, size)
            low = groups.amin(1, keepdim=True)
            step = ((groups.amax(1, keepdim=True) - low) / 7).clamp(min=1e-12)
            weight.copy_((((groups - low) / step).round() * step + low).reshape(weight.shape))


def _check_share(net: Any, kinds: Mapping[int, NumberFormat], head: Any, source: str) -> None:
    """Raise EngineRefused where most weights would stay as they are, and the name of the format would mislead."""
    inner = {id(module.weight): module.weight.numel() for module in net.modules() if id(module) in kinds and module is not head}
    outer = {id(part.weight) for part in (head, net.get_input_embeddings()) if part is not None}
    every = sum(weight.numel() for weight in net.parameters() if weight.ndim > 1 and id(weight) not in outer)
    if sum(inner.values()) < LEAST_SHARE * every:
        raise EngineRefused(
            f"torchao can quantise {sum(inner.values()) / max(every, 1):.0%} of the weights of {source} only: the others do not lie in "
            "linear layers of torch."
        )


def _torchao_config(number_format: NumberFormat, device: torch.device) -> Any:
    from torchao.quantization import Int4WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

    if number_format.weights == "int8":
        return Int8DynamicActivationInt8WeightConfig() if number_format.activations else Int8WeightOnlyConfig()
    if device.type == "cpu":
        # The layout for processors is one of torchao's prototypes; the others ask for CUDA or XPU.
        from torchao.prototype.quantization.int4.inference_workflow import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=number_format.group_size)
    return Int4WeightOnlyConfig(group_size=number_format.group_size, int4_packing_format="tile_packed_to_4d")
