"""`trimtab weights`: weights given away to many nodes, and fetched from them."""

import json
import re
import signal
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from trimtab.cli.options import Common, State, common, option
from trimtab.core.errors import EXIT_PASSED

_RATE = re.compile(r"(?P<n>\d+(?:\.\d+)?)\s*(?P<unit>k|M|G)?(?P<bits>bit|B)?(?:/s)?")
_UNITS = {None: 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def rate(text: str) -> float:
    """`20MB`, `200Mbit` or plain bytes a second, as bytes a second. Raises click.BadParameter."""
    found = _RATE.fullmatch(text.strip())
    bytes_s = float(found["n"]) * _UNITS[found["unit"]] / (8 if found["bits"] == "bit" else 1) if found else 0.0
    if bytes_s <= 0:
        raise click.BadParameter(f"{text!r} is no rate; write it as 20MB or 200Mbit, a second.")
    return bytes_s


@click.group(short_help="Weights to many nodes: each that has some gives them on, and each checks every byte.")
def weights() -> None:
    """Bring weights to many nodes. One serves them; the others fetch from it and from each other, and go on where they were cut off.

    TRIMTAB_WEIGHTS_TOKEN must be the same on every node.

    \b
    trimtab weights serve hf:org/name --port 8700
    trimtab weights fetch node-1:8700 --out models/name --stay
    """


_LIMIT = "Most that it sends, a second: 20MB, 200Mbit. [default: no limit]"


@weights.command(short_help="Give weights away.")
@click.argument("model")
@option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@option("--port", type=click.IntRange(0, 65535), default=8700, show_default=True, help="0 = any free one.")
@option("--limit", type=rate, default=None, metavar="RATE", help=_LIMIT)
@common
@click.pass_obj
def serve(state: State, *, model: str, host: str, port: int, limit: float | None, common: Common) -> int:
    """Give the files of MODEL away, read-only, to every node that has the token, until SIGTERM or Ctrl-C."""
    from trimtab.cli.progress import show_progress
    from trimtab.flows.weights import serve as flow

    state.resume = "Run the same command to serve again."
    told = threading.Event()

    def ready(found: Mapping[str, Any]) -> None:
        _hear(told)
        _say(common, found, _served(found))

    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        flow(
            model,
            host=host,
            port=port,
            limit_bytes_s=limit,
            offline=common.offline,
            until=told,
            on_event=on_event,
            on_ready=ready,
        )
    return EXIT_PASSED


@weights.command(short_help="Fetch weights from nodes that have them, and give them on meanwhile.")
@click.argument("peers", nargs=-1, required=True)
@option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to make.")
@option("--digest", default="", metavar="SHA256", help="Of the weights, as `serve` says it. [default: whatever the first peer has]")
@option("--host", default="0.0.0.0", show_default=True, help="Address to give away on.")
@option("--port", type=click.IntRange(0, 65535), default=0, help="Port to give away on. [default: any free one]")
@option("--limit", type=rate, default=None, metavar="RATE", help=_LIMIT)
@option("--stay", is_flag=True, help="Give away until SIGTERM or Ctrl-C, also once all is here.")
@common
@click.pass_obj
def fetch(
    state: State,
    *,
    peers: tuple[str, ...],
    out: Path,
    digest: str,
    host: str,
    port: int,
    limit: float | None,
    stay: bool,
    common: Common,
) -> int:
    """Fetch what PEERS (HOST:PORT) serve into a folder; they tell of others. Every chunk is held against its digest before it is used.

    A command that was cut off goes on where it was.
    """
    from trimtab.cli.progress import show_progress
    from trimtab.flows.weights import fetch as flow

    state.resume = "The same command goes on."
    told = threading.Event()

    def ready(found: Mapping[str, Any]) -> None:
        if stay:
            _hear(told)
        _say(common, found, _fetched(found))

    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        flow(
            peers,
            out=out,
            digest=digest,
            host=host,
            port=port,
            limit_bytes_s=limit,
            stay=told if stay else None,
            on_event=on_event,
            on_ready=ready,
        )
    return EXIT_PASSED


def _hear(told: threading.Event) -> None:
    """SIGTERM and Ctrl-C set it from now on: neither is an error of somebody who gives away."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: told.set())


def _say(common: Common, found: Mapping[str, Any], shown: Iterable[Any]) -> None:
    """At once, not at the end: others wait for it."""
    from trimtab.cli.output import emit

    if common.as_json:
        click.echo(json.dumps(found))
        return
    emit(common, dict(found), shown)


def _served(found: Mapping[str, Any]) -> Iterable[Any]:
    from rich.text import Text

    from trimtab.core.phrases import megabytes

    yield Text(f"Giving away on port {found['port']}: {megabytes(found['size_bytes'])} in {found['files']} files")
    yield Text(f"weights {found['weights']}", style="dim")


def _fetched(found: Mapping[str, Any]) -> Iterable[Any]:
    from rich.text import Text

    from trimtab.core.phrases import line, megabytes

    yield Text.assemble(("✓ ", "green"), (f"{found['out']}: {megabytes(found['size_bytes'])}, every byte as it was served.", "bold"))
    for peer, n_bytes in sorted(found["from_bytes"].items()):
        yield Text(f"{megabytes(n_bytes)} from {line(peer)}", style="dim")
    for peer, why in sorted(found["dropped"].items()):
        yield Text(f"{line(peer)} was left: it {line(why)}", style="yellow")
