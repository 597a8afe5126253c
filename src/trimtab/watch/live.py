"""live.json: what a page shows of a model in use, as one document. The watch writes it anew every 2 s, whole or not at all.

Times are seconds since 1970, UTC. LEVEL is {"value", "low", "high", "n"}: a mean or share with its 95 % interval; low and high are null
below 2 observations, value is null at n = 0. Lists are empty, never absent.

schema       "trimtab.live/1"
site         name of the site's file or of the log; site_id: 16 hex digits, the folder under TRIMTAB_HOME/watch
source       "spool" (live traffic) or "log"
started_s    when the first request that was seen ended; at_s: when the last one did; written_s: when this file was written
n_requests, n_late    requests seen; feedback, outcomes and the like that were joined to them
faults       reason -> how many, such as {"duplicate": 3, "no such request": 1}: what was passed over, and why
dry_run      true = rules note what they would do, and do nothing
detectors    {"n": streams under watch, "method": text with the stated share of false alarms}
models       [{"model", "n", "versions": [VERSION]}], busiest first
  VERSION    {"version", "n", "last_s", "signals": [SIGNAL], "slices": [SLICE], "groups": [SLICE],
              "rates": [RATE], "missing": [{"by", "n", "n_all", "beyond"}]: requests of which an attribute was known,
              "worst": the fields of watch.slices.Slice, surest first: kinds of requests shown to fare worse than all others}
  SIGNAL     {"signal", "text", "unit", "kind", "about", "worse",
              "all": LEVEL since the watch began, "hour": LEVEL of the last 60 minutes before at_s,
              "percentiles": {"p50", "p95", "p99"} since the watch began, or null,
              "shares": label -> share of a category signal since the watch began, else {},
              "series": [{"at_s", "value", "n"}] of the last hour by 30 s, at most 120, oldest first; a gap has no point,
              "standing": [ids of alarms over all its requests]}
             for a category signal, levels and series are those of its most frequent label
  SLICE      {"by": "language" | "topic" ... | the attribute of a group, "of": its value, "n",
              "signals": signal -> LEVEL since the watch began}; `other` stands for all values beyond the most that are kept
  RATE       the fields of watch.groups.GroupRow: a group against all others, with bounds that hold at every moment; at most 200, what is
             shown first
alarms       newest first, at most 100: the fields of core.watching.Alarm, and {"text": a sentence, "worse", "severity",
             "part_of": id of an alarm over all requests that tells the same change or "", "stands", "ended_s", "ended": why}
actions      newest first, at most 100: the fields of core.watching.Action, and {"id", "model", "version"}
envelope     [{"model", "version", "covers": text, "today": LEVEL of the share outside, by day in UTC of at_s, "all": LEVEL since the watch
             began, whose low holds at every moment, "outside": [{"what", "share"}] of today, most frequent first, "text": a sentence}]
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from trimtab.core.files import to_plain
from trimtab.core.watching import Alarm, Signal
from trimtab.watch.rules import GROUP, is_worse, severity_of
from trimtab.watch.signals import signal_of, signals
from trimtab.watch.tallies import plain_level
from trimtab.watch.trial import held_against
from trimtab.watch.watcher import ALL, Told, Version, Watched, Watcher, signal_called

SCHEMA = "trimtab.live/1"
SHOWN = 100
"""Alarms and actions, the newest."""
MOST_RATES = 200
FINDINGS = ("worse", "better", "different", "within", "cannot tell")


def document(
    watcher: Watcher,
    *,
    now_s: float,
    site: str,
    site_id: str,
    source: str,
    dry_run: bool = False,
    actions: Sequence[Mapping[str, Any]] = (),
    faults: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """live.json, see above. actions: rows, oldest first; faults: of the reader, beside the watcher's own."""
    versions = sorted(watcher.versions.items(), key=lambda one: -one[1].n)
    models: dict[str, list[dict[str, Any]]] = {}
    for (model, name), version in versions:
        models.setdefault(model, []).append(_version(watcher, model, name, version))
    rows = [{"model": model, "n": sum(one["n"] for one in found), "versions": found} for model, found in models.items()]
    requests = watcher.rules.requests_per_false_alarm
    return {
        "schema": SCHEMA,
        "site": site,
        "site_id": site_id,
        "source": source,
        "started_s": watcher.started_s,
        "at_s": watcher.at_s,
        "written_s": now_s,
        "n_requests": watcher.n_requests,
        "n_late": watcher.n_late,
        "faults": {**watcher.faults, **{reason: n for reason, n in (faults or {}).items() if n}},
        "dry_run": dry_run,
        "detectors": {
            "n": watcher.n_detectors(),
            "method": f"e-detectors, one false alarm in {requests:,} requests over all signals and slices at most",
        },
        "models": sorted(rows, key=lambda row: -row["n"]),
        "alarms": [alarm_row(watcher, told) for told in reversed(list(watcher.alarms.values())[-SHOWN:])],
        "actions": [dict(row) for row in reversed(actions[-SHOWN:])],
        "envelope": [version.outside.summary(model, name) for (model, name), version in versions if version.outside is not None],
    }


def _version(watcher: Watcher, model: str, name: str, version: Version) -> dict[str, Any]:
    standing: dict[str, list[str]] = {}
    for told in watcher.alarms.values():
        if told.stands and (told.alarm.model, told.alarm.version) == (model, name) and not told.alarm.slice:
            standing.setdefault(told.alarm.signal, []).append(told.alarm.id)
    order = {signal: place for place, signal in enumerate(signals())}
    rows = sorted(version.parts[ALL].items(), key=lambda row: order.get(row[0], len(order)))
    parts = sorted((part for part in version.parts if part != ALL), key=lambda part: (part[0], -version.sizes.get(part, 0), part[1]))
    return {
        "version": name,
        "n": version.n,
        "last_s": version.last_s,
        "signals": [_signal(signal_of(signal), one, watcher.at_s, standing.get(signal, [])) for signal, one in rows],
        "slices": [_slice(version, part) for part in parts if not part[0].startswith(GROUP)],
        "groups": [_slice(version, part) for part in parts if part[0].startswith(GROUP)],
        "rates": to_plain(sorted(version.rates.rows(), key=lambda row: FINDINGS.index(row.finding))[:MOST_RATES]),
        "missing": to_plain(version.rates.missing()),
        "worst": to_plain(version.search.rows()),
    }


def _signal(signal: Signal, watched: Watched, at_s: float, standing: Sequence[str]) -> dict[str, Any]:
    recent, total = watched.recent, sum(watched.counts.values())
    often = sorted(watched.counts.items(), key=lambda one: (-one[1], one[0]))
    return {
        **{key: getattr(signal, key) for key in ("text", "unit", "kind", "about", "worse")},
        "signal": signal.name,
        "all": watched.level(signal.kind),
        "hour": plain_level(None) if recent is None else recent.hour(at_s).level(signal.kind),
        "percentiles": watched.percentiles(),
        "shares": {label: count / total for label, count in often},
        "series": [] if recent is None else recent.series(at_s),
        "standing": list(standing),
    }


def _slice(version: Version, part: tuple[str, str]) -> dict[str, Any]:
    by, of = part
    rows = {name: one.tally.level(signal_of(name).kind) for name, one in version.parts[part].items() if one.tally.n}
    return {"by": by.removeprefix(GROUP), "of": of, "n": version.sizes.get(part, 0), "signals": rows}


def alarm_row(watcher: Watcher, told: Told) -> dict[str, Any]:
    """An alarm as live.json and alarms.jsonl have it."""
    signal = signal_called(told.alarm.signal)
    return {
        **to_plain(told.alarm),
        "text": sentence(told.alarm, signal),
        "worse": is_worse(told.alarm, signal),
        "severity": severity_of(told.alarm, signal, watcher.rules.severity),
        "part_of": told.part_of,
        "stands": told.stands,
        "ended_s": told.ended_s,
        "ended": told.ended,
    }


def sentence(alarm: Alarm, signal: Signal) -> str:
    """What changed, where, from what to what, by how much, since when."""
    what = signal.text + (f", {alarm.label}," if alarm.label else "")
    where = "".join(f", {key.removeprefix(GROUP)} {value}" for key, value in alarm.slice.items())
    share = signal.kind != "mean"
    sign = "+" if alarm.change.value > 0 else ""
    change = f"{sign}{shown(alarm.change.value, signal, is_change=True)}"
    if alarm.change.low is not None and alarm.change.high is not None:
        change += f", 95 %: {shown(alarm.change.low, signal, bare=True)} to {shown(alarm.change.high, signal, bare=True)}"
    version = alarm.version or alarm.model or "all requests"
    other = held_against(alarm.method)
    if other:
        level, theirs = shown(alarm.after.value, signal), shown(alarm.before.value, signal)
        return f"{version}: {what} is at {level}, that of {other} at {theirs} ({change}) since {moment(alarm.since_s)}"
    levels = f"{shown(alarm.before.value, signal, bare=share)} to {shown(alarm.after.value, signal)}"
    return f"{version}{where}: {what} went from {levels} ({change}) since {moment(alarm.since_s)}"


def shown(value: float, signal: Signal, *, bare: bool = False, is_change: bool = False) -> str:
    """A level as people read it: `4.2 %`, `182 ms`. bare: without its unit; is_change: a rate's is in points."""
    share = signal.kind != "mean"
    number = 100.0 * value if share else value
    text = f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
    unit = ("points" if is_change else "%") if share else signal.unit
    return text if bare or not unit else f"{text} {unit}"


def moment(at_s: float) -> str:
    """`2026-11-27 11:05 UTC`"""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
