"""`trimtab runs`: what earlier runs said, what an unfinished one knows, what two of them differ in, and removing them."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.options import Common, common, option
from trimtab.core.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from trimtab.decide.cost import Tariff
    from trimtab.flows.runs import Run

FOLDER = click.Path(path_type=Path)
MOST_KEPT_NAMED = 10
SHORT_DIGEST = 12


@click.group(short_help="Earlier runs: list them, show one, tell two apart, remove them.")
def runs() -> None:
    """Earlier runs of `trimtab optimize`, `compare`, `evaluate` and `certify`, by their folders.

    \b
    trimtab runs list
    trimtab runs show runs/demo
    trimtab runs diff runs/monday runs/tuesday
    trimtab runs rm runs/monday
    """


@runs.command("list", short_help="Runs in a folder: when, what, verdict, speed-up.")
@click.argument("folders", nargs=-1, type=FOLDER, metavar="[FOLDER ...]")
@common
def list_(*, folders: tuple[Path, ...], common: Common) -> int:
    """Runs in the folders (default: runs) and up to two levels below them, newest first. A damaged one is listed with the reason."""
    from rich.text import Text

    from trimtab.cli.output import emit
    from trimtab.cli.tables import WIDE, ByWidth
    from trimtab.flows.runs import list_runs

    asked = folders or (Path("runs"),)
    rows = [] if not folders and not asked[0].is_dir() else list_runs(asked)
    where = " or ".join(str(folder) for folder in asked)
    drawn = ByWidth(lambda width: _runs_table(rows, wide=width >= WIDE)) if rows else Text(f"There are no runs in {where}.")
    emit(common, {"runs": rows}, [drawn])
    return 0


@runs.command(short_help="The answer of a run, what it would be under other demands, or what an unfinished one knows.")
@click.argument("run", type=FOLDER)
@option(
    "--what-if",
    "questions",
    multiple=True,
    metavar="TERMS",
    help="What would be chosen under other demands (as in --slo), concurrency=N or objective=NAME, with commas between. May be repeated.",
)
@option("--price-per-hour", type=float, metavar="PRICE", help="What the machine costs an hour: show what a million tokens cost.")
@option("--power-watts", type=float, metavar="W", help="What the machine draws under load, where it was not measured.")
@option("--price-per-kwh", type=float, metavar="PRICE", help="What a kWh costs, on top of the price an hour.")
@common
def show(
    *,
    run: Path,
    questions: tuple[str, ...],
    price_per_hour: float | None,
    power_watts: float | None,
    price_per_kwh: float | None,
    common: Common,
) -> int:
    """The decision as it was shown at the run's end. Of an unfinished run: what is known so far, and how it goes on.

    With --what-if or a price only what they ask for, answered from what was measured and never estimated.

    \b
    trimtab runs show runs/demo
    trimtab runs show runs/demo --what-if "memory<512MiB" --what-if "concurrency=8,objective=throughput"
    trimtab runs show runs/demo --price-per-hour 0.40
    """
    from rich.text import Text

    from trimtab.cli.mitigation import mitigation_view
    from trimtab.cli.output import emit
    from trimtab.cli.tables import decision_view, files_of
    from trimtab.flows.runs import load_run, summary, tariff_of

    tariff = tariff_of(price_per_hour, power_watts, price_per_kwh)
    if questions or tariff:
        return _show_asked(load_run(run), questions, tariff, common)
    found = load_run(run)
    if found.evaluation is not None:
        return _show_evaluation(found, common)
    if found.decision is None:
        known = {
            "summary": summary(found),
            "candidates": list(found.candidates.values()),
            "steps": found.step_keys,
            "resume": resume(found),
        }
        emit(common, known, _unfinished(found))
        return 0
    try:
        drawn: list[Any] = [*decision_view(found.decision, files_of(run)), *mitigation_view(found.decision)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{run / 'decision.json'} has another shape than trimtab writes ({type(error).__name__}: {error}).") from error
    if (run / "report.html").exists():
        drawn.append(Text(f"To read the report: {shlex.join(['python', '-m', 'webbrowser', (run / 'report.html').resolve().as_uri()])}"))
    emit(common, found.decision, drawn)
    return 0


def _show_evaluation(run: "Run", common: Common) -> int:
    from trimtab.cli.evaluate import evaluation_view
    from trimtab.cli.output import emit

    try:
        drawn = list(evaluation_view(run.evaluation or {}, run.path))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{run.path / 'evaluation.json'} has another shape than trimtab writes ({type(error).__name__}: {error})."
        ) from error
    emit(common, run.evaluation, drawn)
    return 0


def _show_asked(run: "Run", questions: Sequence[str], tariff: "Tariff | None", common: Common) -> int:
    """Answers to --what-if, and prices."""
    from trimtab.cli.answers import answers_view, prices_view
    from trimtab.cli.output import emit
    from trimtab.flows.runs import ask, prices
    from trimtab.record.measured import ranked
    from trimtab.record.prices import price_rows

    price = tariff.price_per_hour if tariff and tariff.price_per_hour else None
    found: dict[str, Any] = {"run": str(run.path)}
    drawn: list[Any] = []
    try:
        if questions:
            found["what_if"] = ask(run, questions, price)
            drawn += answers_view(found["what_if"])
        if tariff is not None:
            found["prices"] = prices(run, tariff)
            drawn += prices_view(price_rows(run.decision or {}, ranked(run.decision or {}), tariff))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"{run.path / 'decision.json'} has another shape than trimtab writes ({type(error).__name__}: {error})."
        ) from error
    emit(common, found, drawn)
    return 0


@runs.command(short_help="What differs between two runs.")
@click.argument("a", type=FOLDER)
@click.argument("b", type=FOLDER)
@common
def diff(*, a: Path, b: Path, common: Common) -> int:
    """What was asked, what was answered, and how candidates and gates changed from run A to run B."""
    from trimtab.cli.output import emit
    from trimtab.flows.runs import diff_runs, load_run

    found = diff_runs(load_run(a), load_run(b))
    emit(common, found, _diff(found))
    return 0


@runs.command(short_help="Remove run folders, and nothing that a run did not write.")
@click.argument("paths", nargs=-1, required=True, type=FOLDER, metavar="RUN ...")
@option("--yes", "-y", is_flag=True, help="Do not ask.")
@option("--dry-run", is_flag=True, help="Say what would be removed, remove nothing.")
@common
def rm(*, paths: tuple[Path, ...], yes: bool, dry_run: bool, common: Common) -> int:
    """Remove runs. Only a folder that is a run, only what runs write: your own files in it stay and are named, links are not followed."""
    from rich.text import Text

    from trimtab.cli.cache import bytes_text
    from trimtab.cli.output import emit
    from trimtab.core.phrases import line
    from trimtab.flows.runs import remove_runs

    found = remove_runs(paths, dry_run=True)
    if not dry_run:
        if not yes:
            if not sys.stdin.isatty():
                raise InputError("Nobody can be asked here; give --yes to remove, or --dry-run to see what would be removed.")
            names = ", ".join(line(removed.path) for removed in found)
            click.confirm(f"Remove {names} ({bytes_text(sum(removed.n_bytes for removed in found))})?", abort=True, err=True)
        found = remove_runs(paths)
    drawn = []
    for removed in found:
        files = f"{removed.n_files} file{'' if removed.n_files == 1 else 's'}, {bytes_text(removed.n_bytes)}"
        drawn.append(Text(f"{'Would remove' if dry_run else 'Removed'} {line(removed.path)} ({files})."))
        if removed.kept:
            more = len(removed.kept) - MOST_KEPT_NAMED
            kept = ", ".join(line(name) for name in removed.kept[:MOST_KEPT_NAMED]) + (f" and {more} more" if more > 0 else "")
            drawn.append(Text(f"  Kept, not written by trimtab: {kept}", style="yellow"))
    emit(common, {"dry_run": dry_run, "removed": found, "bytes": sum(removed.n_bytes for removed in found)}, drawn)
    return 0


def resume(run: "Run") -> str:
    """How an unfinished run goes on: the command, as far as run.json knows it; empty for one that is running.

    `optimize` keeps all that was typed. Of the others, files of a policy, workload or suite are known by their names only.
    """
    if run.state == "in use":
        return ""
    inputs = run.head["inputs"]
    words = ["trimtab", run.verb, *(str(inputs[name]) for name in ("model", "a", "b", "lock") if name in inputs)]
    words += [word for name in ("workload", "policy", "objective") if inputs.get(name) for word in (f"--{name}", str(inputs[name]))]
    for flag, name in (("--engine", "engines"), ("--slo", "slo")):
        if inputs.get(name):
            words += [flag, ",".join(str(value) for value in inputs[name])]
    for flag, name in (("--candidate", "candidates"), ("--suite", "suites")):
        words += [word for value in inputs.get(name) or () for word in (flag, str(value))]
    for flag, name in (("--reference", "reference"), ("--price-per-hour", "price_per_hour"), ("--over-long", "over_long")):
        words += [flag, str(inputs[name])] if inputs.get(name) not in (None, "", "refuse") else []
    words += ["--time-limit", f"{inputs['time_limit_s']:g}s"] if inputs.get("time_limit_s") else []
    words += ["--mixed"] if inputs.get("mixed") else []
    words += ["--heal"] if inputs.get("heal") else []
    if run.head.get("seed"):
        words += ["--seed", str(run.head["seed"])]
    return shlex.join([*words, "--out", str(run.path)])


def _runs_table(rows: Sequence[Mapping[str, Any]], *, wide: bool) -> "Table":
    """A row a run; where there is little room, what was asked stands below the path, and what was chosen below the verdict."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from trimtab.core.phrases import line

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("run", overflow="fold", ratio=None if wide else 3)
    table.add_column("started (UTC)", no_wrap=True)
    if wide:
        table.add_column("asked", overflow="fold")
    table.add_column("answer", overflow="fold", ratio=None if wide else 3)
    table.add_column("faster by\nat least", justify="right", no_wrap=True)
    for row in rows:
        when = str(row["started"] or "")[:16].replace("T", " ")
        model = " vs ".join(_name(part) for part in str(row["model"]).split(" vs "))
        asked = "" if row["state"] == "damaged" else line(f"{model} ({', '.join(filter(None, (row['verb'], row['workload'])))})", 100)
        answer = _answer(row)
        lows = "\n".join(_low(level, low) for level, low in (row.get("speedup_low") or {}).items())
        if wide:
            table.add_row(line(row["path"]), when, asked, answer, lows)
        else:
            table.add_row(Text.assemble(line(row["path"]), ("\n" + asked, "dim") if asked else ""), when.replace(" ", "\n"), answer, lows)
    return table


def _name(model: str) -> str:
    """A model without its folders; its settings stay."""
    place, mark, settings = model.partition("?")
    engine, colon, path = place.rpartition(":")
    return f"{engine}{colon}{Path(path).name}{mark}{settings}"


def _low(level: str, low: float) -> str:
    from trimtab.core.phrases import rounded_down, times

    return f"{times(rounded_down(low))} at {level}"


def _answer(row: Mapping[str, Any]) -> Any:
    from rich.text import Text

    from trimtab.cli.tables import MARKS
    from trimtab.core.phrases import line

    if row["problem"]:
        return Text(f"damaged: {line(row['problem'])}", style="red")
    if row["state"] != "finished":
        return Text(row["state"], style="yellow")
    if row["verdict"] is None:
        return Text("evaluated")
    mark, style = MARKS.get(str(row["verdict"]), ("", ""))
    chosen = f" {line(row['chosen'])}" if row["chosen"] else ""
    return Text.assemble((f"{mark} {line(row['verdict'])}", style), chosen)


def _unfinished(run: "Run") -> Iterator[Any]:
    from rich.text import Text

    from trimtab.cli.tables import STATUS_WORDS, id_of
    from trimtab.core.phrases import line
    from trimtab.flows.runs import summary

    row = summary(run)
    yield Text(f"{line(run.path)}: {row['state']}, no decision yet", style="bold")
    asked = [f"{row['verb']} {row['model']}", *(f"{name} {row[name]}" for name in ("workload", "policy") if row[name])]
    yield Text(line(f"{', '.join(asked)}; started {row['started']}"))
    phases = Counter(key.partition("/")[0] for key in run.step_keys)
    done = ", ".join(f"{line(name)} {n}" for name, n in phases.items())
    yield Text(f"Steps finished: {len(run.step_keys)}{f' ({done})' if done else ''}")
    if run.candidates:
        table = _plain_table("candidate", "so far", "why")
        for candidate in run.candidates.values():
            status = str(candidate.get("status"))
            state = candidate.get("verdict") or STATUS_WORDS.get(status, status)
            table.add_row(id_of(candidate), line(state), line((candidate.get("reasons") or [""])[0], 160))
        yield table
    if resume(run):
        yield Text(f"It goes on where it stopped with the command that began it, such as:\n  {line(resume(run))}")
        if "time_limit_s" not in run.head["inputs"]:
            yield Text("If that named files or suites of yours, or a time limit, name them again.", style="dim")
    else:
        yield Text("A process is working on it.")


def _diff(found: Mapping[str, Any]) -> Iterator[Any]:
    from rich.text import Text

    from trimtab.core.phrases import line

    for side in "ab":
        row = found[side]
        yield Text.assemble((f"{side.upper()}  ", "bold"), line(row["path"]), (f"  {row['verb']}, {row['started']}, {row['state']}", "dim"))
    asked = _plain_table("differs in what was asked", "A", "B")
    for row in found["asked"]:
        asked.add_row(line(row["what"]), _value(row["a"]), _value(row["b"]))
    yield asked if found["asked"] else Text("Both were asked the same, on the same machine, with the same versions.")
    answers = _plain_table("answer", "A", "B")
    for row in found["answer"]:
        style = "" if row["a"] == row["b"] else "bold"
        answers.add_row(line(row["what"]), _value(row["a"]), _value(row["b"]), style=style)
    yield answers
    if found["candidates"]:
        table = _plain_table("candidate", "", "A", "B")
        for row in found["candidates"]:
            table.add_row(line(row["id"]), line(row["what"]), _value(row["a"]), _value(row["b"]))
        yield table
    for side in "ab":
        if found[f"only_{side}"]:
            yield Text(f"Only in {side.upper()}: {line(', '.join(found[f'only_{side}']))}")
    yield from _gate_changes(found["gates"])
    yield from _speed_changes(found["speed"], found["same_baseline"])


def _gate_changes(rows: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    from rich.text import Text

    from trimtab.core.phrases import line
    from trimtab.record.explain import gate_change

    if not rows:
        return
    same: dict[str, list[str]] = {}
    for row in rows:
        if row["a"] == row["b"]:
            same.setdefault(line(row["id"]), []).append(line(row["gate"]))
    for name, gates in same.items():
        yield Text(f"Gates of {name} with the very same result: {', '.join(gates)}")
    changed = [row for row in rows if row["a"] != row["b"]]
    if not changed:
        return
    table = _plain_table("gate", "A: change [interval]", "B: change [interval]", "beyond both")
    told = ""
    for row in changed:
        if row["id"] != told:
            table.add_row(line(row["id"]), style="bold")
            told = row["id"]
        word = {True: "yes", False: "no", None: "cannot say"}[row["apart"]]
        cells = [f"{gate_change(row[side])}\n{line(row[side]['verdict'])}" for side in "ab"]
        table.add_row(f"  {line(row['gate'])}", *cells, word, style="yellow" if row["apart"] else "")
    yield table
    yield Text("Beyond both: each change lies outside the other's interval. It is no test of its own.", style="dim")


def _speed_changes(rows: Sequence[Mapping[str, Any]], same_baseline: bool) -> Iterator[Any]:
    from rich.text import Text

    from trimtab.cli.tables import ratio_text
    from trimtab.core.phrases import line, milliseconds

    if not rows:
        return
    table = _plain_table("over the baseline (median request)", "at once", "A", "B")
    for row in rows:
        cells = []
        for side in "ab":
            ratio = ratio_text(row[side]["over_baseline"]) or "–"
            cells.append(f"{ratio}\n({milliseconds(row[side]['e2e_ms_p50'])})")
        table.add_row(line(row["id"]), str(row["concurrency"]), *cells)
    yield table
    timed = [row["one_session"] for row in rows if row["a"]["over_baseline"] or row["b"]["over_baseline"]]
    if timed and all(timed):
        yield Text("Both runs have these from one session.", style="dim")
        return
    yield Text(
        "Times in brackets are of two sessions: they are not comparable. Ratios were measured in turns with the baseline.", style="dim"
    )
    if not same_baseline:
        yield Text("The baselines are not the same deployment, so these ratios are not comparable either.", style="yellow")


def _plain_table(*titles: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _value(value: Any) -> str:
    """A value in a cell: digests short, mappings as key=value, nothing as a dash."""
    from trimtab.core.phrases import line

    if isinstance(value, Mapping):
        return line(" ".join(f"{key}={inner}" for key, inner in value.items()), 160)
    if isinstance(value, (list, tuple)):
        return line(", ".join(str(inner) for inner in value), 160) or "–"
    text = str(value)
    if len(text) == 64 and all(char in "0123456789abcdef" for char in text):
        return text[:SHORT_DIGEST]
    return "–" if value is None else line(text, 160)
