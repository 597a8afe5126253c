"""What is shown of `trimtab evaluate --suite guard-parity`: a line a route, the reasons, and the groups that are furthest off."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.cli.tables import WORDS
from trimtab.cli.words import words_view
from trimtab.core.phrases import MISSING, count, fixed, interval, line, percent, seconds

Plain = Mapping[str, Any]
MOST_GROUPS = 8


def parity_view(document: Plain, folder: Path) -> Iterator[RenderableType]:
    """The answer, the routes, the groups and where the files are."""
    word, style = WORDS[str(document["verdict"])]
    yield Text.assemble((f"{word}  ", f"bold {style}"), (line(document["headline"]), "bold"))
    suite = document["suite"]
    yield Text(f"{line(document['target'])}: {count(suite['n_templates'])} templates, {count(suite['n_groups'])} groups", style="dim")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (
        ("models", "left"),
        ("side", "left"),
        ("guards", "left"),
        ("texts", "right"),
        ("stopped", "right"),
        ("answer", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for route in document["routes"]:
        stopped = percent(route["stopped"]["share_of_texts"], 1) if route["stopped"] else MISSING
        word, style = WORDS[str(route["verdict"])]
        cells = line(", ".join(route["models"])), route["side"], line(", ".join(route["guards"])), count(route["n"]), stopped
        table.add_row(*cells, Text(word, style=style))
    yield table
    yield from words_view([(_name(route), [line(reason) for reason in route["reasons"]]) for route in document["routes"]])
    for route in document["routes"]:
        if route["groups"] and any(row["gap"]["value"] for row in route["groups"]):
            yield Text("")
            yield _groups(route)
    yield Text(f"\nlevels  {folder / 'guard-parity.json'}\ntexts   {folder / 'texts.jsonl'}")
    yield Text(seconds(document["seconds"]), style="dim")


def _name(route: Plain) -> str:
    return f"{line(', '.join(route['models']))}, {'what goes in' if route['side'] == 'in' else 'what comes out'}"


def _groups(route: Plain) -> Table:
    title = f"{_name(route)}: the groups that are furthest off"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for name in ("group", "stopped [95 %]", "against the same texts about others [95 %]", "p (Holm)", "templates"):
        table.add_column(name, justify="left" if name == "group" else "right", overflow="fold")
    for row in route["groups"][:MOST_GROUPS]:
        stopped, gap = row["stopped"], row["gap"]
        table.add_row(
            line(row["group"]),
            f"{fixed(stopped['value'], 3)} {interval(stopped['low'], stopped['high'], 3)}",
            f"{fixed(gap['value'], 3, signed=True)} {interval(gap['low'], gap['high'], 3)}",
            fixed(row["p_holm"], 3),
            count(row["n_templates"]),
        )
    return table
