"""A frozen model that a student is held against, and the memory of its most likely tokens."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from trimtab.core.errors import InputError
from trimtab.core.training import Precision
from trimtab.train.objectives import TorchBatch, hidden_states

if TYPE_CHECKING:
    from trimtab.train.batch import MicroBatch, TeacherTargets

SLICE_ROWS = 256


class Teacher:
    """A causal language model that is only looked at. head: [V, width]."""

    def __init__(self, model: nn.Module, head: torch.Tensor) -> None:
        self.model, self.head = model, head

    def hidden(self, batch: TorchBatch) -> torch.Tensor:
        """[B,T,width] before the head, without gradients, in the precision of the student's matrix products."""
        with torch.no_grad():
            return hidden_states(self.model, batch)


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


class TopTokens:
    """The teacher's K most likely tokens at each position of each sequence, in two files that are mapped and fill up as sequences come by.

    With several passes over the same sequences the teacher is computed once; 6 bytes a kept token. A sequence is known when its first
    log-probability is not 0: of K tokens none has all the probability.
    """

    def __init__(self, folder: Path, *, n_sequences: int, seq_tokens: int, top_k: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shape = (n_sequences, seq_tokens, top_k)
        self.top_k = top_k
        self.ids = _mapped(folder / "ids.npy", np.dtype(np.int32), shape)
        self.logprobs = _mapped(folder / "logprobs.npy", np.dtype(np.float16), shape)

    def fill(self, batch: "MicroBatch", compute: Callable[["MicroBatch"], "TeacherTargets"]) -> "MicroBatch":
        """The batch with its targets, known or computed now. Raises InputError for a batch that was not made from a stream."""
        from trimtab.train.batch import TeacherTargets

        places = batch.sequence_ids
        if places is None:
            raise InputError("Only batches of a stream have sequences that can be remembered; take [objective] top_k = 0.")
        if (self.logprobs[places, 0, 0] == 0).any():
            found = compute(batch)
            self.ids[places], self.logprobs[places] = found.ids, np.minimum(found.logprobs, -1e-7)
        targets = TeacherTargets(ids=self.ids[places], logprobs=self.logprobs[places].astype(np.float32))
        return replace(batch, teacher=targets)


def top_targets(teacher: Teacher, batch: TorchBatch, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's most likely tokens at each position: ids [B,T,K], log-probabilities float32 [B,T,K]."""
    hidden = teacher.hidden(batch)
    flat = hidden.reshape(-1, hidden.shape[-1]).to(teacher.head.dtype)
    parts = []
    for first in range(0, len(flat), SLICE_ROWS):
        logits = torch.mm(flat[first : first + SLICE_ROWS], teacher.head.t()).float()
        parts.append(torch.log_softmax(logits, -1).topk(top_k, -1))
    shape = (*hidden.shape[:-1], top_k)
    return torch.cat([part.indices for part in parts]).reshape(shape), torch.cat([part.values for part in parts]).reshape(shape)


def _mapped(path: Path, kind: npt.DTypeLike, shape: tuple[int, ...]) -> Any:
    """The array in a file, made empty (0 everywhere, a hole on the disk) if it is not there or of another shape."""
    if path.exists():
        held = np.load(path, mmap_mode="r+")
        if held.shape == shape and held.dtype == kind:
            return held
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
