"""Topics by policy: words and patterns that a route does not speak about, or the only ones that it speaks about."""

import bisect
from collections.abc import Mapping
from typing import Any

import regex

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options
from trimtab.guard.folding import fold
from trimtab.guard.rules import Rule, find, open_from

LONGEST_MATCH = 200


class Topics(Guard):
    """Options: `deny`, a table of topics with their words (`gambling = ["casino", "/bet(s|ting)?/"]`; a pattern stands between slashes),
    and `only`, a list of words one of which a text must contain. At least one of them.

    Words are found whole, in any case, and behind accents, look-alike letters and invisible characters.
    """

    name = "topics"

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("deny", "only"))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        deny, only = options.get("deny", {}), options.get("only", [])
        if not isinstance(deny, Mapping) or not isinstance(only, (list, tuple)) or not (deny or only):
            raise InputError(f"Guard {self.name!r} needs `deny`, a table of lists of words, or `only`, a list of words.")
        self._deny = tuple(
            Rule(
                name=f"topics.{topic}",
                pattern=_pattern(topic, words),
                reason=f"words of the topic {topic!r}, which the policy of this route denies",
            )
            for topic, words in deny.items()
        )
        self._only = _pattern("only", only) if only else None
        self.reach_chars = None if self._only else LONGEST_MATCH

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        folded = fold(text)
        found = []
        for one in find(self._deny, folded.text, _place(folded.places, start), self.time_limit_s):
            begin, end = folded.span(one.start, min(one.end, one.start + LONGEST_MATCH))
            found.append(Finding(rule=one.rule, start=begin, end=end, reason=one.reason))
        if (
            self._only
            and not self._only.search(folded.text, timeout=self.time_limit_s)
            and (self.side == "in" or len(text) > LONGEST_MATCH)
        ):
            found.append(
                Finding(rule="topics.only", start=0, end=len(text), reason="none of the words that the policy of this route asks for")
            )
        return tuple(found)

    def open_from(self, text: str, start: int = 0) -> int:
        folded = fold(text)
        at = folded.places[open_from(self._deny, folded.text, _place(folded.places, start))]
        return max(start, at, len(text) - LONGEST_MATCH)


def _place(places: "tuple[int, ...] | range", original: int) -> int:
    """The first folded character that stands at `original` or later."""
    return original if isinstance(places, range) else bisect.bisect_left(places, original)


def _pattern(topic: str, words: Any) -> "regex.Pattern[str]":
    if not isinstance(words, (list, tuple)) or not words or not all(isinstance(word, str) and word.strip("/ ") for word in words):
        raise InputError(f"The words of topic {topic!r} must be a list of texts, not {words!r}.")
    parts = [word[1:-1] if word.startswith("/") and word.endswith("/") else regex.escape(fold(word).text) for word in words]
    try:
        return regex.compile(rf"\b(?:{'|'.join(parts)})\b", regex.IGNORECASE)
    except regex.error as error:
        raise InputError(f"A pattern of topic {topic!r} cannot be read: {error}.") from error
