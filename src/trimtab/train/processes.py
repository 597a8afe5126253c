"""The processes of one training run: who this one is, where it computes, and what all of them agree on.

torchrun starts the processes and says who is who (RANK, WORLD_SIZE, LOCAL_RANK); without it a run is one process by itself. Collectives go
through gloo on processors and NCCL on CUDA devices; small numbers and offloaded shards always through gloo.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class Processes:
    """rank: of this process, 0 to world - 1; device: where its model lies."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def gathered(self, values: Sequence[float]) -> torch.Tensor:
        """float64 [world, len(values)]: what each process gave, in order of rank."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.world == 1:
            return own[None]
        rows = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(rows, own)
        return torch.stack(rows)

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            self.gathered([0.0])


def start_processes(*, alone_too: bool = False) -> Processes:
    """Join the processes that torchrun started, or be the only one. alone_too: a single process is a group as well, for shards of one."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if (world > 1 or alone_too) and not dist.is_initialized():
        store = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if world == 1 else {}
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", **store)
    return Processes(rank=rank, world=world, device=device)


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held: resident on a processor, allocated on an accelerator."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def stop_processes() -> None:
    """Leave the group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
