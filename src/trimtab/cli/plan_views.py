"""A plan as a person reads it in a terminal of any width. Pure: the document in, renderables out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.cli.words import words_view
from trimtab.record import plan_view as view
from trimtab.record.plan_what_if import training

WIDE = 104
"""Columns from which everything is shown."""
SHOWN_BARS = 1
COLOURS = ("blue", "cyan", "magenta", "green", "yellow", "red", "bright_blue", "bright_magenta")
STYLES = {"measured": "green", "interpolated": "cyan", "extrapolated": "yellow", "speed-of-light": "red"}


def plan_view(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """All of a plan: the answer, the ten best, their memory and time, why the others lose, prices and assumptions."""
    yield Text(document["headline"], style="bold green" if document["found"] else "bold yellow")
    for reason in document["reasons"]:
        yield Padding(Text(reason), (0, 0, 0, 2))
    model = document["model"]
    yield Text(f"{model['name']}: {model['text']}", style="dim")
    if document["options"]:
        yield Text("")
        yield Options(document)
        yield from _legend(document)
        yield from _by_count(document)
        yield from _bars(document)
    yield from words_view([(title, lines) for title, lines in _told(document) if lines])


class Options:
    """The table of options, with the columns that the terminal has room for."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        document, narrow = self.document, options.max_width < WIDE
        shown = view.columns(document, narrow=narrow)
        table = Table(
            box=box.SIMPLE_HEAD,
            title=view.title(document),
            title_justify="left",
            title_style="bold",
            pad_edge=False,
            padding=(0, 1),
            collapse_padding=True,
        )
        table.add_column("", no_wrap=True)
        table.add_column("", overflow="fold")
        for _, title in shown:
            table.add_column(_two_lines(title), justify="right", no_wrap=True)  # only the first column folds
        for row in document["options"]:
            mark = Text(f"{row['rank']}")
            if row["on_front"]:
                mark.append("★", style="bold yellow")
            what = Text(row["what"], style="bold")
            if not narrow:
                what.append(f"\n{row['how']}", style="not bold dim")
            table.add_row(mark, what, *(_cell(view.cell(row["numbers"].get(name))) for name, _ in shown))
        yield table
        if narrow:
            grid = Table.grid(padding=(0, 1))
            told = {row["rank"]: row["how"] for row in document["options"]}
            for rank, how in told.items() if len(set(told.values())) > 1 else [("all", next(iter(told.values())))]:
                grid.add_row(Text(str(rank), style="dim"), Text(how, style="dim"))
            yield grid
            yield Text("")


def _two_lines(title: str) -> str:
    """A title of several words broken in its middle."""
    spaces = [place for place, letter in enumerate(title) if letter == " "]
    if len(title) < 9 or not spaces:
        return title
    middle = min(spaces, key=lambda place: abs(place - len(title) / 2))
    return f"{title[:middle]}\n{title[middle + 1 :]}"


def _cell(found: view.Cell) -> Text:
    text = Text(found.text, style="dim italic" if found.text in ("unknown", "–") else "")
    if found.sign:
        text.append(f" {found.sign}", style=STYLES[found.basis])
    if found.ends:
        text.append(f"\n{found.ends}", style="dim")
    return text


def _legend(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    grid = Table.grid(padding=(0, 1))
    for sign, name, meaning in view.bases_used(document):
        grid.add_row(Text(sign, style=STYLES[name]), Text(f"{name}: {meaning}", style="dim"))
    if any(row["on_front"] for row in document["options"]):
        grid.add_row(Text("★", style="bold yellow"), Text("on the front: no other is at least as good in everything", style="dim"))
    yield grid
    yield Text(f"Below a number: where 90 % of such numbers lie. {document['conventions']}".rstrip(), style="dim")


def _by_count(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Of a training plan over several numbers of devices, the fastest layout of each: what more of them buy."""
    grid = document["what_if"]
    if document["kind"] != "train" or not grid or len(grid["rows"]) < 2:
        return
    yield Text("\nThe fastest for each number of devices", style="bold")
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")
    for row in grid["rows"]:
        seconds, usd = training(row, grid["tokens"])
        money = "" if usd is None else view.amount(usd, "usd")
        table.add_row(f"  {row['name']}", view.amount(seconds, "s"), money, Text(row["how"], style="dim"))
    yield table


def _bars(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Memory of the first options on one scale each, with a legend, and where the time of the first goes."""
    rows = [row for row in document["options"][:SHOWN_BARS] if row["memory"]]
    names = list(dict.fromkeys(part.name for row in rows for part in view.memory_bar(row)[0]))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    if rows:
        yield Text("\nMemory of the fullest device", style="bold")
    for row in rows:
        slices, taken = view.memory_bar(row)
        memory = row["memory"]
        whole = view.amount(memory["capacity_bytes"], "bytes")
        yield Text(f"{row['rank']} {row['what']}: {view.amount(memory['total_bytes'], 'bytes')} of {whole}")
        yield Bar([(part.share, colours[part.name]) for part in slices], rest=max(0.0, 1.0 - taken))
        yield _names([(part, colours[part.name]) for part in slices])
    first = document["options"][0]
    if first["time"]:
        slices = view.time_bar(first)
        yield Text(f"\nWhere the time of {first['time']['what']} goes", style="bold")
        yield Bar([(part.share, COLOURS[place % len(COLOURS)]) for place, part in enumerate(slices)], rest=0.0)
        yield _names([(part, COLOURS[place % len(COLOURS)]) for place, part in enumerate(slices)])


def _names(parts: Sequence[tuple[view.Slice, str]]) -> RenderableType:
    """What the colours of a bar stand for."""
    texts = [Text.assemble(("■ ", colour), (f"{part.name} {part.text}", "dim")) for part, colour in parts]
    return Padding(Columns(texts, padding=(0, 3)), (0, 0, 0, 2))


class Bar:
    """A bar over the width of the terminal. parts: (share, colour); rest: share that stays empty"""

    def __init__(self, parts: Sequence[tuple[float, str]], *, rest: float) -> None:
        self.parts = parts
        self.rest = rest

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(10, min(options.max_width - 4, 96))
        text, done, drawn = Text("  "), 0.0, 0
        for share, colour in self.parts:
            done += share
            upto = round(done * width)
            text.append("█" * (upto - drawn), style=colour)
            drawn = upto
        if self.rest:
            text.append("░" * (width - drawn), style="dim")
        yield text


def _told(document: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    if document["options"]:
        first = document["options"][0]
        yield f"What stands behind the numbers of 1 ({first['what']})", [f"{name}: {why}" for name, why in view.why_numbers(first)]
    yield "What does not fit" if document["kind"] == "fit" else "Why the others lose", view.loser_lines(document, each=1)
    yield "Prices", [line for line, _ in view.price_lines(document)]
    yield "Assumed", list(document["assumptions"])
    if document["searched"]:
        yield "Searched", [document["searched"]["text"]]
