"""`trimtab ui`: the page on loopback, and codes to sign in to it."""

import json
import logging
from pathlib import Path
from urllib.parse import quote

import click

from trimtab.cli.options import Common, State, common, option
from trimtab.core.errors import EXIT_PASSED, InputError, MissingError

PORT = 8780


@click.group(invoke_without_command=True, short_help="A page where a team sees it all: releases, runs, live traffic, incidents.")
@option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="On loopback; 0 = any free one.")
@option("--ledger", default="", metavar="URL", help="postgresql://USER@HOST/DATABASE or sqlite:///FILE; default a file under TRIMTAB_HOME.")
@option(
    "--runs", multiple=True, type=click.Path(path_type=Path), metavar="DIR", help="A folder with runs; may be repeated. [default: runs]"
)
@common
@click.pass_context
def ui(ctx: click.Context, *, port: int, ledger: str, runs: tuple[Path, ...], common: Common) -> int:
    """Serve the page on this machine until somebody ends it. Whoever is in the ledger with a role and a key can sign in.

    From another machine: `ssh -L 8780:127.0.0.1:8780 THIS-MACHINE`, then the same address there.

    \b
    trimtab ui --runs runs
    trimtab ui sign-in --as alice
    """
    if ctx.invoked_subcommand is not None:
        return EXIT_PASSED
    try:
        from trimtab.web.app import run_page
    except ModuleNotFoundError as error:
        raise MissingError(f"The page needs the package {error.name}.", "pip install 'trimtab[ui]'") from None
    folders = runs or tuple(path for path in (Path("runs"),) if path.is_dir())
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; name one that holds runs with --runs.")
    logging.basicConfig(level=logging.INFO if common.verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    ctx.ensure_object(State).resume = "Run the same command to have the page again; sign in again then."
    run_page(
        port=port,
        ledger=ledger,
        runs=folders,
        on_ready=lambda url: _say(url, common),
        level="info" if common.verbose else "warning",
    )
    return EXIT_PASSED


def _say(url: str, common: Common) -> None:
    """Where it is; as one JSON line with --json."""
    if common.as_json:
        print(json.dumps({"schema": "trimtab.page/1", "url": url}), flush=True)
    elif not common.quiet:
        port = url.rpartition(":")[2]
        own = f" --port {port}" if int(port) != PORT else ""
        click.echo(f"The page is at {url}. Sign in with a code of `trimtab ui sign-in --as NAME{own}`.", err=True)


@ui.command("sign-in", short_help="A code to sign in with, good for two minutes and one use.")
@option("--as", "by", default="", metavar="NAME", help="Who you are, of those in the ledger; default the only one there is.")
@option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Of the page.")
@option("--ledger", default="", metavar="URL", help="The one that the page was started with.")
@common
def sign_in(*, by: str, port: int, ledger: str, common: Common) -> int:
    """Sign a code with your key, which lies under TRIMTAB_HOME here: paste it into the page, or open the link.

    The page checks it with your public key in the ledger. No password is kept anywhere.
    """
    from trimtab.cli.output import emit
    from trimtab.web.codes import LASTS_S, code_here

    person, code = code_here(by=by, port=port, ledger=ledger)
    link = f"http://127.0.0.1:{port}/sign-in#code={quote(code)}"
    if common.as_json:
        emit(common, {"person": person, "code": code, "link": link, "lasts_s": LASTS_S}, ())
    else:  # never wrapped to the width of a terminal: it is to be copied
        click.echo(f"{code}\n\nor open {link}")
        click.echo(f"It signs in {person}, once, within {LASTS_S // 60} minutes.", err=True)
    return EXIT_PASSED
