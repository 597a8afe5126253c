"""What a watch keeps on disk, so that kill -9 neither loses nor doubles anything. One watch at a time holds the folder.

TRIMTAB_HOME/watch/<16 hex digits of the site's path>/
  state.json     the watcher and how far the spool was read, written whole: what came after it is read again
  alarms.jsonl   an alarm with the actions that the rules wish for it, in one line, before any of them is begun
  actions.jsonl  an action before it is begun ("wanted") and when it has ended ("ended")
  live.json      for pages (watch/live.py)
TRIMTAB_HOME/watch/recertify.jsonl  what is to be certified again, of all sites:
  {"id", "at_s", "model", "version", "lock", "why", "command"}

An alarm that is found again after a kill has the id that it had, and is known by it. An action that was wanted and has not ended is settled
at the next start: those that may be done twice without harm are done, the others are noted as unknown.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain, write_atomic
from trimtab.core.watching import Action, ActionKind, Alarm
from trimtab.record.disk import append_record, read_records, sentences
from trimtab.record.lock import FolderLock
from trimtab.record.spool import Cursor
from trimtab.watch.rules import Wish
from trimtab.watch.watcher import alarm_from

SCHEMA = "trimtab.watch/1"
QUEUE = "recertify.jsonl"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An action that an alarm leads to. rule: its name; percent, replicas: of the rule"""

    id: str
    kind: ActionKind
    rule: str
    percent: float = 10.0
    replicas: int = 1

    @classmethod
    def of(cls, wish: Wish) -> "Wanted":
        """As it is kept."""
        return cls(id=wish.id, kind=wish.kind, rule=wish.rule.name, percent=wish.rule.percent, replicas=wish.rule.replicas)


@dataclass(kw_only=True)
class Journal:
    """Alarms and actions as the files tell them. ended: action id -> its row; begun: ids that were wanted and have not ended"""

    folder: Path
    alarms: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """From the files; a torn last line is cut off. Raises InputError."""
        made = cls(folder=folder)
        for row in _records(folder / "alarms.jsonl"):
            made.alarms[row["alarm"]["id"]] = row
        for row in _records(folder / "actions.jsonl"):
            if row["phase"] == "wanted":
                made.begun.add(row["id"])
            else:
                made.begun.discard(row["id"])
                made.ended[row["id"]] = {key: value for key, value in row.items() if key != "phase"}
        return made

    def note(self, alarm: Alarm, row: Mapping[str, Any], wishes: Sequence[Wish]) -> bool:
        """An alarm and what it leads to, durably; False if it is known already. Raises InputError, MissingError."""
        if alarm.id in self.alarms:
            return False
        line = {"alarm": dict(row), "wishes": [to_plain(Wanted.of(wish)) for wish in wishes]}
        append_record(self.folder / "alarms.jsonl", line)
        self.alarms[alarm.id] = line
        return True

    def open(self) -> list[tuple[Alarm, Wanted]]:
        """What is wished and has not ended, in order."""
        return [
            (alarm_from(line["alarm"]), Wanted(**wish))
            for line in self.alarms.values()
            for wish in line["wishes"]
            if wish["id"] not in self.ended
        ]

    def begin(self, wanted: Wanted, at_s: float) -> None:
        """It is begun now."""
        append_record(self.folder / "actions.jsonl", {"phase": "wanted", "id": wanted.id, "at_s": at_s})
        self.begun.add(wanted.id)

    def end(self, wanted: Wanted, alarm: Alarm, action: Action) -> dict[str, Any]:
        """It has ended, done or not."""
        row = {"id": wanted.id, "model": alarm.model, "version": alarm.version, **to_plain(action)}
        append_record(self.folder / "actions.jsonl", {"phase": "ended", **row})
        self.begun.discard(wanted.id)
        self.ended[wanted.id] = row
        return row

    def fired(self) -> dict[tuple[str, str, str], float]:
        """(rule, model, version) -> time of the last alarm for which the rule did something, or would have in a dry run."""
        found: dict[tuple[str, str, str], float] = {}
        for line in self.alarms.values():
            alarm = line["alarm"]
            for wish in line["wishes"]:
                ended = self.ended.get(wish["id"])
                if ended is None or ended["done"] or ended["detail"].get("dry_run"):
                    key = (str(wish["rule"]), str(alarm["model"]), str(alarm["version"]))
                    found[key] = max(found.get(key, 0.0), float(alarm["at_s"]))
        return found

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Actions that have ended, oldest first."""
        return list(self.ended.values())


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        return read_records(path, mend=True)[0]
    except InputError as error:
        found = str(error).partition(";")[0]
        raise InputError(f"{found}; put it back from a backup, or move it away: then what it tells may be done again.") from None


@dataclass(kw_only=True)
class Kept:
    """What state.json holds. watcher: of `Watcher.state`, None = nothing was watched yet"""

    watcher: Mapping[str, Any] | None = None
    cursor: Cursor | None = None


def read_state(folder: Path) -> Kept:
    """The state that was kept last; empty if there is none. Raises InputError for one that cannot be read."""
    path = folder / "state.json"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Kept()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give it free, or remove it to watch from here on.") from None
    try:
        document = json.loads(raw)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        return Kept(watcher=document["watcher"], cursor=Cursor(**document["cursor"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it to watch from here on.") from None


def write_state(folder: Path, watcher: Mapping[str, Any], cursor: Cursor) -> None:
    """Keep both, whole or not at all. Raises InputError, MissingError."""
    path = folder / "state.json"
    with sentences(path, "write"):
        write_atomic(path, msgspec.json.encode({"schema": SCHEMA, "cursor": dataclasses.asdict(cursor), "watcher": watcher}))


def write_live(folder: Path, document: Mapping[str, Any]) -> None:
    """live.json. Raises InputError, MissingError."""
    path = folder / "live.json"
    with sentences(path, "write"):
        write_atomic(path, msgspec.json.encode(document))


def held(folder: Path) -> FolderLock:
    """The folder for this process alone. Raises InputError where another watch has it."""
    try:
        return FolderLock(folder)
    except InputError as error:
        raise InputError(f"This site is watched already: {error}") from None


def queue_certify(home: Path, row: Mapping[str, Any]) -> bool:
    """Have something certified again; False if it waits for that already. Raises InputError, MissingError."""
    path = home / "watch" / QUEUE
    if any(one.get("id") == row["id"] for one in _records(path)):
        return False
    append_record(path, row)
    return True
