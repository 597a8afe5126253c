"""What a key may still ask: counted by this gateway alone (`OwnQuota`), or together with others (serve/shared.py)."""

import time
from dataclasses import dataclass
from typing import Protocol

from trimtab.record.identities import Key
from trimtab.serve.limits import Limits
from trimtab.serve.schema import Parsed

ANSWER_TOKENS = 1024
"""What an answer is taken to have at most where the request does not say."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What was reserved for a request: tokens at most, on a day (since 1970, UTC)."""

    day: int
    tokens: int


class Quota(Protocol):
    """Limits of keys. All methods are of one event loop."""

    async def admit(self, key: Key | None, most_tokens: int) -> Hold | None:
        """Count a request in; `ended` must follow, once, with what is returned. Raises Refusal (429, 503): then it is not counted."""
        ...

    def ended(self, key: Key | None, hold: Hold | None, tokens: int) -> None:
        """A request that was let in has ended; it has used these tokens."""
        ...

    def headers(self, key: Key | None) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*` headers: what the key may, what is left, when it is all there again."""
        ...


class OwnQuota:
    """Limits that one gateway keeps for itself."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def admit(self, key: Key | None, most_tokens: int) -> Hold | None:
        self._limits.admit(key, time.time())
        return None

    def ended(self, key: Key | None, hold: Hold | None, tokens: int) -> None:
        self._limits.spend(key, tokens, time.time())

    def headers(self, key: Key | None) -> dict[str, str]:
        return self._limits.headers(key, time.time())


def most_tokens(parsed: Parsed, n_bytes: int) -> int:
    """The most tokens that a request can take, prompt and answers. n_bytes: of its body.

    No token is less than a byte, and what a chat template adds to a message is less than what JSON does.
    """
    if parsed.kind == "embedding":
        return n_bytes
    prompts = parsed.body.get("prompt")
    n_prompts = len(prompts) if isinstance(prompts, list) and not isinstance(prompts[0], int) else 1
    n_answers = n_prompts * (parsed.body.get("n") or 1)
    return n_bytes + n_answers * (parsed.max_tokens or ANSWER_TOKENS)
