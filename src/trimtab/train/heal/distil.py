"""KL divergence of a student from its teacher, token by token, as an objective of the trainer.

With all of the teacher's probabilities, both heads' logits are made for a slice of tokens at a time and never held whole, as in
train/head_loss.py: the gradient by the student's hidden states is (q - p) @ head, made in the forward pass. With the K most likely tokens
of a cache, the rest is one class of its own (so the divergence is a lower bound of the whole one: data processing inequality).
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trimtab.train.head_loss import head_cross_entropy
from trimtab.train.objectives import Objective, TorchBatch, hidden_states, plain_head

if TYPE_CHECKING:
    from trimtab.train.heal.teacher import Teacher

SLICE_BYTES = 2**26
"""Of logits at once, of each of the two models."""
TINY = 1e-12
"""The least probability that the rest may have, so that its logarithm is finite."""


def distil(teacher: "Teacher", *, top_k: int = 0, text_share: float = 0.0) -> Objective:
    """The objective: (1 - text_share) * KL(teacher || student) + text_share * cross-entropy with the text, summed with the batch's weights.

    top_k: of the teacher's tokens are kept, 0 = all count. Raises InputError where the student's head is no plain matrix.
    """

    def objective(model: nn.Module, batch: TorchBatch) -> torch.Tensor:
        head = head_of(model)
        counted = slice(None) if batch.counted is None else batch.counted
        hidden = _flat(hidden_states(model, batch))[counted]
        weights = batch.weights.reshape(-1)[counted]
        if top_k:
            top = teacher.top(batch, top_k)
            loss = top_divergence(hidden, head.weight, _flat(top.ids)[counted], _flat(top.logprobs)[counted], weights)
        else:
            loss = head_divergence(hidden, head.weight, _flat(teacher.hidden(batch))[counted], teacher.head, weights)
        if text_share:
            text = head_cross_entropy(hidden, head.weight, batch.target_ids.reshape(-1)[counted], weights)
            loss = (1 - text_share) * loss + text_share * text
        return loss

    return objective


def head_of(model: nn.Module) -> nn.Linear:
    """A student's or teacher's head. Raises InputError where logits are more than its matrix times the last hidden states."""
    from trimtab.core.errors import InputError

    head = plain_head(model)
    if head is None:
        raise InputError(f"Distilling needs a head that is one matrix; that of {type(model).__name__} caps or scales its logits.")
    return head


def head_divergence(
    hidden: torch.Tensor, head: torch.Tensor, teacher_hidden: torch.Tensor, teacher_head: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Sum over n tokens of weights * KL(softmax(teacher) || softmax(student)), nats; float32, or float64 for float64 inputs.

    hidden: [n, width]; head: [V, width]; teacher_hidden: [n, its width]; teacher_head: [V, its width]; weights: [n], no gradient
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, head, teacher_hidden, teacher_head = (each.to(dtype) for each in (hidden, head, teacher_hidden, teacher_head))
    total: torch.Tensor = _HeadDivergence.apply(hidden, head, teacher_hidden, teacher_head, weights)
    return total


class _HeadDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        teacher_hidden: torch.Tensor,
        teacher_head: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        need_hidden, need_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_head = torch.zeros_like(head, dtype=wide) if need_head else None
        total = torch.zeros((), dtype=wide, device=hidden.device)
        weights = weights.to(wide)
        rows = max(1, SLICE_BYTES // (head.shape[0] * wide.itemsize))
        for first in range(0, hidden.shape[0], rows):
            part = slice(first, first + rows)
            theirs = torch.log_softmax(torch.mm(teacher_hidden[part], teacher_head.t()).to(wide), -1)
            own = torch.log_softmax(torch.mm(hidden[part], head.t()).to(wide), -1)
            share = theirs.exp()
            total += torch.linalg.vecdot(share, theirs.sub_(own)).mul_(weights[part]).sum()
            if not (need_hidden or need_head):
                continue
            narrow = own.exp_().sub_(share).mul_(weights[part, None]).to(head.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = torch.mm(narrow, head)
            if grad_head is not None:
                grad_head += torch.mm(narrow.t(), hidden[part])
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.dtype = head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grads[0].to(grad_hidden.dtype)
        if grad_head is not None:
            grad_head = grad_head.mul_(grads[0]).to(ctx.dtype)
        return grad_hidden, grad_head, None, None, None


def top_divergence(
    hidden: torch.Tensor, head: torch.Tensor, ids: torch.Tensor, logprobs: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Sum over n tokens of weights * KL over K + 1 classes: the teacher's K most likely tokens, and all others together.

    ids: int64 [n, K]; logprobs: float32 [n, K]
    """
    logits = torch.mm(hidden, head.t().to(hidden.dtype))
    wide = logits if logits.dtype == torch.float64 else logits.float()
    own = wide.gather(-1, ids) - wide.logsumexp(-1, keepdim=True)
    share = logprobs.to(wide.dtype).exp()
    rest = (1 - share.sum(-1)).clamp_min(0.0)
    own_rest = (1 - own.exp().sum(-1)).clamp_min(TINY)
    kept = (share * (logprobs.to(wide.dtype) - own)).sum(-1)
    others = torch.xlogy(rest, rest) - rest * own_rest.log()
    return ((kept + others) * weights.to(wide.dtype)).sum()


def _flat(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, values.shape[-1])
