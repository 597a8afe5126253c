"""`trimtab check`: the options, the files a pipeline reads, and what is shown of the answer."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from trimtab.cli.options import Common, State, common, option

if TYPE_CHECKING:
    from rich.console import RenderableType

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Is what we deploy still what was certified, and still no worse?")
@click.argument("lock", type=click.Path(path_type=Path), default=Path("deploy.toml"))
@option("--junit", type=FILE, help="Write the answer as JUnit XML, one testcase for each check and gate.")
@option("--summary", type=FILE, help="Append the answer as Markdown, e.g. to $GITHUB_STEP_SUMMARY.")
@option("--digests-only", is_flag=True, help="Compare digests, measure nothing.")
@option(
    "--sample",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the certify items to measure on where something changed. [default: as many as the time limit has room for]",
)
@option("--run-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of the certified run. [default: the lock's own]")
@option("--source", default="", help="Where the model lies here. [default: the source that the lock names]")
@option("--reference", default="", help="What to hold it against, as `compare` takes it. [default: the certified reference]")
@option("--policy", default="", help="The margins: a name or a TOML file. [default: those of the lock]")
@option(
    "--suite",
    "suites",
    multiple=True,
    help="Items: a suite's name or a file; several with commas. May be repeated. [default: those of the lock]",
)
@common
@click.pass_context
def check(
    ctx: click.Context,
    *,
    lock: Path,
    junit: Path | None,
    summary: Path | None,
    digests_only: bool,
    sample: float | None,
    run_dir: Path | None,
    source: str,
    reference: str,
    policy: str,
    suites: tuple[str, ...],
    common: Common,
) -> int:
    """Is what we deploy still what was certified, and still no worse? For pipelines.

    LOCK is the deploy.toml that optimize or compare wrote. Everything it names is compared with what is here. Where that cannot have
    changed outputs, a few certified outcomes are computed again; else the gates are judged on a fresh random sample of items, drawn with
    today's date or --seed. The default time limit is one minute.

    \b
    trimtab check deploy.toml --junit check.xml --summary "$GITHUB_STEP_SUMMARY"
    trimtab check deploy.toml --digests-only
    """
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.cli.progress import show_progress
    from trimtab.flows.check import check as flow
    from trimtab.record.junit import junit_xml
    from trimtab.record.summary import check_markdown

    ctx.ensure_object(State).resume = "Nothing was written; run the same command again."
    is_default_seed = ctx.get_parameter_source("seed") is ParameterSource.DEFAULT
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        document = flow(
            lock,
            run_dir=run_dir,
            source=source,
            reference=reference,
            policy=policy,
            suites=suites,
            sample=sample,
            digests_only=digests_only,
            offline=common.offline,
            time_limit_s=common.time_limit,
            seed=None if is_default_seed else common.seed,
            on_event=on_event,
        )
    if junit is not None:
        _write(junit, junit_xml(document))
    if summary is not None:
        _write(summary, check_markdown(document), mode="a")
    emit(common, document, _view(document))
    return EXIT_BY_VERDICT[document["verdict"]]


def _write(path: Path, text: str, mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode, encoding="utf-8") as file:
        file.write(text)


def _view(document: Mapping[str, Any]) -> "Iterator[RenderableType]":
    """The answer, what the lock names, the gates, what was measured."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from trimtab.cli.tables import WIDE, WORDS, ByWidth, gates_table
    from trimtab.core.phrases import line, seconds
    from trimtab.record.summary import STATE_WORDS, check_headline, measured_sentence, watch_sentence

    word, style = WORDS[str(document["verdict"])]
    yield Text.assemble((f"{word}  ", f"bold {style}"), (check_headline(document), "bold"))
    told = {one["sentence"] for one in document["checks"]}
    for reason in document["reasons"]:
        if reason not in told:
            yield Text(line(reason))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("what the lock names", "state", "found"):
        table.add_column(title, overflow="fold")
    for one in document["checks"]:
        is_failed = one["fails"] and one["state"] == "changed"
        shade = "red" if is_failed else {"same": "green", "changed": "yellow"}.get(one["state"], "dim")
        table.add_row(one["name"], Text(STATE_WORDS[one["state"]], style=shade), Text(line(one["sentence"])))
    yield table
    if document["gates"]:
        yield ByWidth(lambda width: gates_table(document["gates"], wide=width >= WIDE))
    yield Text(measured_sentence(document))
    if watched := watch_sentence(document):
        yield Text(watched)
    yield Text(seconds(document["seconds"]), style="dim")
