"""`trimtab describe`: card, layer table and chat template of a model, in the terminal, as JSON or as a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.cli.options import Common, common, option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trimtab.describe.template import TemplateDifference
    from trimtab.flows.describe import Description


@click.command(short_help="What a model is, layer by layer, and what a token costs.")
@click.argument("model")
@option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page with a plot to this file.")
@option("--base", default="", metavar="MODEL", help="The model it was made from: the chat templates are compared.")
@option("--engines/--no-engines", default=False, help="Also open it in each engine and compare how that writes conversations (seconds).")
@common
def describe(*, model: str, html: Path | None, base: str, engines: bool, common: Common) -> int:
    """What MODEL is, layer by layer, and what a token costs: from its headers alone, no weight is read.

    MODEL is a GGUF file, a directory, hf:org/name@revision[:quant] or pypi:package==version.

    \b
    trimtab describe ./model.gguf
    trimtab describe ./model.gguf --html model.html --engines
    trimtab describe ./finetuned.gguf --base ./original.gguf
    """
    from trimtab.cli.output import emit
    from trimtab.cli.progress import show_progress
    from trimtab.flows.describe import describe as flow

    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        found = flow(model, base=base, ask_engines=engines, offline=common.offline, on_event=on_event)
    if html:
        from trimtab.flows.describe import write_page

        write_page(found, html)
    emit(common, found.plain(), _view(found, html))
    return 0


def _view(found: "Description", html: Path | None) -> "Iterator[RenderableType]":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from trimtab.core.phrases import megabytes
    from trimtab.describe.card import card_rows

    card = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    card.add_column(style="bold", no_wrap=True)
    card.add_column(overflow="fold")
    for row in card_rows(found.card):
        card.add_row(row.label, Text.assemble(row.value, (f"  {row.note}" if row.note else "", "dim")))
    yield card
    layers = Table(box=box.SIMPLE_HEAD, title="Layers", title_justify="left", title_style="bold", pad_edge=False)
    for name in ("", "kind", "parameters\neach", "size\neach", "stored as"):
        layers.add_column(name, justify="right" if "each" in name else "left", overflow="fold")
    for line in found.layers:
        layers.add_row(line.name, line.kind, f"{line.n_params:,}", megabytes(line.size_bytes), line.types)
    yield layers
    yield from _template_lines(found)
    if html:
        yield Text(f"page  {html}")


def _template_lines(found: "Description") -> "Iterator[RenderableType]":
    """What is odd about the chat template, or that nothing is."""
    from rich.text import Text

    template = found.template
    if not template.sha256:
        yield Text("Chat template: none; conversations cannot be rendered.", style="yellow")
        return
    failed = [item for item in template.renderings if item.error]
    yield Text(f"Chat template: {len(template.renderings) - len(failed)} of {len(template.renderings)} golden conversations rendered")
    for item in failed:
        yield Text(f"  {item.conversation}: {item.error}", style="yellow")
    for branch in template.content_branches:
        yield Text(f"  depends on what a message says: {branch}", style="yellow")
    if found.base_differences is not None:
        yield from _differences(f"the template of {found.base}", found.base_differences)
    for name, engine in found.engines.items():
        if engine.why:
            yield Text(f"  {name} was not asked: {engine.why}", style="dim")
        else:
            yield from _differences(name, engine.differences)


def _differences(who: str, differences: "tuple[TemplateDifference, ...]") -> "Iterator[RenderableType]":
    from rich.text import Text

    if not differences:
        yield Text(f"  {who} writes the same", style="green")
    for item in differences:
        yield Text(
            f"  {who} writes {item.conversation!r} otherwise after {item.before!r}: {item.b!r}, the template says {item.a!r}",
            style="yellow",
        )
