"""What the planning verbs share: where a plan is kept, what it is written as, and how they end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from trimtab.cli.options import Common, option
from trimtab.core.errors import EXIT_FAILED, EXIT_PASSED

COMMITMENTS = ("on-demand", "spot", "1-year", "3-year", "lowest listed")
"""As `plan.prices.COMMITMENTS`, which is not loaded for --help."""


def kept(formats: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds --html and --out, and --emit where the verb has formats."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        found: Callable[..., Any] = command
        if formats:
            told = f"Print the best option as configuration: {', '.join(formats)}; with --out write it there."
            found = option("--emit", type=click.Choice(formats), metavar="FORMAT", help=told)(found)
        where = "Keep plan.json, report.html and what --emit makes in this folder; `trimtab ui --runs` shows it."
        found = option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help=where)(found)
        page = "Also write a page with plots and what-if sliders to this file."
        found = option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help=page)(found)
        return found

    return decorate


def priced(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --price and --commitment."""
    told = "US dollars a device and hour, such as 2.5 or h100-sxm=2.5,l40s=1; default the catalog's dated list prices."
    kinds = click.Choice(COMMITMENTS)
    kind = option(
        "--commitment",
        type=kinds,
        default=COMMITMENTS[0],
        show_default=True,
        metavar="KIND",
        help=f"Of list prices: {', '.join(COMMITMENTS)}.",
    )
    decorated: Callable[..., Any] = option("--price", default="", metavar="USD", help=told)(kind(command))
    return decorated


def finish(common: Common, document: Mapping[str, Any], *, html: Path | None, out: Path | None, emit: str | None = None) -> int:
    """Keep, write and print a plan. Returns the exit code. Raises InputError, MissingError."""
    from rich.text import Text

    from trimtab.cli.output import emit as show
    from trimtab.cli.plan_views import plan_view
    from trimtab.flows.parts.plan_kept import keep_plan, write_page

    if html:
        write_page(document, html)
    if out:
        keep_plan(document, out)
    if emit and not out and not common.as_json:
        _print_files(document["emitted"])
    else:
        written = [Text(f"Written: {path}", style="dim") for path in (html, out) if path]
        show(common, document, [*plan_view(document), *written] if not common.as_json else ())
    return EXIT_PASSED if document["found"] else EXIT_FAILED


def _print_files(emitted: Mapping[str, Any]) -> None:
    """Files to stdout as they are, each with its name where there are several; what they cannot say to stderr."""
    files = emitted.get("files", {})
    for name, text in files.items():
        if len(files) > 1:
            click.echo(f"# {name}")
        click.echo(text, nl=not text.endswith("\n"))
    for note in emitted.get("notes", ()):
        click.echo(f"note: {note}", err=True)
