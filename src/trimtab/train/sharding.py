"""A model laid out over processes: alone, whole on each (DDP), or sharded (FSDP2); with recomputation, compilation and precision.

Each transformer block is one unit: it is recomputed, compiled and sharded as a whole, and its parameters travel together. What is not in a
block (the embedding, the last norm, the head) is the root unit.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from trimtab.core.errors import InputError
from trimtab.core.training import Recompute, TrainConfig
from trimtab.train.compiler import need_compiler
from trimtab.train.models import blocks_of
from trimtab.train.processes import Processes

KEPT = ("mm", "bmm", "addmm", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")  # fmt: skip
"""Operators of ATen whose results selective recomputation keeps: the expensive ones. Norms, activations and rotations are done twice."""


class Learner(nn.Module):
    """A model and its objective as one module, so that the loss is computed inside the forward pass that DDP and FSDP2 see.

    autocast: the matrix products' type where the stored weights are wider and nobody else casts them
    """

    def __init__(self, model: nn.Module, objective: Callable[[nn.Module, Any], torch.Tensor], autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model, self.objective, self.autocast = model, objective, autocast

    def forward(self, batch: Any) -> torch.Tensor:
        """SUM of weight * loss over a TorchBatch."""
        if self.autocast is None:
            return self.objective(self.model, batch)
        with torch.autocast(batch.input_ids.device.type, self.autocast):
            return self.objective(self.model, batch)


def sharded(config: TrainConfig, processes: Processes) -> bool:
    """Whether weights lie in shards: ZeRO stages 2 and 3 on several processes, or where their states are offloaded."""
    offloads = config.train.offload and processes.device.type != "cpu"
    if offloads and config.layout.zero_stage == 0:
        raise InputError("[train] offload moves shards to the host's memory; set [layout] zero_stage to 2 or 3.")
    return config.layout.zero_stage > 0 and (processes.world > 1 or offloads)


def lay_out(
    model: nn.Module,
    objective: Callable[[nn.Module, Any], torch.Tensor],
    config: TrainConfig,
    processes: Processes,
    fill: Callable[[nn.Module], None],
) -> nn.Module:
    """The module whose call gives a micro-batch's loss. fill: gives a part of the model its values, just before it is sharded.

    The model itself keeps its class and its names. Raises InputError for what does not go together, MissingError without a compiler.
    """
    split = sharded(config, processes)
    if config.train.compile:
        need_compiler("[train] compile", processes.device)
    bf16 = config.train.precision == "bf16"
    learner = Learner(model, objective, torch.bfloat16 if bf16 and not split else None)
    shard = _shard_function(config, processes)
    for block in blocks_of(model):
        if split:
            fill(block)
        _recompute(block, config.train.recompute)
        if config.train.compile:
            block.forward = torch.compile(block.forward)
        if split:
            shard(block, reshard_after_forward=config.layout.zero_stage == 3)
    fill(model)
    if split:
        shard(learner, reshard_after_forward=False)
    elif processes.world > 1:
        with warnings.catch_warnings():
            # The word that torch 2.13 has for this instead is unknown to the versions before.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            return DistributedDataParallel(learner, broadcast_buffers=False, gradient_as_bucket_view=True)
    return learner


def computed_once(learner: nn.Module, what: Callable[[nn.Module, Any], torch.Tensor], batch: Any) -> torch.Tensor:
    """What another function than the objective says of a batch, without gradients or dropout. All processes call this alike."""
    inner = learner.module if isinstance(learner, DistributedDataParallel) else learner
    objective, inner.objective = inner.objective, what
    learner.eval()
    try:
        with torch.no_grad():
            found: torch.Tensor = learner(batch)
            return found
    finally:
        inner.objective = objective
        learner.train()


def gradients_summed(learner: nn.Module, now: bool) -> AbstractContextManager[None]:
    """The context of one micro-batch's forward and backward pass: whether its gradients are summed over processes at its end.

    Where they are not, they add up on each process, and the next sum takes them along.
    """
    if isinstance(learner, FSDPModule):
        learner.set_requires_gradient_sync(now)
        return nullcontext()
    if isinstance(learner, DistributedDataParallel) and not now:
        return _not_synchronised(learner)
    return nullcontext()


@contextmanager
def _not_synchronised(learner: DistributedDataParallel) -> Iterator[None]:
    with learner.no_sync():
        yield


def _shard_function(config: TrainConfig, processes: Processes) -> Callable[..., Any]:
    """`fully_shard` with this run's precision and place. Gradients are summed in float32 or wider."""
    precision = MixedPrecisionPolicy()
    if config.train.precision == "bf16":
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    offload = CPUOffloadPolicy() if config.train.offload and processes.device.type != "cpu" else OffloadPolicy()
    return partial(fully_shard, mp_policy=precision, offload_policy=offload)


def _recompute(block: nn.Module, choice: Recompute) -> None:
    """The block keeps its input (`full`), or that and what was expensive (`selective`), and computes the rest again in the backward pass.

    Chen et al. 2016, arXiv:1604.06174; the selective form is torch's own.
    """
    if choice == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if choice == "selective":
        kept = {getattr(torch.ops.aten, name).default for name in KEPT}

        def policy(_: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            return CheckpointPolicy.MUST_SAVE if operator in kept else CheckpointPolicy.PREFER_RECOMPUTE

        settings["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
    once = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(once, *args, **settings, **kwargs)

    block.forward = forward
