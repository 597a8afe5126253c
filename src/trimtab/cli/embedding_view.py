"""What embedding models find, as a table: one row a form."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.core.phrases import MISSING, line

Plain = Mapping[str, Any]


def embedding_view(embedding: Plain) -> Iterator[RenderableType]:
    """The suite, and the levels of each form with their intervals."""
    suite = embedding["suite"]
    told = f"{suite['n_questions']} questions to {suite['n_passages']} passages of {suite['n_clusters']} topics"
    yield Text(f"Suite {suite['name']} {suite['version']}: {told}", style="bold")
    found_among = next(key for key in embedding["rows"][0] if key.startswith("recall_at_") and key != "recall_at_1")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("form")
    for name in (
        "MB",
        "1/rank [95 %]",
        "first",
        found_among.replace("recall_at_", "among "),
        "overlap",
        "Jaccard",
        "cosine",
        "first changed",
    ):
        table.add_column(name, justify="right")
    for row in embedding["rows"]:
        rank = row["mean_reciprocal_rank"]
        size = row.get("size_bytes")
        table.add_row(
            line(row["id"]),
            f"{size / 1e6:.1f}" if size else MISSING,
            f"{rank['value']:.3f} [{rank['low']:.3f}, {rank['high']:.3f}]",
            _value(row["recall_at_1"]),
            _value(row[found_among]),
            _value(row["overlap"]),
            f"{row['jaccard_at_10']:.3f}",
            _value(row["cosine"], 4),
            str(row["n_first_passage_changed"]),
        )
    yield table


def _value(level: Plain | None, decimals: int = 3) -> str:
    return MISSING if level is None else f"{level['value']:.{decimals}f}"
