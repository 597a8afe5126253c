"""Answers that are held to a JSON schema: before each token, which ones may come next, by llguidance.

A text of the form `{"a": 1, "b": [1, 2]}`: one space after `:` and `,`, as models write JSON, and no other, so that none can fill an
answer with spaces. The tables of a vocabulary take about a second to make, at the first request that needs them.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import EngineRefused

_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Schemas:
    """Makes constraints for one vocabulary, which must live as long.

    make_tokens: gives llguidance's tokenizer of that vocabulary; title: the engine's name in a sentence
    """

    def __init__(self, make_tokens: Callable[[], Any], vocab_size: int, *, title: str) -> None:
        self._make_tokens, self._vocab_size, self._title = make_tokens, vocab_size, title

    @cached_property
    def _tokens(self) -> Any:
        try:
            return self._make_tokens()
        except (ImportError, ValueError) as error:
            raise EngineRefused(f"{self._title} needs llguidance for this (json_schema: {error}).") from error

    def begin(self, schema: str) -> "Constraint":
        """The constraint of one answer. Raises EngineRefused for a schema that is wrong or that llguidance does not know."""
        tokens = self._tokens
        from llguidance import LLMatcher

        try:
            matcher = LLMatcher(tokens, LLMatcher.grammar_from_json_schema(schema, defaults=_FORM), log_level=0)
            why = matcher.get_error() if matcher.is_error() else ""
        except ValueError as error:
            why = str(error)
        if why:
            raise EngineRefused(f"{self._title} cannot hold an answer to this schema (json_schema: {' '.join(why.split())}).")
        return Constraint(matcher, self._vocab_size)


class Constraint:
    """Where one answer stands in its schema."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, [vocab_size]; end tokens among them where the answer may end. Raises EngineRefused."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise EngineRefused(f"The schema is too hard to follow ({' '.join(self._matcher.get_error().split())[:200]}).")
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def take(self, token: int) -> None:
        """Note the token that was chosen among the allowed ones."""
        self._matcher.consume_token(token)
