"""Mistral: [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or [TOOL_CALLS]name[ARGS]{...} for each call, with [CALL_ID]id between."""

import re

from trimtab.serve.forms.base import Delta, Schemas
from trimtab.serve.forms.json_calls import JsonReader

CALLS, ARGUMENTS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\][\w-]*)?(?:\[ARGS\])?\s*")


class MistralReader(JsonReader):
    openings = (CALLS,)

    def __init__(self, tools: Schemas) -> None:
        super().__init__(tools)
        self._is_named = False

    def _head(self, is_end: bool) -> list[Delta]:
        after = self._buffer[len(CALLS) :]
        bare = after.lstrip()
        self._is_named = False
        if bare[:1] == "[":
            return self._expect_object(self._take(self._buffer.index("[", len(CALLS)) + 1))
        if bare[:1] == "{":
            return self._expect_object(self._take(len(CALLS)))
        named = _NAMED.match(after)
        if named is None:
            return [] if not bare and not is_end else self._only_text()
        rest = after[named.end() :]
        if ARGUMENTS in named[0] and rest[:1] == "{" and named[1] in self._tools:
            self._take(len(CALLS) + named.end())
            self._is_named = True
            return self._expect_arguments(named[1])
        if is_end or (rest and (ARGUMENTS in named[0] or not (ARGUMENTS.startswith(rest) or CALL_ID.startswith(rest)))):
            return self._only_text()
        return []

    def _only_text(self) -> list[Delta]:
        self._opened = ""
        return self._no_call(len(CALLS))

    def _rest(self, is_end: bool) -> list[Delta]:
        if not self._is_named:
            return super()._rest(is_end)
        self._state = self._text
        return []

    def _after(self, is_end: bool) -> list[Delta]:
        """Behind an object of a list: the next one, or the list's end."""
        bare = self._buffer.lstrip()
        if bare[:1] in (",", "{"):
            return self._expect_object(self._take(self._buffer.index(bare[0]) + (bare[0] == ",")))
        if bare or is_end:
            self._buffer, self._state = bare[1:] if bare[:1] == "]" else self._buffer, self._text
        return []
