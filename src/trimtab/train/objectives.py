"""What a step makes smaller: the batch as tensors, the model's last hidden states, and cross-entropy with the text.

An objective gives the SUM of weight * loss over a micro-batch; the step divides by the weights of the whole global batch (steps.py).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trimtab.train.head_loss import head_cross_entropy

if TYPE_CHECKING:
    from trimtab.train.batch import MicroBatch

LOGITS_CHANGED_BY = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings of architectures whose logits are more than a matrix product with the last hidden states."""


@dataclass(frozen=True, kw_only=True)
class TeacherTensors:
    """The teacher's most likely tokens at each position: ids int64 [B,T,K], logprobs float32 [B,T,K]."""

    ids: torch.Tensor
    logprobs: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class TorchBatch:
    """A MicroBatch on the device; see train/batch.py for its fields.

    several: some sequence holds more than one document, and none may see another
    counted: int64 [n], positions of the flattened [B*T] whose weight is not 0; None when all count
    """

    input_ids: torch.Tensor
    target_ids: torch.Tensor
    weights: torch.Tensor
    position_ids: torch.Tensor
    document_ids: torch.Tensor
    several: bool
    counted: torch.Tensor | None
    teacher: TeacherTensors | None = None


class Objective(Protocol):
    """SUM over the target tokens of weight * loss: a scalar of float32 or wider."""

    def __call__(self, model: nn.Module, batch: TorchBatch) -> torch.Tensor: ...


def to_device(batch: "MicroBatch", device: torch.device) -> TorchBatch:
    """A micro-batch's arrays as tensors on a device. What depends on their values is found out here, on the host."""
    counts = batch.weights.reshape(-1) != 0
    starts = (batch.position_ids[:, 1:] == 0) & (batch.document_ids[:, 1:] >= 0)
    teacher = None
    if batch.teacher is not None:
        ids, logprobs = _tensor(batch.teacher.ids, device).long(), _tensor(batch.teacher.logprobs, device)
        teacher = TeacherTensors(ids=ids, logprobs=logprobs)
    return TorchBatch(
        input_ids=_tensor(batch.input_ids, device),
        target_ids=_tensor(batch.target_ids, device),
        weights=_tensor(batch.weights, device),
        position_ids=_tensor(batch.position_ids, device),
        document_ids=_tensor(batch.document_ids, device),
        several=bool(starts.any()),
        counted=None if counts.all() else _tensor(np.flatnonzero(counts), device),
        teacher=teacher,
    )


def hidden_states(model: nn.Module, batch: TorchBatch) -> torch.Tensor:
    """[B,T,width] of a causal language model before its head.

    A token sees its own document only: the architecture's own code builds the mask, sliding windows and all, from positions that begin
    anew. Padding needs no mask: it stands behind the text, where no token that counts looks. With one document a sequence there is no mask
    at all and the fast causal kernels run.
    """
    hidden: torch.Tensor = model.get_decoder()(input_ids=batch.input_ids, use_cache=False, **_positions(batch)).last_hidden_state
    return hidden


def all_logits(model: nn.Module, batch: TorchBatch) -> torch.Tensor:
    """[B,T,vocabulary] in the precision of the matrix products."""
    logits: torch.Tensor = model(input_ids=batch.input_ids, use_cache=False, **_positions(batch)).logits
    return logits


def next_token(model: nn.Module, batch: TorchBatch) -> torch.Tensor:
    """Cross-entropy with the text, nats, summed with weights.

    The logits of a long batch are never held whole: see head_loss.py. Heads that are more than a matrix product take the plain way.
    """
    targets, weights = batch.target_ids.reshape(-1), batch.weights.reshape(-1)
    if batch.counted is not None:
        targets, weights = targets[batch.counted], weights[batch.counted]
    head = plain_head(model)
    if head is not None:
        return head_cross_entropy(_counted(hidden_states(model, batch), batch), head.weight, targets, weights)
    logits = _counted(all_logits(model, batch), batch)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (functional.cross_entropy(wide, targets, reduction="none") * weights).sum()


def plain_head(model: nn.Module) -> nn.Linear | None:
    """The head, where logits are its matrix times the hidden states and nothing else."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or "forward" in vars(head) or head._forward_pre_hooks or head._forward_hooks:
        return None
    changed = any(getattr(model.config, name, None) not in (None, 1, 1.0) for name in LOGITS_CHANGED_BY)
    return None if changed else head


def _counted(values: torch.Tensor, batch: TorchBatch) -> torch.Tensor:
    flat = values.reshape(-1, values.shape[-1])
    return flat if batch.counted is None else flat[batch.counted]


def _positions(batch: TorchBatch) -> dict[str, torch.Tensor]:
    return {"position_ids": batch.position_ids} if batch.several else {}


def _tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
