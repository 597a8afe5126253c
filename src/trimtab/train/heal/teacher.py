"""A frozen model that a student is held against, and the memory of what it said of each sequence."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from trimtab.core.errors import InputError
from trimtab.core.training import Precision
from trimtab.train.objectives import TeacherTensors, TorchBatch, hidden_states

SLICE_ROWS = 256
CACHE_BYTES = 2**30
"""Of what a process remembers: about a million tokens of a small model's hidden states."""


class Teacher:
    """A causal language model that is only looked at, once a sequence as long as its memory lasts. head: [V, width]."""

    def __init__(self, model: nn.Module, head: torch.Tensor, cache_bytes: int = CACHE_BYTES) -> None:
        self.model, self.head = model, head
        self.n_computed = 0
        self._kept: dict[bytes, tuple[torch.Tensor, ...]] = {}
        self._room_bytes = cache_bytes

    def hidden(self, batch: TorchBatch) -> torch.Tensor:
        """[B,T,width] before the head, without gradients, in the precision of the matrix products."""
        return self._rows(batch, lambda part: (hidden_states(self.model, part).to(self.head.dtype),))[0]

    def top(self, batch: TorchBatch, top_k: int) -> TeacherTensors:
        """The most likely tokens at each position: ids [B,T,K], log-probabilities [B,T,K] in 16 bits."""
        ids, logprobs = self._rows(batch, lambda part: self._top(part, top_k))
        return TeacherTensors(ids=ids.long(), logprobs=logprobs.float())

    def _top(self, batch: TorchBatch, top_k: int) -> tuple[torch.Tensor, ...]:
        hidden = hidden_states(self.model, batch)
        flat = hidden.reshape(-1, hidden.shape[-1]).to(self.head.dtype)
        parts = [torch.log_softmax(torch.mm(rows, self.head.t()).float(), -1).topk(top_k, -1) for rows in flat.split(SLICE_ROWS)]
        shape = (*hidden.shape[:-1], top_k)
        ids, logprobs = torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])
        return ids.int().reshape(shape), logprobs.half().reshape(shape)

    @torch.no_grad()
    def _rows(self, batch: TorchBatch, compute: Callable[[TorchBatch], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        """What is known of the batch's sequences, or computed for all of them."""
        keys = [_key(batch, row) for row in range(len(batch.input_ids))]
        if all(key in self._kept for key in keys):
            return tuple(torch.stack(parts) for parts in zip(*(self._kept[key] for key in keys), strict=True))
        found = compute(batch)
        self.n_computed += len(keys)
        for row, key in enumerate(keys):
            own = tuple(part[row].clone() for part in found)
            n_bytes = sum(part.nbytes for part in own)
            if key not in self._kept and n_bytes <= self._room_bytes:
                self._kept[key] = own
                self._room_bytes -= n_bytes
        return found


def _key(batch: TorchBatch, row: int) -> bytes:
    """A sequence's identity: its tokens, and where documents begin."""
    both = torch.stack([batch.input_ids[row], batch.position_ids[row]]).cpu().numpy()
    return hashlib.blake2b(both.tobytes(), digest_size=16).digest()


def open_teacher(folder: Path, precision: Precision, device: torch.device) -> Teacher:
    """The model of a Hugging Face directory, frozen. Under bf16 its matrices are kept in 16 bits; what is added up stays in 32.

    Raises InputError for a directory that holds none, or whose head is no plain matrix.
    """
    from transformers import AutoModelForCausalLM

    from trimtab.train.heal.distil import head_of

    if not (folder / "config.json").is_file():
        raise InputError(f"The teacher {folder} holds no config.json; give a Hugging Face directory of a causal language model.")
    wide = torch.float64 if precision == "fp64" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=wide, attn_implementation="sdpa").to(device).eval()
    model.requires_grad_(False)
    head = head_of(model)
    matrix = head.weight.to(torch.bfloat16) if precision == "bf16" else head.weight
    if precision == "bf16":
        for layer in model.modules():
            if isinstance(layer, nn.Linear) and layer is not head:
                layer.to(torch.bfloat16)
    return Teacher(model, matrix)
