"""Cross-entropy of a language model's head without ever holding all logits.

For a vocabulary of V and n tokens the plain way holds three arrays of n x V: logits, their log-softmax, their gradient. Here the head's
product, the loss and both gradients are made for a slice of tokens at a time, while the forward pass runs: the same number of
multiplications, no recomputation (Hsu et al. 2024, arXiv:2410.10989, describe the same for GPUs).
"""

from typing import Any

import torch

SLICE_BYTES = {"cpu": 2**26, "cuda": 2**29}
"""Of logits at once. Smaller slices read and write the weight's gradient more often."""


def head_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over n tokens of weights * -log softmax(hidden @ weight.T)[targets], nats; float32, or float64 for float64 inputs.

    hidden: [n, width]; weight: [V, width]; targets: int64 [n]; weights: float [n], no gradient
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    total: torch.Tensor = _HeadCrossEntropy.apply(hidden, weight, targets, weights)
    return total


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if need_weight else None
        total = torch.zeros((), dtype=wide, device=hidden.device)
        weights = weights.to(wide)
        rows = max(1, SLICE_BYTES.get(hidden.device.type, 2**26) // (weight.shape[0] * wide.itemsize))
        for first in range(0, hidden.shape[0], rows):
            part = slice(first, first + rows)
            scale = weights[part, None]
            log_share = torch.log_softmax(torch.mm(hidden[part], weight.t()).to(wide), -1)
            target = targets[part, None]
            total -= (log_share.gather(1, target) * scale).sum()
            if not (need_hidden or need_weight):
                continue
            share = log_share.exp_()  # gradient of the loss by the logits: softmax - one at the target, before the weights
            share.scatter_add_(1, target, share.new_full(target.shape, -1.0))
            narrow = share.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = torch.mm(narrow, weight) * scale
            if grad_weight is not None:
                _add_product(grad_weight, narrow, hidden[part] * scale)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grads[0].to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grads[0]).to(ctx.dtype)
        return grad_hidden, grad_weight, None, None


def _add_product(total: torch.Tensor, share: torch.Tensor, hidden: torch.Tensor) -> None:
    """total [V, width] += share.T [V, n] @ hidden [n, width], in place."""
    narrow = hidden.to(share.dtype)
    if total.dtype == share.dtype:
        total.addmm_(share.t(), narrow)
    else:
        total += torch.mm(share.t(), narrow)
