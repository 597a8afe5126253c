"""Keys and values of several sequences, all of which end at the same column, so that one call computes the next token of each.

A shorter sequence begins further right, and what lies left of it is masked: such padding leaves positions and distances as they are, so
that the masks that a model builds for itself (causal, sliding, chunked, ALiBi) hold. Room is set aside ahead, because appending to a tensor
would copy all of it for every token. What a model made in inference mode may be changed in inference mode only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

LEAST_COLUMNS = 64


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer whose keys [rows, heads, columns, width] are the filled part of a larger tensor; so are its values."""

    def __init__(self) -> None:
        super().__init__()
        self.key_room: torch.Tensor | None = None
        self.value_room: torch.Tensor | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Append columns; the filled parts."""
        n_held, n_new = self.get_seq_length(), key_states.shape[-2]
        self.key_room = _with_room(self.key_room, key_states, n_held)
        self.value_room = _with_room(self.value_room, value_states, n_held)
        self.key_room[:, :, n_held : n_held + n_new] = key_states
        self.value_room[:, :, n_held : n_held + n_new] = value_states
        self.show(n_held + n_new)
        return self.keys, self.values

    def show(self, n_columns: int) -> None:
        """Take the first so many columns for the filled part."""
        assert self.key_room is not None
        assert self.value_room is not None
        self.device = self.key_room.device
        self.is_initialized = True
        self.keys = self.key_room[:, :, :n_columns]
        self.values = self.value_room[:, :, :n_columns]

    def replaced(self, keys: torch.Tensor, values: torch.Tensor, n_columns: int) -> None:
        self.key_room, self.value_room = keys, values
        self.show(n_columns)


def new_cache() -> Any:
    """An empty cache; its layers appear as a model fills them."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def n_columns(cache: Any) -> int:
    return max((layer.get_seq_length() for layer in cache.layers), default=0)


def bytes_per_column(cache: Any) -> int:
    """Of one row, in all layers."""
    return sum(
        part.shape[1] * part.shape[3] * part.element_size()
        for layer in cache.layers
        for part in (layer.keys, layer.values)
        if part is not None
    )


@torch.inference_mode()  # type: ignore[untyped-decorator]
def taken(cache: Any, rows: Sequence[int], first_column: int = 0) -> Any:
    """A new cache of some rows, one of them several times if asked, from a column on."""
    found = new_cache()
    for layer in cache.layers:
        made = RoomyLayer()
        if layer.is_initialized:
            index = torch.tensor(list(rows), device=layer.keys.device)
            n_held = layer.keys.shape[2] - first_column
            rooms = []
            for part in (layer.keys, layer.values):
                room = _room(part, len(rows), n_held)
                torch.index_select(part[:, :, first_column:], 0, index, out=room[:, :, :n_held])
                rooms.append(room)
            made.replaced(rooms[0], rooms[1], n_held)
        found.layers.append(made)
    return found


@torch.inference_mode()  # type: ignore[untyped-decorator]
def joined(one: Any, two: Any) -> Any:
    """A new cache of the rows of both, which end at the same column."""
    width = max(n_columns(one), n_columns(two))
    found = new_cache()
    for a, b in zip(one.layers, two.layers, strict=True):
        made = RoomyLayer()
        if a.is_initialized:
            rooms = []
            for first, second in ((a.keys, b.keys), (a.values, b.values)):
                room = _room(first, first.shape[0] + second.shape[0], width)
                room[: first.shape[0], :, width - first.shape[2] : width] = first
                room[first.shape[0] :, :, width - second.shape[2] : width] = second
                rooms.append(room)
            made.replaced(rooms[0], rooms[1], width)
        found.layers.append(made)
    return found


@torch.inference_mode()  # type: ignore[untyped-decorator]
def put_row(cache: Any, row: int, source: Any, source_row: int) -> None:
    """Overwrite the end of a row with a row of another cache that has no more columns."""
    for layer, other in zip(cache.layers, source.layers, strict=True):
        if layer.is_initialized:
            n_new = other.keys.shape[2]
            layer.keys[row, :, -n_new:] = other.keys[source_row]
            layer.values[row, :, -n_new:] = other.values[source_row]


def _with_room(room: torch.Tensor | None, new: torch.Tensor, n_held: int) -> torch.Tensor:
    needed = n_held + new.shape[2]
    if room is not None and room.shape[2] >= needed:
        return room
    larger = _room(new, new.shape[0], max(needed, 2 * n_held))
    if room is not None:
        larger[:, :, :n_held] = room[:, :, :n_held]
    return larger


def _room(like: torch.Tensor, n_rows: int, n_columns: int) -> torch.Tensor:
    """Zeros: what is masked is multiplied by nothing, and would still be a NaN if it held one."""
    columns = -(-(n_columns + 1) // LEAST_COLUMNS) * LEAST_COLUMNS
    return torch.zeros((n_rows, like.shape[1], columns, like.shape[3]), dtype=like.dtype, device=like.device)
