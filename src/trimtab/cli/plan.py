"""`trimtab plan`: its parts by name; each is imported when it is used."""

import importlib

import click

PARTS = {
    "serve": ("trimtab.cli.plan_serve", "Which hardware, layout and engine answer these requests in time, for how much?"),
    "train": ("trimtab.cli.plan_train", "How many devices, laid out how, train it by when, for how much?"),
    "fit": ("trimtab.cli.plan_fit", "Does it fit this hardware, with which weights and how long a context?"),
    "simulate": ("trimtab.cli.plan_simulate", "A fleet on a trace: queues, scaling, cold starts, failures, cost."),
    "hardware": ("trimtab.cli.plan_hardware", "The catalog of devices, with the source of each number."),
    "models": ("trimtab.cli.plan_models", "The catalog of models, and what a token of one costs."),
    "measure": ("trimtab.cli.plan_measure", "Add this machine to the catalog, by measuring it."),
    "check": ("trimtab.cli.plan_check", "Predict every row of a file of published runs, and print the errors."),
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


@click.group(cls=Parts, short_help="What do I need, how fast will it be, what will it cost, and how sure is that?")
def plan() -> None:
    """Choose hardware and layout for training or serving any open model, from a laptop to 16,000 accelerators, before anything runs.

    Every number has an interval and says what stands behind it: measured, interpolated, extrapolated, or speed-of-light.
    MODEL is a name of the catalog (llama-3.1-8b, deepseek-v3) or anything that `trimtab describe` reads.

    \b
    trimtab plan serve llama-3.1-8b --hardware h100-sxm,l40s --workload chat --slo "ttft_p95<500ms,tpot_p95<40ms" --rate 20/s
    trimtab plan train llama-3.1-8b --tokens 300B --hardware h100-sxm --devices 8..512 --seq 8192 --global-batch 1024 --budget 100000usd
    trimtab plan fit llama-3.1-8b --hardware rtx-4090

    Exit codes: 0 found, 1 nothing fits the demands (what comes nearest is named), 2 wrong input, 3 something is missing.
    """
