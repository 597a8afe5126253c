"""Answers of chats and plain completions in OpenAI's form: chunks of a stream, and whole answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.serve.base import Usage


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What all chunks of one answer share. fingerprint: of the deployment that answers; created: seconds since 1970"""

    id: str
    model: str
    created: int
    fingerprint: str
    kind: Literal["chat", "completion"] = "chat"
    usage_follows: bool = False
    """The stream ends with a chunk of usage, and the chunks before it say that they have none."""

    def chunk(self, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A chunk of a stream."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return {**self._head(name), "choices": choices, **({"usage": None} if self.usage_follows else {})}

    def usage_chunk(self, usage: Usage, n_reasoning: int = 0) -> dict[str, Any]:
        """The last chunk of a stream whose client wants to know the usage."""
        return {**self.chunk([]), "usage": usage_object(usage, n_reasoning)}

    def whole(self, choices: Sequence[Mapping[str, Any]], usage: Usage, n_reasoning: int = 0) -> dict[str, Any]:
        """An answer in one piece."""
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self._head(name), "choices": choices, "usage": usage_object(usage, n_reasoning)}

    def _head(self, name: str) -> dict[str, Any]:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model, "system_fingerprint": self.fingerprint}


def usage_object(usage: Usage, n_reasoning: int = 0) -> dict[str, Any]:
    """`usage` of an answer. n_reasoning: how many of the completion's tokens are reasoning."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": n_reasoning},
    }


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token as log-probabilities name it. text: of the token alone; top: (text, log-probability) of the most likely ones there

    start: characters of the answer before it
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]
    start: int


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a chat's choice."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        # Half a character has no bytes that could be told from its text.
        return {"token": text, "logprob": logprob, "bytes": None if "�" in text else list(text.encode())}

    content = [
        {**entry(token.text, token.logprob), "top_logprobs": [entry(text, logprob) for text, logprob in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`logprobs` of a completion's choice."""
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) or {token.text: token.logprob} for token in tokens],
        "text_offset": [token.start for token in tokens],
    }
