"""A simulated fleet as a person reads it. Pure: the document in, renderables out."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.cli.words import words_view
from trimtab.core.phrases import count, milliseconds, percent, significant

Plain = Mapping[str, Any]
BLOCKS = " ▁▂▃▄▅▆▇█"
LATENCIES = (
    ("TTFT p50", "ttft_ms", "p50"),
    ("TTFT p95", "ttft_ms", "p95"),
    ("TPOT p50", "tpot_ms", "p50"),
    ("TPOT p95", "tpot_ms", "p95"),
    ("end to end p50", "e2e_ms", "p50"),
    ("end to end p95", "e2e_ms", "p95"),
)
FIGURES = (
    ("replica hours", "replica_hours"),
    ("replicas at most", "most_replicas"),
    ("busy while up", "utilisation"),
    ("at once in a replica", "mean_running"),
    ("output tokens/s", "output_tok_s"),
    ("USD in all", "usd"),
    ("USD per 1,000", "usd_per_1000"),
    ("kWh per 1,000", "kwh_per_1000"),
    ("g CO2e per 1,000", "g_co2_per_1000"),
    ("cold starts", "cold_starts"),
    ("requests that saw one", "saw_cold_start"),
    ("failures", "failures"),
    ("spot losses", "spot_losses"),
    ("moved elsewhere", "moved"),
    ("preempted", "preemptions"),
    ("prompt tokens reused", "cached_prompt_tokens"),
)
LINES = (
    ("requests_s", "requests/s"),
    ("running", "running"),
    ("waiting", "waiting"),
    ("replicas", "replicas"),
    ("ttft_p50_ms", "TTFT p50"),
)
SHOWN_BUCKETS = 45


def fleet_view(document: Plain) -> Iterator[RenderableType]:
    """The answer, a row a policy, the best one's time line, and what was assumed."""
    yield Text(document["headline"], style="bold green" if document["found"] else "bold yellow")
    traffic = document["traffic"]
    lengths = f"prompts {_middle(traffic['prompt_tokens'])}, answers {_middle(traffic['output_tokens'])}"
    told = f"{traffic['name']}: {count(traffic['requests'])} requests in {count(traffic['span_s'])} s; {lengths}"
    yield Text(told, style="dim")
    yield _table(document["runs"], document["best"])
    if document["question"]["runs"] > 1:
        yield Text(
            f"Means of {document['question']['runs']} runs with seeds of their own; below, the least and the most of them.", style="dim"
        )
    if any(run["quick_and_slow"] for run in document["runs"]):
        yield Text("In brackets: with step times at the quick and the slow end of where 90 % of such times lie.", style="dim")
    run = document["runs"][document["best"] or 0]
    yield Text(f"{run['policy']} over time", style="bold")
    yield Padding(_time_line(run["timeline"]), (0, 0, 0, 2))
    yield from words_view(
        [(title, lines) for title, lines in (("Notes", document["notes"]), ("Assumed", document["assumptions"])) if lines]
    )


def _middle(lengths: Plain) -> str:
    return f"{count(lengths['p50'])} tokens in the middle, {count(lengths['p95'])} at p95"


def _table(runs: Sequence[Plain], best: int | None) -> Table:
    """A column a policy, what requests see above what it takes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    table.add_column("", no_wrap=True)
    for place, run in enumerate(runs):
        table.add_column(_name(run, place == best), justify="right", overflow="fold", min_width=9)
    for title, key, name in LATENCIES:
        table.add_row(title, *(_time(run, key, name) for run in runs))
    if any(run["slo"] for run in runs):
        table.add_row("within the demands", *(percent(run["slo"]["share"], 1) for run in runs))
    table.add_row("not answered", *(count(run["requests"] - run["answered"]) for run in runs))
    table.add_section()
    for title, key in FIGURES:
        if any(run[key] for run in runs):
            table.add_row(title, *("–" if run[key] is None else _figure(key, run[key]) for run in runs))
    return table


def _figure(key: str, value: float) -> str:
    if key == "utilisation":
        return percent(value)
    return count(value) if value >= 1000 or value == int(value) else significant(value)


def _name(run: Plain, is_best: bool) -> Text:
    text = Text(run["policy"], style="bold" if is_best else "")
    text.append(f"\n{run['route']}", style="not bold dim")
    return text


def _time(run: Plain, key: str, name: str) -> Text:
    """A latency, its least and most over runs, and what it would be with quick and with slow steps."""
    values = run[key]
    if values is None:
        return Text("–")
    text = Text(milliseconds(values[name]))
    ends = (run["spread"] or {}).get(key)
    if ends:
        text.append(f"\n{milliseconds(ends[name][0])}–{milliseconds(ends[name][1])}", style="dim")
    pair = run["quick_and_slow"]
    if pair and all(one[key] for one in pair):
        text.append(f"\n[{milliseconds(pair[0][key][name])}, {milliseconds(pair[1][key][name])}]", style="dim")
    return text


def _time_line(line: Plain) -> Table:
    grid = Table.grid(padding=(0, 1))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    for key, title in LINES:
        values = _fewer([value or 0.0 for value in line[key]])
        most = max(values, default=0.0)
        told = milliseconds(most) if key.endswith("_ms") else significant(most)
        grid.add_row(Text(title, style="dim"), Text(_sparks(values, most), style="cyan"), Text(f"at most {told}", style="dim"))
    return grid


def _fewer(values: Sequence[float]) -> list[float]:
    """As many as a narrow terminal shows, the largest of each stretch."""
    n = min(SHOWN_BUCKETS, len(values))
    ends = [round(place * len(values) / n) for place in range(n + 1)]
    return [max(values[low:high]) for low, high in itertools.pairwise(ends)]


def _sparks(values: Sequence[float], most: float) -> str:
    return "".join(BLOCKS[0] if value <= 0 or most <= 0 else BLOCKS[max(1, round(8 * value / most))] for value in values)
