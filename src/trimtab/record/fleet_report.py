"""The page of a simulated fleet: one self-contained file that loads nothing and runs no script."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core import phrases
from trimtab.core.files import digest_of, write_atomic
from trimtab.record import fleet_view
from trimtab.record.disk import sentences
from trimtab.record.page import environment

Plain = Mapping[str, Any]
PLOTS = (
    ("requests_s", "Requests that come a second"),
    ("replicas", "Replicas that are up"),
    ("running", "Requests being answered"),
    ("waiting", "Requests that wait"),
    ("ttft_p50_ms", "Median time to the first token, ms"),
)
SHARED = ("requests_s",)
"""Plots that are the same for every policy on one trace."""


def write_fleet_page(path: Path, document: Plain) -> None:
    """Write the page, whole or not at all. Raises InputError or MissingError."""
    text = render_fleet(document)
    with sentences(path, "write"):
        write_atomic(path, text)


def render_fleet(document: Plain) -> str:
    """The page of a document of schema trimtab.fleet/1."""
    runs = document["runs"]
    plots = [(title, fleet_plot(runs[:1] if key in SHARED else runs, key, title, document["best"])) for key, title in PLOTS]
    values = {
        "page": document,
        "view": fleet_view,
        "phrases": phrases,
        "plots": plots,
        "digest": digest_of(document),
    }
    return environment().get_template("fleet.html.j2").render(values) + "\n"


def fleet_plot(runs: Sequence[Plain], key: str, title: str, best: int | None) -> str:
    """A line a policy over time, the best one strong; each named at its end. Returns SVG."""
    from trimtab.record.figures import ACCENT, BAD, CONTROL, GOOD, INK, MUTED, UNSURE, WIDTH_PX, bare_axes, blank_figure, page_svg

    figure, axes = blank_figure(WIDTH_PX, 230, left=62)
    others = (INK, UNSURE, CONTROL, GOOD, BAD, MUTED)
    hours = runs[0]["timeline"]["start_s"][-1] > 2 * 3600
    for place, run in enumerate(runs):
        line = run["timeline"]
        at = [each / (3600 if hours else 60) for each in line["start_s"]]
        values = [float("nan") if each is None else each for each in line[key]]
        is_best = len(runs) == 1 or place == best
        colour = ACCENT if is_best else others[place % len(others)]
        axes.step(
            at, values, where="post", color=colour, linewidth=1.8 if is_best else 1.2, label=_named(run, runs), zorder=3 if is_best else 2
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours" if hours else "minutes", color=MUTED)
    bare_axes(axes, ("left", "bottom"))
    if len(runs) > 1:
        axes.legend(frameon=False, fontsize=10.5, labelcolor=MUTED, loc="best")
    told = "; ".join(
        f"{_named(run, runs)}: at most {phrases.significant(max((each or 0.0) for each in run['timeline'][key]))}" for run in runs
    )
    return page_svg(figure, f"plot-{key.replace('_', '-')}", title, told)


def _named(run: Plain, runs: Sequence[Plain]) -> str:
    """The policy, and the route where runs differ in it."""
    return str(run["policy"]) if len({each["route"] for each in runs}) == 1 else f"{run['policy']}, {run['route']}"
