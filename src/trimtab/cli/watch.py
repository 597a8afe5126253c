"""`trimtab watch`: the options, the live view, and how it ends."""

import contextlib
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from trimtab.cli.options import Common, State, common, option
from trimtab.core.errors import EXIT_FAILED, EXIT_PASSED

Row = Mapping[str, Any]
Told = Callable[[Row], None]


@click.command(short_help="Is it still fast, safe and fair? Alarms on live traffic or on a log, and what comes of them.")
@click.argument("site", type=click.Path(path_type=Path, dir_okay=False), required=False)
@option("--logs", type=click.Path(path_type=Path, exists=False), help="Watch a traffic log instead: .jsonl, .jsonl.gz or a folder of them.")
@option("--baseline", default="", metavar="FILE|N", help="Of a log: one of before, or how many of its first requests are before.")
@option("--by-version", is_flag=True, help="Of a log: versions of a model apart. [default: together, so that a swap is a change]")
@option("--text-pct", type=click.FloatRange(0, 100), default=100.0, show_default=True, help="Of a log: how many texts are looked at.")
@option("--explore", type=click.Choice(["adwin", "page-hinkley", "kswin"]), help="Of a log: hints by a detector of river too; no alarms.")
@option("--rules", default="", help="What an alarm leads to: a name or a TOML file. [default: standard]")
@option("--once", is_flag=True, help="Read what is there and end; the exit code is 1 if an alarm stands.")
@option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the last days of SITE as a page to read, and end.")
@option("--days", type=click.IntRange(1, 366), default=7, show_default=True, help="How far back a report goes.")
@option("--dry-run", is_flag=True, help="Note what the rules would do, and do nothing.")
@option("--admin-url", default="", help="Of the gateway's admin surface. [default: by admin_port of the site file]")
@option("--ledger", default="", help="Where the release ledger is. [default: in TRIMTAB_HOME]")
@common
@click.pass_obj
def watch(
    state: State,
    *,
    site: Path | None,
    logs: Path | None,
    baseline: str,
    by_version: bool,
    text_pct: float,
    explore: str | None,
    rules: str,
    once: bool,
    report: Path | None,
    days: int,
    dry_run: bool,
    admin_url: str,
    ledger: str,
    common: Common,
) -> int:
    """Watch what a site serves: speed, errors, drift of what comes in and goes out, feedback, fairness by group.

    SITE is the site.toml or deploy.toml that `trimtab serve --watch` serves. An alarm says what changed, since when, by how much and for
    whom; rules lead from it to what is done. SIGTERM ends the watch, and the same command goes on where it was.

    \b
    trimtab watch site.toml
    trimtab watch site.toml --once --dry-run
    trimtab watch site.toml --report week.html
    trimtab watch --logs traffic.jsonl.gz --baseline last-month.jsonl.gz
    """
    from trimtab.cli.output import emit
    from trimtab.cli.watch_views import report as shown_report

    _check(site, logs, baseline, by_version or explore is not None, report)
    if report is not None and site is not None:
        return _write_report(common, site, report, days, ledger)
    logging.basicConfig(level=logging.INFO if common.verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    state.resume = "Run the same command to go on." if logs is None else "Nothing was kept; run the same command again."
    with _stopped_by_sigterm() as stop, _shown(common, once=once or logs is not None) as (on_alarm, on_action, on_live):
        if logs is not None:
            from trimtab.flows.watch import watch_log

            before = int(baseline) if baseline.isdecimal() else baseline
            told: dict[str, Any] = {"stop": stop, "on_alarm": on_alarm, "on_live": on_live}
            live = watch_log(logs, rules=rules, baseline=before, by_version=by_version, text_pct=text_pct, explore=explore or "", **told)
        else:
            from trimtab.flows.watch import watch as flow

            assert site is not None
            live = flow(
                site,
                rules=rules,
                once=once,
                dry_run=dry_run,
                admin_url=admin_url,
                ledger=ledger,
                offline=common.offline,
                stop=stop,
                on_alarm=on_alarm,
                on_action=on_action,
                on_live=on_live,
            )
    if once or logs is not None:
        emit(common, live, shown_report(live))
        return EXIT_FAILED if any(row["stands"] for row in live["alarms"]) else EXIT_PASSED
    return EXIT_PASSED


def _write_report(common: Common, site: Path, out: Path, days: int, ledger: str) -> int:
    from rich.text import Text

    from trimtab.cli.output import emit
    from trimtab.flows.watch_report import write_report

    document = write_report(site, out=out, days=days, ledger=ledger)
    told = f"{out}: {len(document['alarms'])} alarms, {len(document['actions'])} actions, {len(document['incidents'])} incidents."
    emit(common, document, [Text(told)])
    return EXIT_PASSED


def _check(site: Path | None, logs: Path | None, baseline: str, is_for_logs: bool, report: Path | None) -> None:
    """Raises click.UsageError for options that do not go together."""
    if (site is None) == (logs is None):
        raise click.UsageError("Give a site file, or a log with --logs: one of them.")
    if logs is not None and report is not None:
        raise click.UsageError("--report is for a site under watch; a log's alarms are told at its end.")
    if logs is None and (baseline or is_for_logs):
        raise click.UsageError("--baseline, --by-version and --explore are for --logs.")


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; what runs ends as it would by itself."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _shown(common: Common, *, once: bool) -> Iterator[tuple[Told, Told, Told]]:
    """What is told while it goes on: a view that renews itself on a terminal, lines elsewhere, JSON lines with --json, nothing with -q."""
    from rich.console import Console

    from trimtab.cli.watch_views import action_line, alarm_line, live_view

    console = Console(stderr=True, no_color=common.no_color or None, highlight=False, markup=False)

    def ignore(row: Row) -> None:
        """Tell nobody."""

    if common.as_json and not once:
        yield _json("alarm"), _json("action"), ignore
    elif common.quiet or common.as_json:
        yield ignore, ignore, ignore
    elif console.is_terminal:
        from rich.live import Live

        with Live(console=console, auto_refresh=False, transient=True) as view:
            yield ignore, ignore, lambda row: view.update(live_view(row), refresh=True)
    elif once:
        yield ignore, ignore, ignore
    else:
        yield (
            lambda row: console.print(alarm_line(row), soft_wrap=True),
            lambda row: console.print(action_line(row), soft_wrap=True),
            ignore,
        )


def _json(what: str) -> Told:
    return lambda row: print(json.dumps({what: row}, ensure_ascii=False), flush=True)
