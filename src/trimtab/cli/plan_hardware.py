"""`trimtab plan hardware`: the catalog of devices, or every number of a few with its source."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from trimtab.cli.options import Common, common, option

Plain = Mapping[str, Any]
KINDS = ("gpu", "tpu", "accelerator", "soc", "cpu")
TELLING = ("bf16", "fp16", "fp32")
"""Types by which devices are compared: the first that one has."""
WIDE = 100
UNITS = (("_flop_s", "FLOP/s"), ("_bytes_s", "B/s"), ("_bytes", "B"))
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@click.command(short_help="The catalog of devices, with the source of each number.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@option("--vendor", default="", metavar="NAME", help="Only devices of this vendor: NVIDIA, AMD, Google, Apple, ...")
@option("--kind", default="", type=click.Choice(["", *KINDS]), metavar="KIND", help=f"Only devices of this kind: {', '.join(KINDS)}.")
@common
def hardware(*, names: tuple[str, ...], vendor: str, kind: str, common: Common) -> int:
    """All devices that a plan may name, or with NAMEs every number of those: its source, and whether it was read there (✓).

    Names are forgiving: h100-sxm, "NVIDIA H100 80GB HBM3" and H100 are one. Devices of your own are TOML files in TRIMTAB_HOME/hardware,
    and `trimtab plan measure` writes one of this machine.

    \b
    trimtab plan hardware --kind tpu
    trimtab plan hardware h100-sxm mi300x
    """
    from trimtab.cli.output import emit
    from trimtab.flows.plan_hardware import list_hardware

    found = list_hardware(names, vendor=vendor, kind=kind)
    emit(common, found, () if common.as_json else _each(found["devices"]) if names else _all(found["devices"]))
    return 0


def _all(devices: list[Plain]) -> Iterator[Any]:
    from rich.text import Text

    from trimtab.cli.tables import ByWidth

    yield ByWidth(lambda width: _table(devices, wide=width >= WIDE))
    yield Text("TFLOP/s: dense peak of the type beside it. GB: usable. Links and network: one direction, of one device.", style="dim")
    if any(price["is_stale"] for row in devices for price in row["prices"]):
        yield Text(
            "* a list price that is old; look it up again. `trimtab plan hardware NAME` shows where each number is from.", style="dim"
        )


def _table(devices: list[Plain], *, wide: bool) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("device", no_wrap=True)
    titles = ("TFLOP/s", "GB", "GB/s", *(("link\nGB/s", "a node", "network\nGB/s", "W") if wide else ()), "USD/h")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for row in devices:
        dtype, flop_s = next(((dtype, row["peak_flop_s"][dtype]) for dtype in TELLING if dtype in row["peak_flop_s"]), ("", 0.0))
        more = (_rate(row["link_bytes_s"] / 1e9), str(row["devices_per_node"]), _rate(row["network_bytes_s"] / 1e9), _rate(row["power_w"]))
        table.add_row(
            row["name"],
            Text.assemble(f"{_rate(flop_s / 1e12)} ", (f"{dtype:4}", "dim")),
            _rate(row["memory_bytes"] / 1e9),
            _rate(row["memory_bytes_s"] / 1e9),
            *(more if wide else ()),
            _usd(row["prices"]),
        )
    return table


def _usd(prices: list[Plain]) -> str:
    """From the lowest to the highest on-demand price, a star where one is stale."""
    asked = [price for price in prices if price["commitment"] == "on-demand"] or prices
    if not asked:
        return ""
    low, high = (end(price["usd_per_device_hour"] for price in asked) for end in (min, max))
    return (f"{low:.2f}" if low == high else f"{low:.2f}-{high:.2f}") + ("*" if any(price["is_stale"] for price in asked) else "")


def _rate(value: float) -> str:
    from trimtab.core.phrases import significant

    return significant(value, 4 if value >= 1000 else 3) if value else "–"


def _each(devices: list[Plain]) -> Iterator[Any]:
    from rich.table import Table
    from rich.text import Text

    from trimtab.core.phrases import line

    for row in devices:
        yield Text.assemble((row["name"], "bold"), f"  {line(row['vendor'])}, {row['kind']}, {row['year']}")
        if row["notes"]:
            yield Text(line(row["notes"], 400))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("number", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("source", overflow="fold")
        for key, fact in row["facts"].items():
            mark = ("✓", "green") if fact["verified"] else ("–", "yellow")
            dated = f" ({fact['as_of']})" if fact["as_of"] else ""
            table.add_row(key, fact_text(key, fact["value"]), Text.assemble(mark), Text(line(f"{fact['source']}{dated}")))
        for price in row["prices"]:
            age = f", {price['age_days']} days old" if price["is_stale"] else ""
            where = f"{price['provider']}{' ' + price['region'] if price['region'] else ''}: {price['source']} ({price['as_of']}{age})"
            mark = ("✓", "green") if price["verified"] else ("–", "yellow")
            table.add_row(price["commitment"], f"{price['usd_per_device_hour']:.2f} USD/h", Text.assemble(mark), Text(line(where)))
        yield table
        yield Text(f"also called {line(', '.join(row['aliases']), 400)}" if row["aliases"] else "", style="dim")


def fact_text(key: str, value: float) -> str:
    """`990 TFLOP/s`, `85.0 GB`, `700 W`, `8`: a number of the catalog in the unit that people read."""
    unit = next((unit for ending, unit in UNITS if key.endswith(ending)), None)
    if unit is None:
        return f"{value:g} W" if key.endswith("_w") else f"{value:g}"
    # Memory rates and sizes of all devices are compared in GB, so nothing of them is told in TB.
    base, prefix = next(pair for pair in PREFIXES if value >= pair[0] and (pair[1] != "T" or unit == "FLOP/s"))
    return f"{_rate(value / base)} {prefix}{unit}"
