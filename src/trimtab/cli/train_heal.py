"""`trimtab train heal`: the options, and what is shown of the answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from trimtab.cli.options import Common, State, common, option


@click.command(short_help="Train a compressed candidate back towards its reference, and judge it again.")
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@option("--candidate", default="", metavar="ID", help="Of the run's candidates. [default: the first that was judged and failed]")
@option("--tokens", default="200k", show_default=True, metavar="N", help="To train on, at most: 200k, 2M.")
@option("--data", multiple=True, metavar="GLOB", help="Text of yours (.txt, .jsonl). [default: the reference is made to write it]")
@option("--lr", type=click.FloatRange(0, min_open=True), metavar="RATE", help="Levels a step at its highest. [default: as the grid has it]")
@option("--policy", default="", help="The margins. [default: those of the run]")
@option("--suite", "suites", multiple=True, help="Items to judge on. May be repeated. [default: those of the run]")
@option("--processes", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Processes of this machine (torchrun).")
@option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Run folder. [default: RUN-healed]")
@option("--no-judge", is_flag=True, help="Train and export only.")
@option("--fresh", is_flag=True, help="Start anew.")
@common
@click.pass_obj
def heal(
    state: State,
    /,
    *,
    run: Path,
    candidate: str,
    tokens: str,
    data: tuple[str, ...],
    lr: float | None,
    policy: str,
    suites: tuple[str, ...],
    processes: int,
    out: Path | None,
    no_judge: bool,
    fresh: bool,
    common: Common,
) -> int:
    """Distil the reference of a finished run into one of its compressed candidates, at the same format and bits, and judge what comes out.

    RUN is the folder of a finished `optimize` or `compare`. The healed model goes through the run's own gate; see docs/heal.md.

    \b
    trimtab train heal runs/demo --candidate int4-g64 --tokens 200k
    """
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.cli.progress import show_progress
    from trimtab.flows.train_heal import train_heal
    from trimtab.plan.quantities import token_count

    folder = out or run.with_name(f"{run.name}-healed")
    state.resume = f"What was finished is kept in {folder}; run the same command again and it goes on from there."
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        found = train_heal(
            run,
            candidate=candidate,
            tokens=round(token_count(tokens)),
            data=data,
            lr=lr or 0.0,
            policy=policy,
            suites=suites,
            processes=processes,
            judge=not no_judge,
            out=folder,
            fresh=fresh,
            offline=common.offline,
            time_limit_s=common.time_limit,
            seed=common.seed,
            on_event=on_event,
        )
    emit(common, found, () if common.as_json else _shown(found))
    return EXIT_BY_VERDICT[found["verdict"]]


def _shown(found: Mapping[str, Any]) -> list[Any]:
    from rich.table import Table

    from trimtab.cli.train_endings import reasons_of, verdict_line
    from trimtab.core import phrases

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    steps, rest = found["training"], found["sensitivity"]
    table.add_row(
        "divergence",
        f"{phrases.fixed(steps['first_loss'], 4)} nats a token in the first step, {phrases.fixed(steps['last_loss'], 4)} in the last",
    )
    table.add_row("trained on", f"{phrases.count(found['tokens_seen'])} tokens, {phrases.seconds(found['cpu_s'])} of processors")
    table.add_row("grid", f"{phrases.line(found['grid'])}; the exported weights {'are' if found['exact'] else 'are NOT'} the trained ones")
    table.add_row("model", phrases.line(found["model"]))
    if rest["recipe"]:
        what = f"{len(rest['kept'])} weights in 8 bits would halve the rest, for {phrases.fixed(rest['extra_ms'], 2)} ms a token more"
        table.add_row("precise", f"{what}: {phrases.line(rest['recipe'])}")
    return [verdict_line("heal", found["verdict"]), table, *reasons_of(found)]
