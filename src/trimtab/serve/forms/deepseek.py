"""DeepSeek V3 and R1: <｜tool▁calls▁begin｜>, then for each call <｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME, its arguments in a block
of ```json, <｜tool▁call▁end｜>; <｜tool▁calls▁end｜>. V3.1: <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>.
"""

import re

from trimtab.serve.forms.base import Delta
from trimtab.serve.forms.json_calls import JsonReader

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_HEAD = re.compile(
    rf"(?:{CALLS}\s*)?{CALL}\s*(?:function\s*{SEPARATOR}\s*([\w.-]+)\s*```(?:json)?\s*|([\w.-]+)\s*{SEPARATOR}\s*)(?=\{{)",
)


class DeepSeekReader(JsonReader):
    openings = (CALLS, CALL)

    def _head(self, is_end: bool) -> list[Delta]:
        found = _HEAD.match(self._buffer)
        name = (found[1] or found[2]) if found is not None else ""
        if found is not None and name in self._tools:
            self._take(found.end())
            return self._expect_arguments(name)
        place = self._buffer.find(CALL_END)
        if place < 0 and not is_end:
            return []
        self._opened = ""
        return self._no_call(len(self._buffer) if place < 0 else place + len(CALL_END))

    def _rest(self, is_end: bool) -> list[Delta]:
        if self._skip(("```", CALL_END, CALLS_END), is_end):
            self._state = self._text
        return []
