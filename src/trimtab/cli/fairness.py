"""`trimtab fairness FILE` and `trimtab fairness data FILE`: the options, and what is shown of the answer."""

from pathlib import Path

import click

from trimtab.cli.options import Common, common, option

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Names of columns with commas between them: `sex,race`. Raises click.BadParameter for an empty one."""
    found = value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))
    if not all(found):
        raise click.BadParameter(f"{value!r} holds an empty name; write names with commas between them, such as sex,race.")
    return found


def joined(ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """All names of an option that was given several times: none is dropped for a later one."""
    return tuple(name for part in value for name in part)


class FileFirst(click.Group):
    """What is no part of the verb is a file of decisions: `trimtab fairness a.csv` is `trimtab fairness decisions a.csv`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["decisions", *args]
        return super().parse_args(ctx, args)


@click.group(cls=FileFirst, short_help="Are decisions alike for every group? Of any model, or of the data before training.")
def fairness() -> None:
    """Are decisions about people alike for every group, one by one and together?

    FILE alone is short for `fairness decisions FILE`; see `trimtab fairness decisions --help`.

    \b
    trimtab fairness decisions.csv --decision approved --label repaid --group sex,race
    trimtab fairness data corpus.jsonl --fields text,group
    """


@fairness.command(short_help="Rates, gaps and gates by group of a table of decisions.")
@click.argument("file", type=FILE)
@option("--decision", default="", metavar="COLUMN", help="What was decided.")
@option("--label", default="", metavar="COLUMN", help="What turned out to be right. Without it only selection rates are judged.")
@option(
    "--group",
    type=names,
    metavar="COLUMN,...",
    multiple=True,
    callback=joined,
    required=True,
    help="Whose decisions to compare: one to four columns; all intersections of two, and of all.",
)
@option(
    "--positive", multiple=True, metavar="VALUE", help="Decisions that count as positive, where they are not 1/0, yes/no or true/false."
)
@option("--positive-label", multiple=True, metavar="VALUE", help="The same for the label.")
@option("--score", default="", metavar="COLUMN", help="A score behind the decision: calibration by group.")
@option("--threshold", type=float, help="Decide positive where the score is at least this, in place of --decision.")
@option("--before", default="", metavar="COLUMN", help="An earlier decision about the same rows: the change is judged, the level told.")
@option("--pair", default="", metavar="COLUMN", help="Rows of one name are the same case with the identity swapped.")
@option("--cluster", default="", metavar="COLUMN", help="Pairs that share a template. [default: each pair by itself]")
@option("--missing", type=click.Choice(["refuse", "drop"]), default="refuse", show_default=True, help="Rows that lack a value.")
@option("--policy", default="standard", show_default=True, help="The largest gaps allowed: standard, strict or a TOML file.")
@option(
    "--mitigate",
    type=click.Choice(["reweighing", "parity-thresholds", "odds-thresholds"]),
    multiple=True,
    help="Also try this, judge it by the same gates and show its cost. May be repeated.",
)
@option(
    "--features",
    type=names,
    metavar="COLUMN,...",
    multiple=True,
    callback=joined,
    help="Columns for a model that shows what reweighing does.",
)
@option("--out", type=FOLDER, help="Write fairness.json and report.html (and weights.csv) into this folder.")
@common
def decisions(
    *,
    file: Path,
    decision: str,
    label: str,
    group: tuple[str, ...],
    positive: tuple[str, ...],
    positive_label: tuple[str, ...],
    score: str,
    threshold: float | None,
    before: str,
    pair: str,
    cluster: str,
    missing: str,
    policy: str,
    mitigate: tuple[str, ...],
    features: tuple[str, ...],
    out: Path | None,
    common: Common,
) -> int:
    """Are the decisions in FILE (CSV, TSV, Parquet or JSONL, one row a decision) alike for every group?

    Of each group, and each intersection: selection rate, true and false positive rate, predictive value, calibration, with intervals;
    against all others, and the largest gap between any two. The gates of the policy judge every two groups. Any number of rows is read in
    one pass. Exit codes: 0 no gate failed, 1 a gate failed, 4 cannot tell.

    \b
    trimtab fairness decisions.csv --decision approved --label repaid --group sex,race --out audit
    trimtab fairness scores.parquet --score risk --threshold 0.5 --label repaid --group sex --mitigate odds-thresholds
    trimtab fairness answers.jsonl --decision hired --group name_origin --pair case
    """
    from trimtab.cli.fairness_tables import decisions_view
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.cli.progress import show_progress
    from trimtab.flows.fairness import fairness as flow

    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        document = flow(
            file,
            decision=decision,
            label=label,
            groups=group,
            positive=positive,
            positive_label=positive_label,
            score=score,
            threshold=threshold,
            before=before,
            pair=pair,
            cluster=cluster,
            policy=policy,
            mitigate=mitigate,
            features=features,
            drop_missing=missing == "drop",
            out=out,
            seed=common.seed,
            on_event=on_event,
        )
    emit(common, document, decisions_view(document, out))
    return EXIT_BY_VERDICT[document["verdict"]]


@fairness.command(short_help="The data before training: who is in it, what is said of whom, duplicates, personal data.")
@click.argument("file", type=FILE)
@option(
    "--fields",
    type=names,
    metavar="COLUMN,...",
    multiple=True,
    callback=joined,
    help="The column of texts, then the columns of groups.",
)
@option("--group", type=names, metavar="COLUMN,...", multiple=True, callback=joined, help="Columns of groups, for data without texts.")
@option("--label", default="", metavar="COLUMN", help="What a model would learn to predict.")
@option("--out", type=FOLDER, help="Write data.json, datasheet.md and report.html into this folder.")
@common
def data(*, file: Path, fields: tuple[str, ...], group: tuple[str, ...], label: str, out: Path | None, common: Common) -> int:
    """Before training: representation, label and text associations by group, duplicates, personal data, a datasheet.

    FILE is CSV, TSV, Parquet or JSONL, one row an example. Nothing is judged: the exit code is 0 if the data could be read.

    \b
    trimtab fairness data corpus.jsonl --fields text,group --label toxic --out audit
    trimtab fairness data people.csv --group sex,race --label income --out audit
    """
    from trimtab.cli.fairness_tables import data_view
    from trimtab.cli.output import emit
    from trimtab.cli.progress import show_progress
    from trimtab.flows.fairness_data import fairness_data as flow

    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        document = flow(
            file,
            text=fields[0] if fields else "",
            groups=(*fields[1:], *group),
            label=label,
            out=out,
            seed=common.seed,
            on_event=on_event,
        )
    emit(common, document, data_view(document, out))
    return 0
