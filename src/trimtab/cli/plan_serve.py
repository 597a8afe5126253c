"""`trimtab plan serve`: which hardware, laid out how, answers a load in time at least cost."""

from pathlib import Path

import click

from trimtab.cli.options import Common, common, option
from trimtab.cli.plan_options import finish, kept, priced

FORMATS = ("vllm", "sglang", "trtllm", "kserve", "rayservice")
SLO = 'Must hold, with commas between: "ttft_p95<500ms,tpot_p95<40ms"; also e2e, throughput, memory, energy.'


@click.command(short_help="Which hardware, layout and engine answer these requests in time, for how much?")
@click.argument("model")
@option("--hardware", required=True, metavar="NAME,...", help="Devices to choose from; see `trimtab plan hardware`.")
@option(
    "--workload", default="chat", show_default=True, metavar="NAME|FILE|P/O", help="As `trimtab optimize` takes it: chat, rag, 512/128."
)
@option("--slo", default="", metavar="TERM,...", help=SLO)
@option(
    "--rate",
    default="",
    metavar="N/s",
    help="Requests that come: 20/s, 1200/min, or 2..20/s in quiet and busy hours; without it, what one replica answers.",
)
@option(
    "--engine", default="", metavar="NAME", help="vllm, sglang, trtllm, llamacpp, mlx, ...; default vllm, on laptops and CPUs llamacpp."
)
@option("--weights", default="", metavar="TYPE,...", help="Types to compare; default bf16,fp8; on laptops and CPUs bf16,Q8_0,Q4_K_M.")
@option("--kv", default="", metavar="TYPE,...", help="Types of the KV cache to compare; default 16 bits.")
@option("--layout", default="", metavar="TEXT", help='Degrees that are settled, such as "tp=2"; the rest is searched.')
@option("--max-devices", default="", metavar="N", help="Of all replicas together.")
@option("--disaggregated/--aggregated", default=False, help="Also try reading and writing on devices of their own.")
@option(
    "--objective",
    type=click.Choice(("money", "devices", "latency", "throughput", "energy")),
    default="money",
    show_default=True,
    help="What is best, within the demands; devices where no price is known.",
)
@priced
@kept(FORMATS)
@common
def serve(
    *,
    model: str,
    hardware: str,
    workload: str,
    slo: str,
    rate: str,
    engine: str,
    weights: str,
    kv: str,
    layout: str,
    max_devices: str,
    disaggregated: bool,
    objective: str,
    price: str,
    commitment: str,
    html: Path | None,
    out: Path | None,
    emit: str | None,
    common: Common,
) -> int:
    """Plan the serving of MODEL: devices, layouts, weights and numbers in flight, and how many replicas keep what is demanded.

    \b
    trimtab plan serve llama-3.1-8b --hardware h100-sxm,l40s --workload chat --slo "ttft_p95<500ms,tpot_p95<40ms" --rate 20/s
    trimtab plan serve llama-3.1-70b --hardware h100-sxm --weights bf16,fp8 --rate 5/s --html plan.html
    trimtab plan serve llama-3.1-8b --hardware h100-sxm --engine vllm --emit vllm
    """
    from trimtab.flows.plan_serve import plan_serve

    document = plan_serve(
        model,
        hardware=hardware,
        workload=workload,
        slo=slo,
        rate=rate,
        engine=engine,
        weights=weights,
        kv=kv,
        layout=layout,
        max_devices=max_devices,
        disaggregated=disaggregated,
        objective=objective,  # type: ignore[arg-type]
        price=price,
        commitment=commitment,
        emit=emit or "",
        offline=common.offline,
    )
    return finish(common, document, html=html, out=out, emit=emit)
