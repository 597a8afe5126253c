"""The stream of changes: what a page that is open must fetch again. It says that something changed, never what: rights stay with the pages.

topics  `ledger`: an entry was written; `live`: the watch wrote its summary; `runs`: a run began, went on or ended
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from trimtab.core.errors import TrimtabError
from trimtab.web.desk import Desk
from trimtab.web.pages import EVERY_ROLE, Page, Visit, answer

if TYPE_CHECKING:
    from trimtab.web.entrance import Entrance
    from trimtab.web.sessions import Session

LOOK_S = 1.0
LEDGER_S = 5.0
"""A ledger in a database is asked less often than files are looked at."""
BEAT_S = 15.0
MOST_STREAMS = 60
MOST_OF_SESSION = 8
_RUN_FILES = ("run.json", "candidates.jsonl", "decision.json", "evaluation.json")


class Changes:
    """One look for all streams. Every stream waits for the next number of a topic."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._marks: dict[str, Any] = {}
        self.numbers = {"ledger": 0, "live": 0, "runs": 0}
        self.streams: dict[int, Session] = {}
        self._looked_s = 0.0
        self._ledger_s = 0.0
        self._lock: asyncio.Lock | None = None

    async def look(self) -> Mapping[str, int]:
        """The numbers of the topics, looked up again where the last look is old."""
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            if time.monotonic() - self._looked_s >= LOOK_S:
                for topic, mark in (await run_in_threadpool(self._now)).items():
                    if topic in self._marks and self._marks[topic] != mark:
                        self.numbers[topic] += 1
                    self._marks[topic] = mark
                self._looked_s = time.monotonic()
            return dict(self.numbers)

    def _now(self) -> dict[str, Any]:
        """What tells each topic's state; a topic that cannot be looked at is left out."""
        marks: dict[str, Any] = {
            "live": [_mark(path) for path in self._desk.live_files()],
            "runs": [_mark(path / name) for path in _run_folders(self._desk.runs) for name in _RUN_FILES],
        }
        own = self._desk.home / "ledger" / "ledger.db"
        files = [_mark(own), _mark(own.with_name("ledger.db-wal"))]
        if files != self._marks.get("files") or time.monotonic() - self._ledger_s > LEDGER_S:
            self._marks["files"], self._ledger_s = files, time.monotonic()
            with contextlib.suppress(TrimtabError):
                marks["ledger"] = self._desk.entries()[-1].hash
        return marks


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _run_folders(folders: tuple[Path, ...]) -> list[Path]:
    """Folders with a run.json, down to two levels."""
    return sorted({path.parent for folder in folders for deep in ("", "*/", "*/*/") for path in folder.glob(f"{deep}run.json")})


def stream(visit: Visit) -> Response:
    """Server-sent events: the topics whose state changed since the stream began. It ends with the session."""
    changes: Changes = visit.request.app.state.changes
    session = visit.session
    assert session is not None  # by the roles of the page
    if len(changes.streams) >= MOST_STREAMS or sum(one is session for one in list(changes.streams.values())) >= MOST_OF_SESSION:
        response = answer({"error": {"message": "Too many pages are open.", "reasons": []}}, status=429)
        response.headers["retry-after"] = "10"
        return response
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_told(visit, changes, session), media_type="text/event-stream", headers=headers)


async def _told(visit: Visit, changes: Changes, session: "Session") -> AsyncIterator[str]:
    entrance: Entrance = visit.request.app.state.entrance
    number = id(object())
    while number in changes.streams:
        number += 1
    changes.streams[number] = session
    try:
        known, beat_s = await changes.look(), time.monotonic()
        yield "retry: 3000\n\nevent: hello\ndata: {}\n\n"
        while entrance.sessions.holds(session):
            await asyncio.sleep(LOOK_S)
            now = await changes.look()
            topics = [topic for topic, n in now.items() if n != known[topic]]
            if topics:
                known, beat_s = now, time.monotonic()
                yield f"event: change\ndata: {json.dumps({'topics': topics})}\n\n"
            elif time.monotonic() - beat_s > BEAT_S:
                beat_s = time.monotonic()
                yield ": still here\n\n"
        yield "event: over\ndata: {}\n\n"
    finally:
        changes.streams.pop(number, None)


ROUTES = (Page(path="/events", name="events", roles=EVERY_ROLE, handler=stream),)
