"""`trimtab compare`: the options, and what is shown of the answer."""

from pathlib import Path

import click

from trimtab.cli.options import Common, State, clustered, common, option
from trimtab.core.errors import InputError

LOG_ENDINGS = (".jsonl", ".json", ".eval")


@click.command(short_help="Is B no worse than A, and how much faster?")
@click.argument("a")
@click.argument("b")
@option("--policy", default="standard", show_default=True, help="The margins: standard, strict or a TOML file.")
@option(
    "--suite",
    "suites",
    multiple=True,
    default=("core",),
    show_default=True,
    help="Items to compare on: a suite's name or a JSONL file; several with commas. May be repeated.",
)
@option("--workload", default="chat", show_default=True, help="What the timing asks for: a workload's name or a TOML file.")
@option(
    "--prompts",
    type=click.Path(dir_okay=False),
    help="Your prompts, one JSON object a line: both sides answer them and are judged by their answers. So are servers without it.",
)
@option("--timing/--no-timing", default=True, show_default=True, help="Also time both, in turns.")
@option(
    "--on", default="", help="Instead: the answer to this prompt token by token under both, and where they part; with --out also as a page."
)
@option("--answer", default="", help="The answer to look at. [default: what the model itself says, greedily]")
@option("--chat/--plain", default=True, show_default=True, help="The prompt is a user's message in the chat template, or plain text.")
@option(
    "--logs",
    is_flag=True,
    help="A and B are logs of lm-eval, of Inspect, or JSON lines: judge what was measured elsewhere; with --out also as a page.",
)
@option("--noise", multiple=True, help="With --logs: a log of A's own model under other numerics. May be repeated.")
@option("--control", default="", help="With --logs: a log of something known to be worse, so that it is known that the gates can fail.")
@option("--margin", type=float, help="With --logs: of all gates. [default: 0.1 nats, or 0.02 of a share]")
@option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for decision, items and report. [default: runs/compare-<names>]"
)
@option("--fresh", is_flag=True, help="Measure everything again: read no cache and no earlier part of this run.")
@clustered
@common
@click.pass_obj
def compare(
    state: State,
    *,
    a: str,
    b: str,
    policy: str,
    suites: tuple[str, ...],
    workload: str,
    prompts: str | None,
    timing: bool,
    on: str,
    answer: str,
    logs: bool,
    noise: tuple[str, ...],
    control: str,
    margin: float | None,
    chat: bool,
    out: Path | None,
    fresh: bool,
    cluster: str,
    cluster_store: str,
    common: Common,
) -> int:
    """Is B no worse than A, and how much faster, smaller?

    A and B are each a model, engine:model, or one with settings or a recipe: engine:model?kv_type=u8&recipe=openvino-int8-asym,
    or a server that speaks the OpenAI API: openai:URL#model. Two embedding models are judged by what they find.

    \b
    trimtab compare a.gguf b.gguf
    trimtab compare llamacpp:m.gguf openvino:m.gguf
    trimtab compare llamacpp:m.gguf "llamacpp:m.gguf?kv_type=q8_0" --no-timing
    trimtab compare a.gguf b.gguf --on "Name three rivers."
    trimtab compare samples_arc_easy_a.jsonl samples_arc_easy_b.jsonl --logs
    trimtab compare ./minilm "llamacpp:./minilm?recipe=q8_0"
    trimtab compare openai:http://host:8000/v1#old openai:http://host:8001/v1#new --prompts mine.jsonl
    """
    from itertools import chain

    from trimtab.cli.closely import beside_view
    from trimtab.cli.embedding_view import embedding_view
    from trimtab.cli.output import EXIT_BY_VERDICT, emit
    from trimtab.cli.progress import show_progress
    from trimtab.cli.tables import decision_view, files_of
    from trimtab.flows.compare import compare as flow
    from trimtab.flows.logs import compare_logs
    from trimtab.flows.outputs import side_by_side
    from trimtab.record.closely import write_closely

    _check(a, b, logs=logs, for_logs=bool(noise or control or margin is not None), answer=answer, on=on)
    if logs:
        decision = compare_logs(a, b, noise=noise, control=control, margin=margin, out=out)
        emit(common, decision, decision_view(decision, files_of(out) if out is not None else {}))
        return EXIT_BY_VERDICT[decision["verdict"]]
    if on:
        with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
            found = side_by_side(a, b, on, answer=answer, chat=chat, offline=common.offline, on_event=on_event)
        emit(common, found, beside_view(found, write_closely(out, found) if out is not None else None))
        return 0
    folder = out or Path("runs") / f"compare-{short_name(a)}-{short_name(b)}"
    state.resume = f"What was finished is kept in {folder}; run the same command again and it goes on from there."
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        decision = flow(
            a,
            b,
            policy=policy,
            suites=suites,
            workload=workload,
            prompts=prompts,
            timing=timing,
            out=folder,
            fresh=fresh,
            offline=common.offline,
            time_limit_s=common.time_limit,
            seed=common.seed,
            cluster=cluster,
            cluster_store=cluster_store,
            on_event=on_event,
        )
    rows = embedding_view(decision["embedding"]) if "embedding" in decision else ()
    emit(common, decision, chain(decision_view(decision, files_of(folder)), rows))
    return EXIT_BY_VERDICT[decision["verdict"]]


def _check(a: str, b: str, *, logs: bool, for_logs: bool, answer: str, on: str) -> None:
    """Raises InputError for options that go with another one, and for logs that are given as models."""
    if answer and not on:
        raise InputError("--answer is what to look at with --on; give the prompt too.")
    if logs:
        return
    if for_logs:
        raise InputError("--noise, --control and --margin go with --logs; give it too.")
    if all(Path(one).suffix in LOG_ENDINGS for one in (a, b)):
        raise InputError(f"{a} and {b} look like logs and not like models; give --logs to judge what they hold.")


def short_name(spec: str) -> str:
    """A folder name's worth of a spec: `llamacpp-m` of `llamacpp:models/m.gguf?threads=2`; settings are told apart by a digest."""
    from trimtab.core.files import digest_of

    if spec.startswith("openai:"):
        model = spec.partition("#")[2].partition("?")[0].rpartition("/")[2]
        return f"{model or 'server'}-{digest_of(spec)[:6]}"
    place, _, settings = spec.partition("?")
    engine, _, path = place.rpartition(":")
    name = "-".join(part for part in (engine.replace("/", "-"), Path(path).name.removesuffix(".gguf")) if part)
    return f"{name}-{digest_of(settings)[:6]}" if settings else name
