"""How far a model is from its reference on given text, computed in 32-bit floats from the numbers that its weights stand for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trimtab.train.heal.distil import head_divergence
from trimtab.train.heal.teacher import open_teacher


@torch.no_grad()
def divergences(reference: Path, model: Path, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """Mean KL(reference || model) in nats a token, of each sequence of token ids. Both are Hugging Face directories.

    Raises InputError for a folder without a model.
    """
    cpu = torch.device("cpu")
    theirs, own = open_teacher(reference, "fp32", cpu), open_teacher(model, "fp32", cpu)
    found = []
    for sequence in sequences:
        ids = torch.tensor(np.array(sequence, np.int64))[None]
        states = [each.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0] for each in (own, theirs)]
        total = head_divergence(states[0], own.head, states[1], theirs.head, torch.ones(len(sequence)))
        found.append(float(total) / len(sequence))
    return np.array(found)
