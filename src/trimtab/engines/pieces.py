"""Text of tokens as they come, in whole characters: what the worker sends beside tokens where text is asked for.

An engine turns ids to text as a whole. Asking it again for every token would cost more than the token itself in some engines, so what a
token adds is remembered by token, after a check that this engine's text is indeed made of its tokens' texts.
"""

from collections.abc import Callable, Mapping, Sequence

BROKEN = "�"
MAX_PENDING = 8
_ANCHOR = "a"
_SAMPLE = "It's a calm sea, isn't it ? Well , 3.5 % of U.S. boats ( small ones ) don't mind - \"they\" say . naïve"


class Pieces:
    """What tokens of one engine add to a text. detokenize, tokenize: the engine's, plain text only."""

    def __init__(self, detokenize: Callable[[Sequence[int]], str], tokenize: Callable[[str], list[int]]) -> None:
        self.detokenize = detokenize
        self._anchor = tuple(tokenize(_ANCHOR))
        self._anchor_text = detokenize(self._anchor)
        self._inner: dict[int, str | None] = {}
        self._first: dict[int, str] = {}
        self._is_sum = True
        stream = TextStream(self)
        sample = tokenize(_SAMPLE)
        self._is_sum = "".join([*map(stream.push, sample), stream.finish()]) == detokenize(sample)

    def alone(self, token: int) -> str:
        """Text of one token by itself; half a character shows as the replacement character."""
        if token not in self._first:
            self._first[token] = self.detokenize((token,))
        return self._first[token]

    def after(self, before: Sequence[int], ids: Sequence[int]) -> str | None:
        """What `ids` add after `before`; None if that ends in the middle of a character."""
        if len(ids) == 1 and self._is_sum and before:
            if ids[0] not in self._inner:
                self._inner[ids[0]] = self._added(self._anchor, self._anchor_text, ids)
            return self._inner[ids[0]]
        head = self._anchor if self._is_sum and before else tuple(before[-MAX_PENDING:])
        return self._added(head, self.detokenize(head) if head else "", ids)

    def _added(self, head: Sequence[int], head_text: str, ids: Sequence[int]) -> str | None:
        whole = self.detokenize((*head, *ids))
        return None if whole.endswith(BROKEN) or not whole.startswith(head_text) else whole[len(head_text) :]


class TextStream:
    """The text of one answer. marks: texts of special tokens that are wanted in it; the engine leaves special tokens out."""

    def __init__(self, pieces: Pieces, marks: Mapping[int, str] | None = None) -> None:
        self._pieces = pieces
        self._marks = marks or {}
        self._told: list[int] = []
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """What the text grows by; "" while a character is incomplete."""
        if token in self._marks:
            return self.finish() + self._marks[token]
        self._pending.append(token)
        text = self._pieces.after(self._told, self._pending)
        if text is None and len(self._pending) < MAX_PENDING:
            return ""
        if text is None:
            text = self._pieces.detokenize(self._pending)
        self._move()
        return text

    def finish(self) -> str:
        """The rest: whole characters of what was pending."""
        if not self._pending:
            return ""
        text = self._pieces.detokenize(self._pending).rstrip(BROKEN)
        self._move()
        return text

    def _move(self) -> None:
        self._told = [*self._told, *self._pending][-MAX_PENDING:]
        self._pending = []
