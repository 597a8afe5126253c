"""`trimtab certify`: the options, and what is shown of the answer."""

from pathlib import Path

import click

from trimtab.cli.options import Common, State, clustered, common, option


@click.command(short_help="The full gate on what a run chose, and what that shows.")
@click.argument("run", type=click.Path(path_type=Path))
@option("--policy", default="", help="The margins: standard, strict or a TOML file. [default: those of the run]")
@option(
    "--suite",
    "suites",
    multiple=True,
    help="Items to judge on: a suite's name or a file; several with commas. May be repeated. [default: those of the run]",
)
@option("--reference", default="", help="Hold it against this model instead of the run's own reference.")
@option("--source", default="", help="Where the model lies now, if it was moved.")
@option("--candidate", default="", metavar="ID", help="Judge this candidate of the run, whatever became of it. [default: the chosen one]")
@option(
    "--mitigate",
    is_flag=True,
    help="Where it does not pass, try three remedies by the same gates: calibration text with swapped identities, sensitive weights "
    "at high precision, the run's next point.",
)
@option("--explain", is_flag=True, help="Say in plain words what was shown, for whom, up to where, and what was not.")
@option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the new decision. [default: <run>-<policy>]")
@option("--fresh", is_flag=True, help="Measure everything again: read no cache.")
@clustered
@common
@click.pass_obj
def certify(
    state: State,
    *,
    run: Path,
    policy: str,
    suites: tuple[str, ...],
    reference: str,
    source: str,
    candidate: str,
    mitigate: bool,
    explain: bool,
    out: Path | None,
    fresh: bool,
    cluster: str,
    cluster_store: str,
    common: Common,
) -> int:
    """Judge the deployment that a run chose by all gates of a policy.

    RUN is a run's folder, or a deploy.toml. What the run has measured on the same items is not measured again.

    \b
    trimtab certify runs/demo --policy strict
    trimtab certify runs/demo --suite core --suite bias --explain
    trimtab certify runs/demo --candidate "llamacpp q4_k_m" --mitigate
    """
    from trimtab.cli.mitigation import mitigation_view
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.cli.progress import show_progress
    from trimtab.cli.tables import decision_view, files_of
    from trimtab.cli.words import words_view
    from trimtab.flows.certify import certify_run as flow
    from trimtab.record.shown import what_was_shown

    folder = out or _beside(run, policy, "-mitigated" if mitigate else "")
    state.resume = f"What was finished is kept in {folder}; run the same command again and it goes on from there."
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        decision = flow(
            run,
            policy=policy,
            suites=suites,
            reference=reference,
            source=source,
            candidate=candidate,
            mitigate=mitigate,
            out=folder,
            fresh=fresh,
            offline=common.offline,
            time_limit_s=common.time_limit,
            seed=common.seed,
            cluster=cluster,
            cluster_store=cluster_store,
            on_event=on_event,
        )
    words = what_was_shown(decision) if explain else []
    plain = {**decision, "shown": [{"title": title, "sentences": sentences} for title, sentences in words]} if explain else decision
    emit(common, plain, [*decision_view(decision, files_of(folder)), *mitigation_view(decision), *words_view(words)])
    return EXIT_BY_VERDICT[decision["verdict"]]


def _beside(run: Path, policy: str, end: str) -> Path:
    """`runs/demo-strict` of `runs/demo`, or of `runs/demo/deploy.toml`."""
    folder = run if run.is_dir() else run.parent
    folder = folder.absolute()
    return folder.parent / f"{folder.name}-{Path(policy).stem or 'certified'}{end}"
