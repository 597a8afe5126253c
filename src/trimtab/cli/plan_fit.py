"""`trimtab plan fit`: does a model fit a device, with which weights and how long a context."""

from pathlib import Path

import click

from trimtab.cli.options import Common, common, option
from trimtab.cli.plan_options import finish, kept


@click.command(short_help="Does it fit this hardware, with which weights and how long a context?")
@click.argument("model")
@option("--hardware", required=True, metavar="NAME", help="The device, such as rtx-4090 or m4-max-64gb; see `trimtab plan hardware`.")
@option("--devices", default="1", show_default=True, metavar="N", help="That many of it hold one copy together.")
@option("--context", default="", metavar="TOKENS", help="It must hold so many tokens at once; default 2,048.")
@option("--weights", default="", metavar="TYPE,...", help="Types to try, such as bf16,fp8,Q4_K_M; default the usual ones of the device.")
@option("--kv", default="", metavar="TYPE", help="Type of the KV cache; default bf16.")
@option(
    "--engine",
    default="",
    metavar="NAME",
    help="vllm, sglang, trtllm, llamacpp, mlx, ...: whose rules of memory count; default as is usual for the device.",
)
@kept()
@common
def fit(
    *,
    model: str,
    hardware: str,
    devices: str,
    context: str,
    weights: str,
    kv: str,
    engine: str,
    html: Path | None,
    out: Path | None,
    common: Common,
) -> int:
    """What of MODEL fits a device: weights by type, the longest context each leaves room for, and how fast it would write.

    \b
    trimtab plan fit llama-3.1-8b --hardware rtx-4090
    trimtab plan fit qwen3-30b-a3b --hardware m4-max-64gb --context 32Ki
    """
    from trimtab.flows.plan_fit import plan_fit

    document = plan_fit(
        model, hardware=hardware, devices=devices, context=context, weights=weights, kv=kv, engine=engine, offline=common.offline
    )
    return finish(common, document, html=html, out=out)
