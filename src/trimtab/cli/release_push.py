"""`trimtab release push`: the options, and what is said of what lies where by now."""

from typing import Any

import click

from trimtab.cli.options import Common, State, common, option
from trimtab.core.errors import EXIT_PASSED


@click.command(short_help="Into the registry of another tool: mlflow, hub.")
@click.argument("where")
@click.argument("what")
@option("--to", required=True, metavar="PLACE", help="mlflow: a tracking URI, such as http://HOST:5000 or sqlite:///FILE; hub: ORG/NAME.")
@option("--alias", "aliases", multiple=True, metavar="NAME", help="Point it at this there; default the aliases it has in the ledger.")
@option("--weights/--no-weights", default=None, help="Send the weights too. [default: to the hub only]")
@option("--ledger", default="", metavar="URL", help="postgresql://USER@HOST/DATABASE or sqlite:///FILE; default a file under TRIMTAB_HOME.")
@common
@click.pass_obj
def push(
    state: State, *, where: str, what: str, to: str, aliases: tuple[str, ...], weights: bool | None, ledger: str, common: Common
) -> int:
    """Send WHAT, a release or the folder of a run, with its evidence and cards to WHERE.

    \b
    trimtab release push mlflow support-chat@3 --to http://mlflow.example:5000
    trimtab release push hub support-chat@production --to example/support-chat
    """
    from trimtab.cli.output import emit
    from trimtab.cli.progress import show_progress
    from trimtab.flows.push import push as flow

    state.resume = "Run the same command again."
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        found = flow(where, what, to=to, aliases=aliases, weights=weights, ledger=ledger, offline=common.offline, on_event=on_event)
    emit(common, found, [_said(found)])
    return EXIT_PASSED


def _said(found: dict[str, Any]) -> str:
    """What lies where, in a line."""
    what = "evidence, cards and weights" if found["with_weights"] else "evidence and cards"
    places = ", ".join(f"{key} {found[key]}" for key in ("model", "version", "run_id", "url", "commit", "tag") if found.get(key))
    aliases = f"; {', '.join(found['aliases'])} there" if found["aliases"] else ""
    return f"{found['what']}: {what} are at {found['to']} ({places}){aliases}."
