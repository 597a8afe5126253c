"""Incidents and effects as a person reads them. Pure: dicts in, renderables out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.core.phrases import line

Plain = Mapping[str, Any]
STYLE = {
    "open": "red",
    "contained": "yellow",
    "closed": "dim",
    "confirmed": "red",
    "suspected": "yellow",
    "mitigated": "green",
    "dismissed": "dim",
}


def incident_view(row: Plain) -> Iterator[RenderableType]:
    """All of one incident."""
    yield Text.assemble((f"{row['id']}: {line(row['title'])} ", "bold"), (f"{row['state']}, {row['severity']}", STYLE[row["state"]]))
    grid = _grid()
    grid.add_row("about", line(row["about"]))
    grid.add_row("owner", line(row["owner"]) or "nobody yet")
    for who in row["affected"]:
        grid.add_row("affected", line(who))
    for alarm in row["alarms"]:
        grid.add_row("alarm", line(alarm))
    for one in row.get("impacts", ()):
        grid.add_row("effect", f"{one['id']}, {one['state']}: {line(one['effect'])}")
    for at, by, what in row["notes"]:
        grid.add_row(_minute(at), f"{line(by)}: {line(what, 400)}")
    yield grid
    if row["deadline"]:
        due = row["deadline"]
        yield Text(
            f"{due['harm'].capitalize()}: {due['law']}, {due['article']}, wants it reported within {due['days']} days, by "
            f"{_minute(due['due'])} UTC ({due['note']}). A hint, no legal advice: {due['source']}",
            style="yellow",
        )


def incidents_view(rows: Sequence[Plain], show_all: bool) -> Iterator[RenderableType]:
    """A row an incident."""
    if not rows:
        yield Text("There are no incidents." if show_all else "There are no open incidents; `--all` shows closed ones.")
        return
    table = _table("incident", "state", "severity", "about", "title", "owner", "updated (UTC)", "report by")
    for row in rows:
        state = Text(row["state"], style=STYLE[row["state"]])
        due = _minute(row["deadline"]["due"]) if row["deadline"] else "-"
        owner = line(row["owner"]) or "-"
        table.add_row(row["id"], state, row["severity"], line(row["about"]), line(row["title"]), owner, _minute(row["updated"]), due)
    yield table


def impact_view(row: Plain) -> Iterator[RenderableType]:
    """All of one effect."""
    yield Text.assemble((f"{row['id']}: {line(row['effect'])} ", "bold"), (f"{row['state']}, {row['severity']}", STYLE[row["state"]]))
    grid = _grid()
    grid.add_row("about", line(row["about"]))
    grid.add_row("intended", "yes" if row["intended"] else "no")
    grid.add_row("owner", line(row["owner"]) or "nobody yet")
    for who in row["groups"]:
        grid.add_row("group", line(who))
    grid.add_row("mitigation", line(row["mitigation"], 400) or "none yet")
    for one in row["sources"]:
        grid.add_row("source", line(one))
    for at, by, what in row["notes"]:
        grid.add_row(_minute(at), f"{line(by)}: {line(what, 400)}")
    yield grid


def impacts_view(rows: Sequence[Plain]) -> Iterator[RenderableType]:
    """A row an effect."""
    if not rows:
        yield Text("The register is empty; `trimtab incident impact add` notes an effect.")
        return
    table = _table("impact", "state", "severity", "meant", "about", "effect", "groups", "owner", "mitigation")
    for row in rows:
        table.add_row(
            row["id"],
            Text(row["state"], style=STYLE[row["state"]]),
            row["severity"],
            "yes" if row["intended"] else "no",
            line(row["about"]),
            line(row["effect"]),
            ", ".join(line(one) for one in row["groups"]) or "-",
            line(row["owner"]) or "-",
            line(row["mitigation"], 200) or "-",
        )
    yield table


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _minute(text: str) -> str:
    """`2026-11-01 12:00` of a time in the ledger's form."""
    return str(text)[:16].replace("T", " ")
