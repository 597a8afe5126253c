"""What `trimtab fairness` found, as a person reads it in a terminal. Pure: documents in, renderables out."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.cli.tables import WIDE, WORDS, ByWidth
from trimtab.core.phrases import count, fixed, interval, line, percent
from trimtab.record.fairness_view import METRIC_WORDS, cell_of, gap_of, gate_words, mitigation_rows, points, rate_and_range

Plain = Mapping[str, Any]
_MOST_WORDS = 8
_MOST_PLACES = 3


def decisions_view(document: Plain, out: Path | None) -> Iterator[RenderableType]:
    """The answer, the gates, a table an axis, calibration, pairs and mitigations."""
    word, style = WORDS[str(document["verdict"])]
    yield Text.assemble((f"{word}  ", f"bold {style}"), (line(document["headline"]), "bold"))
    yield _gates(document["gates"])
    yield Text(_ability(document), style="bold")
    for axis in document["axes"]:
        yield ByWidth(partial(_axis, axis))
        for gap in axis["gaps"]:
            if gap["metric"] != "base_rate":
                yield Text(f"  largest gap, {METRIC_WORDS[gap['metric']]}: {gap_of(gap)}")
        if axis["too_small"]:
            told = ", ".join(f"{line(name)} (n = {n})" for name, n in axis["too_small"].items())
            yield Text(f"  cannot tell: {told}", style="yellow")
        yield Text("")
    yield from _calibrations(document)
    yield from _pairs(document["counterfactual"])
    for found in document["mitigation"]:
        yield from _mitigation(found)
    for note in document["notes"]:
        yield Text(line(note), style="dim")
    if out is not None:
        yield Text(f"Written: {out / 'fairness.json'}, {out / 'report.html'}")


def _gates(gates: Sequence[Plain]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in ("gate", "answer", "allowed"):
        table.add_column(title, justify="left", overflow="fold")
    table.add_column("why", overflow="fold")
    for gate in gates:
        name, word, style = gate_words(gate)
        small = len(gate["too_small"])
        why = line(gate["reasons"][0]) + (f"; {count(small)} cells are too small to tell" if small and len(gate["reasons"]) > 1 else "")
        table.add_row(name, Text(word, style=style), points(gate["max_gap"]), why)
    return table


def _ability(document: Plain) -> str:
    ability = document["ability"]
    parts = [f"{METRIC_WORDS[name]} {rate_and_range(rate)}" for name, rate in ability["rates"].items()]
    if ability["auc"]:
        parts.append(
            f"area under the curve {fixed(ability['auc']['value'], 3)} {interval(ability['auc']['low'], ability['auc']['high'], 3)}"
        )
    return f"All {count(document['input']['rows_counted'])} rows: {'; '.join(parts)}"


def _axis(axis: Plain, width: int) -> Table:
    metrics = [metric for metric in axis["groups"][0]["rates"] if width >= WIDE or metric in ("selection_rate", "tpr", "fpr")]
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=" x ".join(axis["axis"]), title_justify="left", title_style="bold"
    )
    table.add_column("group", overflow="fold", min_width=10)
    table.add_column("n", justify="right")
    for metric in metrics:
        table.add_column(METRIC_WORDS[metric], justify="right")
    for group in axis["groups"]:
        cells = ["\n".join(part for part in cell_of(group, metric) if part) for metric in metrics]
        table.add_row(line(group["group"]), count(group["confusion"]["n"]), *cells)
    return table


def _calibrations(document: Plain) -> Iterator[RenderableType]:
    for part in document["calibration"]:
        rows = [row for row in part["groups"] if row["excess"] is not None]
        if not rows:
            continue
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            title=f"Calibration by {' x '.join(part['axis'])}",
            title_justify="left",
            title_style="bold",
        )
        for title in ("group", "n", "score above outcome", "calibration error", "by chance up to"):
            table.add_column(title, justify="left" if title == "group" else "right", overflow="fold")
        for row in rows:
            excess = f"{fixed(row['excess'], 3, signed=True)} {interval(row['low'], row['high'], 3)}"
            table.add_row(line(row["group"]), count(row["n"]), excess, fixed(row["error"], 3), fixed(row["error_by_chance"], 3))
        yield table


def _pairs(gaps: Sequence[Plain]) -> Iterator[RenderableType]:
    if not gaps:
        return
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title="The same case with another identity", title_justify="left", title_style="bold"
    )
    for title in ("group", "outcome", "against the others of the case", "p (Holm)", "cases", "clusters"):
        table.add_column(title, overflow="fold")
    for gap in gaps:
        value = f"{fixed(gap['value'], 3, signed=True)} {interval(gap['low'], gap['high'], 3)}"
        table.add_row(
            f"{line(gap['axis'])}: {line(gap['group'])}",
            gap["outcome"],
            value,
            fixed(gap["p_holm"], 3),
            count(gap["n"]),
            count(gap["n_clusters"]),
        )
    yield table


def _mitigation(found: Plain) -> Iterator[RenderableType]:
    yield Text(f"Mitigation: {found['name']}", style="bold")
    yield Text(line(found["note"]))
    if found["legal_note"]:
        yield Text(line(found["legal_note"]), style="yellow")
    for label, value in mitigation_rows(found):
        yield Text(f"  {label}: {value}")
    yield Text("")


def data_view(document: Plain, out: Path | None) -> Iterator[RenderableType]:
    """Who is in the data, associations, duplicates and personal data."""
    yield Text(line(document["headline"]), style="bold")
    for axis in document["representation"]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=" x ".join(axis["axis"]), title_justify="left", title_style="bold")
        for title in ("group", "n", "share"):
            table.add_column(title, justify="left" if title == "group" else "right", overflow="fold")
        for row in axis["groups"]:
            share = f"{percent(row['share'], 1)} {interval(100 * row['low'], 100 * row['high'], 1)}"
            table.add_row(line(row["group"]), count(row["n"]), share)
        yield table
    for found in document["label_association"]:
        yield Text(line(found["sentence"]))
    for found in document["words"]:
        for group in found["groups"]:
            words = ", ".join(f"{line(word['word'])} ({fixed(word['z'], 1)})" for word in group["words"][:_MOST_WORDS])
            yield Text(f"{line(found['column'])} {line(group['group'])}: {words or 'no word stands out'}")
    if document["duplicates"]:
        yield Text(line(document["duplicates"]["sentence"]))
    for row in document["personal_data"]:
        places = ", ".join(str(place) for place in row["places"][:_MOST_PLACES])
        more = ", ..." if row["texts"] > _MOST_PLACES else ""
        yield Text(
            f"personal data, {row['kind']}: {count(row['found'])} in {count(row['texts'])} texts (rows {places}{more})", style="yellow"
        )
    for note in document["notes"]:
        yield Text(line(note), style="dim")
    if out is not None:
        yield Text(f"Written: {out / 'data.json'}, {out / 'datasheet.md'}, {out / 'report.html'}")
