"""What a watch shows: a view that renews itself, lines in a pipe, a report at the end. Pure: live.json in, renderables out."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.core.watching import Signal

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24
"""Characters of a sparkline."""
COLOURS = {"critical": "bold red", "high": "red", "moderate": "yellow", "low": "dim"}
MOST_SLICES = 12

Row = Mapping[str, Any]


def live_view(live: Row) -> RenderableType:
    """The renewing view: each version's signals, then what stands."""
    parts: list[RenderableType] = [Text(head(live), style="bold")]
    parts += [signals_table(model["model"], version) for model in live["models"] for version in model["versions"]]
    parts += [Text(row["text"]) for row in live["envelope"]]
    parts += list(alarms_view(live, only_standing=True))
    parts += [Text(action_line(row), style="cyan") for row in live["actions"][:5]]
    return Group(*parts)


def report(live: Row) -> Iterator[RenderableType]:
    """All parts in reading order, for the end of a watch."""
    yield Text(head(live), style="bold")
    for model in live["models"]:
        for version in model["versions"]:
            yield signals_table(model["model"], version)
            if slices := slices_table(version):
                yield slices
    for row in live["envelope"]:
        yield Text(row["text"])
    yield from alarms_view(live, only_standing=False)
    for row in reversed(live["actions"]):
        yield Text(action_line(row))
    for reason, n in live["faults"].items():
        yield Text(f"{n:,} × {reason}", style="dim")
    if live.get("explored"):
        yield from _explored(live["explored"])
    if live["source"] == "log":
        yield Text(
            f"{live['n_requests']:,} requests in {live['seconds']:.1f} s ({live['items_s']:,.0f} items/s)"
            + (f"; {live['before']} alarms within the baseline are not told" if live["before"] else ""),
            style="dim",
        )


def _explored(found: Row) -> Iterator[RenderableType]:
    yield Text(f"Hints by {found['method']}:")
    for row in found["signals"]:
        moments = ", ".join(datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M") for at_s in row["last_s"])
        yield Text(f"  {row['signal']}: {row['hints']} in {row['n']:,} requests, the last at {moments} UTC")
    if not found["signals"]:
        yield Text("  none")


def head(live: Row) -> str:
    """`site.toml: 12,034 requests, 3 alarms stand`"""
    standing = sum(row["stands"] and not row["part_of"] for row in live["alarms"])
    stand = "no alarm stands" if not standing else f"{standing} alarm{' stands' if standing == 1 else 's stand'}"
    late = f" and {live['n_late']:,} answers, outcomes and probes of later" if live["n_late"] else ""
    return f"{live['site']}: {live['n_requests']:,} requests{late}, {stand}{' (dry run)' if live['dry_run'] else ''}"


def signals_table(model: str, version: Row) -> Table:
    """One version's signals: level, last hour, how it went, whether an alarm stands."""
    name = version["version"] or model or "all requests"
    table = Table(box=box.SIMPLE_HEAD, title=f"{name}: {version['n']:,} requests", title_justify="left", pad_edge=False)
    table.add_column("signal", no_wrap=True)
    for title in ("all", "last hour", "p95"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("in the last hour", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in version["signals"]:
        style = "red" if row["standing"] else ""
        p95 = row["percentiles"]["p95"] if row["percentiles"] else None
        label = f", {next(iter(row['shares']))}" if row["shares"] else ""
        cells = (level(row["all"]["value"], row), level(row["hour"]["value"], row), level(p95, row), sparkline(row["series"]))
        table.add_row(Text(row["signal"] + label), *map(Text, cells), Text("alarm" if row["standing"] else ""), style=style)
    return table


def slices_table(version: Row) -> Table | None:
    """Parts of the requests and groups of people: the signals that are judged in each, as shares of all."""
    rows = [*version["groups"], *version["slices"]][:MOST_SLICES]
    known = {row["signal"]: row for row in version["signals"]}
    rates = [name for name, row in known.items() if row["kind"] == "rate" and 0.0 < (row["all"]["value"] or 0.0) < 1.0]
    names = [name for name in rates if any(name in row["signals"] for row in rows)][:5]
    if not rows or not names:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("by")
    table.add_column("of")
    table.add_column("requests", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        values = [level(row["signals"].get(name, {}).get("value"), known[name]) for name in names]
        table.add_row(row["by"], row["of"], f"{row['n']:,}", *values)
    return table


def level(value: float | None, row: Row) -> str:
    """A level in its unit, `-` where it is not known."""
    from trimtab.watch.live import shown

    if value is None:
        return "-"
    return shown(value, Signal(name=row["signal"], kind=row["kind"], about=row["about"], text=row["text"], unit=row["unit"]))


def sparkline(series: Sequence[Row]) -> str:
    """A series as bars from its lowest to its highest point, WIDTH of them at most, each the mean of points in a row."""
    if not series:
        return ""
    size = -(-len(series) // WIDTH)
    parts = [series[start : start + size] for start in range(0, len(series), size)]
    means = [sum(one["value"] * one["n"] for one in part) / sum(one["n"] for one in part) for part in parts]
    low, high = min(means), max(means)
    if high - low <= 1e-9 * max(abs(high), 1e-9):
        return BARS[0] * len(means)
    return "".join(BARS[min(int((mean - low) / (high - low) * len(BARS)), len(BARS) - 1)] for mean in means)


def alarms_view(live: Row, *, only_standing: bool) -> Iterator[RenderableType]:
    """Alarms, the newest first."""
    for row in live["alarms"]:
        if (row["stands"] or not only_standing) and not row["part_of"]:
            parts = [", ".join(one["slice"].values()) for one in live["alarms"] if one["part_of"] == row["id"]]
            yield Text(alarm_line(row, parts), style=COLOURS[row["severity"]] if row["stands"] else "dim")


def alarm_line(row: Row, parts: Sequence[str] = ()) -> str:
    """`high: chat@next: the answer refuses went from ... [9f3c5a1e0b7d2c48]`. parts: slices that it was seen in besides"""
    ended = "" if row["stands"] else f" ({row['ended']})"
    examples = f"; such as {', '.join(row['examples'][:3])}" if row["examples"] else ""
    seen = f"; seen in {', '.join(parts)} too" if parts else ""
    return f"{row['severity']}: {row['text']}, {row['n_since']:,} requests{examples}{seen}{ended} [{row['id']}]"


def action_line(row: Row) -> str:
    """`stop-canary by rule canary-worse: chat@next gets no more traffic ...`"""
    done = "" if row["done"] or row["result"].startswith(("not done", "dry run", "not known")) else "not done: "
    ledger = f"; {row['detail']['ledger']}" if row["detail"].get("ledger") else ""
    return f"{row['kind']} by rule {row['rule']}: {done}{row['result']}{ledger} [{row['id']}]"
