"""`trimtab doctor`: a line a check, and the commands that mend what is missing."""

import click

from trimtab.cli.options import Common, common
from trimtab.core.errors import EXIT_MISSING, EXIT_PASSED


@click.command(short_help="What this machine has, what is missing, and how to get it.")
@common
def doctor(*, common: Common) -> int:
    """What this machine has for trimtab, what is missing, and the command that gets it.

    Exit code 3 if something is missing without which nothing works.
    """
    from rich.table import Table
    from rich.text import Text

    from trimtab.cli.output import emit
    from trimtab.flows.doctor import diagnose

    marks = {"ok": ("✓", "green"), "missing": ("✗", "red"), "absent": ("–", "yellow"), "note": (" ", "dim")}
    diagnosis = diagnose()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(width=1)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for check in diagnosis.checks:
        mark, style = marks[check.state]
        table.add_row(Text(mark, style=style), check.name, check.found)
        if check.fix:
            table.add_row("", "", Text.assemble(("fix: ", "yellow"), check.fix))
    end = Text(
        "Ready." if diagnosis.healthy else "Something is missing; see the lines marked ✗.", style="green" if diagnosis.healthy else "red"
    )
    emit(common, diagnosis.plain(), (table, end))
    return EXIT_PASSED if diagnosis.healthy else EXIT_MISSING
