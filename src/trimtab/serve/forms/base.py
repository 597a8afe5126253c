"""What reads the text of an answer: `push` its pieces, then `finish`; both give deltas of a chat. Each form is one file beside this.

Whatever the pieces, the joined deltas are the same. A call's name goes out once it is complete, then its arguments as they are written.
What only looks like a call is text, and no text is lost but space around calls and the marks of the form itself.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from trimtab.serve.stops import held_back

Delta = dict[str, Any]
"""A part of a chat's `delta`: content, reasoning_content or tool_calls."""
Schemas = Mapping[str, Mapping[str, Any]]
"""The functions that may be called: the JSON schema of the arguments, by name."""


class Reader:
    """Reads one answer; by itself it takes all for content.

    A form derives from it and names the marks that a call may begin with in `openings`; `_head` then decides what follows one.

    Its states are methods. Each takes what it can from the front of the buffer, gives deltas, and may name the next state; they are called
    until none does anything more. `is_end` says that no more text comes. A state decides only by what no later text can change.

    tools: empty = calls are text
    """

    openings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tools: Schemas) -> None:
        self._tools = tools
        self._state: Callable[[bool], list[Delta]] = self._text
        self._buffer = ""
        self._space = ""  # at the end of the content so far, dropped where a call follows or lies before
        self._calls = 0

    @property
    def n_calls(self) -> int:
        """Calls that have begun."""
        return self._calls

    @property
    def is_in_call(self) -> bool:
        """A call has begun and its arguments have not ended."""
        return False

    @property
    def is_in_thought(self) -> bool:
        """What comes next belongs to the reasoning."""
        return False

    def push(self, text: str) -> list[Delta]:
        """Take the next piece of text."""
        self._buffer += text
        return self._run(is_end=False)

    def finish(self) -> list[Delta]:
        """The rest, once no more text comes."""
        deltas = self._run(is_end=True)
        space, self._space = self._space, ""
        return [*deltas, {"content": space}] if space and not self._calls else deltas

    def _run(self, *, is_end: bool) -> list[Delta]:
        deltas: list[Delta] = []
        while True:
            state, length = self._state, len(self._buffer)
            deltas += state(is_end)
            if self._state == state and (len(self._buffer) == length or not (self._buffer or is_end)):
                return deltas

    # States that forms share

    def _text(self, is_end: bool) -> list[Delta]:
        """Content, up to a mark that may begin a call."""
        if not self._tools:
            passed = self._take(len(self._buffer))
            return [{"content": passed}] if passed else []
        place, mark = first_of(self._buffer, self.openings)
        if mark:
            self._state = self._head
            return self._said(self._take(place))
        return self._said(self._take(len(self._buffer) - (0 if is_end else held_back(self._buffer, self.openings))))

    def _head(self, is_end: bool) -> list[Delta]:
        """What stands behind an opening, which is still at the front of the buffer."""
        raise NotImplementedError

    # What states do

    def _take(self, length: int) -> str:
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken

    def _said(self, text: str) -> list[Delta]:
        text = self._space + text
        bare = text.rstrip()
        self._space = text[len(bare) :]
        return [{"content": bare}] if bare else []

    def _begin_call(self, name: str, arguments: str = "") -> list[Delta]:
        index, self._calls, self._space = self._calls, self._calls + 1, ""
        function = {"name": name, "arguments": arguments}
        return [{"tool_calls": [{"index": index, "id": new_call_id(), "type": "function", "function": function}]}]

    def _more(self, arguments: str) -> list[Delta]:
        """More arguments of the last call."""
        return [{"tool_calls": [{"index": self._calls - 1, "function": {"arguments": arguments}}]}] if arguments else []

    def _skip(self, marks: Sequence[str], is_end: bool) -> bool:
        """Drop these marks, any of which may be missing, from the front of the buffer. False: wait for what tells which are there."""
        rest = self._buffer
        for mark in marks:
            bare = rest.lstrip()
            if bare.startswith(mark):
                rest = bare[len(mark) :]
            elif not is_end and mark.startswith(bare):
                return False
        self._buffer = rest
        return True


def first_of(text: str, marks: Sequence[str]) -> tuple[int, str]:
    """Where the first of these marks stands, and which it is; (-1, "") if there is none."""
    found = [(place, mark) for mark in marks if (place := text.find(mark)) >= 0]
    return min(found, default=(-1, ""))


def new_call_id() -> str:
    """An id for a call, which the client gives back with its result."""
    return f"call_{uuid.uuid4().hex[:24]}"
