"""OpenAI's harmony format, of gpt-oss: an answer is a row of messages, each with a header that says for whom it is.

<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>

`analysis` is reasoning; `final`, and `commentary` to nobody (the preamble of calls), are content. The recipient of a call may stand before
the channel too, and the type may stand alone, as chat templates write them. (github.com/openai/harmony, docs/format.md)
"""

import re

from trimtab.serve.forms.base import Delta, Reader, Schemas, first_of
from trimtab.serve.stops import held_back

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
_HEADER = re.compile(
    r"\s*(?:<\|start\|>assistant)?(?:\s*to=([^\s<]+))?\s*<\|channel\|>(analysis|commentary|final)(?:\s*to=([^\s<]+))?"
    r"\s*(?:<\|constrain\|>)?\s*[\w.-]*\s*"
)
_BEGINS_HEADER = (START, CHANNEL, "to=")
_ENDS = (END, CALL, RETURN, START, CHANNEL)
"""The last two begin the next message where a model forgot to end one."""
_BETWEEN = "\n"
"""Between two messages of one kind."""


class HarmonyReader(Reader):
    def __init__(self, tools: Schemas) -> None:
        super().__init__(tools)
        self._state = self._header  # the prompt ends within the first
        self._field = "content"
        self._told: set[str] = set()
        self._lead = ""

    @property
    def is_in_call(self) -> bool:
        return self._state == self._message and self._field == "arguments"

    @property
    def is_in_thought(self) -> bool:
        return self._state == self._message and self._field == "reasoning_content"

    def _header(self, is_end: bool) -> list[Delta]:
        bare = self._buffer.lstrip()
        if not bare and not (is_end and self._buffer):
            return []
        begins = any(bare.startswith(mark) or (mark.startswith(bare) and not is_end) for mark in _BEGINS_HEADER)
        if not begins:  # an answer without channels, as one that is held to a schema
            return self._open("content")
        place, mark = first_of(self._buffer, (MESSAGE, END, CALL, RETURN))
        if not mark and not is_end:
            return []
        found = _HEADER.fullmatch(self._buffer, 0, place) if mark == MESSAGE else None
        header = self._take(place + len(mark) if mark else len(self._buffer))
        if found is None:
            return [*self._open("content"), *self._tell(header)]
        field = "reasoning_content" if found[2] == "analysis" else "content"
        recipient = found[1] or found[3]
        if recipient is None:
            return self._open(field)
        name = recipient.removeprefix("functions.")
        if name not in self._tools:  # nobody's call is text
            return [*self._open(field), *self._tell(header)]
        return [*self._open("arguments"), *self._begin_call(name)]

    def _open(self, field: str) -> list[Delta]:
        self._state, self._field = self._message, field
        self._lead = _BETWEEN if field in self._told else ""
        return []

    def _message(self, is_end: bool) -> list[Delta]:
        place, mark = first_of(self._buffer, _ENDS)
        if mark:
            deltas = self._tell(self._take(place))
            self._state = self._header
            self._take(0 if mark in (START, CHANNEL) else len(mark))
            return deltas
        deltas = self._tell(self._take(len(self._buffer) - (0 if is_end else held_back(self._buffer, _ENDS))))
        if is_end:
            self._state = self._header
        return deltas

    def _tell(self, text: str) -> list[Delta]:
        if not text:
            return []
        if self._field == "arguments":
            return self._more(text)
        text, self._lead = self._lead + text, ""
        self._told.add(self._field)
        return [{self._field: text}]
