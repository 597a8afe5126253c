"""Run under torchrun on two processes: trains a tiny model on every layout and compares with one process. Writes differences as JSON.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/train/parts/layout_checks.py FOLDER OUT.json
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))

from tiny import apart, config_for, sequences, train, write_shape

from trimtab.train.models import export_model
from trimtab.train.processes import Processes, start_processes, stop_processes

STEPS = 4
LAYOUTS = {"ddp": 0, "fsdp2": 2, "fsdp3": 3}


def float64(folder: Path, processes: Processes, alone: Processes) -> dict[str, float]:
    """Relative difference of the weights after a few SGD steps from one process that takes each batch at once."""
    found = {}
    syncs = ("each", "last")
    cases = {
        "plain": (syncs, {}),
        "recompute": (syncs[:1], {"recompute": "full"}),
        "lora": (syncs[1:], {"model": {"lora_rank": 4}, "recompute": "selective"}),
    }
    for case, (tried, changes) in cases.items():
        batches = [sequences(step, 8, 24, packed=True) for step in range(STEPS)]
        optimizer = {"clip_norm": 0.2, "weight_decay": 0.01}
        settings = {"precision": "fp64", "optimizer": optimizer, **changes}
        reference = train(config_for(folder, micro_batch_seqs=8, **({**settings, "recompute": "none"})), batches, alone)
        assert max(reference.norms) > 0.2, "nothing was clipped"
        before = train(config_for(folder, micro_batch_seqs=8, **({**settings, "recompute": "none"})), [], alone)
        found[f"{case} moved"] = apart(reference.weights, before.weights)
        for layout, stage in LAYOUTS.items():
            for sync in tried:
                config = config_for(folder, micro_batch_seqs=2, grad_sync=sync, layout={"zero_stage": stage}, **settings)
                trained = train(config, batches, processes)
                found[f"{case} {layout} {sync}"] = apart(trained.weights, reference.weights)
    return found


def band(folder: Path, processes: Processes, alone: Processes) -> dict[str, float]:
    """Largest difference of a loss over 50 float32 AdamW steps."""
    batches = [sequences(step % 10, 8, 24, packed=step % 2 == 0) for step in range(50)]
    adam = {"name": "adamw", "lr": 3e-3}
    reference = train(config_for(folder, micro_batch_seqs=8, optimizer=adam), batches, alone)
    found = {"fall": reference.losses[0] - reference.losses[-1]}
    for layout, stage in LAYOUTS.items():
        trained = train(config_for(folder, micro_batch_seqs=2, optimizer=adam, layout={"zero_stage": stage}), batches, processes)
        found[layout] = max(abs(one - other) for one, other in zip(trained.losses, reference.losses, strict=True))
    return found


def narrow(folder: Path, processes: Processes, alone: Processes) -> dict[str, float]:
    """Under bf16: the first gradient's distance from float32, relative to its norm; float32 masters."""
    batches = [sequences(1, 8, 24, packed=False)]

    def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])

    exact = flat(train(config_for(folder, micro_batch_seqs=8), batches, alone).gradients)
    found = {}
    for layout, stage in LAYOUTS.items():
        trained = train(config_for(folder, micro_batch_seqs=2, precision="bf16", layout={"zero_stage": stage}), batches, processes)
        assert {value.dtype for value in trained.weights.values()} == {torch.float32}
        found[layout] = float((flat(trained.gradients) - exact).norm() / exact.norm())
    return found


def stored(folder: Path, processes: Processes, alone: Processes) -> dict[str, float]:
    """Weights in files: sharded as they are read, trained with adapters, gathered and merged; against one process."""
    batches = [sequences(step, 8, 24, packed=False) for step in range(2)]
    first = train(config_for(folder, micro_batch_seqs=8), batches, alone)
    source = folder.parent / "stored"
    if processes.first:
        export_model(first.model, folder, source)
    processes.wait_for_all()
    config = config_for(source, micro_batch_seqs=2, model={"init": "weights", "lora_rank": 4}, layout={"zero_stage": 3})
    trained = train(config, batches, processes)
    export_model(trained.model, folder, folder.parent / "sharded")
    one = train(replace(config, train=replace(config.train, micro_batch_seqs=8)), batches, alone)
    found = {"share": trained.local_share, "trained": apart(trained.weights, one.weights)}
    if processes.first:
        export_model(one.model, folder, folder.parent / "whole")
        found["exported"] = apart(
            load_file(folder.parent / "sharded/model.safetensors"), load_file(folder.parent / "whole/model.safetensors")
        )
        found["moved"] = apart(load_file(folder.parent / "sharded/model.safetensors"), load_file(source / "model.safetensors"))
    return found


def main(folder: Path, out: Path) -> None:
    processes = start_processes()
    alone = Processes(rank=0, world=1, device=processes.device)
    if processes.first:
        write_shape(folder)
    processes.wait_for_all()
    checks = {"float64": float64, "band": band, "bf16": narrow, "stored": stored}
    chosen = sys.argv[3:] or list(checks)
    found = {name: checks[name](folder, processes, alone) for name in chosen}
    if processes.first:
        out.write_text(json.dumps(found, indent=1))
    processes.wait_for_all()
    stop_processes()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
