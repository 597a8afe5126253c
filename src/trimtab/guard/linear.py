"""A small linear judge of texts: hashed words, pairs of words and letter groups, a table of weights, no library.

What a text says is read as a reader sees it (`folding.py`), in lower case, digits as one, and every word for a group of people as the same
word (`identities.toml`): two texts that differ only in the group they name get the same score. Weights ship as TOML, written by
`benchmarks/guard_classifier.py`, which also says how well they do on texts they were not fitted to.
"""

import base64
import functools
import math
import re
import tomllib
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import Any

from trimtab.guard.folding import fold

BUCKETS = 2**14
WINDOW_WORDS = 220  # a long text is as bad as its worst part
STEP_WORDS = 160
LETTERS = 4
TOKEN = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[\[\]{}<>|#]{2,}|[!?]{2,}")
DIGITS = re.compile(r"\d+")
GROUP_WORD = "someone"
LEAST_FEATURES = 40  # a text with fewer is judged as if the others said nothing: five words are little evidence


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """weights: one signed byte a bucket, in steps of `scale`; threshold: the log-odds from which on a text is a find."""

    intercept: float
    scale: float
    threshold: float
    weights: Sequence[int]

    def score(self, text: str) -> float:
        """Log-odds of the worst part of a text, relative to the threshold: above 0 is a find."""
        return max(self._of(window) for window in windows(tokens(text))) - self.threshold

    def probability(self, text: str) -> float:
        """The score between 0 and 1, a half at the threshold. It orders texts; it is not calibrated."""
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, self.score(text)))))

    def _of(self, words: Sequence[str]) -> float:
        buckets = features(words)
        if not buckets:
            return self.intercept
        weights = self.weights
        return self.intercept + self.scale * sum(weights[bucket] for bucket in buckets) / math.sqrt(max(LEAST_FEATURES, len(buckets)))


@functools.cache
def load_model(name: str) -> LinearModel:
    """The shipped weights of a judge."""
    table = tomllib.loads(resources.files(__package__).joinpath(f"{name}_weights.toml").read_text(encoding="utf-8"))
    weights = array("b", base64.b85decode("".join(table["weights"])))
    return LinearModel(intercept=table["intercept"], scale=table["scale"], threshold=table["threshold"], weights=weights)


def tokens(text: str) -> list[str]:
    """Words in order: as seen, in lower case, digits as 0, words for groups of people as one word, once for a row of them."""
    plain = DIGITS.sub("0", fold(text).text.lower())
    groups = group_words()
    found: list[str] = []
    for word in TOKEN.findall(plain):
        if word == "an":
            word = "a"  # the article would tell groups apart
        elif word in groups:
            word = GROUP_WORD
            if found and found[-1] == word:
                continue
        found.append(word)
    return found


def windows(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """Parts of a text that are judged one by one; at least one, it may be empty."""
    last = max(0, len(words) - WINDOW_WORDS + STEP_WORDS - 1) // STEP_WORDS
    for number in range(last + 1):
        yield words[number * STEP_WORDS : number * STEP_WORDS + WINDOW_WORDS]


def features(words: Sequence[str]) -> set[int]:
    """Buckets of a part: its words, neighbouring pairs, and groups of letters inside long words. That a group is named says nothing."""
    found = {zlib.crc32(f"{a} {b}".encode(errors="replace")) % BUCKETS for a, b in pairwise(words)}
    found.update(*map(_of_word, set(words) - {GROUP_WORD}))
    return found


@functools.lru_cache(maxsize=16_384)
def _of_word(word: str) -> tuple[int, ...]:
    letters = ("~" + word[at : at + LETTERS] for at in range(len(word) - LETTERS + 1)) if LETTERS < len(word) <= 24 else ()
    return tuple(zlib.crc32(name.encode(errors="replace")) % BUCKETS for name in (word, *letters))


@functools.cache
def group_words() -> frozenset[str]:
    """All words for groups of people of `identities.toml`."""
    return frozenset(word for words in identities().values() for word in words)


@functools.cache
def identities() -> Mapping[str, Any]:
    """Axis -> words."""
    return tomllib.loads(resources.files(__package__).joinpath("identities.toml").read_text(encoding="utf-8"))
