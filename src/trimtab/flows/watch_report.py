"""`trimtab watch SITE --report`: the last days of a watched site as one page to read."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.decide.release import read_book
from trimtab.decide.release_book import moment
from trimtab.flows.parts.incidents import incident_row, of_subject
from trimtab.flows.parts.released import entries_if_any
from trimtab.record.disk import read_records
from trimtab.record.home import state_dir
from trimtab.record.spool import watch_folder
from trimtab.record.watch_report import write_watch_report

SCHEMA = "trimtab.watch_report/1"
DAY_S = 86400.0

Plain = Mapping[str, Any]


def write_report(target: str | Path, *, out: Path, days: int = 7, ledger: str = "", now_s: float | None = None) -> dict[str, Any]:
    """Write the page and return what it tells.

    target: the site.toml or deploy.toml under watch, by the path it is watched by; days: how far back; now_s: the end, None = now
    Raises InputError (nothing was watched of it, damaged file), MissingError.
    """
    folder = watch_folder(state_dir(), Path(target))
    live = _live(folder, Path(target))
    until_s = time.time() if now_s is None else now_s
    since_s = until_s - days * DAY_S
    alarms = [row["alarm"] for row in read_records(folder / "alarms.jsonl", mend=False)[0]]
    current = {row["id"]: row for row in live["alarms"]}
    alarms = [{**row, **current.get(row["id"], {})} for row in alarms if since_s <= row["at_s"] <= until_s]
    ended = [row for row in read_records(folder / "actions.jsonl", mend=False)[0] if row["phase"] == "ended"]
    names = {model["model"] for model in live["models"]} | {one["version"] for model in live["models"] for one in model["versions"]}
    incidents, impacts = _noted(ledger, names, since_s)
    versions = [{**one, "model": model["model"]} for model in live["models"] for one in model["versions"]]
    document = {
        "schema": SCHEMA,
        "site": live["site"],
        "days": days,
        "since": _moment(since_s),
        "until": _moment(until_s),
        "watched_since": _moment(live["started_s"]),
        "n_requests": live["n_requests"],
        "n_late": live["n_late"],
        "method": live["detectors"]["method"],
        "alarms": alarms,
        "actions": [row for row in ended if since_s <= row["at_s"] <= until_s],
        "incidents": incidents,
        "impacts": impacts,
        "versions": versions,
        "envelope": live["envelope"],
        "unknown": _unknown(live, versions, since_s, until_s),
    }
    write_watch_report(out, document)
    return {**document, "out": str(out)}


def _live(folder: Path, target: Path) -> dict[str, Any]:
    path = folder / "live.json"
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"Nothing was watched of {target} yet; `trimtab watch {target}` begins.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); the watch writes it anew when it runs.") from None
    return found


def _noted(ledger: str, names: set[str], since_s: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Incidents and effects about what is served here that were touched since, or are not done with."""
    book = read_book(entries_if_any(ledger))

    def is_ours(about: str) -> bool:
        return any(of_subject(about, name) for name in names)

    def is_told(updated: str, state: str) -> bool:
        return moment(updated).timestamp() >= since_s or state in ("open", "contained", "suspected", "confirmed")

    incidents = [incident_row(one) for one in book.incidents.values() if is_ours(one.about) and is_told(one.updated, one.state)]
    impacts = [dict(to_plain(one)) for one in book.impacts.values() if is_ours(one.about) and is_told(one.updated, one.state)]
    return incidents, impacts


def _unknown(live: Plain, versions: Sequence[Plain], since_s: float, until_s: float) -> list[str]:
    """What the page cannot tell, as sentences."""
    found = [f"{n:,} times: {reason}. That is in no number here." for reason, n in live["faults"].items()]
    if live["started_s"] > since_s:
        found.append(f"Nothing before {_moment(live['started_s'])} UTC was watched.")
    if until_s - live["written_s"] > DAY_S:
        found.append(f"The watch last wrote at {_moment(live['written_s'])} UTC; what came after is not in here.")
    for version in versions:
        called = version["version"] or version["model"]
        if not version["groups"]:
            found.append(f"{called}: no request said what group of people it came from, so nothing is known of fairness between groups.")
        for row in version["missing"]:
            share = 1.0 - row["n"] / row["n_all"] if row["n_all"] else 1.0
            if share > 0.0:
                found.append(f"{called}: of {100 * share:.3g} % of the requests {row['by']} is not known; they are in no group.")
        open_ = sum(row["finding"] == "cannot tell" for row in version["rates"])
        if open_:
            found.append(f"{called}: of {open_} comparisons between groups it cannot be told yet who fares worse, if anybody does.")
    if not live["envelope"]:
        found.append("What the evidence of the release covered is not known here, so neither is how much of the traffic lies outside.")
    return found


def _moment(at_s: float) -> str:
    """`2026-11-27 11:05`, UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M")
