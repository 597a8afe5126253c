"""`trimtab train`: its parts by name; each is imported when it is used."""

import click

from trimtab.cli.late_group import LateGroup

PARTS = {
    "finetune": ("trimtab.cli.train_finetune", "Train a model on text or conversations of yours, or a small one from scratch."),
    "heal": ("trimtab.cli.train_heal", "Train a compressed candidate back towards its reference, and judge it again."),
    "debias": ("trimtab.cli.train_debias", "Train a model to treat groups alike, and judge what that cost."),
}


@click.group(cls=LateGroup, late=PARTS, short_help="Train a model further, heal what compression broke, or make it fairer.")
def train() -> None:
    """Train with PyTorch on one machine's processes or, with torchrun and the same train.toml, on many.

    What is trained goes through the same gate as everything else: `trimtab compare` and `trimtab certify` judge it.

    \b
    trimtab train finetune hf:org/model@revision --data "data/*.jsonl" --tokens 2M --lora 16
    trimtab train heal runs/demo --candidate int4-g64 --tokens 200k
    trimtab train debias ./model --suite bias --method counterfactual

    Exit codes: 0 trained (heal, debias: and passed), 1 it cannot run here or did not pass, 2 wrong input, 3 something is missing,
    4 inconclusive, 130 stopped with a checkpoint (the same command goes on).
    """
