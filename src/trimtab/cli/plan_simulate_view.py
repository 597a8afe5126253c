"""A simulated fleet as a person reads it in a terminal. Pure: the document in, renderables out."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.cli.words import words_view
from trimtab.core.phrases import line, milliseconds, significant
from trimtab.record.fleet_view import Cell, figure_rows, latency_rows, notes_of, one_route, traffic_text

Plain = Mapping[str, Any]
BLOCKS = " ▁▂▃▄▅▆▇█"
LINES = (
    ("requests_s", "requests/s"),
    ("running", "running"),
    ("waiting", "waiting"),
    ("replicas", "replicas"),
    ("ttft_p50_ms", "TTFT p50"),
)
SHOWN_BUCKETS = 45


def fleet_view(document: Plain) -> Iterator[RenderableType]:
    """The answer, a column a policy, the best one's time line, and what was assumed."""
    yield Text(document["headline"], style="bold green" if document["found"] else "bold yellow")
    yield Text(line(traffic_text(document)), style="dim")
    yield _table(document)
    for note in notes_of(document):
        yield Text(note, style="dim")
    run = document["runs"][document["best"] or 0]
    yield Text(f"{run['policy']} over time", style="bold")
    yield Padding(_time_line(run["timeline"]), (0, 0, 0, 2))
    yield from words_view(
        [(title, lines) for title, lines in (("Notes", document["notes"]), ("Assumed", document["assumptions"])) if lines]
    )


def _table(document: Plain) -> Table:
    """What requests see above what it takes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    table.add_column("", no_wrap=True)
    for place, run in enumerate(document["runs"]):
        head = Text(run["policy"], style="bold" if place == document["best"] else "")
        if not one_route(document):
            head.append(f"\n{run['route']}", style="not bold dim")
        table.add_column(head, justify="right", overflow="fold", min_width=9)
    for title, cells in latency_rows(document):
        table.add_row(title, *map(_cell, cells))
    table.add_section()
    for title, cells in figure_rows(document):
        table.add_row(title, *map(_cell, cells))
    return table


def _cell(cell: Cell) -> Text:
    text = Text(cell.text)
    for more in (cell.seeds, cell.steps):
        if more:
            text.append(f"\n{more}", style="dim")
    return text


def _time_line(told: Plain) -> Table:
    grid = Table.grid(padding=(0, 1))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    for key, title in LINES:
        values = _fewer([value or 0.0 for value in told[key]])
        most = max(values, default=0.0)
        text = milliseconds(most) if key.endswith("_ms") else significant(most)
        grid.add_row(Text(title, style="dim"), Text(_sparks(values, most), style="cyan"), Text(f"at most {text}", style="dim"))
    return grid


def _fewer(values: Sequence[float]) -> list[float]:
    """As many as a narrow terminal shows, the largest of each stretch."""
    n = min(SHOWN_BUCKETS, len(values))
    ends = [round(place * len(values) / n) for place in range(n + 1)]
    return [max(values[low:high]) for low, high in itertools.pairwise(ends)]


def _sparks(values: Sequence[float], most: float) -> str:
    return "".join(BLOCKS[0] if value <= 0 or most <= 0 else BLOCKS[max(1, round(8 * value / most))] for value in values)
