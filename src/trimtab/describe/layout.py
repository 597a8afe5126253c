"""The shape of a model, layer by layer, from GGUF keys, a config.json or OpenVINO's state variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.core.model import KvLayers
from trimtab.describe.tensors import MAX_LAYERS

MAX_INT = 1 << 40
StateKind = Literal["full", "sliding", "mla", "recurrent"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """State that one layer keeps. `attention` None: keeps no keys and values; `state_values` 0: keeps no recurrent state.

    attention: kind, values kept per token, window (0 = all), FLOPs per token for each token of context
    """

    kind: Literal["full", "sliding", "mla"] | None = None
    values_per_token: int = 0
    window_tokens: int = 0
    attn_flops: int = 0
    state_values: int = 0
    recurrent: bool = False

    @property
    def title(self) -> str:
        words = {"full": "full attention", "sliding": f"sliding attention, {self.window_tokens} tokens", "mla": "latent attention (MLA)"}
        told = [words[self.kind]] if self.kind else []
        return " + ".join([*told, *(["recurrent"] if self.recurrent else [])])


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of a model; 0 where the header does not tell. n_experts_used of n_experts are passed by a token."""

    layers: tuple[Layer, ...]
    hidden_size: int
    context_tokens: int
    vocab_size: int
    n_experts: int = 0
    n_experts_used: int = 0
    notes: tuple[str, ...] = ()

    @property
    def routed_share(self) -> float:
        return self.n_experts_used / self.n_experts if 0 < self.n_experts_used <= self.n_experts else 1.0

    def kv_layers(self) -> tuple[KvLayers, ...]:
        """Layers grouped by what they keep, in order of first appearance."""
        counts: dict[tuple[StateKind, int, int, int], int] = {}
        for layer in self.layers:
            if layer.kind is not None and layer.values_per_token:
                key: tuple[StateKind, int, int, int] = (layer.kind, layer.values_per_token, layer.window_tokens, 0)
                counts[key] = counts.get(key, 0) + 1
            if layer.recurrent:
                key = ("recurrent", 0, 0, layer.state_values)
                counts[key] = counts.get(key, 0) + 1
        return tuple(
            KvLayers(kind=kind, n_layers=count, values_per_token=values, window_tokens=window, state_values=state)
            for (kind, values, window, state), count in counts.items()
        )


def whole(values: Mapping[str, Any], *keys: str, default: int = 0) -> int:
    """The first key that holds a whole number from 0 to MAX_INT; headers are untrusted."""
    for key in keys:
        value = values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INT:
            return value
    return default


def text_part(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config.json with the keys of its text part on top, which is what counts of a multimodal one."""
    inner = metadata.get("text_config")
    return {**metadata, **inner} if isinstance(inner, dict) else metadata


def per_layer(value: Any, n_layers: int, default: int) -> list[int]:
    """One number a layer from a number or an array; shorter arrays are repeated from their last entry."""
    if isinstance(value, (tuple, list)):
        numbers = [item if isinstance(item, int) and 0 <= item <= MAX_INT else 0 for item in value[:n_layers]]
        return (numbers + [numbers[-1] if numbers else default] * n_layers)[:n_layers]
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INT
    return [value if good else default] * n_layers


def pattern_is_sliding(pattern: Any, n_layers: int, *, full_first: bool = False) -> list[bool]:
    """Which layers slide: from one flag a layer, or from N = every N-th layer is full (the last of each N, or the first)."""
    if isinstance(pattern, (tuple, list)):
        flags = [bool(item) for item in pattern[:n_layers]]
        return flags + [False] * (n_layers - len(flags))
    if not isinstance(pattern, int) or pattern < 1:
        return [True] * n_layers
    full = 0 if full_first else pattern - 1
    return [index % pattern != full for index in range(n_layers)]


def bounded_layers(told: int, found: Sequence[int]) -> tuple[int, tuple[str, ...]]:
    """(number of layers, notes): what the header tells if that can be, else what the tensors show."""
    shown = max(found, default=-1) + 1
    if 0 < told <= MAX_LAYERS:
        return told, ()
    return shown, (f"The header tells {told} layers; its tensors show {shown}.",) if told else ()


def state_layout(state: Mapping[str, Any], context_tokens: int) -> Layout:
    """Layout of an OpenVINO graph from its state variables: `?,heads,?,dimension` for keys and values, fixed shapes for others."""
    layers: list[Layer] = []
    values, fixed, pending = 0, 0, 0
    for shape in state.values():
        lengths = [length for length in shape if isinstance(length, int) and 0 < length <= MAX_INT]
        size = 1
        for length in lengths:
            size *= length
        free = sum(1 for length in shape if length == -1)
        if free >= 2 and len(lengths) >= 1:
            values, pending = values + size, pending + 1
            if pending == 2:
                layers.append(Layer(kind="full", values_per_token=values))
                values, pending = 0, 0
        elif lengths:
            fixed += size
    if fixed:
        layers.append(Layer(recurrent=True, state_values=fixed))
    return Layout(layers=tuple(layers), hidden_size=0, context_tokens=context_tokens, vocab_size=0)
