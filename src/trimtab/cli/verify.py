"""`trimtab verify`: is what was kept still what was written?"""

from collections.abc import Iterable, Mapping
from typing import Any

import click

from trimtab.cli.options import Common, common, option


class _Verify(click.Group):
    """A group that takes what is no command of its own for a release or a folder: `trimtab verify support-chat@3`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["release", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Verify, short_help="Is what was kept still what was written? Releases, the ledger, logs, and who signed them.")
def verify() -> None:
    """Is what was kept still what was written, and does the decision follow from it?

    Exit codes: 0 it is, 1 it is not (the first bad place is named), 4 that cannot be told.

    \b
    trimtab verify support-chat@3
    trimtab verify runs/demo
    trimtab verify out/bundle --key signing.pub.pem
    trimtab verify ledger --anchor /elsewhere/checkpoint.json
    trimtab verify log
    trimtab verify logs /collected/gateway-1 /collected/gateway-2
    """


_KEYS = "Public key (PEM) that counts; may be repeated. Default this installation's, and those of the ledger's people."
_LEDGER = "The ledger's address; default that of TRIMTAB_HOME."


@verify.command(short_help="Hold a release or a folder against all its digests and signatures, and compute its decision again.")
@click.argument("what")
@option("--key", multiple=True, metavar="FILE", help=_KEYS)
@option("--anchor", metavar="FILE", help="A copy of the ledger's checkpoint that was kept elsewhere; default the one under TRIMTAB_HOME.")
@option("--weights", metavar="PATH", help="The weights as the engine opens them, where they do not lie beside.")
@option("--ledger", metavar="URL", default="", help=_LEDGER)
@common
def release(*, what: str, key: tuple[str, ...], anchor: str | None, weights: str | None, ledger: str, common: Common) -> int:
    """Check WHAT: `support-chat@3`, or the folder of a release, of a bundle or of a run. `trimtab verify WHAT` is enough."""
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.flows.verify import verify_release

    found = verify_release(what, keys=key, anchor=anchor, weights=weights, ledger=ledger)
    emit(common, found, _checks_shown(found))
    return EXIT_BY_VERDICT[found["verdict"]]


@verify.command(name="ledger", short_help="Read the whole ledger again and hold it against its signed checkpoint.")
@option("--anchor", metavar="FILE", help="A copy of the checkpoint that was kept elsewhere; default the one under TRIMTAB_HOME.")
@option("--key", multiple=True, metavar="FILE", help="Public key (PEM) that the checkpoint must be signed by; default this installation's.")
@option("--ledger", metavar="URL", default="", help=_LEDGER)
@common
def ledger_(*, anchor: str | None, key: tuple[str, ...], ledger: str, common: Common) -> int:
    """Read every entry again, with its signature, and name the first that was changed, moved, inserted or cut off."""
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.flows.verify import verify_ledger

    found = verify_ledger(anchor=anchor, keys=key, ledger=ledger)
    emit(common, found, _ledger_shown(found))
    return EXIT_BY_VERDICT[found["verdict"]]


@verify.command(short_help="Hold weights against a signature in the OpenSSF's form.")
@click.argument("path")
@option("--signature", metavar="FILE", default="", help="Default model.sig beside the weights.")
@option("--key", metavar="FILE", default="", help="Public key (PEM, ECDSA); default this installation's for weights.")
@common
def weights(*, path: str, signature: str, key: str, common: Common) -> int:
    """Check the weights in PATH, a folder or a file, by model-signing's own library. `trimtab release sign-weights` signs."""
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.flows.weights import verify as check

    found = check(path, signature=signature, key=key)
    emit(common, found, _weights_shown(found))
    return EXIT_BY_VERDICT[found["verdict"]]


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


@verify.command(short_help="Hold the logs of several gateways against their shared state and the ledger.")
@click.argument("folders", nargs=-1)
@option("--key", metavar="FILE", help="Public key (PEM) that all checkpoints must be signed by; default that of each log's first anchor.")
@common
def logs(*, folders: tuple[str, ...], key: str | None, common: Common) -> int:
    """Check the logs in FOLDERS, collected from several gateways (default TRIMTAB_HOME/audit), as one record. Needs TRIMTAB_STATE."""
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.flows.verify import verify_logs

    found = verify_logs(folders, key=key)
    emit(common, found, _logs_shown(found))
    return EXIT_BY_VERDICT[found["verdict"]]


def _told(found: Mapping[str, Any], sentence: str, longest: int) -> Iterable[Any]:
    """The verdict as a sentence with its mark, and the reasons for it, each cut to `longest` characters."""
    from rich.text import Text

    from trimtab.cli.tables import MARKS
    from trimtab.core.phrases import line

    mark, style = MARKS[found["verdict"]]
    yield Text.assemble((f"{mark} ", style), (sentence, "bold"))
    for reason in found["reasons"]:
        yield Text(line(reason, longest))


def _shown(found: Mapping[str, Any]) -> Iterable[Any]:
    from rich.text import Text

    from trimtab.core.phrases import line

    words = {
        "pass": "The log is as it was written",
        "fail": "The log is not as it was written",
        "inconclusive": "Whether the log is as it was written cannot be told",
    }
    yield from _told(found, f"{words[found['verdict']]}.", 400)
    checkpoint = found["checkpoint"]
    signed = f"; {checkpoint['size']:,} were signed on {checkpoint['at']}" if checkpoint else ""
    yield Text(f"{found['n_records']:,} good records from the first on{signed}. {line(found['folder'], 400)}", style="dim")
    if found["n_torn_bytes"]:
        yield Text(f"{found['n_torn_bytes']} bytes of a half-written record stand at the end; the next start cuts them off.", style="dim")


def _logs_shown(found: Mapping[str, Any]) -> Iterable[Any]:
    from rich.table import Table
    from rich.text import Text

    from trimtab.cli.tables import MARKS
    from trimtab.core.phrases import line

    words = {
        "pass": "All logs are as they were written",
        "fail": "A log is not as it was written",
        "inconclusive": "Whether all logs are as they were written cannot be told",
    }
    yield from _told(found, f"{words[found['verdict']]}.", 400)
    table = Table.grid(padding=(0, 2))
    for row in found["logs"]:
        n = "" if row["n_records"] is None else f"{row['n_records']:,} records"
        table.add_row(Text(*MARKS[row["verdict"]]), row["log"][:8], line(row["host"]), n, line(row["folder"], 200))
    yield table


def _checks_shown(found: Mapping[str, Any]) -> Iterable[Any]:
    from rich.table import Table
    from rich.text import Text

    from trimtab.cli.tables import MARKS
    from trimtab.core.phrases import line

    words = {
        "pass": "Everything that could be checked is as it was written, and the decision follows from the items",
        "fail": "It is not what was written",
        "inconclusive": "Whether it is what was written cannot be told",
    }
    mark, style = MARKS[found["verdict"]]
    yield Text.assemble((f"{mark} ", style), (f"{line(found['what'], 200)}: {words[found['verdict']]}.", "bold"))
    marks = {"right": MARKS["pass"], "wrong": MARKS["fail"], "unknown": MARKS["inconclusive"]}
    table = Table.grid(padding=(0, 1))
    for state in ("wrong", "right", "unknown"):
        for check in found["checks"]:
            if check["state"] == state:
                table.add_row("", Text(*marks[state]), check["name"], Text(line(check["sentence"], 600)))
    yield table


def _weights_shown(found: Mapping[str, Any]) -> Iterable[Any]:
    from rich.text import Text

    from trimtab.core.phrases import line

    words = "These are the weights that were signed." if found["verdict"] == "pass" else "These are not the weights that were signed."
    yield from _told(found, words, 600)
    yield Text(line(f"{found['signature']}, by the key {found['public_key']}", 600), style="dim")


def _ledger_shown(found: Mapping[str, Any]) -> Iterable[Any]:
    from rich.text import Text

    from trimtab.core.phrases import line

    words = {
        "pass": "The ledger is as it was written",
        "fail": "The ledger is not as it was written",
        "inconclusive": "Whether the ledger is as it was written cannot be told",
    }
    yield from _told(found, f"{words[found['verdict']]}.", 400)
    checkpoint = found["checkpoint"]
    until = f"; {checkpoint['size']:,} were under the checkpoint of {checkpoint['at']}" if checkpoint else ""
    yield Text(
        f"{found['n_entries']:,} good entries, {found['n_signed']:,} signed by people{until}. {line(found['ledger'], 400)}", style="dim"
    )
