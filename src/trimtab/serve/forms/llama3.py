"""Llama 3: {"name": ..., "parameters": {...}} as the whole answer, after <|python_tag|> or nothing, more behind `;`."""

import re

from trimtab.serve.forms.base import Delta, Schemas
from trimtab.serve.forms.json_calls import JsonReader

PYTHON_TAG = "<|python_tag|>"
_FIRST = re.compile(r"\s*(<\|python_tag\|>\s*)?")
_NEXT = re.compile(r"[\s;,]*(<\|python_tag\|>\s*)?")


class Llama3Reader(JsonReader):
    def __init__(self, tools: Schemas) -> None:
        super().__init__(tools)
        if tools:
            self._state = self._after

    def _after(self, is_end: bool) -> list[Delta]:
        """Where a call may stand: at the beginning, and behind another. All that follows something else is text."""
        found = (_NEXT if self._calls else _FIRST).match(self._buffer)
        assert found is not None
        rest = self._buffer[found.end() :]
        if rest[:1] == "{":
            return self._expect_object(self._take(found.end()))
        if is_end or (rest and (found[1] or not PYTHON_TAG.startswith(rest))):
            self._state = self._text
        return []
