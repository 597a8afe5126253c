"""`trimtab train`: its parts by name; each is imported when it is used."""

import importlib

import click

PARTS = {
    "finetune": ("trimtab.cli.train_finetune", "Train a model on text or conversations of yours, or a small one from scratch."),
    "heal": ("trimtab.cli.train_heal", "Train a compressed candidate back towards its reference, and judge it again."),
    "debias": ("trimtab.cli.train_debias", "Train a model to treat groups alike, and judge what that cost."),
}


class Parts(click.Group):
    """Imports a part's file when the part is used: the others cost no time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(PARTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in PARTS:
            return None
        command = getattr(importlib.import_module(PARTS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Parts"):
            formatter.write_dl([(name, line) for name, (_, line) in PARTS.items()])


@click.group(cls=Parts, short_help="Train a model further, heal what compression broke, or make it fairer.")
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
