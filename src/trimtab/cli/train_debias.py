"""`trimtab train debias`: the options, and what is shown of the answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from trimtab.cli.options import Common, State, common, option
from trimtab.train.debias.methods import Method

METHODS = get_args(Method)


@click.command(short_help="Train a model to treat groups alike, and judge what that cost.")
@click.argument("model")
@option("--suite", "suites", multiple=True, default=("bias",), show_default=True, help="Whose bias is to fall. May be repeated.")
@option("--method", type=click.Choice(METHODS), default=METHODS[0], show_default=True, help="How; see docs/debias.md.")
@option("--data", multiple=True, metavar="GLOB", help="Text of yours (.jsonl). [default: texts of trimtab's own and of the model]")
@option("--tokens", default="", metavar="N", help="To train on: 200k, 2M. [default: as the method has it]")
@option("--strength", type=click.FloatRange(0), metavar="X", help="Of the penalty on pairs. [default: as the method has it]")
@option("--lora", type=click.IntRange(0), default=8, show_default=True, metavar="RANK", help="Adapters of this rank; 0 trains all.")
@option("--lr", type=click.FloatRange(0, min_open=True), metavar="RATE", help="Highest learning rate. [default: as the method has it]")
@option("--policy", default="standard", show_default=True, help="The margins: standard, strict or a TOML file.")
@option("--against", multiple=True, default=("core",), show_default=True, help="Suites that must not lose by it. May be repeated.")
@option("--processes", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Processes of this machine (torchrun).")
@option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Run folder. [default: runs/debias-<model>]")
@option("--no-judge", is_flag=True, help="Train and export only.")
@option("--fresh", is_flag=True, help="Start anew.")
@common
@click.pass_obj
def debias(
    state: State,
    /,
    *,
    model: str,
    suites: tuple[str, ...],
    method: Method,
    data: tuple[str, ...],
    tokens: str,
    strength: float | None,
    lora: int,
    lr: float | None,
    policy: str,
    against: tuple[str, ...],
    processes: int,
    out: Path | None,
    no_judge: bool,
    fresh: bool,
    common: Common,
) -> int:
    """Train MODEL so that it treats groups alike, and judge what comes out: for bias, and for everything else that it might cost.

    \b
    trimtab train debias ./model --suite bias --method counterfactual
    """
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.cli.progress import show_progress
    from trimtab.flows.train_debias import train_debias
    from trimtab.plan.quantities import token_count

    folder = out or Path("runs") / f"debias-{Path(model.partition(':')[2] or model).stem or 'model'}"
    state.resume = f"What was finished is kept in {folder}; run the same command again and it goes on from there."
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        found = train_debias(
            model,
            suites=suites,
            method=method,
            data=data,
            tokens=round(token_count(tokens)) if tokens else 0,
            strength=strength or 0.0,
            lora_rank=lora,
            lr=lr or 0.0,
            policy=policy,
            against=against,
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
    from rich import box
    from rich.table import Table

    from trimtab.cli.train_endings import reasons_of, verdict_line
    from trimtab.core import phrases

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("measure")
    for name in ("before", "after", "change", "interval"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row in found["table"]:
        numbers = [phrases.fixed(row.get(name), 4) for name in ("before", "after")]
        change = phrases.fixed(row.get("change"), 4, signed=True)
        ends = phrases.interval(row.get("low"), row.get("high"), 4)
        verdict = row["verdict"] if row["required"] else f"{row['verdict']} (told only)"
        table.add_row(phrases.line(f"{row['part']}: {row['name']}"), *numbers, change, ends, verdict)
    return [verdict_line("debias", found["verdict"]), table, *reasons_of(found)]
