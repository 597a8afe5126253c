"""Is a killed training, taken up again, the same training? And how long does a save hold it up?

    python benchmarks/resume.py [--quick] [--kills N] [--seed S] [--folder DIR] [--without-times]

Kills: a tiny training (the worker's own run, processes as torchrun starts them) is killed with kill -9 at random times and at the worst
points of writing a checkpoint, and started again until it ends. Its losses and exported weights must be those of a run that was never
killed, bit by bit on as many processes; on other numbers of processes the order of the data the same and the losses close. After each kill
every folder with a checkpoint's name must hold a whole one. Times: how long `save` keeps a training of 24 million weights waiting when it
writes behind the training and when it does not, in turns.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from parts.tables import table

from trimtab.core.training import TrainCheckpoints, TrainConfig
from trimtab.train.checkpoint_manifest import Damaged, check_contents, check_sizes, step_folders

try:
    import torch
    from parts.killed_runs import EVERY, POINTS, Kill, attempt, losses_of, order_of, prepare, weights_of, with_layout

    from trimtab.train.checkpoints import Checkpoints
except ModuleNotFoundError as error:
    print(f"{error.name} is not installed: pip install 'trimtab[train]'")
    sys.exit(3)

# Losses of 32 float32 AdamW steps on another number of processes: sums are taken in another order.
TARGETS = {"bitwise_differences": 0, "folders_not_whole": 0, "other_orders": 0, "loss_band_nats": 1e-5, "steps_lost_most": 2 * EVERY}
KILLS_A_RUN = 4


def planned(n_kills: int, wall_s: float, chance: random.Random) -> Iterator[Kill]:
    """Every other one at a random time of a run, the others inside a write."""
    for number in range(n_kills):
        if number % 2:
            yield Kill(point=POINTS[number // 2 % len(POINTS)], nth=chance.randint(1, 3))
        else:
            yield Kill(after_s=wall_s * chance.uniform(0.1, 0.9))


def not_whole(out: Path) -> int:
    """Folders with a checkpoint's name whose files are not what their manifests say."""
    found = 0
    for path in step_folders(out / "checkpoints").values():
        try:
            manifest = check_sizes(path)
            check_contents(path, manifest, manifest.files)
        except Damaged:
            found += 1
    return found


def kills(config: TrainConfig, folder: Path, world: int, kinds: list[Kill], reference: Path) -> list[dict[str, Any]]:
    """A row for each kill. Runs that end before they are killed do not count; the kill waits for the next run."""
    rows: list[dict[str, Any]] = []
    left = list(kinds)
    while left:
        out = folder / f"killed-{world}-{len(left)}-{time.monotonic_ns()}"
        of_run: list[dict[str, Any]] = []
        while left and len(of_run) < KILLS_A_RUN and not attempt(config, out, world, left[0]):
            kill, reached = left.pop(0), max(losses_of(out), default=0)
            saved = max(step_folders(out / "checkpoints"), default=0)
            where = kill.point or f"after {kill.after_s:.2f} s"
            of_run.append({"processes": world, "killed": where, "step": reached, "saved": saved, "not_whole": not_whole(out)})
        if not (out / "result.json").exists() and not attempt(config, out, world, None):
            raise RuntimeError(f"{out} did not end")
        same = losses_of(out) == losses_of(reference) and weights_of(out) == weights_of(reference)
        rows += [{**row, "lost": row["step"] - row["saved"], "bitwise": same} for row in of_run]
        if not of_run:
            left[0] = replace(left[0], after_s=left[0].after_s * 0.7, nth=1)
    return rows


def elsewhere(config: TrainConfig, folder: Path, reference: Path) -> dict[str, Any]:
    """Begun on two processes in shards, killed, taken up by one, killed, ended by two that each hold all."""
    out = folder / "elsewhere"
    attempt(config, out, 2, Kill(point="after the rename", nth=3))
    attempt(config, out, 1, Kill(point="half a file", nth=4))
    if not attempt(with_layout(config, 0), out, 2, None):
        raise RuntimeError("the run did not end")
    ours, theirs = losses_of(out), losses_of(reference)
    return {
        "other_orders": int(order_of(out) != order_of(reference)),
        "loss_apart_nats": max(abs(ours[step] - theirs[step]) for step in theirs) if ours.keys() == theirs.keys() else float("inf"),
    }


def held_up(folder: Path, saves: int) -> dict[str, float]:
    """Median seconds of `save` behind the training and not, and of a step; both kinds in turns on one model."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Embedding(16_000, 512), *(torch.nn.Linear(512, 2048) if n % 2 == 0 else torch.nn.Linear(2048, 512)
                                                                    for n in range(16)))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    kinds = {
        name: Checkpoints(folder / name, TrainCheckpoints(keep=1, background=name == "behind"), rank=0, world=1, note=lambda *_: None)
        for name in ("behind", "waiting")
    }
    waits: dict[str, list[float]] = {name: [] for name in kinds}
    steps: list[float] = []
    for step in range(1, saves + 2):
        for name, checkpoints in kinds.items():
            for _ in range(3):
                began_s = time.perf_counter()
                model(torch.randint(0, 16_000, (256,))).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                steps.append(time.perf_counter() - began_s)
            checkpoints.wait()
            began_s = time.perf_counter()
            checkpoints.save(step, model, optimizer, {})
            waits[name].append(time.perf_counter() - began_s)
    for checkpoints in kinds.values():
        checkpoints.wait()
    size = sum(path.stat().st_size for path in (folder / "behind").rglob("*.safetensors"))
    # The first of each kind allocates what the others use again.
    return {
        "checkpoint_bytes": size,
        "save_behind_s": statistics.median(waits["behind"][1:]),
        "save_waiting_s": statistics.median(waits["waiting"][1:]),
        "step_s": statistics.median(steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 kills, 3 saves timed")
    parser.add_argument("--kills", type=int, default=0, help="over both numbers of processes (default 20 with --quick, else 100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", default=None, help="a folder on the disk to use (default the one for temporary files)")
    parser.add_argument("--without-times", action="store_true", help="kills only")
    options = parser.parse_args()
    n_kills = options.kills or (20 if options.quick else 100)
    chance = random.Random(options.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        config = prepare(folder)
        attempt(config, folder / "warm", 1, None)  # prepares the text
        for world in (1, 2):
            began_s = time.monotonic()
            if not attempt(config, folder / f"reference-{world}", world, None):
                raise RuntimeError("the reference did not end")
            wall_s = time.monotonic() - began_s
            count = n_kills // 2 if world == 2 else n_kills - n_kills // 2
            rows += kills(config, folder, world, list(planned(count, wall_s, chance)), folder / f"reference-{world}")
        figures: dict[str, Any] = elsewhere(config, folder, folder / "reference-1")
        times = {} if options.without_times else held_up(folder / "times", 3 if options.quick else 15)
    head = ("processes", "killed", "step reached", "newest checkpoint", "steps done again", "bitwise the same")
    lines = [[str(row[key]) for key in ("processes", "killed", "step", "saved", "lost", "bitwise")] for row in rows]
    print("\n".join(table(head, lines)))
    figures = {
        "kills": len(rows),
        "bitwise_differences": sum(not row["bitwise"] for row in rows),
        "folders_not_whole": sum(row["not_whole"] for row in rows),
        "steps_lost_most": max(row["lost"] for row in rows),
        **figures,
        **times,
    }
    print("  ".join(f"{key} {value:,.4g}" for key, value in figures.items()))
    ok = (
        len(rows) == n_kills
        and all(figures[key] == TARGETS[key] for key in ("bitwise_differences", "folders_not_whole", "other_orders"))
        and figures["loss_apart_nats"] <= TARGETS["loss_band_nats"]
        and figures["steps_lost_most"] <= TARGETS["steps_lost_most"]
    )
    print(json.dumps({"name": "resume", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
