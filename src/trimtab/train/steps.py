"""One optimizer step: micro-batches in, loss and gradient norm out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import Optimizer

from trimtab.core.training import TrainConfig
from trimtab.train.objectives import Objective, to_device
from trimtab.train.processes import Processes

if TYPE_CHECKING:
    from trimtab.train.batch import MicroBatch


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """loss: weighted mean over the global batch, nats; grad_norm: before clipping; tokens: targets that count, over all processes."""

    loss: float
    grad_norm: float
    tokens: int


class Learner(nn.Module):
    """A model and its objective as one module, so that the loss is computed inside the forward pass that DDP and FSDP2 see."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: object) -> torch.Tensor:
        return self.objective(self.model, batch)  # type: ignore[arg-type]


class Stepper:
    """Takes steps with one learner."""

    def __init__(self, learner: nn.Module, optimizer: Optimizer, config: TrainConfig, processes: Processes) -> None:
        self.learner, self.optimizer, self.config, self.processes = learner, optimizer, config, processes
        self.parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]

    def step(self, batches: Sequence["MicroBatch"], lr: float) -> StepOutcome:
        """Change the weights once."""
        own = [float(sum(batch.weights.sum() for batch in batches)), float(sum((batch.weights != 0).sum() for batch in batches))]
        weight, tokens = self.processes.gathered(own).sum(0).tolist()
        loss = 0.0
        for batch in batches:
            part = self.learner(to_device(batch, self.processes.device)) * (self.processes.world / weight)
            part.backward()
            loss += float(part.detach()) / self.processes.world
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.clip_norm or float("inf"))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepOutcome(loss=float(self.processes.gathered([loss]).sum()), grad_norm=float(norm), tokens=int(tokens))
