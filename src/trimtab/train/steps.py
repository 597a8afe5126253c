"""One optimizer step: micro-batches in, loss and gradient norm out.

The gradient is that of the weighted mean over all target tokens of the global batch. The sum of the weights is known before the first
backward pass, so every micro-batch's loss is divided by it at once and gradients simply add up: over micro-batches, and over processes. DDP
and FSDP2 average over processes; the factor `world` undoes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from trimtab.core.errors import InputError
from trimtab.core.training import TrainConfig
from trimtab.train.objectives import to_device
from trimtab.train.processes import Processes
from trimtab.train.sharding import gradients_summed

if TYPE_CHECKING:
    from trimtab.train.batch import MicroBatch


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """What a step's backward passes found; the gradients themselves lie in the parameters.

    loss: weighted mean over the global batch, nats; norm: global, before clipping; tokens: targets that count, over all processes
    agreed: for each of the values that the processes were asked for, the largest
    """

    loss: float
    norm: float
    tokens: int
    agreed: tuple[float, ...] = ()


class NothingLearnt(InputError):
    """No token of a batch counts."""


class Stepper:
    """Computes gradients with one learner and changes its weights with them."""

    def __init__(self, learner: nn.Module, optimizer: Optimizer, config: TrainConfig, processes: Processes) -> None:
        self.learner, self.optimizer, self.config, self.processes = learner, optimizer, config, processes
        self.parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self.split = any(isinstance(parameter, DTensor) for parameter in self.parameters)

    def gradient(self, batches: Sequence["MicroBatch"], ask: Sequence[float] = ()) -> Gradient:
        """Forward and backward passes over this process's micro-batches of one step.

        ask: values of this process of which all want the largest (one exchange carries everything)
        Raises NothingLearnt when no token counts.
        """
        own = [
            sum(float(batch.weights.sum(dtype="float64")) for batch in batches),
            sum(int((batch.weights != 0).sum()) for batch in batches),
        ]
        weight, tokens = self.processes.gathered(own).sum(0).tolist()
        if not weight > 0:
            raise NothingLearnt("No token of this batch counts towards the loss; look at the weights, and at who speaks in a chat.")
        total = torch.zeros((), dtype=torch.float64, device=self.processes.device)
        for number, batch in enumerate(batches, 1):
            last = number == len(batches)
            with gradients_summed(self.learner, last or self.config.train.grad_sync == "each"):
                loss = self.learner(to_device(batch, self.processes.device))
                (loss * (self.processes.world / weight)).backward()
            total += loss.detach()
        told = self.processes.gathered([float(total), self._own_square(), *ask])
        square = float(told[:, 1].sum()) if self.split else float(told[0, 1])
        return Gradient(
            loss=float(told[:, 0].sum()) / weight, norm=square**0.5, tokens=int(tokens), agreed=tuple(told[:, 2:].max(0).values.tolist())
        )

    def apply(self, gradient: Gradient, lr: float) -> None:
        """Clip by the global norm (Pascanu et al. 2013, arXiv:1211.5063) and take the optimizer's step."""
        clip = self.config.optimizer.clip_norm
        if clip and gradient.norm > clip:
            torch._foreach_mul_(self._own_gradients(), clip / gradient.norm)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def _own_gradients(self) -> list[torch.Tensor]:
        """This process's part of each gradient."""
        found = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in found]

    def _own_square(self) -> float:
        norms = torch._foreach_norm(self._own_gradients())
        return float(torch.stack(norms).double().square().sum()) if norms else 0.0
