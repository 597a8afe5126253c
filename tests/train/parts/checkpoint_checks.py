"""Two processes that save on one layout and load on another; writes what they found as JSON.

python tests/train/parts/checkpoint_checks.py FOLDER OUT.json
"""

import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

# torchao's optimizer compiles each step; what it computes is the same without.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from trimtab.core.errors import MissingError
from trimtab.core.training import TrainCheckpoints
from trimtab.train.checkpoints import Checkpoints

LAYOUTS = ("single", "ddp", "fsdp")


class Run:
    """The same model on a layout. On `single` process 0 works alone and process 1 does nothing."""

    def __init__(self, folder: Path, layout: str, rank: int, seed: int, *, packed: bool = False) -> None:
        torch.manual_seed(seed)
        self.layout, self.works = layout, layout != "single" or rank == 0
        self.said: list[str] = []
        # Rows that two processes share unevenly, and a single row; or, packed, states that are packed alone, on both or never.
        widths = (64, 192, 96, 128, 65) if packed else (5, 7, 1, 3)
        self.model = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in pairwise(widths)))
        self.n_inputs = widths[0]
        self.learner: torch.nn.Module = self.model
        if layout == "fsdp":
            for part in self.model:
                fully_shard(part)
            fully_shard(self.model)
        elif layout == "ddp":
            self.learner = DistributedDataParallel(self.model)
        if packed:
            from torchao.optim import AdamW8bit

            self.optimizer: Any = AdamW8bit(self.model.parameters(), lr=1e-3)
        else:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        world = 1 if layout == "single" else 2
        if self.works:
            self.checkpoints = Checkpoints(
                folder, TrainCheckpoints(keep=2), rank=rank, world=world, note=lambda kind, text: self.said.append(f"{kind}: {text}")
            )

    def step(self, number: int) -> None:
        if self.works:
            given = torch.Generator().manual_seed(number)
            self.learner(torch.randn(4, self.n_inputs, generator=given)).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def save(self, step: int) -> None:
        if self.works:
            self.checkpoints.save(step, self.model, self.optimizer, {"step": step})
            self.checkpoints.wait()
        dist.barrier()

    def load(self) -> int | None:
        found = self.checkpoints.load_latest(self.model, self.optimizer) if self.works else None
        dist.barrier()
        return found[0] if found else None

    def whole(self) -> dict[str, torch.Tensor]:
        """Weights and optimizer states, whole and unpacked."""
        if not self.works:
            return {}
        found = {}
        for name, parameter in self.model.named_parameters():
            states = self.optimizer.state[parameter]
            for key, value in {"weight": parameter, **states}.items():
                found[f"{name} {key}"] = _unpacked(value)
        return found


def _unpacked(value: torch.Tensor) -> torch.Tensor:
    value = value.detach()
    if isinstance(value, DTensor):
        local = value.to_local()
        if hasattr(local, "dequantize"):
            local = local.dequantize()
        whole = DTensor.from_local(local, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride())
        return whole.full_tensor().clone()
    return value.dequantize() if hasattr(value, "dequantize") else value.clone()


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference, relative to the tensor's largest value."""
    if one.keys() != other.keys():
        return float("inf")
    return max((float((one[n] - other[n]).abs().max() / other[n].abs().max().clamp_min(1e-30)) for n in one), default=0.0)


def crossed(folder: Path, rank: int, *, packed: bool) -> dict[str, Any]:
    """Every layout's checkpoint on every layout."""
    found: dict[str, Any] = {}
    for saved in LAYOUTS:
        run = Run(folder / saved, saved, rank, 0, packed=packed)
        for step in (1, 2, 3):
            run.step(step)
        run.save(3)
        state = _shared(run.whole(), rank)
        for loaded in LAYOUTS:
            other = Run(folder / saved, loaded, rank, 7, packed=packed)
            step = other.load()
            if other.works:
                found[f"{saved} to {loaded}"] = {"step": step, "apart": apart(other.whole(), state), "said": other.said}
            other.step(4)
    return found


def _shared(state: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """Process 0's, on both."""
    box = [state]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def one_fails(folder: Path, rank: int) -> dict[str, Any]:
    """Process 1 cannot write; both must hear of it, and both go on."""
    run = Run(folder, "fsdp", rank, 0)
    run.step(1)
    run.save(1)
    run.step(2)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    said = ""
    try:
        run.checkpoints.save(2, run.model, run.optimizer, {})
        run.step(3)
        run.checkpoints.wait()
    except MissingError as error:
        said = str(error)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    run.step(4)
    run.save(4)
    return {"said": said, "names": sorted(path.name for path in folder.iterdir())}


def one_sees_damage(folder: Path, rank: int) -> dict[str, Any]:
    """A file that process 1 checks is damaged: both fall back."""
    run = Run(folder, "fsdp", rank, 0)
    for step in (1, 2):
        run.step(step)
        run.save(step)
    if rank == 0:
        path = folder / "step-00000002" / "process-00001.safetensors"
        raw = bytearray(path.read_bytes())
        raw[-2] ^= 4
        path.write_bytes(raw)
    dist.barrier()
    return {"step": run.load(), "said": run.said}


def check(folder: Path, rank: int) -> dict[str, Any]:
    """All of it."""
    dist.init_process_group("gloo")
    checks: dict[str, Callable[[Path, int], dict[str, Any]]] = {
        "crossed": lambda at, me: crossed(at, me, packed=False),
        "packed": lambda at, me: crossed(at, me, packed=True),
        "one_fails": one_fails,
        "one_sees_damage": one_sees_damage,
    }
    found = {name: made(folder / name, rank) for name, made in checks.items()}
    dist.destroy_process_group()
    return found


def main(folder: Path, out: Path) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2")
    child = os.fork()
    rank = 1 if child == 0 else 0
    os.environ["RANK"] = str(rank)
    found = check(folder, rank)
    out.with_suffix(f".{rank}.json").write_text(json.dumps(found))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
