"""What is shown of a search on several hardware pools: one row each."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.core.phrases import MISSING, line, megabytes, milliseconds, times_interval


def pools_view(document: Mapping[str, Any], folder: Path) -> Iterator[RenderableType]:
    """The table over pools, why a pool has no choice, and where the runs are."""
    yield Text(f"{line(document['model'])} on {len(document['pools'])} hardware pools", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("pool", "decision", "chosen", "median request", "over baseline [95 %]", "memory"):
        table.add_column(name, justify="right" if name in ("median request", "memory") else "left")
    for row in document["pools"]:
        over = row["over_baseline"]
        table.add_row(
            line(row["pool"]),
            row["verdict"],
            line(row["chosen"]) if row["chosen"] else MISSING,
            milliseconds(row["e2e_ms"]),
            times_interval(over["low"], over["high"]) if over else MISSING,
            megabytes(row["peak_memory_bytes"]),
        )
    yield table
    for row in document["pools"]:
        if row["why"]:
            yield Text(f"{line(row['pool'])}: {line(row['why'])}")
    yield Text(f"runs    {', '.join(row['out'] for row in document['pools'])}\ntable   {folder / 'pools.json'}")
