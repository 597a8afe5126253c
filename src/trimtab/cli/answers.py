"""Answers to --what-if and prices of tokens, as a person reads them at any width. Pure: dicts in, renderables out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.record.answers import answer_row, untimed_note
from trimtab.record.prices import FORMULA

_STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
_INDENT = (0, 0, 0, 2)


def answers_view(answers: Sequence[Any]) -> Iterator[RenderableType]:
    """A block an answer: the question, what would be run, its measured numbers, how sure that is and what to do."""
    rows = [answer_row(answer) for answer in answers]
    for row in rows:
        yield Text.assemble(("what if ", "dim"), (row["question"], "bold"))
        named = row["id"] if row["outcome"] not in ("none", "not_measured") else ""
        as_before = "  (as chosen)" if row["is_chosen"] and named else ""
        yield Padding(Text.assemble((row["word"], _STYLES.get(row["verdict"], "dim")), "  " if named else "", named, as_before), _INDENT)
        if named and row["figures"]:
            yield Padding(Text(row["figures"]), _INDENT)
        yield Padding(Text(row["reason"]), _INDENT)
        if row["command"]:
            yield Padding(Text(row["command"], style="bold"), _INDENT)
        yield Text("")
    if note := untimed_note(rows):
        yield Text(note, style="dim")


def prices_view(rows: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """A row a deployment and concurrency, intervals below their prices, and what the columns mean. rows: of `price_rows`."""
    table = Table(
        box=box.SIMPLE_HEAD, title="Price of a million tokens", title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1)
    )
    table.add_column("deployment", overflow="fold", min_width=16)
    table.add_column("at\nonce", justify="right")
    for title in ("all", "output", "in", "out"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        for number, level in enumerate(row["levels"]):
            cells = [f"{level[kind]}\n{level[f'{kind}_range']}" for kind in ("all", "output")] + [level["prompt"], level["answer"]]
            table.add_row("" if number else row["id"], str(level["level"]), *cells)
    yield table
    for row in rows:
        known = [f"{level['energy']} at {level['level']} at once ({level['power']})" for level in row["levels"] if level["energy"]]
        if known:
            yield Text(f"{row['id']}, energy of a million output tokens: {'; '.join(known)}")
    yield Text(FORMULA, style="dim")
