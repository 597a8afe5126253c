"""What one weight is called in a Hugging Face directory, a GGUF file and an OpenVINO model, and how its numbers lie in each.

GGUF files of architecture `llama` (and `deci`, a Llama with layers of different widths) hold the rows of query and key heads in another
order, their rotary halves interleaved; those of Gemma hold the norms with 1 added, as llama.cpp multiplies by them alone. OpenVINO's
reader puts rows back as Hugging Face has them.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.compress.grids import Codes
from trimtab.core.errors import InfeasibleError, InputError

ARCHITECTURES: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
}
"""`model_type` of a config.json to `general.architecture` of a GGUF file."""
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_FOUR_NORMS = {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OWN: Mapping[str, Mapping[str, str]] = {
    "qwen3": _HEAD_NORMS,
    "gemma2": _FOUR_NORMS,
    "gemma3": {**_FOUR_NORMS, **_HEAD_NORMS},
    "phi3": {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
}
"""What an architecture calls otherwise, or has besides."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of one model. architecture: as GGUF has it; head_size: values of one attention head."""

    architecture: str
    head_size: int

    def gguf(self, name: str) -> str:
        """The GGUF name of a Hugging Face parameter. Raises InputError if the architecture has none of that name."""
        stem, dot, part = name.rpartition(".")
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
        known = {hf: short for short, hf in (self._layer() if layer else _WHOLE).items()}
        short = known.get(layer[2] if layer else stem)
        if short is None or part not in ("weight", "bias"):
            raise InputError(f"{name!r} is no weight that a GGUF file of architecture {self.architecture} has a name for.")
        return f"blk.{layer[1]}.{short}{dot}{part}" if layer else f"{short}{dot}{part}"

    def hf(self, name: str) -> str:
        """The Hugging Face name of a GGUF tensor. Raises InputError if the architecture has none of that name."""
        stem, dot, part = name.rpartition(".")
        layer = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
        long = self._layer().get(layer[2]) if layer else _WHOLE.get(stem)
        if long is None or part not in ("weight", "bias"):
            raise InputError(f"{name!r} is no tensor of a Hugging Face model of the kind of GGUF architecture {self.architecture}.")
        return f"model.layers.{layer[1]}.{long}{dot}{part}" if layer else f"{long}{dot}{part}"

    @staticmethod
    def ir(name: str) -> str:
        """The name of the constant that OpenVINO GenAI's reader makes of a Hugging Face parameter."""
        return re.sub(r"^model\.layers\.(\d+)\.", r"model.layers[\1].", name)

    def order_in_gguf(self, name: str, n_rows: int) -> npt.NDArray[np.int64] | None:
        """For each row of the GGUF tensor the row of the Hugging Face parameter `name`; None where they lie alike."""
        if self.architecture not in ("llama", "deci") or not re.search(r"\.self_attn\.[qk]_proj\.", name):
            return None
        if n_rows % self.head_size or self.head_size % 2:
            raise InputError(f"{name} has {n_rows} rows, no whole number of heads of {self.head_size}.")
        rows = np.arange(n_rows, dtype=np.int64)
        return rows.reshape(-1, 2, self.head_size // 2).swapaxes(1, 2).reshape(-1)

    def adds_one(self, name: str) -> bool:
        """Whether the GGUF tensor of Hugging Face parameter `name` holds each number with 1 added."""
        return self.architecture.startswith("gemma") and name.endswith("norm.weight")

    def values_for_gguf(self, name: str, values: Array) -> Array:
        """The numbers of Hugging Face parameter `name` as the GGUF tensor holds them."""
        order = self.order_in_gguf(name, values.shape[0])
        moved = values if order is None else values[order]
        return moved + np.float32(1) if self.adds_one(name) else moved

    def values_for_hf(self, name: str, values: Array) -> Array:
        """The numbers of the GGUF tensor of Hugging Face parameter `name` (Hugging Face's name) as the parameter holds them."""
        order = self.order_in_gguf(name, values.shape[0])
        moved = values if order is None else values[np.argsort(order)]
        return moved - np.float32(1) if self.adds_one(name) else moved

    def codes_for_gguf(self, name: str, codes: Codes) -> Codes:
        """Codes of Hugging Face parameter `name` with rows in the order of the GGUF tensor."""
        order = self.order_in_gguf(name, codes.shape[0])
        return codes if order is None else _rows(codes, order)

    def codes_for_hf(self, name: str, codes: Codes) -> Codes:
        """Codes of a GGUF tensor with rows in the order of Hugging Face parameter `name`."""
        order = self.order_in_gguf(name, codes.shape[0])
        return codes if order is None else _rows(codes, np.argsort(order))

    def _layer(self) -> dict[str, str]:
        own = dict(_OWN.get(self.architecture, {}))
        if self.architecture == "phi3":
            shared = {short: _LAYER[short] for short in ("attn_norm", "attn_output", "ffn_norm", "ffn_down")}
            return {**shared, **own}
        return {**_LAYER, **own}


def names_of(config: Mapping[str, Any]) -> Names:
    """The names of the model behind a config.json. Raises InfeasibleError for a kind that is not in ARCHITECTURES."""
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise InfeasibleError(f"Models of type {kind!r} have no known GGUF form here; known are {', '.join(ARCHITECTURES)}.")
    head_size = config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"])
    return Names(architecture=ARCHITECTURES[kind], head_size=int(head_size))


def _rows(codes: Codes, order: npt.NDArray[np.int64]) -> Codes:
    offsets = None if codes.offsets is None else codes.offsets[order]
    return dataclasses.replace(codes, levels=codes.levels[order], scales=codes.scales[order], offsets=offsets)
