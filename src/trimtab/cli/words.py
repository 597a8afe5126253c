"""Titled lists of sentences for the terminal."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def words_view(parts: Sequence[tuple[str, Sequence[str]]]) -> Iterator[RenderableType]:
    """A title and its sentences, one after the other, each with a hanging indent."""
    for title, sentences in parts:
        yield Text(f"\n{title}", style="bold")
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column()
        for sentence in sentences:
            grid.add_row("·", Text(sentence))
        yield grid
