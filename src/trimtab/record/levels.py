"""Forest plots of levels and of changes that nobody judged: a line of text and an interval a row, all of one unit on one axis."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.core.phrases import MINUS
from trimtab.record.figures import ACCENT, INK, MUTED, PAPER, RULE, WIDTH_PX, bare_axes, blank_figure, page_svg, write_text

_ROW_PX = 44  # a line of text, and its interval beneath


@dataclass(frozen=True, kw_only=True)
class LevelRow:
    """One mean with its interval in the axis' unit; ends None = not known. is_thin: it rests on few clusters, and is drawn hollow."""

    name: str
    text: str
    value: float
    low: float | None
    high: float | None
    is_thin: bool


def levels_plot(rows: Sequence[LevelRow], *, axis: str, with_zero: bool, name: str, title: str) -> str:
    """The rows from top to bottom. axis: what the numbers are; with_zero: zero is on the axis, as no change. Returns SVG."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = blank_figure(WIDTH_PX, _ROW_PX * len(rows) + 46, left=8, right=8, top=4, bottom=42)
    known = [row for row in rows if not row.is_thin] or rows  # an interval of few clusters may be so wide that it would hide the others
    ends = [end for row in known for end in (row.low, row.high) if end is not None] + ([0.0] if with_zero else [])
    ends += [row.value for row in rows]
    pad = (max(ends) - min(ends)) * 0.07 or abs(max(ends)) * 0.1 or 0.1
    low, high = min(ends) - pad, max(ends) + pad
    axes.set_xlim(low, high)
    axes.set_ylim(-len(rows), 0)
    if low < 0 < high:
        axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
    for index, row in enumerate(rows):
        if index:
            axes.axhline(-index, color=RULE, linewidth=0.8, zorder=0)
        at, inset = -index - 0.32, (high - low) * 0.01
        backing = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}  # the line of zero does not run through texts
        write_text(axes, low + inset, at, row.name, INK, va="center", weight="bold", bbox=backing)
        write_text(axes, high - inset, at, row.text, INK, va="center", ha="right", bbox=backing)
        if row.low is not None and row.high is not None:
            drawn = [max(row.low, low), min(row.high, high)]
            axes.plot(drawn, [-index - 0.74] * 2, color=ACCENT, linewidth=2.4, solid_capstyle="butt", zorder=3)
        face = PAPER if row.is_thin else ACCENT
        axes.plot([row.value], [-index - 0.74], marker="o", markersize=7, color=ACCENT, markerfacecolor=face, linestyle="none", zorder=4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{MINUS if value < 0 else ''}{abs(round(value, 9)):g}")
    axes.set_yticks([])
    bare_axes(axes, ("bottom",))
    axes.set_xlabel(axis, color=MUTED)
    said = "; ".join(f"{row.name}: {row.text}" for row in rows)
    return page_svg(figure, name, title, said)
