"""Optimizers by name: fused AdamW and SGD of torch, AdamW with 8-bit states of torchao."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from trimtab.core.errors import EngineRefused, MissingError
from trimtab.core.training import TrainOptimizer, TrainRun
from trimtab.train.compiler import need_compiler


def open_optimizer(model: nn.Module, choice: TrainOptimizer, run: TrainRun) -> Optimizer:
    """The optimizer of a model's trained parameters. Weight decay acts on matrices only, not on norms and biases.

    Its learning rate is a placeholder: each step sets its own. Raises EngineRefused where `adamw8bit` does not work, MissingError without
    torchao or, on a processor, without a C++ compiler.
    """
    groups = _groups([parameter for parameter in model.parameters() if parameter.requires_grad], choice.weight_decay)
    if choice.name == "sgd":
        # torch 2.13 has no fused SGD for shards.
        in_shards = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        return torch.optim.SGD(groups, lr=choice.lr, **({"foreach": True} if in_shards else {"fused": True}))
    if choice.name == "adamw8bit":
        need_compiler("adamw8bit", next(model.parameters()).device)
        return _adamw8bit(groups, choice, run)
    return torch.optim.AdamW(groups, lr=choice.lr, betas=(choice.beta1, choice.beta2), eps=choice.eps, fused=True)


def _groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without; a group that would be empty is left out."""
    kinds: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault(weight_decay if parameter.ndim > 1 else 0.0, []).append(parameter)
    return [{"params": kind, "weight_decay": decay} for decay, kind in kinds.items()]


def _adamw8bit(groups: list[dict[str, Any]], choice: TrainOptimizer, run: TrainRun) -> Optimizer:
    """Dettmers et al. 2022, arXiv:2110.02861, in torchao's form: both moments in blocks of 256 values of 8 bits."""
    if run.precision == "fp64":
        raise EngineRefused("adamw8bit computes in float32; take adamw with precision fp64.")
    if run.offload:
        raise EngineRefused("adamw8bit keeps its states where the weights are computed; take adamw with offload.")
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise MissingError("adamw8bit needs torchao.", "pip install 'trimtab[train]'") from None
    optimizer: Optimizer = AdamW8bit(groups, lr=choice.lr, betas=(choice.beta1, choice.beta2), eps=choice.eps)
    return optimizer
