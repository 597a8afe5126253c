"""What the rules of a watch ask for, carried out: on the running gateway, in the ledger, to people, into the queue.

Nothing here raises for what the world refuses: what came of it is the action's result. All but `page` and `alarm` look first at how things
are, so that they may be begun again after a kill.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.errors import TrimtabError
from trimtab.core.files import to_plain
from trimtab.core.site import Site, Version
from trimtab.core.watching import Action, Alarm
from trimtab.decide.release import read_book
from trimtab.flows.parts.released import entries_if_any
from trimtab.flows.parts.watch_ledger import note_alarm, note_done, release_of, roll_back
from trimtab.flows.parts.watch_pages import page
from trimtab.watch.live import sentence
from trimtab.watch.rules import SEVERITIES, WatchRules, is_worse, severity_of
from trimtab.watch.state import Wanted, queue_certify
from trimtab.watch.watcher import signal_called

TIMEOUT_S = 10.0
ONCE_ONLY = frozenset({"page"})
"""What may not be done a second time where it is not known whether it was."""
TOLD_FROM = "moderate"
"""Alarms of this severity and more are incidents of the ledger."""


class NotDone(Exception):
    """What was asked for was not done; the text says why, a clause."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What actions are carried out with. admin_url: of the gateway, empty = it has no admin surface; folder: that locks are relative to

    site: None for a log, of which nothing can be changed; versions: by id
    """

    home: Path
    rules: WatchRules
    folder: Path
    site: Site | None = None
    admin_url: str = ""
    ledger: str = ""
    dry_run: bool = False

    @property
    def versions(self) -> Mapping[str, Version]:
        return {} if self.site is None else {version.id: version for model in self.site.models for version in model.versions}


def serves(means: Means, alarm: Alarm) -> str:
    """What a version does for its model now: `stable`, `canary`, `shadow`; empty = nothing, or nobody knows."""
    try:
        now = rollout(means, alarm.model)
    except NotDone:
        model = None if means.site is None else means.site.model_called(alarm.model)
        now = {} if model is None else vars(model.rollout)
    return next((role for role in ("stable", "canary", "shadow") if now.get(role) == alarm.version), "")


def carry_out(means: Means, alarm: Alarm, wanted: Wanted, *, resumed: bool = False) -> Action:
    """Do one thing. resumed: it was begun by a watch that was killed, and may have been done."""
    done, result, detail = False, "", {}
    if means.dry_run:
        result, detail = "dry run: nothing was done", {"dry_run": True}
    elif resumed and wanted.kind in ONCE_ONLY:
        result = "not known: the watch was ended while it did this; it does not do it twice"
    else:
        try:
            done, result, detail = _KINDS[wanted.kind](means, alarm, wanted)
        except NotDone as error:
            result = f"not done: {error}"
        except TrimtabError as error:
            result = f"not done: {error}"
    action = Action(
        kind=wanted.kind,
        rule=wanted.rule,
        why=alarm.id,
        at_s=alarm.at_s,
        done=done,
        result=result,
        detail=detail,
    )
    return action if means.dry_run or wanted.kind == "alarm" else _noted(means, alarm, action)


def _noted(means: Means, alarm: Alarm, action: Action) -> Action:
    """The action with its place in the ledger, where there is one."""
    try:
        said = note_done(means.ledger, action, about=about(means, alarm))
    except TrimtabError as error:
        said = f"not noted in the ledger: {error}"
    return action if not said else Action(**{**vars(action), "detail": {**action.detail, "ledger": said}})


def about(means: Means, alarm: Alarm) -> str:
    """The release that an alarm's version is, else the name of its model."""
    version = means.versions.get(alarm.version)
    release = release_of(read_book(entries_if_any(means.ledger)), version.content_sha256) if version is not None else ""
    return release or alarm.model or "unknown"


Outcome = tuple[bool, str, dict[str, Any]]
"""(done, result, detail)"""


def _alarm(means: Means, alarm: Alarm, wanted: Wanted) -> Outcome:
    signal = signal_called(alarm.signal)
    severity = severity_of(alarm, signal, means.rules.severity)
    if not is_worse(alarm, signal) or SEVERITIES.index(severity) < SEVERITIES.index(TOLD_FROM) or means.site is None:
        return True, "told", {}
    said = note_alarm(means.ledger, alarm, about=about(means, alarm), title=sentence(alarm, signal), severity=severity)
    return True, f"told; {said}", {}


def _sample(means: Means, alarm: Alarm, wanted: Wanted) -> Outcome:
    now = rollout(means, alarm.model)
    if not now.get("shadow"):
        raise NotDone(f"{alarm.model} has no shadow that more copies could go to")
    if float(now["shadow_pct"]) >= wanted.percent:
        return True, f"{now['shadow']} gets copies of {now['shadow_pct']:g} % already", {"before": now}
    _traffic(means, alarm.model, "shadow", wanted.percent)
    return True, f"{now['shadow']} gets copies of {wanted.percent:g} % of the requests, {now['shadow_pct']:g} % before", {"before": now}


def _guard(means: Means, alarm: Alarm, wanted: Wanted) -> Outcome:
    _post(means, "/guards", {"model": alarm.model})
    return True, f"the guards of {alarm.model} block what they flagged or redacted, until the site's file is read again", {}


def _scale(means: Means, alarm: Alarm, wanted: Wanted) -> Outcome:
    answer = _post(means, "/replicas", {"model": alarm.model, "more": wanted.replicas})
    return True, f"{answer.get('min_replicas')} replicas of each version of {alarm.model} are kept ready", {}


def _stop_canary(means: Means, alarm: Alarm, wanted: Wanted) -> Outcome:
    now = rollout(means, alarm.model)
    if now.get("canary") != alarm.version:
        raise NotDone(f"{alarm.version} is not the canary of {alarm.model}")
    said = _without_canary(means, alarm.model, now)
    moved, told = _aliases_back(means, alarm)
    return True, f"{said}; {told}", {"before": now, "ledger_moved": moved}


def _without_canary(means: Means, model: str, now: Mapping[str, Any]) -> str:
    if not now["canary_pct"]:
        return f"{now['canary']} had no traffic any more"
    _traffic(means, model, "canary", 0)
    return f"{now['canary']} gets no more traffic ({now['canary_pct']:g} % before); {now['stable']} answers"


def _rollback(means: Means, alarm: Alarm, wanted: Wanted) -> Outcome:
    """Traffic first, which protects people; the ledger's aliases behind it."""
    said, done, detail = [], True, {}
    try:
        now = detail["before"] = rollout(means, alarm.model)
        said.append(_traffic_back(means, alarm, now))
    except NotDone as error:
        done = False
        said.append(f"traffic stays as it is: {error}")
    moved, told = _aliases_back(means, alarm, rolled=done)
    return done, "; ".join([*said, told]), {**detail, "ledger_moved": moved}


def _aliases_back(means: Means, alarm: Alarm, *, rolled: bool = True) -> tuple[bool, str]:
    """(whether no alias of the ledger points at the version any more, what was done). rolled: what answers now may take its place"""
    answers = str(rollout(means, alarm.model).get("stable", "")) if rolled else ""
    content = {id: version.content_sha256 for id, version in means.versions.items()}
    return roll_back(
        means.ledger,
        content.get(alarm.version, ""),
        note=f"alarm {alarm.id}: {sentence(alarm, signal_called(alarm.signal))}",
        to_deployment_sha256=content.get(answers, ""),
    )


def _traffic_back(means: Means, alarm: Alarm, now: Mapping[str, Any]) -> str:
    if alarm.version == now.get("canary"):
        return _without_canary(means, alarm.model, now)
    if alarm.version != now.get("stable"):
        return f"{alarm.version} answers for {alarm.model} no more"
    if now.get("canary") and now.get("canary_pct"):
        _traffic(means, alarm.model, "canary", 0)  # else `rollback` would take only the canary back
    _traffic(means, alarm.model, "rollback")
    return f"{rollout(means, alarm.model)['stable']} answers for {alarm.model} instead of {alarm.version}"


def _page(means: Means, alarm: Alarm, wanted: Wanted) -> Outcome:
    signal = signal_called(alarm.signal)
    body = {"schema": "trimtab.alarm/1", "severity": severity_of(alarm, signal, means.rules.severity), "alarm": to_plain(alarm)}
    done, said = page(means.rules.page, id=wanted.id, text=sentence(alarm, signal), body=body)
    return done, said if done else f"not done: {said}", {}


def _certify(means: Means, alarm: Alarm, wanted: Wanted) -> Outcome:
    version = means.versions.get(alarm.version)
    if version is None or not version.lock:
        raise NotDone(f"{alarm.version or alarm.model} was not certified: it has no lock")
    lock = (means.folder / version.lock).resolve()
    command = f"trimtab certify {lock.parent}"
    row = {
        "id": wanted.id,
        "at_s": alarm.at_s,
        "model": alarm.model,
        "version": alarm.version,
        "lock": str(lock),
        "why": sentence(alarm, signal_called(alarm.signal)),
        "command": command,
    }
    is_new = queue_certify(means.home, row)
    return (
        True,
        f"{'queued' if is_new else 'waits in the queue already'}; run `{command}` with suites like this traffic",
        {"command": command},
    )


_KINDS: Mapping[str, Callable[[Means, Alarm, Wanted], Outcome]] = {
    "alarm": _alarm,
    "sample": _sample,
    "guard": _guard,
    "stop-canary": _stop_canary,
    "rollback": _rollback,
    "scale": _scale,
    "page": _page,
    "certify": _certify,
}


# The gateway's admin surface


def rollout(means: Means, model: str) -> dict[str, Any]:
    """Who answers for a model now. Raises NotDone."""
    found = _asked(means, "/state").get("traffic", {}).get(model)
    if not isinstance(found, dict):
        raise NotDone(f"the gateway has no model {model!r}")
    return found


def _traffic(means: Means, model: str, action: str, percent: float | None = None) -> None:
    _post(means, "/traffic", {"model": model, "action": action, **({} if percent is None else {"percent": percent})})


def _post(means: Means, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return _asked(means, path, json.dumps(body).encode())


def _asked(means: Means, path: str, body: bytes | None = None) -> dict[str, Any]:
    if means.site is None:
        raise NotDone("a log was watched, not a gateway")
    if not means.admin_url:
        raise NotDone("the site has no admin port; set admin_port under [listen] in its file, or give --admin-url")
    request = urllib.request.Request(means.admin_url + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise NotDone(f"the gateway refused ({_message(error)})") from None
    except (OSError, ValueError) as error:
        raise NotDone(f"the gateway does not answer at {means.admin_url} ({getattr(error, 'reason', None) or error})") from None
    return answer if isinstance(answer, dict) else {}


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"]).rstrip(".")
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.code)
