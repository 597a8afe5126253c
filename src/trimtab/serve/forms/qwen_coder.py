"""Qwen3-Coder, and Qwen 3.5 after it. Values are written plainly; what they are says the schema of the function's arguments:

<tool_call>
<function=NAME>
<parameter=KEY>
value
</parameter>
</function>
</tool_call>

A value that is a string goes out as it is written, any other once it is complete. The models leave out <tool_call> at times.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from trimtab.serve.forms.base import Delta, Reader, Schemas
from trimtab.serve.stops import held_back

CALL, CALL_END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
_HEAD = re.compile(r"(?:<tool_call>\s*)?<function=([^<>\n]*)>\s*(?=<parameter=|</function>)")
_KEY = re.compile(r"<parameter=([^>]*)>")
# A mark inside a value is told from its end by what follows.
_VALUE_END = re.compile(r"\n?</parameter>\s*(?=<parameter=|</function>)")
_LAST_END = re.compile(r"\n?</parameter>\s*\Z")
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class QwenCoderReader(Reader):
    openings = (CALL, FUNCTION)

    def __init__(self, tools: Schemas) -> None:
        super().__init__(tools)
        self._properties: Mapping[str, Any] = {}
        self._schema: Any = None
        self._between = ""  # what stands between the arguments so far and the next key
        self._is_first = True

    @property
    def is_in_call(self) -> bool:
        return self._state in (self._parameters, self._string, self._value)

    def _head(self, is_end: bool) -> list[Delta]:
        found = _HEAD.match(self._buffer)
        if found is not None and found[1] in self._tools:
            self._take(found.end())
            properties = self._tools[found[1]].get("properties")
            self._properties = properties if isinstance(properties, Mapping) else {}
            self._between, self._state = "{", self._parameters
            return self._begin_call(found[1])
        if found is None and not is_end and _may_become_head(self._buffer):
            return []
        self._state = self._text
        return self._said(self._take(len(CALL if self._buffer.startswith(CALL) else FUNCTION)))

    def _parameters(self, is_end: bool) -> list[Delta]:
        """Before a parameter, or the function's end: one of them stands at the front, with space before it."""
        bare = self._buffer.lstrip()
        if found := _KEY.match(bare):
            self._buffer = bare[found.end() :]
            self._schema = self._properties.get(found[1])
            is_string = kinds_of(self._schema) <= {"string"}
            self._state, self._is_first = self._string if is_string else self._value, True
            opened, self._between = self._between, ", "
            return self._more(f'{opened}"{_escaped(found[1])}": ' + ('"' if is_string else ""))
        if bare.startswith(FUNCTION_END):
            self._buffer, self._state = bare[len(FUNCTION_END) :], self._after
            return self._more("{}" if self._between == "{" else "}")
        if is_end:
            self._state = self._text
        return []

    def _string(self, is_end: bool) -> list[Delta]:
        if not self._drop_first_line_break(is_end):
            return []
        text, has_ended = self._value_so_far(is_end)
        return self._more(_escaped(text) + ('"' if has_ended else ""))

    def _value(self, is_end: bool) -> list[Delta]:
        if not self._drop_first_line_break(is_end):
            return []
        if not is_end and _VALUE_END.search(self._buffer) is None:
            return []
        text, has_ended = self._value_so_far(is_end)
        return self._more(as_json(text, self._schema) if has_ended else text)

    def _drop_first_line_break(self, is_end: bool) -> bool:
        """Every value is on lines of its own. False: it cannot be seen yet."""
        if self._is_first and self._buffer:
            self._buffer, self._is_first = self._buffer.removeprefix("\n"), False
        return not self._is_first or is_end

    def _value_so_far(self, is_end: bool) -> tuple[str, bool]:
        """What of the value can be told, and whether that was its last."""
        found = _VALUE_END.search(self._buffer) or (_LAST_END.search(self._buffer) if is_end else None)
        if found is None:
            if is_end:
                self._state = self._text
            return self._take(len(self._buffer) if is_end else _told_length(self._buffer)), False
        text = self._take(found.start())
        self._take(found.end() - found.start())
        self._state = self._parameters
        return text, True

    def _after(self, is_end: bool) -> list[Delta]:
        if self._skip((CALL_END,), is_end):
            self._state = self._text
        return []


def _may_become_head(text: str) -> bool:
    """Whether more text can make this a call."""
    rest = text[len(CALL) :].lstrip() if text.startswith(CALL) else text
    if not rest.startswith(FUNCTION):
        return FUNCTION.startswith(rest)
    name, ends, inside = rest[len(FUNCTION) :].partition(">")
    if not ends:
        return "<" not in name and "\n" not in name
    return "<" not in name and "\n" not in name and any(mark.startswith(inside.lstrip()) for mark in (PARAMETER, FUNCTION_END))


def _told_length(text: str) -> int:
    """How much of a value that has not ended surely belongs to it."""
    place = text.rfind(PARAMETER_END)
    if place >= 0:
        follows = text[place + len(PARAMETER_END) :].lstrip()
        if any(mark.startswith(follows) for mark in (PARAMETER, FUNCTION_END)):
            return place - (text[place - 1 : place] == "\n")
    return len(text) - held_back(text, ("\n" + PARAMETER_END, PARAMETER_END))


def _escaped(text: str) -> str:
    """A text as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def kinds_of(schema: Any) -> set[str]:
    """The JSON types that a schema allows; empty where it says nothing of them. A reference may be of any."""
    if not isinstance(schema, Mapping):
        return set()
    given = schema.get("type")
    found = {given} if isinstance(given, str) else {str(one) for one in _listed(given)}
    for one in (*_listed(schema.get("anyOf")), *_listed(schema.get("oneOf"))):
        found |= kinds_of(one) or {"any"}
    if not found and {"$ref", "allOf", "properties", "items"} & schema.keys():
        return {"any"}
    if not found and ("enum" in schema or "const" in schema):
        return {_kind(value) for value in (*_listed(schema.get("enum")), *([schema["const"]] if "const" in schema else []))}
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_json(text: str, schema: Any) -> str:
    """The JSON of a value that was written plainly: as it is where that is JSON of a type that the schema allows, else a string."""
    bare, kinds = text.strip(), kinds_of(schema)
    may_be_string = "string" in kinds
    if not may_be_string:
        bare = _PYTHON_WORDS.get(bare, bare)
    try:
        kind = _kind(json.loads(bare, parse_constant=_refused))
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    fits = kind != "string" and (kind in kinds or (kind == "integer" and "number" in kinds))
    return bare if fits or not may_be_string else json.dumps(text, ensure_ascii=False)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
