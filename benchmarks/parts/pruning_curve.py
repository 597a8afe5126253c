"""Structured pruning and distillation: what a smaller model weighs, how fast it decodes, and what it lost, before and after."""

import json
import statistics
import time
from collections.abc import Mapping
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
from trimtab.stats.ratios import log_ratio_interval
from trimtab.train.heal.divergence import divergences
from trimtab.train.heal.prune import Cut, write_pruned
from trimtab.train.heal.start import fast_precision, first_sequences

DECODED_TOKENS = 96
ROUNDS = 12


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
    files = {"whole": _in_8_bits(reference)}
    for name, cut in chosen.items():
        pruned, run = folder / name.replace("/", "-") / "start", folder / name.replace("/", "-") / "train"
        write_pruned(reference, pruned, cut, sequences)
        before = float(np.mean(divergences(reference, pruned, windows)))
        result = launch(_config(pruned, reference, text, tokens), run, processes=1)
        rows.append({**_row(name, reference, run / result.model, windows, result.cpu_s / 60), "kl_before": before})
        files[name] = _in_8_bits(run / result.model)
        print(rows[-1], flush=True)
    speeds = decoding_in_turns(files)
    rows = [{**row, **speeds[row["cut"]], "q8_0_mb": files[row["cut"]].stat().st_size / 1e6} for row in rows]
    _print(rows)
    print(json.dumps({"name": "heal-curve", "figures": {"rows": rows}, "targets": {}, "ok": True}))
    return 0


def _row(name: str, reference: Path, model: Path, windows: Windows, cpu_minutes: float) -> dict[str, Any]:
    return {
        "cut": name,
        "kl_before": 0.0,
        "kl_after": float(np.mean(divergences(reference, model, windows))) if model != reference else 0.0,
        "cpu_minutes": cpu_minutes,
    }


def _in_8_bits(model: Path) -> Path:
    opened = open_model(str(model), cache_dir=cache_dir(), offline=True)
    return make(recipe_named("llamacpp-q8_0", "llamacpp"), opened.snapshot, cache_dir() / "products").path


def decoding_in_turns(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Tokens a second of one sequence in llama.cpp, each file in its turn: the median, and the ratio to the first with its interval."""
    import llama_cpp

    models = {name: llama_cpp.Llama(str(path), n_ctx=256, verbose=False) for name, path in files.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for round_number in range(ROUNDS + 1):
        for name, model in models.items():
            model.reset()
            model.eval([1, 2, 3, 4])
            began_s = time.perf_counter()
            for number in range(DECODED_TOKENS):
                model.eval([100 + number])
            if round_number:  # the first one warms up
                seconds[name].append(time.perf_counter() - began_s)
    for model in models.values():
        model.close()
    first = next(iter(seconds.values()))
    found = {}
    for name, taken in seconds.items():
        ratio = log_ratio_interval(first, taken)
        found[name] = {
            "decode_tok_s": DECODED_TOKENS / statistics.median(taken),
            "decode_ratio": [ratio.ratio, ratio.low, ratio.high],
        }
    return found


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
    head = ["cut", "MB at 8 bits", "decode tok/s", "over whole [95 %]", "KL before", "KL after distillation", "CPU-minutes"]
    print(
        "\n".join(
            table(
                head,
                [
                    [
                        row["cut"],
                        f"{row['q8_0_mb']:.0f}",
                        f"{row['decode_tok_s']:.0f}",
                        "{:.2f} [{:.2f}, {:.2f}]".format(*row["decode_ratio"]),
                        f"{row['kl_before']:.2f}",
                        f"{row['kl_after']:.2f}",
                        f"{row['cpu_minutes']:.1f}",
                    ]
                    for row in rows
                ],
            )
        )
    )
