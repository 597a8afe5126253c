"""live.json (watch/live.py says what it holds) in the words of the page. Pure but for `read_live`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.phrases import MISSING, count, decimals_for, fixed, is_number, line, percent, seconds
from trimtab.web.plots import Spark, spark
from trimtab.web.words import when

Plain = Mapping[str, Any]
SCHEMA = "trimtab.live/1"
"""As watch/live.py has it, which takes libraries that the page does not need."""
STALE_S = 30.0
"""A file that was not written for so long has no watch behind it."""
MOST_BYTES = 32 * 2**20
ABOUT = {"service": "service", "quality": "quality", "output": "answers", "input": "requests", "people": "people"}
"""What signals are about, in the order of the page."""
WORSE = {"up": "more is worse", "down": "less is worse", "both": ""}


@dataclass(frozen=True, kw_only=True)
class SignalView:
    """One signal of one version. hour, all: level and interval as texts; label: of a category, whose share is shown"""

    name: str
    about: str
    text: str
    worse: str
    label: str
    hour: str
    hour_range: str
    hour_n: str
    all: str
    all_range: str
    percentiles: str
    line: Spark
    line_text: str
    low: str
    high: str
    stands: bool


@dataclass(frozen=True, kw_only=True)
class VersionView:
    """key: for anchors; last: when the last request ended"""

    key: str
    model: str
    version: str
    n: str
    share: str
    last: str
    signals: tuple[SignalView, ...]


@dataclass(frozen=True, kw_only=True)
class AlarmView:
    """slice: `language is de`; range: of the change; actions: what was done about it"""

    id: str
    text: str
    severity: str
    stands: bool
    at: str
    since: str
    n_since: str
    slice: str
    before: str
    after: str
    change: str
    method: str
    ended: str
    part_of: str
    about: str
    examples: tuple[str, ...]
    actions: tuple["ActionView", ...]


@dataclass(frozen=True, kw_only=True)
class ActionView:
    kind: str
    rule: str
    at: str
    done: bool
    result: str
    about: str
    why: str


@dataclass(frozen=True, kw_only=True)
class LiveView:
    """One site. stale: a sentence if nothing writes the file any more"""

    id: str
    site: str
    source: str
    stale: str
    dry_run: bool
    n_requests: str
    n_late: str
    faults: str
    at: str
    method: str
    envelopes: tuple[dict[str, Any], ...]
    versions: tuple[VersionView, ...]
    standing: tuple[AlarmView, ...]
    ended: tuple[AlarmView, ...]
    actions: tuple[ActionView, ...]


def read_live(path: Path) -> dict[str, Any] | None:
    """The document; None while there is none, or one that this version cannot read."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else None


def live_view(document: Plain, now_s: float) -> LiveView:
    """All that the page says of one site. now_s: UTC, seconds since 1970."""
    n_all = document["n_requests"] or 0
    actions = [action_view(one) for one in document["actions"]]
    alarms = [alarm_view(one, actions, _signals(document)) for one in document["alarms"]]
    return LiveView(
        id=line(document["site_id"]),
        site=line(document["site"]),
        source="a log" if document["source"] == "log" else "live traffic",
        stale=_stale(document, now_s),
        dry_run=bool(document["dry_run"]),
        n_requests=count(n_all),
        n_late=count(document["n_late"]),
        faults=", ".join(f"{line(why)}: {count(n)}" for why, n in document["faults"].items()),
        at=when(document["at_s"]),
        method=line(document["detectors"]["method"]),
        envelopes=tuple(_envelope(one) for one in document["envelope"]),
        versions=tuple(_version(model, one, n_all) for model in document["models"] for one in model["versions"]),
        standing=tuple(alarm for alarm in alarms if alarm.stands),
        ended=tuple(alarm for alarm in alarms if not alarm.stands),
        actions=tuple(actions),
    )


def level_text(level: Plain | None, kind: str, unit: str) -> tuple[str, str]:
    """A level and its 95 % interval: `4.2 %` and `[4.1, 4.3] %`; a share's interval stays within 0 and 1."""
    if not level or not is_number(level.get("value")):
        return MISSING, ""
    value, low, high = level["value"], level.get("low"), level.get("high")
    spaced = f" {line(unit)}" if unit else ""
    if not is_number(low) or not is_number(high):
        return (percent(value, 1), "") if kind in ("rate", "category") else (f"{fixed(value, decimals_for(value))}{spaced}", "")
    if kind in ("rate", "category"):
        decimals = _share_decimals(low, high)
        return percent(value, decimals), f"[{fixed(100 * max(low, 0.0), decimals)}, {fixed(100 * min(high, 1.0), decimals)}] %"
    decimals = min(decimals_for((high - low) / 2), 3) if high > low else decimals_for(value)
    return f"{fixed(value, decimals)}{spaced}", f"[{fixed(low, decimals)}, {fixed(high, decimals)}]{spaced}"


def _share_decimals(low: float, high: float) -> int:
    half = 50 * (high - low)
    return 0 if half >= 10 else 1 if half >= 0.1 else min(3, 1 - math.floor(math.log10(half))) if half > 0 else 1


def _signals(document: Plain) -> dict[str, tuple[str, str]]:
    """Kind and unit of every signal that is watched, by name."""
    return {one["signal"]: (one["kind"], one["unit"]) for model in document["models"] for of in model["versions"] for one in of["signals"]}


def _stale(document: Plain, now_s: float) -> str:
    if document["source"] == "log":
        return ""
    age_s = now_s - document["written_s"]
    if age_s < STALE_S:
        return ""
    return f"Nothing was written for {seconds(age_s) if age_s < 86400 else f'{age_s / 86400:.0f} days'}: no watch is running."


def _envelope(one: Plain) -> dict[str, Any]:
    today, ends = level_text(one["today"], "rate", "")
    return {
        "about": line(one["version"]),
        "covers": line(one["covers"]),
        "today": today,
        "range": ends,
        "n": count(one["today"]["n"]),
        "all": " ".join(level_text(one["all"], "rate", "")).strip(),
        "text": line(one["text"]),
        "outside": [(line(row["what"]), percent(row["share"], 1)) for row in one["outside"]],
    }


def _version(model: Plain, one: Plain, n_all: int) -> VersionView:
    order = list(ABOUT)
    signals = sorted(one["signals"], key=lambda signal: order.index(signal["about"]) if signal["about"] in order else len(order))
    return VersionView(
        key=anchor(model["model"], one["version"]),
        model=line(model["model"]),
        version=line(one["version"]),
        n=count(one["n"]),
        share=percent(one["n"] / n_all, 1) if n_all else "",
        last=when(one["last_s"]),
        signals=tuple(_signal(signal) for signal in signals),
    )


def _signal(one: Plain) -> SignalView:
    kind, unit = str(one["kind"]), str(one["unit"])
    hour, hour_range = level_text(one["hour"], kind, unit)
    whole, whole_range = level_text(one["all"], kind, unit)
    drawn = spark(one["series"])
    axis = {"low": drawn.lowest, "high": drawn.highest}  # as many digits as tell the ends apart
    ends = [level_text({"value": end, **axis}, kind, unit)[0] for end in (drawn.lowest, drawn.highest)]
    return SignalView(
        name=line(one["signal"]),
        about=ABOUT.get(str(one["about"]), line(one["about"])),
        text=line(one["text"]),
        worse=WORSE.get(str(one["worse"]), ""),
        label=line(max(one["shares"], key=one["shares"].__getitem__)) if one["shares"] else "",
        hour=hour,
        hour_range=hour_range,
        hour_n=count(one["hour"]["n"]),
        all=whole,
        all_range=whole_range,
        percentiles=_percentiles(one["percentiles"], unit),
        line=drawn,
        line_text=f"{line(one['text'])} in the last hour, between {ends[0]} and {ends[1]}",
        low=ends[0],
        high=ends[1],
        stands=bool(one["standing"]),
    )


def _percentiles(found: Plain | None, unit: str) -> str:
    if not found:
        return ""
    told = [f"{name} {fixed(found[name], 0 if found[name] >= 10 else 1)}" for name in ("p50", "p95", "p99") if is_number(found.get(name))]
    return f"{', '.join(told)} {line(unit)}".strip() if told else ""


def anchor(*names: Any) -> str:
    """A name for an element that any model's or version's name can be made into."""
    return "v-" + "-".join("".join(letter if letter.isalnum() else "_" for letter in str(name)) for name in names)


def slice_text(found: Mapping[str, Any]) -> str:
    """`language is de`, `sex is female (as given)`; empty for all requests."""
    return " and ".join(f"{line(key).removeprefix('group:')} is {line(value)}" for key, value in found.items())


def alarm_view(one: Plain, actions: Sequence[ActionView], signals: Mapping[str, tuple[str, str]]) -> AlarmView:
    kind, unit = signals.get(one["signal"], ("mean", ""))
    change, ends = level_text(one["change"], "mean", unit) if kind == "mean" else _points(one["change"])
    return AlarmView(
        id=line(one["id"]),
        text=line(one["text"]),
        severity=line(one["severity"]),
        stands=bool(one["stands"]),
        at=when(one["at_s"]),
        since=when(one["since_s"]),
        n_since=count(one["n_since"]),
        slice=slice_text(one["slice"]),
        before=" ".join(level_text(one["before"], kind, unit)).strip(),
        after=" ".join(level_text(one["after"], kind, unit)).strip(),
        change=f"{change} {ends}".strip(),
        method=line(one["method"]),
        ended="" if one["stands"] else f"{when(one['ended_s'])}: {line(one['ended'])}",
        part_of=line(one.get("part_of") or ""),
        about=line(one["version"] or one["model"]),
        examples=tuple(line(name) for name in one["examples"]),
        actions=tuple(action for action in actions if action.why == line(one["id"])),
    )


def _points(level: Plain) -> tuple[str, str]:
    """A change of a share in points."""
    if not is_number(level.get("value")):
        return MISSING, ""
    low, high = level.get("low"), level.get("high")
    ends = f"[{fixed(100 * low, 1)}, {fixed(100 * high, 1)}]" if is_number(low) and is_number(high) else ""
    return f"{fixed(100 * level['value'], 1, signed=True)} points", ends


def action_view(one: Plain) -> ActionView:
    return ActionView(
        kind=line(one["kind"]),
        rule=line(one["rule"]),
        at=when(one["at_s"]),
        done=bool(one["done"]),
        result=line(one["result"]),
        about=line(one.get("version") or one.get("model") or ""),
        why=line(one["why"]),
    )
