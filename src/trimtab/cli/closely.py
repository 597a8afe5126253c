"""One answer looked at closely: what it rests on, and where two deployments part on it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.core.phrases import fixed, line
from trimtab.record.closely import kind_of_token, kinds_of_spans, leaning, parting, shown

Plain = Mapping[str, Any]
SPAN_STYLES = {"strong": "bold black on yellow", "some": "yellow", "little": "dim", "against": "magenta"}
TOKEN_STYLES = {"parted": "yellow", "apart": "magenta", "": ""}


def why_view(found: Plain, page: Path | None) -> Iterator[RenderableType]:
    """The prompt with the spans that carry the answer marked, then the spans by influence. page: where the page was written."""
    spans = found["spans"]
    yield Text(f"{line(found['model'])}: what this answer rests on", style="bold")
    text = Text()
    for span, kind in zip(spans, kinds_of_spans(spans), strict=True):
        text.append(span["text"], style=SPAN_STYLES[kind])
    yield text
    source = "given" if found["was_given"] else "its own, greedy"
    yield Text.assemble(("\nanswer ", "bold"), (f"({source}) ", "dim"), line(found["answer"].strip()))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("left out")
    table.add_column("answer loses, nats", justify="right")
    for span in sorted(spans, key=lambda one: -(one["influence_nats"] or 0.0)):
        table.add_row(line(span["text"].strip(), 60), fixed(span["influence_nats"], 2, signed=True))
    yield table
    yield Text(leaning(found), style="dim")
    yield from _written(page)


def beside_view(found: Plain, page: Path | None) -> Iterator[RenderableType]:
    """The answer token by token under both sides. page: where the page was written."""
    yield Text(f"A {line(found['a'])}\nB {line(found['b'])}", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (
        ("token", "left"),
        ("A", "right"),
        ("B", "right"),
        ("B − A", "right"),
        ("A rather", "left"),
        ("B rather", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for token in found["tokens"]:
        change = token["logprob_b"] - token["logprob_a"]
        cells = [shown(token["text"]), fixed(token["logprob_a"], 2), fixed(token["logprob_b"], 2), fixed(change, 2, signed=True)]
        table.add_row(*cells, shown(token["first_choice_a"]), shown(token["first_choice_b"]), style=TOKEN_STYLES[kind_of_token(token)])
    yield table
    yield Text(parting(found), style="dim")
    yield from _written(page)


def _written(page: Path | None) -> Iterator[RenderableType]:
    if page is not None:
        yield Text(f"Written: {page}")
