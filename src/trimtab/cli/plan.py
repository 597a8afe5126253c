"""`trimtab plan`: its parts by name; each is imported when it is used."""

import click

from trimtab.cli.late_group import LateGroup

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


@click.group(cls=LateGroup, late=PARTS, short_help="What do I need, how fast will it be, what will it cost, and how sure is that?")
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
