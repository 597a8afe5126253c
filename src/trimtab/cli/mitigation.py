"""Remedies as a person reads them in the terminal. Pure: dicts in, renderables out."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.record.mitigation import mitigation_of

MARKS = {"pass": ("✓ pass", "green"), "fail": ("✗ fail", "red"), "inconclusive": ("? inconclusive", "yellow")}


def mitigation_view(decision: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What was tried, a row a remedy: its cost, and each gate before and after. Nothing where no remedy was asked for or needed."""
    found = mitigation_of(decision)
    if found is None:
        return
    yield Text("\nRemedies", style="bold")
    yield from (Text(sentence) for sentence in found["lead"])
    if not found["rows"]:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in ("remedy", "weights", "speed", "KL, nats"):
        table.add_column(title, justify="left" if title == "remedy" else "right", overflow="fold")
    table.add_column("gates: change before → after", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_row(found["before"]["id"], found["before"]["bytes"], "1×", found["before"]["kl"], "", "")
    for row in found["rows"]:
        if row["why_not"] and not row["gates"]:
            table.add_row(row["name"], row["bytes"], "", "", Text(row["why_not"], style="dim"), Text("not judged", style="dim"))
            continue
        gates = "\n".join(f"{gate['name']}: {gate['before']} → {gate['after']}, {gate['verdict']}" for gate in row["gates"])
        word, style = MARKS.get(row["verdict"], ("", ""))
        table.add_row(
            f"{row['name']}\n{row['what']}", f"{row['bytes']}\n{row['extra']}", row["speed"], row["kl"], gates, Text(word, style=style)
        )
    yield table
    yield Text("Speed: a short turn beside the candidate, two rounds; it only orients.", style="dim")
