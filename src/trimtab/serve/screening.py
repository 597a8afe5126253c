"""Guards over what a model answers: the text, the reasoning and the arguments of calls, held back in a stream only as far as a guard needs.

Each is a text of its own. One is open at a time, in the order in which the model writes them: where another begins, what was held back of
the one before goes out first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Protocol

from trimtab.core.guarding import Verdict
from trimtab.serve.arguments import Arguments, BreaksJson, Replaced

BLOCKED = "content_filter"
"""The finish reason that OpenAI's clients know for an answer that a filter ended."""
FIELDS = ("reasoning_content", "reasoning", "content", "refusal")
"""Fields of a chat's `delta` or `message` that are shown to people, in the order in which models write them."""
BREAKS = "taking it out would break the JSON of a call's arguments"
Where = str | int
"""A text of a choice: its field, or the index of its call."""


class Screen(Protocol):
    """A guard's reading of one text that comes in pieces."""

    blocked: Verdict | None

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """So far."""

    def push(self, text: str) -> str:
        """Take the next piece; returns what may go out now."""

    def finish(self) -> str:
        """Take the end; returns the rest that may go out."""

    def push_parts(self, text: str) -> Sequence[Replaced]:
        """As `push`, in parts: which characters went out, and which were replaced."""

    def finish_parts(self) -> Sequence[Replaced]:
        """As `finish`, in parts."""


class AnswerScreen:
    """The choices of one answer, chat or completion, streamed or whole. open_screen makes the reading of one text."""

    def __init__(self, open_screen: Callable[[], Screen]) -> None:
        self._open_screen = open_screen
        self._choices: dict[int, _ChoiceScreen] = {}

    @property
    def verdicts(self) -> list[Verdict]:
        """Of all choices, in order."""
        return [verdict for index in sorted(self._choices) for verdict in self._choices[index].verdicts]

    @property
    def all_blocked(self) -> bool:
        """Whether nothing of this answer can go out any more."""
        return bool(self._choices) and all(one.is_blocked for one in self._choices.values())

    def push(self, chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The chunk as it may go out: none if nothing of it may, or nothing yet; several where a text that was held back goes out first."""
        if not chunk.get("choices"):
            return [dict(chunk)]
        passed = [self._of(choice).push(choice) for choice in chunk["choices"]]
        return [{**chunk, "choices": [one for one in row if one is not None]} for row in zip_longest(*passed)]

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer as it may go out. A blocked choice keeps its place and loses all that it says."""
        choices = [self._of(choice).whole(choice) for choice in answer.get("choices") or ()]
        return {**answer, "choices": choices} if choices else dict(answer)

    def _of(self, choice: Mapping[str, Any]) -> "_ChoiceScreen":
        return self._choices.setdefault(choice.get("index", 0), _ChoiceScreen(self._open_screen))


class _ChoiceScreen:
    """The texts of one choice."""

    def __init__(self, open_screen: Callable[[], Screen]) -> None:
        self._open_screen = open_screen
        self._ended: list[Verdict] = []  # verdicts on texts before the open one
        self._arguments: dict[int, Arguments] = {}
        self._open: _Text | None = None
        self.is_blocked = False

    @property
    def verdicts(self) -> list[Verdict]:
        return [*self._ended, *(self._open.verdicts if self._open is not None else ())]

    def push(self, choice: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Choices of chunks that may go out now, one after the other."""
        if self.is_blocked:
            return []
        ready: list[dict[str, Any]] = []
        passed: dict[Where, str] = {}
        texts = _texts(choice, "delta")
        finish = choice.get("finish_reason")
        for where, text in texts.items():
            rest = self._turn_to(where)
            if rest is not None and rest[1]:
                ready.append(_only(choice, *rest))
            passed[where] = self._passed(text)
            if self.is_blocked:
                break
        if finish and self._open is not None and not self.is_blocked:
            where, held = self._open.where, self._open.finish()
            self.is_blocked = self._open.is_blocked
            if where in passed:
                passed[where] += held
            elif held and not self.is_blocked:
                ready.append(_only(choice, where, held))
        if self.is_blocked:
            return [*ready, _blocked(choice, "delta")]
        if any(texts.values()) and not any(passed.values()) and not finish and not _says_more(choice):
            return ready
        return [*ready, _with_texts(choice, "delta", texts, passed)]

    def whole(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        texts = _texts(choice, "message")
        passed: dict[Where, str] = {}
        for where, text in texts.items():
            rest = self._turn_to(where)
            if rest is not None:
                passed[rest[0]] += rest[1]
            passed[where] = self._passed(text)
            if self.is_blocked:
                break
        if self._open is not None and not self.is_blocked:
            passed[self._open.where] += self._open.finish()
            self.is_blocked = self._open.is_blocked
        return _blocked(choice, "message") if self.is_blocked else _with_texts(choice, "message", texts, passed)

    def _passed(self, text: str) -> str:
        """What of the open text may go out after this piece."""
        if self._open is None or self.is_blocked or not text:
            return ""
        out = self._open.push(text)
        self.is_blocked = self._open.is_blocked
        return out

    def _turn_to(self, where: Where) -> tuple[Where, str] | None:
        """Open this text. The rest of the one that was open, if another was."""
        before = self._open
        if before is not None and before.where == where:
            return None
        rest = None
        if before is not None:
            rest = before.where, before.finish()
            self.is_blocked = before.is_blocked
            if self.is_blocked:
                return None
            self._ended += before.verdicts
        arguments = self._arguments.setdefault(where, Arguments()) if isinstance(where, int) else None
        if arguments is not None:
            arguments.again()
        self._open = _Text(where, self._open_screen(), arguments)
        return rest


@dataclass
class _Text:
    """One text under the guards. arguments: the JSON that it is, None for plain text."""

    where: Where
    screen: Screen
    arguments: Arguments | None = None
    broken: Verdict | None = None

    @property
    def is_blocked(self) -> bool:
        return self.broken is not None or self.screen.blocked is not None

    @property
    def verdicts(self) -> list[Verdict]:
        return [*self.screen.verdicts, *([self.broken] if self.broken is not None else [])]

    def push(self, text: str) -> str:
        if self.arguments is None:
            return self.screen.push(text)
        return self._written(self.screen.push_parts(self.arguments.read(text)))

    def finish(self) -> str:
        if self.arguments is None:
            return self.screen.finish()
        return self._written([*self.screen.push_parts(self.arguments.read("", is_end=True)), *self.screen.finish_parts()])

    def _written(self, parts: Sequence[Replaced]) -> str:
        assert self.arguments is not None
        if self.screen.blocked is not None:
            return ""
        try:
            return self.arguments.written(parts)
        except BreaksJson as error:
            finding = replace(error.finding, reason=f"{error.finding.reason}; {BREAKS}")
            self.broken = Verdict(guard=finding.rule.partition(".")[0], side="out", action="block", findings=(finding,))
            return ""


def _texts(choice: Mapping[str, Any], part: str) -> dict[Where, str]:
    """What a choice says: `text` of a completion, the fields of a chat's `delta` or `message`, and the arguments of its calls."""
    if "text" in choice:
        return {"text": str(choice["text"])} if choice["text"] else {}
    said = choice.get(part) or {}
    texts: dict[Where, str] = {name: str(said[name]) for name in FIELDS if said.get(name)}
    for index, call in _calls(said):
        # A call that only has a name yet counts as one too: what was held back before it goes out first.
        texts[index] = texts.get(index, "") + str((call.get("function") or {}).get("arguments") or "")
    return texts


def _calls(said: Mapping[str, Any]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """Calls of a delta by their index, of a message by their place."""
    return ((call.get("index", place), call) for place, call in enumerate(said.get("tool_calls") or ()))


def _with_texts(choice: Mapping[str, Any], part: str, texts: Mapping[Where, str], passed: Mapping[Where, str]) -> dict[str, Any]:
    """The choice with other texts. Log-probabilities name the tokens of the first ones, so they go with them."""
    found = dict(choice)
    if choice.get("logprobs") and (texts != passed or not any(texts.values())):
        found["logprobs"] = None
    if "text" in choice:
        return {**found, "text": passed.get("text", "")}
    said = dict(choice.get(part) or {})
    for name in FIELDS:
        if name in texts:
            said[name] = passed[name]
    if said.get("tool_calls"):
        said["tool_calls"] = _with_arguments(said, passed)
    return {**found, part: said} if part in choice else found


def _with_arguments(said: Mapping[str, Any], passed: Mapping[Where, str]) -> list[dict[str, Any]]:
    calls = []
    left = dict(passed)
    for index, call in _calls(said):
        function = call.get("function") or {}
        arguments = left.pop(index, "")
        if "arguments" in function or arguments:
            call = {**call, "function": {**function, "arguments": arguments}}
        calls.append(dict(call))
    return calls


def _only(choice: Mapping[str, Any], where: Where, text: str) -> dict[str, Any]:
    """A choice of a chunk that says this and nothing else."""
    bare = {**choice, "finish_reason": None, **({"logprobs": None} if "logprobs" in choice else {})}
    if where == "text":
        return {**bare, "text": text}
    said = {"tool_calls": [{"index": where, "function": {"arguments": text}}]} if isinstance(where, int) else {where: text}
    return {**bare, "delta": said}


def _blocked(choice: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The end of a choice that a guard ended: nothing that it says."""
    role = {"role": "assistant"} if part == "message" else {}
    said: dict[str, Any] = {"text": ""} if "text" in choice else {part: {**role, "content": ""}}
    return {**choice, **said, "finish_reason": BLOCKED, "logprobs": None}


def _says_more(choice: Mapping[str, Any]) -> bool:
    """Whether a chat's delta holds anything beside texts: a role, or a call's id and name."""
    said = choice.get("delta") or {}
    if any(value for key, value in said.items() if key not in (*FIELDS, "tool_calls")):
        return True
    return any(call.get("id") or (call.get("function") or {}).get("name") for _, call in _calls(said))
