"""`trimtab plan check`: how wrong is the planner on a file of published runs?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.cli.options import Common, common, option
from trimtab.core.phrases import count

MOST_REASONS = 12
MOST_SOURCES = 12
SPREAD = {
    "configuration": "each setting predicted by a fit without it",
    "model": "each model predicted by a fit without it",
    "source": "each source predicted by a fit without it",
}


@click.command(short_help="Predict every row of a file of published runs, and print the errors.")
@click.argument("files", nargs=-1, metavar="ROWS.csv...", required=True)
@option(
    "--leave-out",
    type=click.Choice(["configuration", "model", "source"]),
    help="Fit on the rows of the files, each predicted without its setting, model or source; default the fit that came with trimtab.",
)
@common
def check(*, files: tuple[str, ...], leave_out: str | None, common: Common) -> int:
    """Predict each row of FILES, and compare with what was measured: training runs, step times, inference figures, sweeps of servers.

    A file is known by its columns. Rows that cannot be predicted are counted, with the reason. --json gives every row.

    \b
    trimtab plan check runs.csv
    trimtab plan check train.csv infer.csv --leave-out model
    """
    from trimtab.cli.output import emit
    from trimtab.core.errors import EXIT_PASSED
    from trimtab.flows.plan_check import plan_check

    document = plan_check(files, leave_out=leave_out or "")
    emit(common, document, check_view(document))
    return EXIT_PASSED


def check_view(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A table a quantity, then what stands behind it and what was not predicted."""
    for quantity, scores in document["quantities"].items():
        yield _table(quantity, scores)
    yield Text(_standing(document))
    yield from _reasons(document)


def _table(quantity: str, scores: Mapping[str, Any]) -> Table:
    table = Table(title=quantity, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("source", no_wrap=True, ratio=1)
    for name in ("rows", "told", "median\nerror", "mean", "bias", "in 90 %\ninterval"):
        table.add_column(name, justify="right", no_wrap=True)
    named = [(name, found) for name, found in scores.items() if name != "pooled"]
    for name, found in [*named[:MOST_SOURCES], *_rest(named[MOST_SOURCES:]), ("pooled", scores["pooled"])]:
        table.add_row(name.removeprefix("github:"), *_cells(found))
    return table


def _rest(named: Sequence[tuple[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    if not named:
        return []
    n = sum(found["n"] for _, found in named)
    return [(f"{len(named)} more (--json)", {"n": n, "predicted_share": None})]


def _cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    share = found["predicted_share"]
    shown = [str(found["n"]), "" if share is None else f"{share:.0%}"]
    for name, form in (("median_ape_pct", "{:.1f} %"), ("mean_ape_pct", "{:.1f} %"), ("bias_pct", "{:+.1f} %")):
        value = found.get(name)
        shown.append("" if value is None else form.format(value))
    covered = found.get("coverage")
    return (*shown, "" if covered is None else f"{covered:.0%}")


def _standing(document: Mapping[str, Any]) -> str:
    if document["leave_out"]:
        return f"Left out: {document['leave_out']}; {SPREAD[document['leave_out']]}, fitted on the rows of these files."
    in_fit, n = document["n_in_fit"], document["n_numbers"]
    warning = " Errors on those tell how well the fit remembers, not how well it predicts; see --leave-out." if in_fit else ""
    return f"Predicted with the fit that came with trimtab. Of the {count(n)} numbers in the files, {in_fit} are in the fit.{warning}"


def _reasons(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    n_refused = len(document["refused"])
    if not n_refused:
        return
    yield Text(f"{n_refused} of {count(document['n_rows'])} rows not predicted ({document['n_not_measured']} of them tell no measurement):")
    reasons = list(document["reasons"].items())
    for why, n in reasons[:MOST_REASONS]:
        yield Text(f"  {n} x {why}")
    if len(reasons) > MOST_REASONS:
        yield Text(f"  and {len(reasons) - MOST_REASONS} further reasons (--json)")
