"""`trimtab plan measure`: this machine in the catalog."""

from pathlib import Path
from typing import Any

import click

from trimtab.cli.durations import duration
from trimtab.cli.options import Common, common, option

LEAST_S = 1.0


@click.command(short_help="Add this machine to the catalog, by measuring it.")
@option("--disk", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where weights lie; default trimtab's own folder.")
@option("--for", "seconds", type=duration, default="10s", show_default=True, metavar="TIME", help="About how long to measure.")
@common
def measure(*, disk: Path | None, seconds: float, common: Common) -> int:
    """Measure this machine's memory, matrix products, disk and GPUs, and write what was found to TRIMTAB_HOME/hardware.

    Any plan can then name it: `--hardware this-machine`. Where torch is installed, matrix products are measured by type, and CUDA devices
    too, else float32 alone. Measure when the machine is quiet; measuring again replaces what was found before.
    """
    from rich.console import Console

    from trimtab.cli.output import emit
    from trimtab.flows.plan_measure import measure_this_machine

    if seconds < LEAST_S:
        raise click.BadParameter("Less than a second measures nothing.", click.get_current_context(), param_hint="--for")
    console = Console(stderr=True, quiet=common.quiet or common.as_json, no_color=common.no_color or None)
    found = measure_this_machine(seconds=seconds, disk=disk, say=lambda what: console.print(f"measuring {what} ...", style="dim"))
    emit(common, found, () if common.as_json else _shown(found))
    return 0


def _shown(found: dict[str, Any]) -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    from trimtab.cli.plan_hardware import fact_text
    from trimtab.core.phrases import line

    drawn: list[Any] = []
    for row, path in zip(found["devices"], found["files"], strict=True):
        drawn += [Text.assemble((row["name"], "bold"), f"  {line(row['notes'], 300)}")]
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for key, fact in row["facts"].items():
            if fact["source"] == "measured here":
                table.add_row(key, fact_text(key, fact["value"]))
        drawn += [table, Text(f"written to {line(path)}", style="dim")]
    return drawn
