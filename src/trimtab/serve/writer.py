"""Frames of one streamed answer to server-sent events."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.guarding import Verdict
from trimtab.guard.pipeline import Guards
from trimtab.serve.responses import ResponseEvents
from trimtab.serve.schema import Parsed
from trimtab.serve.screening import AnswerScreen
from trimtab.serve.sse import DONE, sse


class Writer:
    """Frames of one streamed answer to server-sent events, as chat, completion or response, through the guards.

    waits: a guard asks something outside this process, so `push` must not run in the event loop
    """

    def __init__(self, parsed: Parsed, guards: Guards) -> None:
        self._events = ResponseEvents(parsed) if parsed.kind == "response" else None
        self._screen = AnswerScreen(guards.stream) if guards.reads_output else None
        self.waits = guards.waits_on_output

    @property
    def verdicts(self) -> Sequence[Verdict]:
        return self._screen.verdicts if self._screen is not None else ()

    @property
    def is_blocked(self) -> bool:
        """Whether nothing more of this answer will go out."""
        return self._screen is not None and self._screen.all_blocked

    def push(self, body: Mapping[str, Any] | bytes) -> bytes:
        """The events that a frame makes; empty while guards hold it back."""
        if isinstance(body, bytes) or (self._screen is None and self._events is None):
            return sse(body)
        chunks = self._screen.push(body) if self._screen is not None else [body]
        events = self._events
        return b"".join(event for chunk in chunks for event in (events.push(chunk) if events is not None else [sse(chunk)]))

    def end(self) -> bytes:
        return b"".join(self._events.end()) if self._events is not None else DONE
