"""Guards over what a model answers: each choice of an answer is one text, and a stream of it is held back only as far as a guard needs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from trimtab.core.guarding import Verdict

BLOCKED = "content_filter"
"""The finish reason that OpenAI's clients know for an answer that a filter ended."""


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


class AnswerScreen:
    """The choices of one answer, chat or completion, streamed or whole. open_screen makes the reading of one choice's text."""

    def __init__(self, open_screen: Callable[[], Screen]) -> None:
        self._open_screen = open_screen
        self._screens: dict[int, Screen] = {}
        self._ended: set[int] = set()

    @property
    def verdicts(self) -> list[Verdict]:
        """Of all choices, in order."""
        return [verdict for index in sorted(self._screens) for verdict in self._screens[index].verdicts]

    @property
    def all_blocked(self) -> bool:
        """Whether nothing of this answer can go out any more."""
        return bool(self._screens) and all(screen.blocked is not None for screen in self._screens.values())

    def push(self, chunk: Mapping[str, Any]) -> dict[str, Any] | None:
        """The chunk as it may go out; None if nothing of it may, or nothing yet."""
        choices = [seen for choice in chunk.get("choices") or () if (seen := self._choice(choice)) is not None]
        if chunk.get("choices") and not choices:
            return None
        return {**chunk, "choices": choices}

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """A whole answer as it may go out. A blocked choice keeps its place and loses its text."""
        return {**answer, "choices": [self._whole_choice(choice) for choice in answer.get("choices") or ()]}

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any] | None:
        index = choice.get("index", 0)
        if index in self._ended:
            return None
        screen = self._screen(index)
        text = _text(choice, "delta")
        passed = screen.push(text) if text else ""
        finish = choice.get("finish_reason")
        if finish and screen.blocked is None:
            passed += screen.finish()
        if screen.blocked is not None:
            self._ended.add(index)
            return _with_text({**choice, "finish_reason": BLOCKED}, "delta", passed)
        is_empty = bool(text) and not passed and not finish and not _says_more(choice)
        return None if is_empty else _with_text(choice, "delta", passed) if text or passed else dict(choice)

    def _whole_choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        screen = self._screen(choice.get("index", 0))
        text = _text(choice, "message")
        passed = screen.push(text) if text else ""
        if screen.blocked is None:
            passed += screen.finish()
        if screen.blocked is not None:
            bare = {"message": {"role": "assistant"}} if "message" in choice else {}
            return _with_text({**choice, **bare, "finish_reason": BLOCKED, "logprobs": None}, "message", "")
        return _with_text(choice, "message", passed) if text else dict(choice)

    def _screen(self, index: int) -> Screen:
        if index not in self._screens:
            self._screens[index] = self._open_screen()
        return self._screens[index]


def _text(choice: Mapping[str, Any], part: str) -> str:
    """What a reader of the choice reads: `text` of a completion, `content` of a chat's `delta` or `message`."""
    return str((choice["text"] if "text" in choice else (choice.get(part) or {}).get("content")) or "")


def _with_text(choice: Mapping[str, Any], part: str, text: str) -> dict[str, Any]:
    """The choice with another text. Log-probabilities name the tokens of the first text, so they go with it."""
    changed: dict[str, Any] = {"text": text} if "text" in choice else {part: {**(choice.get(part) or {}), "content": text}}
    if text != _text(choice, part) and choice.get("logprobs"):
        changed["logprobs"] = None
    return {**choice, **changed}


def _says_more(choice: Mapping[str, Any]) -> bool:
    """Whether a chat's delta holds anything beside its content."""
    return any(value for key, value in (choice.get("delta") or {}).items() if key != "content")
