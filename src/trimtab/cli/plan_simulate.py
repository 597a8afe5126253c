"""`trimtab plan simulate`: a fleet on a trace."""

from pathlib import Path

import click

from trimtab.cli.durations import duration
from trimtab.cli.options import Common, common, option
from trimtab.cli.plan_options import priced
from trimtab.core.errors import EXIT_FAILED, EXIT_PASSED

ROUTES = ("round-robin", "least-outstanding", "least-kv", "prefix", "power-of-two")
"""As `plan.fleet.settings.ROUTES`, which is not loaded for --help."""
POLICIES = "fixed, scale-to-zero, outstanding, queue, utilisation, gateway; with numbers: queue:target=4,keep=120,every=5"


@click.command(short_help="A fleet on a trace: queues, scaling, cold starts, failures, cost.")
@click.argument("model", default="")
@option(
    "--hardware",
    default="",
    metavar="NAME,...",
    help="Devices that replicas run on. [default: this machine if `plan measure` was run, else h100-sxm]",
)
@option("--steps", type=click.Path(path_type=Path), metavar="FILE|RUN", help="Measured step times (TOML, or a run's), in place of MODEL.")
@option("--trace", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="TIMESTAMP,ContextTokens,GeneratedTokens as CSV.")
@option("--workload", default="", metavar="NAME", help="Without a trace: lengths of requests, as `trimtab optimize` takes them.")
@option("--rate", default="", metavar="N/s", help="Without a trace: requests that come at random.")
@option("--duration", type=duration, default="10m", show_default=True, metavar="TIME", help="Without a trace: for so long.")
@option("--burstiness", type=click.FloatRange(0, 1000), default=1.0, show_default=True, help="Without a trace: 1 = Poisson, 0 = even.")
@option("--speed", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Play it so many times as fast.")
@option("--replicas", default="1", show_default=True, metavar="N..M", help="0..8 of each device, or h100-sxm=1..2,l40s=0..8.")
@option("--policy", "policies", multiple=True, default=("fixed",), metavar="NAME", help=f"Several to compare: {POLICIES}.")
@option(
    "--route", "routes", multiple=True, type=click.Choice(ROUTES), default=("least-outstanding",), metavar="NAME", help=", ".join(ROUTES)
)
@option("--slo", default="", metavar="TERM,...", help='Must hold, with commas between: "ttft_p95<500ms,tpot_p95<40ms"; also e2e.')
@option("--engine", default="", metavar="NAME", help="vllm, sglang, trtllm, llamacpp, ...: whose rates and memory rules count.")
@option("--weights", default="bf16", show_default=True, metavar="TYPE", help="bf16, fp8, Q4_K_M, ...")
@option("--kv", default="", metavar="TYPE", help="Type of the KV cache; default 16 bits.")
@option("--layout", default="", metavar="TEXT", help="Devices of one replica, such as tp=2.")
@option("--slots", type=click.IntRange(1, 4096), help="Sequences at once; default what the cache holds, at most 256 (8 with --steps).")
@option("--batch-tokens", type=click.IntRange(1, 1_000_000), help="Tokens of one step; default as the engine.")
@option("--kv-tokens", type=click.IntRange(0), help="Tokens that the cache holds, 0 = no limit; default by the device's memory.")
@option("--reserve", type=click.Choice(("grow", "whole")), default="grow", show_default=True, help="Cache: as answers grow, or beforehand.")
@option("--chunked/--whole-prompts", default=True, show_default=True, help="Prompts beside decoding, or in steps of their own.")
@option("--prefix-cache/--no-prefix-cache", default=True, show_default=True, help="Shared beginnings are computed once.")
@option("--overhead", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Of each request outside the engine.")
@option("--queue", type=click.Choice(("replica", "gateway")), default="replica", show_default=True, help="Where requests wait.")
@option("--queue-limit", type=click.IntRange(0), default=0, metavar="N", help="More that wait are refused; 0 = never.")
@option("--queue-wait", type=duration, metavar="TIME", help="Longer waits are refused.")
@option("--cold-start", type=click.FloatRange(0), metavar="SECONDS", help="From nothing to ready; default by --storage and --boot.")
@option("--storage", default="local-nvme", show_default=True, metavar="TIER", help="Where weights lie: page-cache, object-store, ...")
@option("--boot", type=click.FloatRange(0), default=30.0, show_default=True, metavar="SECONDS", help="Of a start, all but the weights.")
@option("--mtbf", type=duration, metavar="TIME", help="Mean time between failures of a replica.")
@option("--restart", type=duration, metavar="TIME", help="Until a failed replica is back; default a cold start.")
@option("--spot", type=duration, metavar="TIME", help="Mean time until a spot instance is taken.")
@option("--notice", type=duration, metavar="TIME", help="Warning before it is taken.")
@option("--retry", type=click.Choice(("unstarted", "all", "none")), default="unstarted", show_default=True, help="Of a lost replica.")
@option("--idle-watts", type=click.FloatRange(0), metavar="W", help="Of a device without work; default its full power.")
@option("--region", default="", metavar="CODE", help="Whose electricity: de, us, ...; default the world's mean.")
@option("--repeats", type=click.IntRange(0, 1000), default=0, help="Runs of each; default 5 where chance plays.")
@priced
@option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Also write a page with time lines to this file.")
@common
def simulate(
    *,
    model: str,
    hardware: str,
    steps: Path | None,
    trace: Path | None,
    workload: str,
    rate: str,
    duration: float,
    burstiness: float,
    speed: float,
    replicas: str,
    policies: tuple[str, ...],
    routes: tuple[str, ...],
    slo: str,
    engine: str,
    weights: str,
    kv: str,
    layout: str,
    slots: int | None,
    batch_tokens: int | None,
    kv_tokens: int | None,
    reserve: str,
    chunked: bool,
    prefix_cache: bool,
    overhead: float,
    queue: str,
    queue_limit: int,
    queue_wait: float | None,
    cold_start: float | None,
    storage: str,
    boot: float,
    mtbf: float | None,
    restart: float | None,
    spot: float | None,
    notice: float | None,
    retry: str,
    idle_watts: float | None,
    region: str,
    repeats: int,
    price: str,
    commitment: str,
    html: Path | None,
    common: Common,
) -> int:
    """Play a trace on a fleet that serves MODEL: who waits, what is late, what it costs; several policies side by side.

    \b
    trimtab plan simulate llama-3.1-8b --hardware h100-sxm --trace trace.csv --replicas 0..8 --policy scale-to-zero
    trimtab plan simulate llama-3.1-8b --hardware h100-sxm --rate 20/s --replicas 1..8 --policy fixed --policy queue --slo "ttft_p95<500ms"
    trimtab plan simulate --steps steps.toml --trace trace.csv --replicas 2 --policy fixed --mtbf 6h --restart 90s
    """
    from trimtab.cli.output import emit
    from trimtab.cli.plan_simulate_view import fleet_view
    from trimtab.flows.parts.plan_fleet import Wishes
    from trimtab.flows.plan_simulate import Traffic, plan_simulate

    document = plan_simulate(
        model,
        traffic=Traffic(trace=trace, workload=workload, rate=rate, duration_s=duration, burstiness=burstiness, speed=speed),
        replicas=replicas,
        policies=policies,
        routes=routes,  # type: ignore[arg-type]
        hardware=hardware,
        steps=steps,
        wishes=Wishes(
            engine=engine,
            weights=weights,
            kv=kv,
            layout=layout,
            slots=slots or 0,
            batch_tokens=batch_tokens or 0,
            kv_tokens=kv_tokens,
            reserve=reserve,  # type: ignore[arg-type]
            chunked=chunked,
            prefix_cache=prefix_cache,
            cold_s=cold_start,
            storage=storage,
            boot_s=boot,
            overhead_s=overhead,
            mtbf_s=mtbf or 0.0,
            restart_s=restart or 0.0,
            spot_s=spot or 0.0,
            notice_s=notice or 0.0,
            idle_w=idle_watts,
        ),
        slo=slo,
        queue_at_gateway=queue == "gateway",
        queue_limit=queue_limit,
        queue_wait_s=queue_wait or 0.0,
        retry=retry,  # type: ignore[arg-type]
        price=price,
        commitment=commitment,
        region=region,
        repeats=repeats,
        seed=common.seed,
        offline=common.offline,
    )
    if html:
        from trimtab.record.fleet_report import write_fleet_page

        write_fleet_page(html, document)
    emit(common, document, [] if common.as_json else fleet_view(document))
    return EXIT_PASSED if document["found"] else EXIT_FAILED
