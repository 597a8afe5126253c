"""A simulated fleet (schema trimtab.fleet/1) in words: the same rows on a terminal and on a page. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.core.phrases import count, milliseconds, percent, significant

Plain = Mapping[str, Any]
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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number as read; seeds: its least and most over runs; steps: with quick and with slow steps. Empty = none."""

    text: str
    seeds: str = ""
    steps: str = ""


def latency_rows(document: Plain) -> list[tuple[str, list[Cell]]]:
    """What requests see: a title and a cell a run."""
    runs = document["runs"]
    rows = [(title, [_time(run, key, name) for run in runs]) for title, key, name in LATENCIES]
    if any(run["slo"] for run in runs):
        rows.append(("within the demands", [Cell(text=percent(run["slo"]["share"], 1)) for run in runs]))
    rows.append(("not answered", [Cell(text=count(run["requests"] - run["answered"])) for run in runs]))
    return rows


def figure_rows(document: Plain) -> list[tuple[str, list[Cell]]]:
    """What it takes; what is nothing, or not known, for all runs is left out."""
    runs = document["runs"]
    return [(title, [_figure(key, run[key]) for run in runs]) for title, key in FIGURES if any(run[key] for run in runs)]


def one_route(document: Plain) -> str:
    """The route that all runs took; empty if they differ."""
    routes = {run["route"] for run in document["runs"]}
    return routes.pop() if len(routes) == 1 else ""


def notes_of(document: Plain) -> list[str]:
    """How the numbers are read."""
    route = one_route(document)
    found = [f"Routed by {route}."] if route else []
    if document["question"]["runs"] > 1:
        found.append(f"Means of {document['question']['runs']} runs with seeds of their own; below, the least and the most of them.")
    if any(run["quick_and_slow"] for run in document["runs"]):
        found.append("In brackets: with step times at the quick and the slow end of where 90 % of such times lie.")
    return found


def traffic_text(document: Plain) -> str:
    traffic = document["traffic"]
    lengths = f"prompts {_middle(traffic['prompt_tokens'])}, answers {_middle(traffic['output_tokens'])}"
    return f"{traffic['name']}: {count(traffic['requests'])} requests in {count(traffic['span_s'])} s; {lengths}"


def _middle(lengths: Plain) -> str:
    return f"{count(lengths['p50'])} tokens in the middle, {count(lengths['p95'])} at p95"


def _time(run: Plain, key: str, name: str) -> Cell:
    values = run[key]
    if values is None:
        return Cell(text="–")
    ends = (run["spread"] or {}).get(key)
    pair = run["quick_and_slow"]
    both = pair and all(one[key] for one in pair)
    return Cell(
        text=milliseconds(values[name]),
        seeds=_ends(*ends[name]) if ends else "",
        steps=f"[{_ends(pair[0][key][name], pair[1][key][name])}]" if both else "",
    )


def _ends(low_ms: float, high_ms: float) -> str:
    """Two times with one unit."""
    factor, unit = (1e-3, "s") if high_ms >= 1000 else (1.0, "ms")
    return f"{significant(low_ms * factor)}–{significant(high_ms * factor)} {unit}"


def _figure(key: str, value: float | None) -> Cell:
    if value is None:
        return Cell(text="–")
    if key == "utilisation":
        return Cell(text=percent(value))
    return Cell(text=count(value) if value >= 1000 or value == int(value) else significant(value))
