"""Prompt lookup: a request's own tokens propose how it goes on, because answers often repeat what was asked.

The last few tokens are looked up among the earlier ones; what followed them there is proposed. A proposal costs no model, and a wrong
one only the time of checking it. (Saxena, "Prompt Lookup Decoding", 2023.)
"""

from collections.abc import Iterable


class Lookup:
    """An index of one request's n-grams. ngram_tokens: how many last tokens must have occurred before, at least 1."""

    def __init__(self, tokens: Iterable[int], ngram_tokens: int) -> None:
        self.ngram_tokens = ngram_tokens
        self.tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> where the token after its latest occurrence lies
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Take the next token of the request, prompt or answer."""
        place = len(self.tokens)
        if place >= self.ngram_tokens:
            self._after[tuple(self.tokens[place - self.ngram_tokens :])] = place
        self.tokens.append(token)

    def propose(self, count: int) -> tuple[int, ...]:
        """`count` tokens that may come next; () if the last ones are new. A copy that reaches the end goes on into itself."""
        start = self._after.get(tuple(self.tokens[-self.ngram_tokens :])) if count > 0 else None
        if start is None:
            return ()
        period = len(self.tokens) - start
        return tuple(self.tokens[start + place % period] for place in range(count))
