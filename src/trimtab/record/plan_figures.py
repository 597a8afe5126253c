"""The plots of a plan's page: what was tried, two quantities against each other, as inline SVG in the page's colours."""

from collections.abc import Mapping
from typing import Any

from trimtab.record.figures import ACCENT, INK, MUTED, PAPER, WIDTH_PX, bare_axes, blank_figure, page_svg, write_text
from trimtab.record.plan_view import amount

Plain = Mapping[str, Any]
MOST_NAMED = 4
LOG_FROM = 8.0
"""An axis whose ends are so many times apart is logarithmic."""


def plan_plot(plot: Plain, name: str) -> str:
    """Points with their intervals, a line along those that no other beats in both, the best ones with their number. Returns SVG."""
    points = plot["points"]
    figure, axes = blank_figure(WIDTH_PX, 300, left=78)
    for each in sorted(points, key=lambda each: each["on_front"]):
        colour = ACCENT if each["rank"] == 1 else INK if each["on_front"] else MUTED
        if each["rank"] and each["x_low"] < each["x_high"]:
            axes.plot([each["x_low"], each["x_high"]], [each["y"], each["y"]], color=colour, linewidth=1.4, alpha=0.7, zorder=2)
        face = colour if each["on_front"] else PAPER
        size = 11.0 if each["rank"] == 1 else 7.0 if each["rank"] else 4.5
        axes.plot([each["x"]], [each["y"]], marker="o", markersize=size, color=colour, markerfacecolor=face, markeredgewidth=1.4, zorder=4)
    edge = lower_left([(each["x"], each["y"]) for each in points])
    if len(edge) > 1:
        xs, ys = zip(*edge, strict=True)
        axes.step(xs, ys, where="post", color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    _axis(axes, "x", [value for each in points for value in (each["x"], each["x_low"], each["x_high"])], plot["x"])
    _axis(axes, "y", [each["y"] for each in points], plot["y"])
    for each in points:
        if each["rank"] and each["rank"] <= MOST_NAMED:
            axes.annotate(
                str(each["rank"]),
                (each["x"], each["y"]),
                (0, 9),
                textcoords="offset points",
                ha="center",
                va="bottom",
                color=ACCENT if each["rank"] == 1 else INK,
                fontsize=11,
                fontweight="bold" if each["rank"] == 1 else "normal",
            )
    if not points:
        write_text(axes, 0.5, 0.5, "nothing to draw", MUTED, ha="center")
    told = "; ".join(
        f"{each['name']}: {amount(each['x'], plot['x']['unit'])}, {amount(each['y'], plot['y']['unit'])}" for each in points if each["rank"]
    )
    return page_svg(figure, name, plot["title"], told or plot["title"])


def lower_left(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other is left of and below at once, from left to right."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(set(points)):
        if not found or y < found[-1][1]:
            found.append((x, y))
    return found


def _axis(axes: Any, which: str, values: list[float], told: Plain) -> None:
    """Limits with some air, a logarithm where values are far apart, few ticks in the unit's own words."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    axis = axes.xaxis if which == "x" else axes.yaxis
    is_log = low > 0 and high / low >= LOG_FROM
    if is_log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        low, high = low / (high / low) ** 0.1, high * (high / low) ** 0.1
    else:
        pad = (high - low) * 0.15 or abs(high) * 0.25 or 1.0
        low, high = max(0.0, low - pad), high + pad
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(_ticks(low, high, told["unit"], is_log=is_log)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: _tick(value, told["unit"]))
    (axes.set_xlabel if which == "x" else axes.set_ylabel)(told["title"], color=MUTED)
    bare_axes(axes, ("left", "bottom"))


def _ticks(low: float, high: float, unit: str, *, is_log: bool) -> list[float]:
    """Up to five round places, round in the unit that is shown (hours, days)."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    scale = _scale(high, unit)
    if is_log:
        decades = LogLocator(base=10, subs=(1.0, 2.0, 5.0)).tick_values(low / scale, high / scale)
        inside = [value * scale for value in decades if low <= value * scale <= high]
        return inside if len(inside) <= 4 else inside[:: -(-len(inside) // 4)]
    return [value * scale for value in MaxNLocator(nbins=4).tick_values(low / scale, high / scale) if low <= value * scale <= high]


def _scale(high: float, unit: str) -> float:
    if unit != "s":
        return 1.0
    return next((size for size in (86_400.0, 3600.0, 60.0) if high >= 2 * size), 1.0)


def _tick(value: float, unit: str) -> str:
    if value == 0:
        return "0"
    text = amount(value, unit)
    number, space, name = text.removesuffix(" tok/s").partition(" ")
    if "." in number and not number.startswith("$"):
        number = number.rstrip("0").rstrip(".")
    elif "." in number:
        head, end = number.rstrip("kM"), number[len(number.rstrip("kM")) :]
        number = head.rstrip("0").rstrip(".") + end
    return f"{number}{space}{name}"
