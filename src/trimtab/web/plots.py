"""Plots as the page's policy allows them: SVG without style attributes, and small lines of a series."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_STYLE = re.compile(r' style="([^"]*)"')
_FONT = re.compile(r"font:\s*([\d.]+px)")
WIDTH, HEIGHT = 240.0, 56.0
"""Of a line, in units of its own box."""
PAD = 4.0
GAP = 2.5
"""Points further apart than so many steps are not joined."""


@dataclass(frozen=True, kw_only=True)
class Spark:
    """A series as a path. path: empty for fewer than two points; ends: of the axis as numbers; last: x and y of the last point"""

    path: str
    lowest: float
    highest: float
    last: tuple[float, float] | None


def without_styles(svg: str) -> str:
    """The same SVG with its style attributes as presentation attributes, which a policy without inline styles lets pass."""
    return _STYLE.sub(lambda found: _attributes(found[1]), svg)


def _attributes(style: str) -> str:
    pairs = [declaration.partition(":")[::2] for declaration in style.split(";") if declaration.strip()]
    found = []
    for name, value in pairs:
        name, value = name.strip(), value.strip()
        if name == "font":
            size = _FONT.match(f"font: {value}")
            found.append(("font-size", size[1] if size else value))
        else:
            found.append((name, value))
    return "".join(f' {name}="{value}"' for name, value in found)


def spark(series: Sequence[dict[str, Any]], *, low: float | None = None, high: float | None = None) -> Spark:
    """A line of points {"at_s", "value", "n"}; a gap in time is a gap in the line. low, high: what the axis must show at least."""
    points = [(float(one["at_s"]), float(one["value"])) for one in series if one.get("value") is not None]
    values = [value for _, value in points] + [end for end in (low, high) if end is not None]
    lowest, highest = min(values, default=0.0), max(values, default=1.0)
    if len(points) < 2:
        return Spark(path="", lowest=lowest, highest=highest, last=None)
    first, last = points[0][0], points[-1][0]
    wide, tall = last - first or 1.0, highest - lowest or 1.0
    step = min((b[0] - a[0] for a, b in itertools.pairwise(points) if b[0] > a[0]), default=wide)
    places = [
        (PAD + (WIDTH - 2 * PAD) * (at - first) / wide, HEIGHT - PAD - (HEIGHT - 2 * PAD) * (value - lowest) / tall) for at, value in points
    ]
    parts = []
    for index, (x, y) in enumerate(places):
        is_new = index == 0 or points[index][0] - points[index - 1][0] > GAP * step
        parts.append(f"{'M' if is_new else 'L'}{x:.1f} {y:.1f}")
    return Spark(path="".join(parts), lowest=lowest, highest=highest, last=places[-1])
