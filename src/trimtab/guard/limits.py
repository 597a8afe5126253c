"""How long a text may be. Redacting cuts it there."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options, number_option

# Characters a token of common tokenizers covers at the least where text is plain; other scripts take up to a token a character.
ASCII_CHARS_PER_TOKEN = 4.0
OTHER_CHARS_PER_TOKEN = 1.2


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, without its tokenizer: within some 30 % on prose, too few for digits and code."""
    n_ascii = len(text) if text.isascii() else sum(char < "\x80" for char in text)
    return round(n_ascii / ASCII_CHARS_PER_TOKEN + (len(text) - n_ascii) / OTHER_CHARS_PER_TOKEN)


class Limits(Guard):
    """Options: `max_chars`, `max_tokens` (estimated), `max_line_chars`; at least one of them."""

    name = "limits"
    stride_chars = 1

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        known = ("max_chars", "max_tokens", "max_line_chars")
        check_options(self.name, options, known)
        if not options:
            raise InputError(f"Guard {self.name!r} needs one of {', '.join(known)}.")
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        self._chars, self._tokens, self._line = (int(number_option(self.name, options, key, 0, 0, 10**9)) for key in known)

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        found = []
        if self._chars and len(text) > self._chars:
            found.append(self._over("chars", self._chars, len(text), f"longer than {self._chars} characters"))
        if self._tokens and estimated_tokens(text) > self._tokens:
            at = self._within_tokens(text)
            found.append(self._over("tokens", at, len(text), f"longer than about {self._tokens} tokens"))
        if self._line and (at := self._long_line(text)) >= 0:
            found.append(self._over("line", at, len(text), f"a line of more than {self._line} characters"))
        return tuple(one for one in found if one.start >= start)

    def _over(self, rule: str, start: int, end: int, reason: str) -> Finding:
        return Finding(rule=f"limits.{rule}", start=start, end=end, reason=reason, replacement="")

    def _within_tokens(self, text: str) -> int:
        """The longest beginning that keeps the limit."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if estimated_tokens(text[:middle]) <= self._tokens else (low, middle - 1)
        return low

    def _long_line(self, text: str) -> int:
        """Where a line goes over its limit, -1 if none does."""
        at = 0
        for line in text.split("\n"):
            if len(line) > self._line:
                return at + self._line
            at += len(line) + 1
        return -1
