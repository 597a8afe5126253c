"""Tokens of one choice to what a client reads of it, piece by piece or as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.engines.base import TokenEvent
from trimtab.serve.base import Refusal
from trimtab.serve.chat import TokenLogprob, chat_logprobs, completion_logprobs
from trimtab.serve.families import AnswerReader
from trimtab.serve.forms.base import Delta
from trimtab.serve.stops import StopScan
from trimtab.serve.wishes import Wish


@dataclass(kw_only=True)
class Piece:
    """What some tokens added to a choice. finish: why it ended, empty while it goes on"""

    delta: Delta = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.delta or self.logprobs or self.finish)


class ChoiceReader:
    """Reads the events of one choice.

    kind: of the answer; names: texts of single tokens, for log-probabilities; is_whole: the answer is given in one piece, at its end
    n_tokens: tokens so far; n_reasoning: those of them that are reasoning; n_cached: of its prompt, as the engine tells
    """

    def __init__(
        self,
        index: int,
        kind: Literal["chat", "completion"],
        wish: Wish,
        reader: AnswerReader,
        names: Mapping[int, str],
        *,
        is_whole: bool = False,
    ) -> None:
        self.index, self.kind, self.is_whole = index, kind, is_whole
        self.n_tokens = self.n_reasoning = self.n_cached = 0
        self.wish, self._reader, self._names = wish, reader, names
        self._stops = StopScan(wish.stops)
        self._n_raw = self._n_passed = 0
        self._logprobs: list[TokenLogprob] = []
        self._pieces: list[Piece] = []
        self._has_begun = False
        self.has_ended = False

    @property
    def wants_names(self) -> bool:
        """Whether the texts of single tokens will be needed."""
        return self.wish.logprobs is not None

    def push(self, events: Sequence[TokenEvent]) -> Piece:
        """Take the next events, one or more. Raises Refusal if the engine gave up."""
        deltas: list[Delta] = []
        done, calls_over = "", False
        for event in events:
            if event.done == "error":
                raise Refusal(500, f"The engine gave up: {event.error}", code="engine_error", retry_after_s=1)
            self.n_cached += event.cached
            if event.token_id is not None:
                self.n_tokens += 1
                self.n_reasoning += self._reader.is_in_thought
                if self.wants_names:
                    self._note_logprob(event)
            self._n_raw += len(event.text)
            passed = self._stops.push(event.text)
            self._n_passed += len(passed)
            deltas += self._reader.push(passed) if passed else []
            calls_over = self.wish.one_call and self._reader.n_calls == 1 and not self._reader.is_in_call
            done = event.done
            if done or self._stops.has_stopped or calls_over:
                break
        finish = ""
        if done or self._stops.has_stopped or calls_over:
            if not calls_over:
                rest = self._stops.finish()
                self._n_passed += len(rest)
                deltas += [*self._reader.push(rest), *self._reader.finish()]
            finish = self._finish("" if self._stops.has_stopped or calls_over else done)
        self.has_ended = bool(finish)
        piece = Piece(delta=merged(deltas), logprobs=self._told_logprobs(is_end=self.has_ended), finish=finish)
        if self.is_whole:
            self._pieces.append(piece)
        return piece

    def _finish(self, done: str) -> str:
        if done == "length":
            return "length"
        return "tool_calls" if self._reader.n_calls and not self._reader.is_in_call else "stop"

    def _note_logprob(self, event: TokenEvent) -> None:
        wanted = self.wish.logprobs
        if wanted is None or event.logprob is None or event.token_id is None or event.done == "stop":
            return
        top = tuple((self._names[token], logprob) for token, logprob in event.top[:wanted])
        self._logprobs.append(TokenLogprob(self._names[event.token_id], event.logprob, top, self._n_raw))

    def _told_logprobs(self, *, is_end: bool) -> list[TokenLogprob]:
        """Those whose text went out. What a stop string swallowed is never told."""
        if not self._logprobs:
            return []
        if is_end and not self._stops.has_stopped:
            told, self._logprobs = self._logprobs, []
            return told
        told = [one for one in self._logprobs if one.start < self._n_passed]
        self._logprobs = self._logprobs[len(told) :]
        return told

    # What clients read

    def chunk_choice(self, piece: Piece) -> dict[str, Any]:
        """A choice of a chunk of a stream."""
        finish = piece.finish or None
        if self.kind == "completion":
            text = piece.delta.get("content", "")
            return {"index": self.index, "text": text, "logprobs": self._logprobs_of(piece), "finish_reason": finish}
        first = {} if self._has_begun else {"role": "assistant", "content": ""}
        self._has_begun = True
        return {"index": self.index, "delta": {**first, **piece.delta}, "logprobs": self._logprobs_of(piece), "finish_reason": finish}

    def whole_choice(self) -> dict[str, Any]:
        """The choice of a whole answer."""
        whole = Piece(
            delta=merged([piece.delta for piece in self._pieces]),
            logprobs=[one for piece in self._pieces for one in piece.logprobs],
            finish=self._pieces[-1].finish,
        )
        if self.kind == "completion":
            text = whole.delta.get("content", "")
            return {"index": self.index, "text": text, "logprobs": self._logprobs_of(whole), "finish_reason": whole.finish}
        calls = whole.delta.get("tool_calls")
        content = whole.delta.get("content")
        message: dict[str, Any] = {"role": "assistant", "content": content if calls else content or "", "refusal": None}
        if calls:
            message["tool_calls"] = [{key: value for key, value in call.items() if key != "index"} for call in calls]
        if "reasoning_content" in whole.delta:
            message["reasoning_content"] = whole.delta["reasoning_content"]
        return {"index": self.index, "message": message, "logprobs": self._logprobs_of(whole), "finish_reason": whole.finish}

    def _logprobs_of(self, piece: Piece) -> dict[str, Any] | None:
        if self.wish.logprobs is None or not piece.logprobs:
            return None
        return chat_logprobs(piece.logprobs) if self.kind == "chat" else completion_logprobs(piece.logprobs)


def merged(deltas: Sequence[Delta]) -> Delta:
    """Deltas as one: texts joined, calls by their index."""
    if len(deltas) == 1:
        return deltas[0]
    found: Delta = {}
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for name in ("reasoning_content", "content"):
            if name in delta:
                found[name] = found.get(name, "") + delta[name]
        for call in delta.get("tool_calls", ()):
            known = calls.get(call["index"])
            if known is None:
                calls[call["index"]] = {**call, "function": dict(call["function"])}
            else:
                known["function"]["arguments"] += call["function"]["arguments"]
    if calls:
        found["tool_calls"] = list(calls.values())
    return found
