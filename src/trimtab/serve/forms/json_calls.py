"""Calls that are JSON objects with a name and arguments, wherever a form puts them."""

import json
import re
from collections.abc import Collection

from trimtab.serve.forms.base import Delta, Reader, Schemas

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_MORE_KEYS = re.compile(r',\s*("|\Z)')


class JsonReader(Reader):
    """What the JSON forms share. A form says where an object may stand (`_expect_object`) and what follows one (`_after`)."""

    def __init__(self, tools: Schemas) -> None:
        super().__init__(tools)
        self._opened = ""  # what was taken before the object, given back where it is no call
        self._json = JsonEnd()

    @property
    def is_in_call(self) -> bool:
        return self._state == self._arguments

    def _after(self, is_end: bool) -> list[Delta]:
        """Behind a call's object."""
        raise NotImplementedError

    def _expect_object(self, opened: str) -> list[Delta]:
        self._opened, self._json, self._state = opened, JsonEnd(), self._object
        return []

    def _object(self, is_end: bool) -> list[Delta]:
        """The object of a call, up to its arguments; as a whole where its keys come in another order."""
        found = _HEAD.match(self._buffer)
        if found is not None and found[1] in self._tools:
            self._take(found.end())
            return self._expect_arguments(found[1])
        bare = self._buffer.lstrip()
        if bare and bare[0] != "{":
            return self._no_call(0)
        place = self._json.n_read
        length = self._json.push(self._buffer[place:])
        if length is None:
            return self._no_call(len(self._buffer)) if is_end else []
        call = _whole_call(self._buffer[: place + length], self._tools)
        if call is None:
            return self._no_call(place + length)
        self._take(place + length)
        self._state = self._after
        return self._begin_call(*call)

    def _no_call(self, length: int) -> list[Delta]:
        """What was opened and so much after it is text."""
        self._state = self._text
        return self._said(self._opened + self._take(length))

    def _expect_arguments(self, name: str) -> list[Delta]:
        self._json, self._state = JsonEnd(), self._arguments
        return self._begin_call(name)

    def _arguments(self, is_end: bool) -> list[Delta]:
        length = self._json.push(self._buffer)
        if length is not None:
            self._state = self._rest
        elif is_end:
            self._state = self._text
        return self._more(self._take(len(self._buffer) if length is None else length))

    def _rest(self, is_end: bool) -> list[Delta]:
        """Behind the arguments: the object's brace, after further keys, which nobody needs. Small models forget the brace."""
        bare = self._buffer.lstrip()
        if not bare and not is_end:
            return []
        if _MORE_KEYS.match(bare):
            length = JsonEnd(depth=1).push(bare)
            if length is None and not is_end:
                return []
            if length is not None and _is_json("{" + bare[1:length]):
                self._buffer = bare[length:]
        elif bare.startswith("}"):
            self._buffer = bare[1:]
        self._state = self._after
        return []


class JsonEnd:
    """Finds the end of a JSON value that comes in pieces. depth: brackets that are open already; n_read: characters that were pushed"""

    def __init__(self, depth: int = 0) -> None:
        self.n_read = 0
        self._depth = depth
        self._in_text = False
        self._is_escaped = False
        self._has_begun = depth > 0

    def push(self, piece: str) -> int | None:
        """How many characters of the piece belong to the value, if it ends in it; else None."""
        self.n_read += len(piece)
        for place, letter in enumerate(piece):
            if self._in_text:
                if self._is_escaped:
                    self._is_escaped = False
                elif letter == "\\":
                    self._is_escaped = True
                elif letter == '"':
                    self._in_text = False
                    if self._depth == 0:
                        return place + 1
            elif letter == '"':
                self._in_text = self._has_begun = True
            elif letter in "{[":
                self._depth, self._has_begun = self._depth + 1, True
            elif letter in "}]":
                if self._depth == 0:
                    return place
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
            elif self._depth == 0 and (letter == "," or (letter.isspace() and self._has_begun)):
                return place
            elif not letter.isspace():
                self._has_begun = True
        return None


def _whole_call(text: str, tools: Collection[str]) -> tuple[str, str] | None:
    """(name, arguments) of a call that is one JSON object with its keys in any order; None if it is none."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or call["name"] not in tools:
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
