"""The page of a watched site's last days: one self-contained file. It loads nothing, runs nothing and escapes every text it prints."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.core import phrases
from trimtab.core.files import digest_of, write_atomic
from trimtab.record.disk import sentences
from trimtab.record.figures import ACCENT, BAD, GOOD, MUTED, RULE, UNSURE, WIDTH_PX, bare_axes, blank_figure, page_svg, write_text

Plain = Mapping[str, Any]

SEVERITIES = ("low", "moderate", "high", "critical")
MOST_DRAWN = 12
TOLD = ("refused", "error", "rejected", "guard_out", "valid_json", "thumbs", "total_ms", "first_token_ms", "nats_per_token")
"""Signals in the table of levels; alarms are told of all."""
_COLOUR = {"worse": BAD, "better": GOOD, "different": ACCENT, "within": MUTED, "cannot tell": UNSURE}
_ROW_PX = 44


def write_watch_report(path: Path, document: Plain) -> None:
    """Write the page, whole or not at all. Raises InputError or MissingError."""
    text = render_watch_report(document)
    with sentences(path, "write"):
        write_atomic(path, text)


def render_watch_report(document: Plain) -> str:
    """The page of a document of schema trimtab.watch_report/1."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trimtab.record", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["line"] = phrases.line
    values = {
        "page": document,
        "headline": headline(document),
        "phrases": phrases,
        "moment": moment,
        "level": level,
        "levels": [(version, told_levels(version)) for version in document["versions"]],
        "timeline": alarms_plot(document),
        "forests": [(version, groups_plot(version, f"groups-{place}")) for place, version in enumerate(document["versions"])],
        "digest": digest_of(document),
    }
    return environment.get_template("watch.html.j2").render(values) + "\n"


def headline(document: Plain) -> str:
    """The week in a sentence."""
    standing = [row for row in document["alarms"] if row["stands"]]
    still_open = [row for row in document["incidents"] if row["state"] == "open"]
    n_done = sum(bool(row["done"]) for row in document["actions"])
    parts = [
        f"{len(document['alarms'])} alarm{'s' * (len(document['alarms']) != 1)}, {len(standing)} of which still stand",
        f"{len(still_open)} open incident{'s' * (len(still_open) != 1)}",
        f"{n_done} thing{'s' * (n_done != 1)} done about it",
    ]
    if not document["alarms"] and not still_open:
        span = "the last day" if document["days"] == 1 else f"the last {document['days']} days"
        return f"Nothing changed for the worse in {span}, as far as was looked"
    return "; ".join(parts)


def told_levels(version: Plain) -> list[tuple[str, str, str]]:
    """(signal in words, level since the watch began, of the last hour)."""
    rows = [row for row in version["signals"] if row["signal"] in TOLD or row["standing"]]
    return [(row["text"], level(row["all"], row), level(row["hour"], row)) for row in rows]


def level(value: Plain, signal: Plain) -> str:
    """`4.2 % (3.9 to 4.5, n = 9,120)`"""
    if value["value"] is None:
        return phrases.MISSING
    scale, unit = (100.0, "%") if signal["kind"] != "mean" else (1.0, str(signal["unit"]))
    mean = f"{phrases.significant(scale * value['value'])} {unit}".rstrip()
    if value["low"] is None:
        return f"{mean} (n = {value['n']:,})"
    ends = f"{phrases.significant(scale * value['low'])} to {phrases.significant(scale * value['high'])}"
    return f"{mean} ({ends}, n = {value['n']:,})"


def moment(at_s: float) -> str:
    """`2026-11-27 11:05`, UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")


def alarms_plot(document: Plain) -> str:
    """When alarms came, by severity. Returns SVG, empty where there were none."""
    rows: Sequence[Plain] = document["alarms"]
    if not rows:
        return ""
    end = datetime.strptime(document["until"], "%Y-%m-%d %H:%M").replace(tzinfo=UTC).timestamp()
    days = float(document["days"])
    figure, axes = blank_figure(WIDTH_PX, 150, left=70, right=12, top=8, bottom=40)
    for row in rows:
        at = -(end - row["at_s"]) / 86400.0
        colour = BAD if row["stands"] else MUTED
        axes.plot(
            [at], [SEVERITIES.index(row["severity"])], marker="X" if row["stands"] else "o", markersize=7, color=colour, linestyle="none"
        )
    axes.set_xlim(-days, 0.03 * days)
    axes.set_ylim(-0.5, len(SEVERITIES) - 0.5)
    axes.set_yticks(range(len(SEVERITIES)), SEVERITIES)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_xlabel("days before the end of the report", color=MUTED)
    bare_axes(axes, ("bottom", "left"))
    standing = sum(bool(row["stands"]) for row in rows)
    return page_svg(figure, "timeline", "When alarms came", f"{len(rows)} alarms, {standing} still standing, by severity and day")


def groups_plot(version: Plain, name: str) -> str:
    """Each group's rate minus that of all others, in points, with its interval. Returns SVG, empty where nothing is compared."""
    rows = [row for row in version["rates"] if row["is_people"] and abs(row["difference"]["high"] - row["difference"]["low"]) <= 1.0]
    rows = [row for row in rows if row["level"]["high"] <= 1.0][:MOST_DRAWN]
    if not rows:
        return ""
    figure, axes = blank_figure(WIDTH_PX, _ROW_PX * len(rows) + 48, left=10, right=10, top=4, bottom=42)
    reach = max(1.0, *(100.0 * max(abs(row["difference"]["low"]), abs(row["difference"]["high"])) for row in rows)) * 1.05
    for place, row in enumerate(rows):
        difference, colour = row["difference"], _COLOUR[row["finding"]]
        write_text(axes, -reach, -place - 0.3, f"{row['by']}: {row['of']}, {row['signal']}, {row['finding']}", MUTED, va="center")
        axes.plot([100 * difference["low"], 100 * difference["high"]], [-place - 0.65] * 2, color=colour, linewidth=2.4)
        axes.plot([100 * difference["value"]], [-place - 0.65], marker="o", markersize=6, color=colour, linestyle="none")
    axes.axvline(0.0, color=MUTED, linewidth=0.9)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-len(rows), 0)
    axes.set_yticks([])
    axes.set_xlabel("points above all others of the same attribute", color=MUTED)
    bare_axes(axes, ("bottom",))
    worse = [f"{row['of']} in {row['signal']}" for row in rows if row["finding"] == "worse"]
    said = f"fares worse: {', '.join(worse)}" if worse else "nobody is shown to fare worse"
    return page_svg(figure, name, "Groups against all others", f"{len(rows)} comparisons; {said}")
