"""`trimtab plan train`: which devices, laid out how, train a model by when and for how much."""

from pathlib import Path

import click

from trimtab.cli.options import Common, common, option
from trimtab.cli.plan_options import finish, kept, priced

FORMATS = ("torchrun", "torchtitan", "megatron")


@click.command(short_help="How many devices, laid out how, train it by when, for how much?")
@click.argument("model")
@option("--hardware", required=True, metavar="NAME,...", help="Devices to choose from; see `trimtab plan hardware`.")
@option("--devices", default="8", show_default=True, metavar="N|N,N|N..N", help="How many of them: 64, or 8,16, or 8..512 by doubling.")
@option("--tokens", default="", metavar="N", help="To train on in all: 300B, 1.5T. Without it, time and cost are of 1B tokens.")
@option("--seq", default="4096", show_default=True, metavar="TOKENS", help="Length of a sequence.")
@option("--global-batch", default="512", show_default=True, metavar="SEQS", help="Sequences a step, over all devices.")
@option(
    "--precision", default="bf16", show_default=True, metavar="NAME,...", help="bf16, fp16, fp8, mxfp8, nvfp4, fp32; several are compared."
)
@option("--framework", default="", metavar="NAME", help="megatron, nemo, fsdp, torchtitan, deepspeed, maxtext, ...: what will train it.")
@option("--optimizer", default="adamw", show_default=True, metavar="NAME", help="Whose states must be held.")
@option("--layout", default="", metavar="TEXT", help='Degrees that are settled, such as "tp=8,pp=4,recompute=full"; the rest is searched.')
@option("--offload/--no-offload", default=False, help="Also try optimizer states, or all states, in the host's memory.")
@option("--budget", default="", metavar="USD", help="It may cost: 100000usd, $100k.")
@option("--deadline", default="", metavar="TIME", help="It must be done in: 30d, 36h.")
@option(
    "--objective",
    type=click.Choice(("time", "money", "energy", "memory")),
    default="time",
    show_default=True,
    help="What is best, within budget and deadline.",
)
@option("--why-not", default="", metavar="TEXT", help='A layout of yours that is held against the best one, such as "tp=4,pp=8".')
@option("--data", default="", metavar="TEXT", help='What brings the data, such as "disk=2GB/s,workers=4x50000tok/s,bytes_per_token=2".')
@option("--failures", default="llama3", show_default=True, metavar="NAME|N", help="As llama3, bloom or opt had, or N a device and hour.")
@option(
    "--checkpoint-storage",
    default="usual",
    show_default=True,
    metavar="NAME|RATE",
    help="usual, tectonic, gpfs-nvme, parallel-nvme, or a rate for the whole run such as 20GB/s.",
)
@priced
@kept(FORMATS)
@common
def train(
    *,
    model: str,
    hardware: str,
    devices: str,
    tokens: str,
    seq: str,
    global_batch: str,
    precision: str,
    framework: str,
    optimizer: str,
    layout: str,
    offload: bool,
    budget: str,
    deadline: str,
    objective: str,
    why_not: str,
    data: str,
    failures: str,
    checkpoint_storage: str,
    price: str,
    commitment: str,
    html: Path | None,
    out: Path | None,
    emit: str | None,
    common: Common,
) -> int:
    """Plan the training of MODEL: every layout that divides, weighed on every number of devices; the ten best and why the others lose.

    \b
    trimtab plan train llama-3.1-8b --tokens 300B --hardware h100-sxm --devices 8..512 --seq 8192 --global-batch 1024 --budget 100000usd
    trimtab plan train llama-3.1-405b --hardware h100-sxm --devices 16384 --layout "tp=8,pp=16" --seq 8192 --global-batch 2048
    trimtab plan train llama-3.1-8b --hardware h100-sxm --devices 64 --emit torchtitan
    """
    from trimtab.flows.plan_train import plan_train

    document = plan_train(
        model,
        hardware=hardware,
        devices=devices,
        tokens=tokens,
        seq=seq,
        global_batch=global_batch,
        precision=precision,
        framework=framework,
        optimizer=optimizer,
        layout=layout,
        offload=offload,
        budget=budget,
        deadline=deadline,
        objective=objective,  # type: ignore[arg-type]
        why_not=why_not,
        data=data,
        failures=failures,
        checkpoint_storage=checkpoint_storage,
        price=price,
        commitment=commitment,
        emit=emit or "",
        offline=common.offline,
    )
    return finish(common, document, html=html, out=out, emit=emit)
