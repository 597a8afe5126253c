"""Plots as inline SVG that follows the page's colours (light, dark, print) and its fonts.

Drawn by matplotlib in stand-in colours; what comes out is parsed, stripped of styles, metadata and links, and its colours are
replaced by the page's CSS variables. Texts stay texts.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.core.errors import TrimtabError
from trimtab.core.phrases import MINUS, TIMES, line, significant

# Stand-ins for the page's variables: colours that matplotlib itself never picks.
INK, MUTED, RULE, GOOD, BAD, UNSURE, CONTROL, ACCENT, PAPER = (f"#0{n}0{n}0{n}" for n in range(1, 10))
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", GOOD: "good", BAD: "bad", UNSURE: "unsure", CONTROL: "control"}
_VARIABLES |= {ACCENT: "accent", PAPER: "card"}
_VERDICT_COLOUR = {"pass": GOOD, "fail": BAD, "inconclusive": UNSURE}
_VERDICT_MARKER = {"pass": "o", "fail": "X", "inconclusive": "s"}
WIDTH_PX = 340  # what a phone has room for: texts are read there at the size they are drawn in
_ROW_PX = 66  # of a gate: two lines of text, its interval and that of its control


@dataclass(frozen=True)
class TradePoint:
    """One candidate at one concurrency. x: latency in ms; y: quality loss in nats/token, with its interval.

    number: the candidate's number in the table, printed where its name finds no room
    """

    number: int
    name: str
    role: Literal["chosen", "baseline", "other"]
    verdict: str
    x: float
    y: float
    y_low: float
    y_high: float


Fate = Literal["good", "bad", "unsure"]
"""Of a loss: within the text margin, beyond it, or with the margin inside its interval."""


@dataclass(frozen=True)
class FrontPoint:
    """One candidate at one concurrency. x: time in ms with its interval; y: peak memory in MB; loss: as text, under the name."""

    number: int
    name: str
    role: Literal["chosen", "baseline", "other"]
    standing: str
    x: float
    x_low: float
    x_high: float
    y: float
    loss: str
    fate: Fate
    on_front: bool


@dataclass(frozen=True)
class ForestRow:
    """One gate. Values are in multiples of the gate's margin; None = not measured."""

    name: str
    text: str
    verdict: str
    two_sided: bool
    delta: float | None
    low: float | None
    high: float | None
    noise_floor: float | None
    control: float | None
    control_low: float | None
    control_high: float | None


def trade_plot(points: Sequence[TradePoint], margin: float | None, *, name: str, title: str, description: str) -> str:
    """Latency against quality loss, both better when smaller. margin: the text gate's, nats/token. Returns SVG."""
    figure, axes = blank_figure(WIDTH_PX, 320)
    linear = margin or 0.02
    axes.set_yscale("asinh", linear_width=linear)
    if margin:
        axes.axhline(margin, color=BAD, linewidth=1.2, linestyle=(0, (5, 4)), zorder=1)
        place = {"xycoords": axes.get_yaxis_transform(), "xytext": (-2, 3), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        axes.annotate(f"margin {margin:g}", (1, margin), color=BAD, fontsize=11, parse_math=False, **place)
    axes.axhline(0, color=MUTED, linewidth=0.9, zorder=1)
    _frontier(axes, points)
    for point in points:
        colour = ACCENT if point.role == "chosen" else INK if point.role == "baseline" else MUTED
        axes.plot([point.x, point.x], [point.y_low, point.y_high], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)
        marker = {"chosen": "*", "baseline": "D"}.get(point.role, "X" if point.verdict == "fail" else "o")
        size = {"chosen": 17.0, "baseline": 8.0}.get(point.role, 7.5)
        face = PAPER if point.role == "other" and point.verdict not in ("pass", "fail") else colour
        axes.plot([point.x], [point.y], marker=marker, markersize=size, color=colour, markerfacecolor=face, markeredgewidth=1.6, zorder=4)
    _trade_axes(axes, points, linear)
    _place_labels(figure, axes, [_on_trade_plot(point) for point in points])
    return page_svg(figure, name, title, description)


def _on_trade_plot(point: TradePoint) -> "_Spot":
    half = 9.0 if point.role == "chosen" else 6.0
    bars = ((point.x, point.y_low), (point.x, point.y_high))
    return _Spot(point.number, point.name, point.role, point.x, point.y, half=half, bars=bars)


def front_plot(points: Sequence[FrontPoint], *, name: str, title: str, description: str) -> str:
    """Time against memory, both better when smaller, the loss as colour and text; rings are the front. Returns SVG."""
    figure, axes = blank_figure(WIDTH_PX, 320)
    xs, ys = [point.x for point in points], [point.y for point in points]
    for setter, values in ((axes.set_xlim, xs), (axes.set_ylim, ys)):
        pad = (max(values) - min(values)) * 0.2 or max(values) * 0.25
        setter(max(0.0, min(values) - pad), max(values) + pad)
    for point in points:
        colour = {"good": GOOD, "bad": BAD, "unsure": UNSURE}[point.fate]
        axes.plot([point.x_low, point.x_high], [point.y, point.y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)
        marker = {"chosen": "*", "baseline": "D"}.get(point.role, "X" if point.standing == "rejected" else "o")
        size = {"chosen": 17.0, "baseline": 8.0}.get(point.role, 8.0)
        face = PAPER if marker == "o" and point.standing != "certified" else colour
        axes.plot([point.x], [point.y], marker=marker, markersize=size, color=colour, markerfacecolor=face, markeredgewidth=1.6, zorder=5)
        if point.on_front:
            ring = {"markerfacecolor": "none", "markeredgewidth": 1.3, "markersize": 24.0 if point.role == "chosen" else 17.0}
            axes.plot([point.x], [point.y], marker="o", color=INK, zorder=4, **ring)
    value_axes(axes)
    axes.set_xlabel("end-to-end latency p50, ms (left is faster)", color=MUTED)
    axes.set_ylabel("peak memory, MB (down is smaller)", color=MUTED)
    _place_labels(figure, axes, [_on_front_plot(point, axes.get_xlim()) for point in points])
    return page_svg(figure, name, title, description)


def _on_front_plot(point: FrontPoint, limits: tuple[float, float]) -> "_Spot":
    """What labels have to keep clear of: the ring, and as much of the interval as is drawn."""
    half = 12.0 if point.role == "chosen" else 9.0
    ends = (max(point.x_low, limits[0]), min(point.x_high, limits[1]))
    return _Spot(
        point.number, point.name, point.role, point.x, point.y, half=half, bars=((ends[0], point.y), (ends[1], point.y)), note=point.loss
    )


def forest_plot(rows: Sequence[ForestRow], *, name: str, title: str, description: str) -> str:
    """Each gate's change in multiples of its margin, its positive control beneath, the noise floor as a band. Returns SVG."""
    height = _ROW_PX * len(rows) + 46
    figure, axes = blank_figure(WIDTH_PX, height, left=8, right=8, top=4, bottom=42)
    low, high = -3.6, 2.2
    axes.set_xlim(low, high)
    axes.set_ylim(-len(rows), 0)
    for index, row in enumerate(rows):
        top = -index
        if index:
            axes.axhline(top, color=RULE, linewidth=0.8, zorder=0)
        write_text(axes, low + 0.05, top - 0.16, row.name, INK, va="center", weight="bold")
        write_text(axes, low + 0.05, top - 0.39, row.text, INK, va="center")
        axes.plot([0, 0], [top - 0.52, top - 1], color=MUTED, linewidth=0.9, zorder=1)
        for margin in (-1, 1) if row.two_sided else (-1,):
            axes.plot([margin, margin], [top - 0.52, top - 1], color=BAD, linewidth=1.3, linestyle=(0, (4, 3)), zorder=1)
        if row.noise_floor is not None:
            band = min(abs(row.noise_floor), high)
            axes.fill_betweenx([top - 0.54, top - 0.96], -band, band, color=MUTED, alpha=0.28, linewidth=0, zorder=1)
        _strip(axes, top - 0.66, (row.delta, row.low, row.high), (low, high), _VERDICT_COLOUR.get(row.verdict, UNSURE), row.verdict)
        _strip(axes, top - 0.86, (row.control, row.control_low, row.control_high), (low, high), CONTROL, "control")
    axes.set_xticks([-3, -2, -1, 0, 1, 2], [f"{MINUS}3", f"{MINUS}2", f"{MINUS}1 = margin", "0", "+1", "+2"])
    axes.set_yticks([])
    bare_axes(axes, ("bottom",))
    axes.set_xlabel("change, in multiples of the gate's margin (left is worse)", color=MUTED)
    return page_svg(figure, name, title, description)


def _strip(axes: Any, y: float, values: tuple[Any, Any, Any], limits: tuple[float, float], colour: str, kind: str) -> None:
    """An interval and its point; what lies outside the axis is an arrow with the number beside it."""
    value, low, high = values
    if value is None:
        return
    left, right = limits[0] + 0.12, limits[1] - 0.12
    inside = min(max(value, left), right)
    if low is not None and high is not None:
        ends = [min(max(end, left), right) for end in (low, high)]
        axes.plot(ends, [y, y], color=colour, linewidth=2.4 if kind != "control" else 1.6, solid_capstyle="butt", zorder=3)
        for end, at, marker in ((low, left, "<"), (high, right, ">")):
            if not left <= end <= right and at in ends:  # the interval goes on outside the axis
                axes.plot([at], [y], marker=marker, markersize=5, color=colour, linestyle="none", zorder=3)
    if inside == value:
        marker = "d" if kind == "control" else _VERDICT_MARKER.get(kind, "s")
        axes.plot([value], [y], marker=marker, markersize=7 if kind != "control" else 6, color=colour, linestyle="none", zorder=4)
        return
    leftward = value < left
    axes.plot([inside], [y], marker="<" if leftward else ">", markersize=7, color=colour, linestyle="none", zorder=4)
    sign = MINUS if value < 0 else "+"
    text = f"{sign}{significant(abs(value), 2)}{TIMES}"
    write_text(axes, inside + (0.1 if leftward else -0.1), y, text, colour, va="center", ha="left" if leftward else "right", size=10.5)


def _trade_axes(axes: Any, points: Sequence[TradePoint], linear: float) -> None:
    xs = [point.x for point in points]
    highest = max(max(point.y_high for point in points), linear * 1.6)
    lowest = min(min(point.y_low for point in points), -linear * 0.4)
    pad = (max(xs) - min(xs)) * 0.16 or max(xs) * 0.2
    axes.set_xlim(max(0.0, min(xs) - pad), max(xs) + pad)
    axes.set_ylim(lowest * 1.15, highest * 1.35)
    nice = [size * 10.0**power for power in range(-4, 3) for size in (1, 2, 5)]
    kept = [0.0]
    for tick in nice:
        if linear * 0.45 <= tick <= highest * 1.3 and tick >= 1.9 * kept[-1]:
            kept.append(tick)
    negative = [-tick for tick in kept[1:] if -tick >= lowest * 1.1]
    ticks = negative[::-1] + kept
    axes.set_yticks(ticks, [f"{MINUS if tick < 0 else ''}{abs(tick):g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    value_axes(axes, "x")
    axes.set_xlabel("end-to-end latency p50, ms (left is faster)", color=MUTED)
    axes.set_ylabel("quality loss, nats/token (down is better)", color=MUTED)


def value_axes(axes: Any, which: str = "xy") -> None:
    """Few round ticks, plain numbers, no frame."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis)[: len(which)]:
        axis.set_major_locator(MaxNLocator(nbins=5))
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 else significant(value, 2))
    bare_axes(axes, ("left", "bottom"))


def _frontier(axes: Any, points: Sequence[TradePoint]) -> None:
    """A stepped line through the points that no other beats in both latency and loss."""
    best: list[TradePoint] = []
    for point in sorted(points, key=lambda point: (point.x, point.y)):
        if not best or point.y < best[-1].y:
            best.append(point)
    if len(best) > 1:
        xs, ys = [point.x for point in best], [point.y for point in best]
        axes.step(xs, ys, where="post", color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=2)


@dataclass(frozen=True)
class _Spot:
    """A point to be named. half: half the width of its marker in pixels; bars: ends of its interval, in data; note: a second line."""

    number: int
    name: str
    role: str
    x: float
    y: float
    half: float
    bars: tuple[tuple[float, float], tuple[float, float]]
    note: str = ""


def _place_labels(figure: Any, axes: Any, spots: Sequence[_Spot]) -> None:
    """Name the points where there is room, important ones first; the others get their number in the table, if that fits."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    taken = [_around(axes, spot) for spot in spots] + [text.get_window_extent(renderer) for text in axes.texts]
    rank = {"chosen": 0, "baseline": 1, "other": 2}
    for spot in sorted(spots, key=lambda spot: (rank[spot.role], spot.y)):
        prefix = {"chosen": "chosen: ", "baseline": "baseline: "}.get(spot.role, "")
        note = f"\n{spot.note}" if spot.note else ""
        for text in dict.fromkeys((prefix + line(spot.name, 30) + note, prefix + line(spot.name, 30), str(spot.number))):
            box = _label(axes, spot, text, taken, frame, renderer, figure.bbox)
            if box is not None:
                taken.append(box)
                break


def _label(axes: Any, spot: _Spot, text: str, taken: Sequence[Any], frame: Any, renderer: Any, page: Any) -> Any:
    """The place a label took beside its point, None (and no label) if every place is taken."""
    colour = ACCENT if spot.role == "chosen" else INK
    weight = "bold" if spot.role == "chosen" else "normal"
    further = max(0.0, spot.half - 6)
    for dx, dy, ha, va in _PLACES + (_FAR if spot.role != "other" else []):
        options = {"ha": ha, "va": va, "color": colour, "fontsize": 11, "fontweight": weight, "parse_math": False}
        offset = (dx + further * (dx > 0) - further * (dx < 0), dy + further * (dy > 0) - further * (dy < 0))
        label = axes.annotate(text, (spot.x, spot.y), offset, textcoords="offset points", **options)
        box = label.get_window_extent(renderer).padded(1)
        fits = box.x0 >= frame.x0 and box.x1 <= page.x1 and box.y0 >= frame.y0 and box.y1 <= page.y1
        if fits and not any(box.overlaps(other) for other in taken):
            return box
        label.remove()
    return None


_PLACES = [
    (9, 0, "left", "center"),
    (-9, 0, "right", "center"),
    (0, 11, "center", "bottom"),
    (0, -11, "center", "top"),
    (8, 9, "left", "bottom"),
    (8, -9, "left", "top"),
    (-8, 9, "right", "bottom"),
    (-8, -9, "right", "top"),
]


_FAR = [(10, 22, "left", "bottom"), (10, -22, "left", "top"), (-10, 22, "right", "bottom"), (-10, -22, "right", "top")]


def _around(axes: Any, spot: _Spot) -> Any:
    """The pixels a point and its interval cover."""
    from matplotlib.transforms import Bbox

    (x, y), (x0, y0), (x1, y1) = axes.transData.transform([(spot.x, spot.y), *spot.bars])
    half = spot.half
    return Bbox([[min(x0, x - half), min(y0, y - half)], [max(x1, x + half), max(y1, y + half)]])


def blank_figure(width: int, height: int, *, left: int = 56, right: int = 10, top: int = 10, bottom: int = 46) -> tuple[Any, Any]:
    """A figure whose SVG user unit is one CSS pixel at full width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
    FigureCanvasAgg(figure)
    rectangle = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(rectangle, facecolor="none")
    axes.tick_params(colors=MUTED, labelsize=11, length=3)
    axes.xaxis.label.set_fontsize(11.5)
    axes.yaxis.label.set_fontsize(11.5)
    return figure, axes


def bare_axes(axes: Any, kept: Sequence[str]) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in kept)
        spine.set_color(RULE)


def write_text(axes: Any, x: float, y: float, text: str, colour: str, *, size: float = 11, **options: Any) -> None:
    axes.text(x, y, line(text, 64), color=colour, fontsize=size, parse_math=False, clip_on=False, **options)


def page_svg(figure: Any, name: str, title: str, description: str) -> str:
    import matplotlib

    raw = io.StringIO()
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "axes.unicode_minus": True}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that the layout font lacks: the browser's font draws them
        figure.savefig(raw, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(raw.getvalue())
    _clean(root, name)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for index, (tag, text) in enumerate((("title", title), ("desc", description))):
        node = ET.Element(tag, {"id": f"{name}-{tag}"})
        node.text = line(text)
        root.insert(index, node)
    return ET.tostring(root, encoding="unicode")


def _clean(node: ET.Element, prefix: str) -> None:
    """Plain tag names, ids of their own, page colours; nothing that styles or links outside the figure."""
    for child in list(node):
        if child.tag.rpartition("}")[2] in ("metadata", "style", "script", "image", "a"):
            node.remove(child)
        else:
            _clean(child, prefix)
    node.tag = node.tag.rpartition("}")[2]
    attributes = dict(node.attrib)
    node.attrib.clear()
    for key, value in attributes.items():
        short = key.rpartition("}")[2]
        if short == "id":
            value = f"{prefix}-{value}"
        elif short == "href":
            if not value.startswith("#"):
                raise TrimtabError(f"A plot links to {value!r}; it may only link into itself.")
            value = f"#{prefix}-{value[1:]}"
        elif short in ("style", "fill", "stroke", "clip-path"):
            value = re.sub(r"url\(#", f"url(#{prefix}-", value)
            value = re.sub(r"#[0-9a-f]{6}", lambda found: f"var(--{_VARIABLES.get(found[0], 'ink')})", value)
            value = re.sub(r"font(-family)?:\s*[^;]*sans-serif", _font, value)
        node.set(short, value)


def _font(found: re.Match[str]) -> str:
    """The page's own font: of matplotlib's font declaration only size and weight stay."""
    size = re.search(r"[\d.]+px", found[0])
    weight = "font-weight: 600; " if "bold" in found[0] or "700" in found[0] else ""
    return f"{weight}font-size: {size[0]}" if size else weight.rstrip("; ")
