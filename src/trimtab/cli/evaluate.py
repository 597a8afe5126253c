"""`trimtab evaluate`: the options, and what is shown of the levels."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.cli.options import Common, State, clustered, common, option
from trimtab.core.errors import InputError
from trimtab.core.phrases import MISSING, count, decimals_for, fixed, interval, is_number, line, percent, seconds

Plain = Mapping[str, Any]
FOUND_P = 0.05


@click.command(short_help="How good, fair and safe a model is on suites of items.")
@click.argument("model")
@option(
    "--suite",
    "suites",
    multiple=True,
    default=("core",),
    show_default=True,
    help="Items: a suite's name or a file, or lm-eval:TASK; several with commas. May be repeated. guard-parity asks a site's guards.",
)
@option("--reference", default="", help="Also score this model on the same items, and show the changes item by item.")
@option(
    "--why",
    default="",
    help="Instead: what the answer to this prompt rests on, by leaving out one span after the other; with --out also as a page.",
)
@option("--answer", default="", help="The answer to look at. [default: what the model itself says, greedily]")
@option("--chat/--plain", default=True, show_default=True, help="The prompt is a user's message in the chat template, or plain text.")
@option(
    "--eval-results",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the shares of right answers on public sets as .eval_results YAML of the Hugging Face hub.",
)
@option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the levels and items. [default: runs/evaluate-<model>]")
@option("--fresh", is_flag=True, help="Measure everything again: read no cache and no earlier part of this run.")
@clustered
@common
@click.pass_obj
def evaluate(
    state: State,
    *,
    model: str,
    suites: tuple[str, ...],
    reference: str,
    why: str,
    answer: str,
    chat: bool,
    eval_results: Path | None,
    out: Path | None,
    fresh: bool,
    cluster: str,
    cluster_store: str,
    common: Common,
) -> int:
    """How good, fair and safe a model is on suites of items, with intervals. There is no verdict: that takes a policy, see `compare`.

    MODEL and the reference are each a model as in `compare`, or a server that speaks the OpenAI API: openai:URL#model.

    With --suite guard-parity MODEL is a site.toml, or `guards` for those that ship: are harmless texts about every group let through alike?
    Exit codes then: 0 yes, 1 no, 4 cannot tell.

    \b
    trimtab evaluate m.gguf --suite core,bias
    trimtab evaluate m.gguf --suite "lm-eval:arc_easy,bbq?limit=500" --reference m-f16.gguf
    trimtab evaluate "llamacpp:m.gguf?recipe=llamacpp-q2_k" --reference m.gguf
    trimtab evaluate openai:http://host:8000/v1#m --suite core,safety --reference m.gguf
    trimtab evaluate m.gguf --why "The shop opens at nine. It is closed on Sunday. When does it open?"
    trimtab evaluate site.toml --suite guard-parity
    """
    from trimtab.cli.closely import why_view
    from trimtab.cli.compare import short_name
    from trimtab.cli.embedding_view import embedding_view
    from trimtab.cli.guard_parity import parity_view
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.cli.progress import show_progress
    from trimtab.core.files import write_atomic
    from trimtab.flows.evaluate import evaluate as flow
    from trimtab.flows.outputs import why as explain
    from trimtab.flows.parts.eval_results import eval_results_yaml, places_on_hub
    from trimtab.record.closely import write_closely

    if answer and not why:
        raise InputError("--answer is what to look at with --why; give the prompt too.")
    if why:
        with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
            found = explain(model, why, answer=answer, chat=chat, offline=common.offline, on_event=on_event)
        emit(common, found, why_view(found, write_closely(out, found) if out is not None else None))
        return 0
    places = places_on_hub(suites) if eval_results is not None else {}
    folder = out or Path("runs") / f"evaluate-{short_name(model)}"
    state.resume = f"What was finished is kept in {folder}; run the same command again and it goes on from there."
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        document = flow(
            model,
            suites=suites,
            reference=reference,
            out=folder,
            fresh=fresh,
            offline=common.offline,
            time_limit_s=common.time_limit,
            seed=common.seed,
            cluster=cluster,
            cluster_store=cluster_store,
            on_event=on_event,
        )
    if "embedding" in document:
        emit(common, document, embedding_view(document["embedding"]))
        return 0
    if "verdict" in document:
        emit(common, document, parity_view(document, folder))
        return EXIT_BY_VERDICT[document["verdict"]]
    if eval_results is not None:
        write_atomic(eval_results, eval_results_yaml(document, places))
    emit(common, document, evaluation_view(document, folder))
    return 0


def evaluation_view(document: Plain, folder: Path) -> Iterator[RenderableType]:
    """The levels, the groups, and where the files are."""
    yield Text(f"{line(document['model']['id'])} on {line(document['suite']['name'])}", style="bold")
    has_reference = document["reference"] is not None
    if has_reference:
        yield Text(f"against {line(document['reference']['id'])}")
    yield from _how_asked(document)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("suite", "left"), ("items", "right"), ("level [95 %]", "right"), ("right", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    if has_reference:
        table.add_column("change [95 %]", justify="right")
        table.add_column("flips", justify="right")
    for row in document["levels"]:
        cells = [line(row["suite"]), _items(row), _level(row["level"], row["unit"]), _share(row["share_correct"])]
        if has_reference:
            cells += [_level(row["change"], row["unit"], signed=True), f"−{row['flips_lost']} +{row['flips_gained']}"]
        table.add_row(*cells)
    yield table
    yield from _calibration(document["levels"], has_reference)
    yield from _requests(document.get("requests") or (), has_reference)
    yield from _refusals(document.get("refusals") or (), has_reference)
    groups = [(row["suite"], group) for row in document["levels"] for group in row["groups"]]
    if groups:
        yield Text("By group", style="bold")
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("suite", "group", "level [95 %]", *(["change [95 %]"] if has_reference else []), "n"):
            grid.add_column(name, justify="left" if name in ("suite", "group") else "right")
        for suite, group in groups:
            thin = " (few)" if group["level"]["n_clusters"] < 10 else ""
            level = _level(group["level"], "", signed=group["is_contrast"])
            star = " *" if is_number(group["p_holm"]) and group["p_holm"] < FOUND_P else ""
            change = [f"{_level(group['change'], '', signed=True)}{star}"] if has_reference else []
            grid.add_row(line(suite), line(group["group"]), level, *change, f"{count(group['level']['n_clusters'])}{thin}")
        yield grid
        if has_reference:
            yield Text("*: moved, corrected by Holm for the search among the groups of a sub-suite", style="dim")
    yield Text(f"report  {folder / 'report.html'}\nlevels  {folder / 'evaluation.json'}\nitems   {folder / 'items.html'}")
    known = document["work"]["known"]
    yield Text(f"{seconds(document['seconds'])}{f', {known} results known from before' if known else ''}", style="dim")


def _calibration(rows: Sequence[Plain], has_reference: bool) -> Iterator[RenderableType]:
    """How well probabilities fit, of the sub-suites that are questions with options."""
    found = [(row["suite"], row["calibration"]) for row in rows if row.get("calibration")]
    if not found:
        return
    yield Text(
        "Calibration: Brier score, 0 best, 2 worst; mean probability of the likeliest option, and how often it is right", style="bold"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = ["suite", "Brier [95 %]", *(["change [95 %]"] if has_reference else []), "sure", "right", "error (by chance)"]
    for name in names:
        table.add_column(name, justify="left" if name == "suite" else "right")
    for suite, one in found:
        change = [_level(one["brier_change"], "", signed=True)] if has_reference else []
        before = f"{fixed(one['error_reference'], 3)} → " if is_number(one["error_reference"]) else ""
        error = f"{before}{fixed(one['error'], 3)} ({fixed(one['error_by_chance'], 3)})"
        table.add_row(line(suite), _level(one["brier"], ""), *change, percent(one["confidence"], 1), percent(one["right"], 1), error)
    yield table


def _how_asked(document: Plain) -> Iterator[RenderableType]:
    """How a server was asked, and whether it changed meanwhile; nothing of other documents."""
    for told in document.get("changed") or ():
        yield Text(line(told), style="bold red")
    asked = document.get("asked") or ()
    for way, words in (
        ("scored", "by log-probability of given text, values by the byte"),
        ("answered", "by what it writes, right or wrong"),
        ("left out", "left out"),
    ):
        names = [line(row["suite"]) for row in asked if row["way"] == way]
        if names:
            yield Text(f"{words}: {', '.join(names)}", style="dim")
    for why in dict.fromkeys(line(row["why"]) for row in asked if row["why"]):
        yield Text(why, style="dim")


def _requests(rows: Sequence[Plain], has_reference: bool) -> Iterator[RenderableType]:
    """Requests by class of harm; those of which there are too few are named."""
    told = [row for row in rows if not row["cannot_tell"]]
    if told:
        yield Text("Requests by class of harm: share that is answered as wanted [95 %], and level", style="bold")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("suite", "kind", "requests", "as wanted", "level", *(["change"] if has_reference else [])):
            table.add_column(name, justify="left" if name in ("suite", "kind") else "right")
        for row in told:
            wanted = row["as_wanted"]
            share = f"{percent(wanted['value'])} [{percent(wanted['low'])}, {percent(wanted['high'])}]"
            star = " *" if is_number(row["p_holm"]) and row["p_holm"] < FOUND_P else ""
            change = [f"{_level(row['change'], '', signed=True)}{star}"] if has_reference else []
            table.add_row(line(row["suite"]), line(row["kind"]), count(row["n"]), share, _level(row["level"], row["unit"]), *change)
        yield table
    few = [row for row in rows if row["cannot_tell"]]
    if few:
        names = ", ".join(f"{line(row['suite'])} {line(row['kind'])} ({count(row['n'])})" for row in few)
        yield Text(f"Cannot tell for classes of harm with too few requests: {names}", style="dim")


def _refusals(rows: Sequence[Plain], has_reference: bool) -> Iterator[RenderableType]:
    """How often answers refuse, by the judge and corrected for its error."""
    if not rows:
        return
    yield Text("Refusals in generated answers: share [95 %] corrected for the judge's error, and what the judge said", style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("requests", "refused", *(["reference", "change in points [95 %]"] if has_reference else [])):
        table.add_column(name, justify="left" if name == "requests" else "right")
    for row in rows:
        change = row["change"] and {end: 100 * row["change"][end] for end in ("value", "low", "high")}
        more = [_refusing(row["reference"]), _level(change, "", signed=True)] if has_reference else []
        table.add_row(line(row["kind"]), _refusing(row["model"]), *more)
    yield table
    for why in dict.fromkeys(line(row["why_not"]) for row in rows if row["why_not"]):
        yield Text(why, style="dim")


def _refusing(side: Plain | None) -> str:
    if side is None:
        return MISSING
    rate = side["rate"]
    ends = f"{percent(rate['value'])} [{percent(rate['low'])}, {percent(rate['high'])}], " if rate else ""
    return f"{ends}{count(side['refused'])} of {count(side['n'])}"


def _items(row: Plain) -> str:
    n = row["level"]["n"] if row["level"] else 0
    missing = f" ({row['n_missing']} missing)" if row["n_missing"] else ""
    return f"{count(n)}{missing}"


def _level(level: Plain | None, unit: str, *, signed: bool = False) -> str:
    if level is None:
        return MISSING
    half = (level["high"] - level["low"]) / 2 if is_number(level["low"]) and is_number(level["high"]) else None
    decimals = decimals_for(half)
    return f"{fixed(level['value'], decimals, signed=signed)} {interval(level['low'], level['high'], decimals)} {line(unit)}".rstrip()


def _share(level: Plain | None) -> str:
    return percent(level["value"], 1) if level else MISSING
