"""`trimtab keys`: who may use the gateway, for what and how much."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from trimtab.cli.cache import age
from trimtab.cli.options import Common, common, option

COLOURS = {"active": "green", "expired": "yellow", "revoked": "red"}


def names(text: str | None) -> list[str]:
    """`a,b` as two names."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


@click.group(short_help="API keys for the gateway: make, list, rotate and revoke them.")
def keys() -> None:
    """API keys for `trimtab serve`. A secret is shown once and kept only as a hash; a running gateway sees every change within a second.

    \b
    trimtab keys add web-app --models chat --rpm 600 --tokens-per-day 2000000 --expires 90d
    trimtab keys rotate web-app --overlap 2d
    trimtab keys revoke web-app
    """


@keys.command(short_help="Make a key and show its secret, once.")
@click.argument("name")
@option("--models", metavar="NAMES", help="Models it is for, by commas; default all.")
@option("--verbs", metavar="NAMES", help="What it is for, of chat, completion, response, embedding; default all.")
@option("--rpm", type=click.IntRange(1), metavar="N", help="Requests a minute; default no limit.")
@option("--tokens-per-day", type=click.IntRange(1), metavar="N", help="Tokens a day (UTC), prompts and answers; default no limit.")
@option("--expires", type=age, metavar="AGE", help="How long it is good: 12h, 90d, 1y; default until it is revoked.")
@common
def add(
    *,
    name: str,
    models: str | None,
    verbs: str | None,
    rpm: int | None,
    tokens_per_day: int | None,
    expires: float | None,
    common: Common,
) -> int:
    """Make a key called NAME and show its secret, once: it is kept only as a hash."""
    from trimtab.cli.output import emit
    from trimtab.flows.keys import add_key

    row = add_key(name, models=names(models), verbs=names(verbs), rpm=rpm, tokens_per_day=tokens_per_day, expires_s=expires)
    _say_secret(common, row)
    emit(common, row, _notes(row, "Nobody can show it again; keep it where secrets are kept."))
    return 0


@keys.command("list", short_help="Keys with their limits and what they used today.")
@option("--all", "show_all", is_flag=True, help="Revoked and expired keys too.")
@common
def list_(*, show_all: bool, common: Common) -> int:
    """Keys with what they may and what they have used since 00:00 UTC."""
    from trimtab.cli.output import emit
    from trimtab.flows.keys import show_keys

    rows = show_keys()
    shown = rows if show_all else [row for row in rows if row["state"] == "active"]
    emit(common, shown, _table(shown, n_hidden=len(rows) - len(shown)))
    return 0


@keys.command(short_help="Give a key a new secret; the old one stays good for a while.")
@click.argument("key")
@option("--overlap", type=age, metavar="AGE", default="24h", show_default=True, help="How long the old secret stays good: 30m, 24h, 7d.")
@common
def rotate(*, key: str, overlap: float, common: Common) -> int:
    """Give KEY (a name or id) a new secret and show it, once. The old one stays good for the overlap: time to change clients over."""
    from trimtab.cli.output import emit
    from trimtab.flows.keys import rotate_key

    row = rotate_key(key, overlap_s=overlap)
    _say_secret(common, row)
    emit(common, row, _notes(row, f"The old secret is good until {_time(row['old_until_unix_s'])} UTC."))
    return 0


@keys.command(short_help="End a key at once, for good.")
@click.argument("key")
@common
def revoke(*, key: str, common: Common) -> int:
    """End KEY (a name or id) with all its secrets. A running gateway refuses it within a second; it stays in the list."""
    from rich.text import Text

    from trimtab.cli.output import emit
    from trimtab.flows.keys import revoke_key

    row = revoke_key(key)
    emit(common, row, [Text(f"The key {row['name']} ({row['id']}) is revoked.")])
    return 0


def _say_secret(common: Common, row: Mapping[str, Any]) -> None:
    """Alone on the first line, never wrapped or cut to the width of a terminal."""
    if not common.as_json:
        click.echo(row["secret"])


def _notes(row: Mapping[str, Any], sentence: str) -> Iterable[Any]:
    from rich.text import Text

    yield Text(f"The secret of {row['name']} ({row['id']}). {sentence}", style="dim")


def _table(rows: list[dict[str, Any]], *, n_hidden: int) -> Iterable[Any]:
    from rich.table import Table
    from rich.text import Text

    from trimtab.core.phrases import line

    hidden = f"Expired or revoked: {n_hidden} more; --all shows them." if n_hidden else ""
    if not rows:
        yield Text(hidden or "There are no keys yet; make one with `trimtab keys add NAME`.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("name", "id", "state", "models", "verbs"):
        table.add_column(title, overflow="fold", no_wrap=title in ("id", "state"), min_width=9 if title in ("models", "verbs") else None)
    for title in ("rpm", "tokens\ntoday", "tokens\na day", "until"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            line(row["name"]),
            row["id"],
            Text(row["state"], style=COLOURS[row["state"]]),
            line(_scope(row["models"])),
            line(_scope(row["verbs"])),
            _number(row["rpm"]),
            _number(row["tokens_today"]),
            _number(row["tokens_per_day"]),
            "-" if row["expires_unix_s"] is None else _time(row["expires_unix_s"])[:10],
        )
    yield table
    if hidden:
        yield Text(hidden, style="dim")


def _scope(names_: list[str]) -> str:
    return "all" if "*" in names_ else ", ".join(names_)


def _number(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")
