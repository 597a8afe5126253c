"""Text that is not what it looks like: invisible characters, hidden tags, turned direction, words of mixed alphabets.

By `unicodedata` and the ranges of the Unicode standard; no library that we know does this for prompts with spans. Redacting removes what is
invisible and writes a word of mixed alphabets with the letters that it looks like.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import regex

from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options
from trimtab.guard.folding import LOOK_ALIKES, fold, is_invisible

TAGS = range(0xE0000, 0xE0080)
SUPPLEMENT = range(0xE0100, 0xE01F0)
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Marks that text in two directions may need; alone they hide nothing.
HARMLESS = frozenset("\u200e\u200f\u061c\u00ad\ufe0e\ufe0f\ufeff")
JOINERS = frozenset("\u200c\u200d")
JOINING = (
    "ARABIC",
    "DEVANAGARI",
    "BENGALI",
    "GURMUKHI",
    "GUJARATI",
    "ORIYA",
    "TAMIL",
    "TELUGU",
    "KANNADA",
    "MALAYALAM",
    "SINHALA",
    "SYRIAC",
)
NOT_ASCII = regex.compile(r"[^\x00-\x7f]")
WORD = regex.compile(r"\p{L}{2,48}")
MIXABLE = ("LATIN", "CYRILLIC", "GREEK")
MAX_RUN = 48


class UnicodeTricks(Guard):
    """Rules: `unicode.tags`, `unicode.direction`, `unicode.invisible`, `unicode.selectors`, `unicode.mixed-alphabets`."""

    name = "unicode"
    reach_chars = 64

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ())
        super().__init__(options, side=side, time_limit_s=time_limit_s)

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        if text.isascii():
            return ()
        return (*_hidden(text, start), *_mixed(text, start))

    def open_from(self, text: str, start: int = 0) -> int:
        """Letters and invisible characters at the end: the last word, or a run whose neighbour has not come."""
        at = len(text)
        while at > start and len(text) - at < self.reach_chars and (text[at - 1].isalpha() or is_invisible(text[at - 1])):
            at -= 1
        return at


def _hidden(text: str, start: int) -> Iterator[Finding]:
    """Runs of invisible characters that do no honest work."""
    at = start
    while match := NOT_ASCII.search(text, at):
        at = match.start()
        if not is_invisible(text[at]):
            at += 1
            continue
        end = at + 1
        while end < len(text) and end - at < MAX_RUN and is_invisible(text[end]):
            end += 1
        if rule := _rule_of(text, at, end):
            yield Finding(rule=f"unicode.{rule[0]}", start=at, end=end, reason=rule[1], replacement="")
        at = end


def _rule_of(text: str, start: int, end: int) -> tuple[str, str] | None:
    run = text[start:end]
    before = text[start - 1] if start else ""
    after = text[end] if end < len(text) else ""
    if before == "\U0001f3f4" and run[-1] == "\U000e007f" and len(run) <= 8:
        return None  # a regional flag is a black flag and tags
    if any(ord(char) in TAGS for char in run):
        return "tags", "letters of the invisible tag block"
    if any(char in BIDI for char in run):
        return "direction", "a control that turns the direction of text"
    if any(ord(char) in SUPPLEMENT for char in run) and len(run) > 1:
        return "selectors", "a run of variation selectors, which can hide bytes"
    left = [char for char in run if char not in HARMLESS and ord(char) not in SUPPLEMENT and not 0xFE00 <= ord(char) <= 0xFE0F]
    if not left:
        return ("selectors", "a run of variation selectors, which can hide bytes") if len(run) > 3 else None
    if len(left) == 1 and left[0] in JOINERS and _joins(before, after):
        return None
    return "invisible", "characters without width inside the text"


def _joins(before: str, after: str) -> bool:
    """Whether a joiner between two characters is spelling: in an emoji, or in a script whose letters join."""
    if not before or not after:
        return False
    emoji = all(unicodedata.category(char) in ("So", "Sk", "Mn") for char in (before, after))
    return emoji or any(_script(char) in JOINING for char in (before, after))


def _mixed(text: str, start: int) -> Iterator[Finding]:
    """Words with letters of two alphabets that look alike."""
    at = start
    while start and at < len(text) and text[at].isalpha() and text[at - 1].isalpha() and at - start < MAX_RUN:
        at += 1  # the rest of a word that was judged
    for match in WORD.finditer(text, at):
        word = match.group()
        if word.isascii() or len({_script(char) for char in word} & set(MIXABLE)) < 2:
            continue
        latin = sum(char.isascii() for char in word)
        foreign = [char for char in word if _script(char) in ("CYRILLIC", "GREEK")]
        # A Greek letter in a Latin word is often a symbol (µm, Δx); a disguise uses letters that look Latin, among more than one.
        if latin and len(word) >= 3 and all(char in LOOK_ALIKES for char in foreign):
            yield Finding(
                rule="unicode.mixed-alphabets",
                start=match.start(),
                end=match.end(),
                reason="a word with letters of two alphabets that look alike",
                score=0.9,
                replacement=fold(word).text,
            )


@lru_cache(maxsize=4096)
def _script(char: str) -> str:
    return unicodedata.name(char, "").partition(" ")[0]
