"""Whether an architecture keeps the documents of one sequence apart when their positions begin anew.

Attention does, in every architecture whose code builds its mask from positions. Layers that carry a state from token to token do not, nor
those that count distances some other way. So it is tried, not looked up.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from trimtab.core.errors import InputError
from trimtab.core.training import TrainConfig
from trimtab.train.batch import MicroBatch
from trimtab.train.objectives import TorchBatch, hidden_states, to_device
from trimtab.train.sharding import computed_once

DOCUMENT_TOKENS = 12
LEAST_LEAK = 1e-3
"""Of the largest hidden state. Kept apart, the second documents differ by nothing or by rounding."""


def check_masks(learner: nn.Module, model: Any, config: TrainConfig, device: torch.device) -> None:
    """Two sequences whose first documents differ and whose second ones are the same, once forward; all processes call this.

    Raises InputError where the second documents come out unlike, so that `mask_documents` would promise what is not so.
    """
    if config.data.layout != "packed" or not config.data.mask_documents:
        return
    n = DOCUMENT_TOKENS
    ids = np.random.default_rng(0).integers(0, model.config.get_text_config().vocab_size, (2, 2 * n))
    ids[1, n:] = ids[0, n:]
    batch = MicroBatch(
        input_ids=ids,
        target_ids=np.zeros_like(ids),
        weights=np.ones(ids.shape, np.float32),
        position_ids=np.tile(np.arange(n), (2, 2)),
        document_ids=np.repeat(np.array([[0, 1], [0, 1]], np.int32), n, axis=1),
    )
    try:
        leak = float(computed_once(learner, _leak, to_device(batch, device)))
    except TypeError as error:
        raise InputError(f"{_name(model)} takes no positions ({error}); set [data] mask_documents = false.") from None
    if leak > LEAST_LEAK:
        raise InputError(f'{_name(model)} lets a document see those before it; set [data] mask_documents = false, or layout = "padded".')


def _leak(model: nn.Module, batch: TorchBatch) -> torch.Tensor:
    second = hidden_states(model, batch)[:, DOCUMENT_TOKENS:].float()
    return (second[0] - second[1]).abs().max() / second.abs().max()


def _name(model: nn.Module) -> str:
    return type(model).__name__.removeprefix("FSDP")
