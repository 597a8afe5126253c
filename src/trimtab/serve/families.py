"""Reasoning and calls of tools in what models write, by model family: families differ in the marks they put around them.

What a family is shows in its chat template. A model that thinks writes `<think>...</think>` before its answer. Calls are JSON:

hermes    <tool_call>{"name": ..., "arguments": {...}}</tool_call>, each on its own (Hermes, Qwen)
mistral   [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or [TOOL_CALLS]name[ARGS]{...}
llama3    {"name": ..., "parameters": {...}} as the whole answer, after <|python_tag|> or nothing, more behind `;`

A call goes out as it comes: its name once that is complete, then the arguments as they are written. What only looks like a call is text.
"""

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from trimtab.serve.stops import held_back

THINK, THOUGHT = "<think>", "</think>"
PYTHON_TAG = "<|python_tag|>"
Delta = dict[str, Any]
"""A part of a chat's `delta`: content, reasoning_content or tool_calls."""
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)')
_NAMED_HEAD = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\][\w-]*)?\[ARGS\]\s*(?=\S)")
_BETWEEN = " \t\r\n,;]}"


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a model marks things. opening: before a call, empty = a call begins with its brace; closing: after it

    marks: texts that are single tokens of the vocabulary and would be left out of a text otherwise
    """

    name: str
    opening: str = ""
    closing: str = ""
    marks: tuple[str, ...] = ()


PLAIN = Family(name="plain")
HERMES = Family(name="hermes", opening="<tool_call>", closing="</tool_call>", marks=("<tool_call>", "</tool_call>"))
MISTRAL = Family(name="mistral", opening="[TOOL_CALLS]", marks=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"))
LLAMA3 = Family(name="llama3", marks=(PYTHON_TAG,))
BARE = Family(name="bare")
"""A call and nothing else, as an answer that is held to the schema of a call."""


def family_of(template: str) -> Family:
    """The family whose calls a chat template shows; PLAIN if it shows none that is known."""
    if "<tool_call>" in template and "<function=" not in template:
        return HERMES
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if PYTHON_TAG in template or ('"parameters"' in template and "ipython" in template):
        return LLAMA3
    return PLAIN


def thinks(template: str) -> bool:
    """Whether the model marks its reasoning."""
    return THOUGHT in template or THINK in template


def takes_tools(template: str) -> bool:
    """Whether a chat template shows tools to the model."""
    return re.search(r"\btools\b", template) is not None


class AnswerReader:
    """The text of one answer, in pieces, to deltas. `push` what comes, then `finish`.

    tools: names of the functions that may be called; none = calls are text
    in_thought: the prompt ends inside reasoning; may_think: reasoning may come first
    """

    def __init__(self, family: Family, *, tools: Collection[str] = (), in_thought: bool = False, may_think: bool = False) -> None:
        self._family = family
        self._tools = frozenset(tools)
        self._state = "thought" if in_thought else "start" if may_think else "text"
        self._buffer = ""
        self._calls = 0
        self._json: JsonEnd | None = None
        self._is_fresh = True  # nothing of the thought or the text that follows has gone out

    @property
    def n_calls(self) -> int:
        """Calls that have begun."""
        return self._calls

    @property
    def is_in_call(self) -> bool:
        """A call has begun and its arguments have not ended."""
        return self._state == "arguments"

    @property
    def is_in_thought(self) -> bool:
        return self._state == "thought"

    def push(self, text: str) -> list[Delta]:
        """Take the next piece of text."""
        self._buffer += text
        return self._run(is_end=False)

    def finish(self) -> list[Delta]:
        """The rest, once no more text comes."""
        return self._run(is_end=True)

    def _run(self, *, is_end: bool) -> list[Delta]:
        deltas: list[Delta] = []
        while True:
            before = (self._state, len(self._buffer))
            step = getattr(self, f"_{self._state}")
            deltas += step(is_end)
            if (self._state, len(self._buffer)) == before or not (self._buffer or is_end):
                return deltas

    # States. Each takes what it can from the buffer and may change the state.

    def _start(self, is_end: bool) -> list[Delta]:
        bare = self._buffer.lstrip()
        if bare.startswith(THINK):
            self._buffer, self._state = bare[len(THINK) :], "thought"
        elif is_end or (bare and not THINK.startswith(bare)):
            self._state = "text"
        return []

    def _thought(self, is_end: bool) -> list[Delta]:
        if self._is_fresh:
            self._buffer = self._buffer.lstrip("\n")
        place = self._buffer.find(THOUGHT)
        if place >= 0:
            passed, self._buffer = self._buffer[:place].rstrip("\n"), self._buffer[place + len(THOUGHT) :]
            self._state, self._is_fresh = "gap", True
        else:
            passed = self._take(0 if is_end else self._waiting((THOUGHT,)))
        self._is_fresh = self._is_fresh and not passed
        return [{"reasoning_content": passed}] if passed else []

    def _gap(self, is_end: bool) -> list[Delta]:
        """Empty lines between reasoning and answer."""
        self._buffer = self._buffer.lstrip("\n")
        if self._buffer or is_end:
            self._state, self._is_fresh = "text", True
        return []

    def _text(self, is_end: bool) -> list[Delta]:
        family, passed = self._family, ""
        if not self._tools or family is PLAIN:
            passed = self._take(0)
        elif family.opening:
            place = self._buffer.find(family.opening)
            if place >= 0:
                passed, self._buffer = self._buffer[:place].rstrip(), self._buffer[place + len(family.opening) :]
                self._state = "head"
            else:
                passed = self._take(0 if is_end else self._waiting((family.opening,)))
        elif self._is_fresh or self._calls:
            bare = self._buffer.lstrip(_BETWEEN if self._calls else None)
            if bare.removeprefix(PYTHON_TAG).startswith("{"):
                bare = bare.removeprefix(PYTHON_TAG)
                self._buffer, self._state = bare, "head"
            elif is_end or not PYTHON_TAG.startswith(bare):
                passed = self._take(0)
        else:
            passed = self._take(0)
        if self._calls and not passed.strip():
            return []  # space between calls, or after the last
        self._is_fresh = self._is_fresh and not passed
        return [{"content": passed}] if passed else []

    def _head(self, is_end: bool) -> list[Delta]:
        """A call up to its arguments."""
        text = self._buffer.lstrip(" \t\r\n[,") if self._family is MISTRAL else self._buffer
        found = _HEAD.match(text) or (_NAMED_HEAD.match(text) if self._family is MISTRAL else None)
        if found is not None and found[1] in self._tools:
            self._buffer, self._state, self._json = text[found.end() :], "arguments", JsonEnd()
            index, self._calls = self._calls, self._calls + 1
            function = {"name": found[1], "arguments": ""}
            return [{"tool_calls": [{"index": index, "id": new_call_id(), "type": "function", "function": function}]}]
        if found is None and not is_end and not self._is_no_call(text):
            return []
        return self._odd_call()

    def _is_no_call(self, text: str) -> bool:
        """Whether no more text can make a call of this."""
        if self._family.closing:
            return self._family.closing in text
        bare = text.lstrip()
        if bare.startswith("{"):
            end = JsonEnd()
            return end.push(bare) is not None
        return self._family is MISTRAL and bool(bare) and re.match(r"[\w.-]+\s*(\[|$)", bare) is None

    def _odd_call(self) -> list[Delta]:
        """What stands where a call should, in another order of keys than usual, or not a call at all."""
        family, text = self._family, self._buffer
        inner, closing, rest = text.partition(family.closing) if family.closing else (text, "", "")
        made = _whole_call(inner, self._tools)
        self._state = "text"
        if made is not None:
            name, arguments, used = made
            self._buffer = rest if closing else inner[used:]
            index, self._calls = self._calls, self._calls + 1
            function = {"name": name, "arguments": arguments}
            return [{"tool_calls": [{"index": index, "id": new_call_id(), "type": "function", "function": function}]}]
        self._buffer, self._is_fresh = rest, False
        return [{"content": f"{family.opening}{inner}{closing}"}]

    def _arguments(self, is_end: bool) -> list[Delta]:
        assert self._json is not None
        length = self._json.push(self._buffer)
        passed = self._take(0) if length is None else self._buffer[:length]
        if length is not None:
            self._buffer, self._state = self._buffer[length:], "after"
        if is_end and length is None:
            self._state = "text"
        return [{"tool_calls": [{"index": self._calls - 1, "function": {"arguments": passed}}]}] if passed else []

    def _after(self, is_end: bool) -> list[Delta]:
        """What follows the arguments: the brace and the mark that close the call."""
        family = self._family
        bare = self._buffer.lstrip(_BETWEEN)
        if family.closing:
            if bare.startswith(family.closing):
                self._buffer, self._state = bare[len(family.closing) :], "text"
            elif is_end or (bare and not family.closing.startswith(bare)):
                self._buffer, self._state = bare, "text"
        elif family is MISTRAL and bare[:1] == "{":
            self._buffer, self._state = bare, "head"
        elif bare or is_end:
            self._buffer, self._state = bare, "text"
        return []

    def _waiting(self, marks: Collection[str]) -> int:
        """Characters at the end of the buffer that may belong to a mark, with the space before it."""
        keep = held_back(self._buffer, marks)
        rest = self._buffer[: len(self._buffer) - keep]
        return keep + len(rest) - len(rest.rstrip())

    def _take(self, keep: int) -> str:
        cut = len(self._buffer) - keep
        passed, self._buffer = self._buffer[:cut], self._buffer[cut:]
        return passed


class JsonEnd:
    """Finds the end of a JSON value that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._is_escaped = False
        self._has_begun = False

    def push(self, piece: str) -> int | None:
        """How many characters of the piece belong to the value, if it ends in it; else None."""
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


def _whole_call(text: str, tools: Collection[str]) -> tuple[str, str, int] | None:
    """(name, arguments, characters used) of a call that is one JSON object with its keys in any order; None if it is none."""
    start = len(text) - len(text.lstrip(" \t\r\n["))
    try:
        call, used = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or call.get("name") not in tools:
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False), used


def new_call_id() -> str:
    """An id for a call, which the client gives back with its result."""
    return f"call_{uuid.uuid4().hex[:24]}"
