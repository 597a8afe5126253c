"""Structured pruning and distillation: what a smaller model weighs, how fast it decodes, and what it lost, before and after."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from parts.engine_logits import Windows
from parts.tables import table

from trimtab.compress.base import make
from trimtab.core.training import (
    TrainCheckpoints,
    TrainConfig,
    TrainData,
    TrainLayout,
    TrainModel,
    TrainObjective,
    TrainOptimizer,
    TrainRun,
)
from trimtab.flows.parts.heal_training import FLOATS
from trimtab.flows.parts.opening import open_model, recipe_named
from trimtab.flows.parts.train_launch import launch
from trimtab.record.home import cache_dir
from trimtab.train.heal.divergence import divergences
from trimtab.train.heal.prune import Cut, write_pruned
from trimtab.train.heal.start import fast_precision, first_sequences

DECODED_TOKENS = 96
ROUNDS = 3


def cuts(layers: int, channels: int, groups: int) -> dict[str, Cut]:
    """Cuts of a model of this shape, by name."""
    return {
        "channels 7/8": Cut(channels=channels * 7 // 8 // 32 * 32),
        "channels 3/4": Cut(channels=channels * 3 // 4 // 32 * 32),
        "channels 1/2": Cut(channels=channels // 2 // 32 * 32),
        f"{groups - 1} of {groups} head groups": Cut(kv_groups=groups - 1),
        "layers 9/10": Cut(layers=layers * 9 // 10),
        "layers 4/5": Cut(layers=layers * 4 // 5),
    }


def curve(model: str, folder: Path, *, text: Path, tokens: int, quick: bool, windows: Windows) -> int:
    """Print the table; the last line is JSON. text: what is trained on."""
    opened = open_model(model, cache_dir=cache_dir(), offline=False)
    reference = make(FLOATS, opened.snapshot, cache_dir() / "products").root
    config = json.loads((reference / "config.json").read_text(encoding="utf-8"))
    found = cuts(config["num_hidden_layers"], config["intermediate_size"], config["num_key_value_heads"])
    chosen = dict(list(found.items())[:1]) if quick else found
    sequences = first_sequences(reference, [str(text)], 512, 8)
    rows: list[dict[str, Any]] = [_row("whole", reference, reference, windows, 0.0)]
    for name, cut in chosen.items():
        pruned, run = folder / name.replace("/", "-") / "start", folder / name.replace("/", "-") / "train"
        write_pruned(reference, pruned, cut, sequences)
        before = float(np.mean(divergences(reference, pruned, windows)))
        result = launch(_config(pruned, reference, text, tokens), run, processes=1)
        rows.append({**_row(name, reference, run / result.model, windows, result.cpu_s / 60), "kl_before": before})
        print(rows[-1], flush=True)
    _print(rows)
    print(json.dumps({"name": "heal-curve", "figures": {"rows": rows}, "targets": {}, "ok": True}))
    return 0


def _row(name: str, reference: Path, model: Path, windows: Windows, cpu_minutes: float) -> dict[str, Any]:
    path = make(
        recipe_named("llamacpp-q8_0", "llamacpp"),
        open_model(str(model), cache_dir=cache_dir(), offline=True).snapshot,
        cache_dir() / "products",
    ).path
    return {
        "cut": name,
        "q8_0_mb": path.stat().st_size / 1e6,
        "decode_tok_s": _decode_tok_s(path),
        "kl_before": 0.0,
        "kl_after": float(np.mean(divergences(reference, model, windows))) if model != reference else 0.0,
        "cpu_minutes": cpu_minutes,
    }


def _decode_tok_s(path: Path) -> float:
    """Median over rounds, one sequence."""
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=256, verbose=False)
    speeds = []
    for _ in range(ROUNDS):
        model.reset()
        model.eval([1, 2, 3, 4])
        began_s = time.perf_counter()
        for number in range(DECODED_TOKENS):
            model.eval([100 + number])
        speeds.append(DECODED_TOKENS / (time.perf_counter() - began_s))
    model.close()
    return statistics.median(speeds)


def _config(start: Path, reference: Path, text: Path, tokens: int) -> TrainConfig:
    return TrainConfig(
        model=TrainModel(source=str(start)),
        data=TrainData(files=(str(text),), mask_documents=False),
        train=TrainRun(seq_tokens=512, global_batch_seqs=4, micro_batch_seqs=2, tokens=tokens, precision=fast_precision()),
        optimizer=TrainOptimizer(lr=2e-4, warmup_steps=4),
        layout=TrainLayout(zero_stage=0),
        objective=TrainObjective(kind="distil", teacher=str(reference)),
        checkpoint=TrainCheckpoints(every_steps=0),
    )


def _print(rows: list[dict[str, Any]]) -> None:
    head = ["cut", "MB at 8 bits", "decode tok/s", "KL before", "KL after distillation", "CPU-minutes"]
    print(
        "\n".join(
            table(
                head,
                [
                    [
                        row["cut"],
                        f"{row['q8_0_mb']:.0f}",
                        f"{row['decode_tok_s']:.0f}",
                        f"{row['kl_before']:.2f}",
                        f"{row['kl_after']:.2f}",
                        f"{row['cpu_minutes']:.1f}",
                    ]
                    for row in rows
                ],
            )
        )
    )
