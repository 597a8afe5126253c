"""`trimtab verify`: is what was kept still what was written?"""

from collections.abc import Iterable, Mapping
from typing import Any

import click

from trimtab.cli.options import Common, common, option


@click.group(short_help="Is what was kept still what was written? Logs, and who signed them.")
def verify() -> None:
    """Is what was kept still what was written?

    Exit codes: 0 it is, 1 it is not (the first bad record is named), 4 that cannot be told.

    \b
    trimtab verify log
    trimtab verify log /backup/audit --anchor /elsewhere/checkpoint.json
    """


@verify.command(short_help="Read a log again, record by record, and hold it against its signed checkpoint.")
@click.argument("folder", required=False)
@option("--anchor", metavar="FILE", help="A copy of the checkpoint that was kept elsewhere; default the one under TRIMTAB_HOME.")
@option("--key", metavar="FILE", help="Public key (PEM) that the checkpoint must be signed by; default this installation's.")
@common
def log(*, folder: str | None, anchor: str | None, key: str | None, common: Common) -> int:
    """Read the log in FOLDER (default TRIMTAB_HOME/audit) again and name the first record that was changed, moved, inserted or cut off."""
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.flows.verify import verify_log

    found = verify_log(folder, anchor=anchor, key=key)
    emit(common, found, _shown(found))
    return EXIT_BY_VERDICT[found["verdict"]]


def _shown(found: Mapping[str, Any]) -> Iterable[Any]:
    from rich.text import Text

    from trimtab.cli.tables import MARKS
    from trimtab.record.phrases import line

    mark, style = MARKS[found["verdict"]]
    words = {
        "pass": "The log is as it was written",
        "fail": "The log is not as it was written",
        "inconclusive": "Whether the log is as it was written cannot be told",
    }
    yield Text.assemble((f"{mark} ", style), (f"{words[found['verdict']]}.", "bold"))
    for reason in found["reasons"]:
        yield Text(line(reason, 400))
    checkpoint = found["checkpoint"]
    signed = f"; {checkpoint['size']:,} were signed on {checkpoint['at']}" if checkpoint else ""
    yield Text(f"{found['n_records']:,} good records from the first on{signed}. {line(found['folder'], 400)}", style="dim")
    if found["n_torn_bytes"]:
        yield Text(f"{found['n_torn_bytes']} bytes of a half-written record stand at the end; the next start cuts them off.", style="dim")
