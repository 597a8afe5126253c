"""Hermes, Qwen 2.5 and 3: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, each call on its own."""

from trimtab.serve.forms.base import Delta
from trimtab.serve.forms.json_calls import JsonReader

CALL, CALL_END = "<tool_call>", "</tool_call>"


class HermesReader(JsonReader):
    openings = (CALL,)

    def _head(self, is_end: bool) -> list[Delta]:
        return self._expect_object(self._take(len(CALL)))

    def _after(self, is_end: bool) -> list[Delta]:
        if self._skip((CALL_END,), is_end):
            self._state = self._text
        return []
