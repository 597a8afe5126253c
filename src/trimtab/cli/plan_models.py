"""`trimtab plan models`: the catalog of models, or what a few are made of and what a token of theirs costs."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from trimtab.cli.options import Common, common, option

Plain = Mapping[str, Any]
WIDE = 110


@click.command(short_help="The catalog of models; or what one is made of and what a token of it costs.")
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@option("--seq", default=8192, show_default=True, type=click.IntRange(1), help="Length of sequences that training FLOPs are told for.")
@common
def models(*, names: tuple[str, ...], seq: int, common: Common) -> int:
    """All models that a plan may name, or with MODELs (a name, a path, a config.json, hf:org/name) their parameters, FLOPs and bytes.

    Names are forgiving: LLAMA3.1_405B and meta-llama/Llama-3.1-405B-Instruct are one. ✓: its shape was read at the source.

    \b
    trimtab plan models
    trimtab plan models deepseek-v3 gpt-oss-120b --seq 4096
    """
    from trimtab.cli.output import emit
    from trimtab.flows.plan_models import list_models

    found = list_models(names, seq=seq, offline=common.offline)
    emit(common, found, () if common.as_json else _each(found) if names else _all(found["models"]))
    return 0


def _all(rows: list[Plain]) -> Iterator[Any]:
    from rich.text import Text

    from trimtab.cli.tables import ByWidth

    yield ByWidth(lambda width: _table(rows, wide=width >= WIDE))
    yield Text("active: parameters that a token passes. KV: bytes a token adds to a 16-bit cache before any window is full.", style="dim")


def _table(rows: list[Plain], *, wide: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("model", no_wrap=True)
    for title in ("params", "active", *(("layers", "width") if wide else ()), "KV kB", "context"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("attention", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        more = (str(row["n_layers"]), f"{row['d_model']:,}") if wide else ()
        table.add_row(
            row["name"],
            count(row["n_params"]),
            count(row["active_params"]),
            *more,
            f"{row['kv_bytes_per_token'] / 1e3:,.1f}",
            f"{row['context_tokens']:,}" if row["context_tokens"] else "–",
            " + ".join(f"{layers} {kind}" for kind, layers in row["attention"].items()),
            Text("✓", style="green") if row["verified"] else Text("–", style="yellow"),
        )
    return table


def _each(found: Plain) -> Iterator[Any]:
    from rich.text import Text

    from trimtab.core.phrases import line

    for row in found["models"]:
        kinds = " + ".join(f"{layers} {kind}" for kind, layers in row["attention"].items())
        yield Text.assemble((line(row["name"]), "bold"), f"  {row['n_layers']} layers of {row['d_model']:,}, {kinds}")
        yield Text(f"{line(row['source'])}{'' if row['verified'] else ' (not read there)'}", style="dim")
        yield _pairs("parameters", [(part, count(size)) for part, size in row["params_by_part"].items() if size])
        yield _pairs("", [("all", count(row["n_params"])), ("a token passes", count(row["active_params"]))])
        yield _pairs("weights", [(kind, size_text(size)) for kind, size in row["weight_bytes"].items()])
        yield _pairs("read for a token", [(kind, size_text(size)) for kind, size in row["read_bytes_of_one_token"].items()])
        cache = [(f"{int(tokens):,} tokens", size_text(sum(kinds.values()))) for tokens, kinds in row["kv_bytes"].items()]
        yield _pairs("cache, 16 bits", cache)
        flops = [(name, f"{value / 1e9:,.3f} GFLOP") for name, value in row["train_flops_per_token"].items()]
        yield _pairs(f"a trained token, {found['seq_tokens']:,} a sequence", flops)


def _pairs(title: str, pairs: list[tuple[str, str]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=bool(title))
    table.add_column(title, no_wrap=True, min_width=24)
    table.add_column("", justify="right", no_wrap=True, min_width=16)
    for name, value in pairs:
        table.add_row(name, value)
    return table


def count(number: float) -> str:
    """`8.03B`: parameters as people name models."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g}{unit}" if number < 100 * size else f"{number / size:.1f}{unit}"
    return f"{number:,.0f}"


def size_text(size: float) -> str:
    """`16.1 GB`, decimal."""
    for base, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= base:
            return f"{size / base:.3g} {unit}" if size < 100 * base else f"{size / base:.0f} {unit}"
    return f"{size:.0f} B"
