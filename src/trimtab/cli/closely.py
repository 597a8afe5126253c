"""One answer looked at closely: what it rests on, and where two deployments part on it."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.record.phrases import fixed, line

Plain = Mapping[str, Any]
STRONG_SHARE, WEAK_SHARE = 0.5, 0.15
"""Of the strongest span's influence."""
UNSURE_NATS = 0.5
"""A token on which two deployments differ by more than this is marked."""


def why_view(found: Plain) -> Iterator[RenderableType]:
    """The prompt with the spans that carry the answer marked, then the spans by influence."""
    spans = found["spans"]
    strongest = max((abs(span["influence_nats"] or 0.0) for span in spans), default=0.0) or 1.0
    yield Text(f"{line(found['model'])}: what this answer rests on", style="bold")
    text = Text()
    for span in spans:
        share = (span["influence_nats"] or 0.0) / strongest
        text.append(span["text"], style=_style(share))
    yield text
    source = "given" if found["was_given"] else "its own, greedy"
    yield Text.assemble(("\nanswer ", "bold"), (f"({source}) ", "dim"), line(found["answer"].strip()))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("left out")
    table.add_column("answer loses, nats", justify="right")
    for span in sorted(spans, key=lambda one: -(one["influence_nats"] or 0.0)):
        table.add_row(line(span["text"].strip(), 60), fixed(span["influence_nats"], 2, signed=True))
    yield table
    yield Text(
        f"The answer's log-probability is {fixed(found['logprob_nats'], 1)} nats over {found['n_tokens']} tokens. A span below zero speaks "
        "against it. This says what the model leaned on, not whether it should have.",
        style="dim",
    )


def _style(share: float) -> str:
    if share >= STRONG_SHARE:
        return "bold black on yellow"
    if share >= WEAK_SHARE:
        return "yellow"
    return "dim" if share > -WEAK_SHARE else "magenta"


def beside_view(found: Plain) -> Iterator[RenderableType]:
    """The answer token by token under both sides."""
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
        style = "yellow" if token["first_choice_a"] != token["first_choice_b"] else "magenta" if abs(change) > UNSURE_NATS else ""
        cells = [shown(token["text"]), fixed(token["logprob_a"], 2), fixed(token["logprob_b"], 2), fixed(change, 2, signed=True)]
        table.add_row(*cells, shown(token["first_choice_a"]), shown(token["first_choice_b"]), style=style)
    yield table
    where = found["first_parting"]
    parted = (
        "Both would go on alike at every token." if where is None else f"They part first at token {where + 1} of {len(found['tokens'])}."
    )
    yield Text(
        f"{parted} From A to B the log-probability of the whole answer changes by {fixed(found['change_nats'], 2, signed=True)} nats.",
        style="dim",
    )


def shown(token: str) -> str:
    """A token with its spaces and line ends visible."""
    return line(token.replace("\n", "⏎").replace(" ", "·")) if token else ""
