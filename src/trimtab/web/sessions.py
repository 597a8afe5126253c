"""Who is signed in: kept here and nowhere else, so that an end is an end. A cookie or a token is only the name of a session."""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

IDLE_S = 30 * 60.0
LONGEST_S = 8 * 3600.0
MOST = 200
"""Sessions at once; the one that was idle longest ends for a new one."""


@dataclass(kw_only=True)
class Session:
    """kind: `cookie` of a browser, `token` of a program; person: name; public_key: that they signed in with

    csrf: goes with every form; notices: sentences for the next page; began_s, used_s: of the clock
    """

    kind: Literal["cookie", "token"]
    person: str
    public_key: str
    began_s: float
    used_s: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    notices: list[str] = field(default_factory=list)
    is_over: bool = False


class Sessions:
    """Any thread may use it. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_digest: dict[bytes, Session] = {}

    def begin(self, kind: Literal["cookie", "token"], person: str, public_key: str) -> tuple[str, Session]:
        """A new session and its secret name, which is not kept."""
        name, now = secrets.token_urlsafe(32), self._clock()
        session = Session(kind=kind, person=person, public_key=public_key, began_s=now, used_s=now)
        with self._lock:
            self._drop_old(now)
            while len(self._by_digest) >= MOST:
                self._end(min(self._by_digest, key=lambda digest: self._by_digest[digest].used_s))
            self._by_digest[_digest(name)] = session
        return name, session

    def find(self, name: str, kind: Literal["cookie", "token"]) -> Session | None:
        """A session that still holds; it is in use from now on."""
        now = self._clock()
        with self._lock:
            self._drop_old(now)
            session = self._by_digest.get(_digest(name))
            if session is None or session.kind != kind:
                return None
            session.used_s = now
            return session

    def end(self, session: Session) -> None:
        """Idempotent."""
        with self._lock:
            for digest in [digest for digest, one in self._by_digest.items() if one is session]:
                self._end(digest)

    def holds(self, session: Session) -> bool:
        """Whether it has not ended, without using it."""
        now = self._clock()
        return not session.is_over and now - session.used_s < IDLE_S and now - session.began_s < LONGEST_S

    def _drop_old(self, now: float) -> None:
        for digest, one in list(self._by_digest.items()):
            if now - one.used_s >= IDLE_S or now - one.began_s >= LONGEST_S:
                self._end(digest)

    def _end(self, digest: bytes) -> None:
        self._by_digest.pop(digest).is_over = True


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
