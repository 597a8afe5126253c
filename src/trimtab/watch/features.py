"""What is known of a request from its texts, as numbers, flags and labels by signal. Pure; no text is in what is returned.

Long texts are read in part: `READ_CHARS` from their beginning. What cannot be told of a text is absent, never zero.
"""

import functools
import itertools
import json
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

READ_CHARS = 2000
LANGUAGE_CHARS = 200
"""The language of a text is that of so much of it: reading all of it would cost more than all other features together."""
REFUSAL_CHARS = 300
"""An answer refuses at its beginning, if it does; a judge of all of it takes ten times as long."""
LEAST_LETTERS = 20
"""A shorter text is in language `und`: of fewer letters the identifier is right too seldom (docs/signals.md)."""
LEAST_CONFIDENCE = 0.5
LEAST_WORDS = 20
"""Of a shorter answer nothing is said about repetition."""
RUN = 4
TOPICS = 16
_LENGTHS = ((100, "to 100"), (500, "to 500"), (2000, "to 2000"), (8000, "to 8000"))

_WORD = re.compile(r"[^\W\d_]+")
_CONTROL = re.compile(
    r"<\|[A-Za-z0-9_./ -]{1,40}\|>|<｜[^｜<>]{1,40}｜>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|</?s>|<(?:bos|eos|pad|unk)>|\[(?:CLS|SEP|MASK)\]"
)
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", re.DOTALL)
_SPACELESS = frozenset({"han", "kana", "thai", "lao", "khmer", "myanmar"})
_SCRIPTS = {"cjk": "han", "hiragana": "kana", "katakana": "kana"}

Features = tuple[dict[str, float], dict[str, bool], dict[str, str]]
"""(numbers, flags, labels) of an Observed."""


def features(
    prompt: str,
    answer: str,
    *,
    expects_json: bool = False,
    calls: bool = False,
    refused: Callable[[str], bool] | None = None,
    vocabulary: "Vocabulary | None" = None,
) -> Features:
    """What the texts of one request show.

    prompt: what the user wrote last, as guards have let it pass; answer: the text of the first choice
    expects_json: JSON was asked for; calls: the answer calls a function, so that no text is no fault
    refused: judges an answer; None = refusals are not told. vocabulary: of the first requests; it learns from this one while it is open
    """
    numbers = {"prompt_chars": float(len(prompt)), "answer_chars": float(len(answer))}
    flags = {
        "control_tokens": _CONTROL.search(prompt) is not None,
        "control_tokens_out": _CONTROL.search(answer) is not None,
        "empty": not answer.strip() and not calls,
    }
    asked, said = prompt[:READ_CHARS], answer[:READ_CHARS]
    language, spoken = language_of(asked), language_of(said)
    words = words_of(asked)
    labels = {"language": language, "script": script_of(asked), "length": length_of(len(prompt)), "topic": topic_of(words)}
    if answer.strip():
        labels["answer_language"] = spoken
        if "und" not in (language, spoken):
            flags["same_language"] = language == spoken
        if refused is not None:
            flags["refused"] = refused(said[:REFUSAL_CHARS])
        repeated = repetition(said)
        if repeated is not None:
            numbers["repetition"] = repeated
    if expects_json and not calls:
        flags["valid_json"] = is_json(answer)
    unseen = vocabulary.unseen(words) if vocabulary is not None else None
    if unseen is not None:
        numbers["unseen_words"] = unseen
    return numbers, flags, labels


def language_of(text: str) -> str:
    """ISO 639 code of the language; `und` for a short text, and where the identifier is unsure."""
    text = text[:LANGUAGE_CHARS]
    letters = sum(map(str.isalpha, text))
    # Ideographs and syllables say more each than letters do.
    if letters < LEAST_LETTERS and not (letters >= LEAST_LETTERS // 4 and script_of(text) in _SPACELESS | {"hangul"}):
        return "und"
    language, confidence = _identifier().classify(text)
    return str(language) if confidence >= LEAST_CONFIDENCE else "und"


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def script_of(text: str) -> str:
    """The writing system of most of a text's letters, e.g. `latin`, `han`, `kana` (Japanese); `none` without letters."""
    if text.isascii():
        return "latin" if any(map(str.isalpha, text)) else "none"
    counts: Counter[str] = Counter()
    for letter, n in Counter(filter(str.isalpha, text)).items():
        counts[_script(letter)] += n
    if not counts:
        return "none"
    if counts["kana"] and counts["kana"] * 4 >= counts["han"]:
        return "kana"
    return counts.most_common(1)[0][0]


@functools.lru_cache(maxsize=8192)
def _script(letter: str) -> str:
    """The first word of the character's Unicode name is its script's."""
    first = unicodedata.name(letter, "other").partition(" ")[0].partition("-")[0].lower()
    return _SCRIPTS.get(first, first)


def length_of(n_chars: int) -> str:
    """A class of lengths in characters."""
    return next((name for most, name in _LENGTHS if n_chars <= most), "over 8000")


def words_of(text: str) -> list[str]:
    """Words in lower case; where a script has no spaces, its pairs of letters."""
    found: list[str] = []
    for word in _WORD.findall(text.casefold()):
        if len(word) > 2 and not word.isascii() and _script(word[0]) in _SPACELESS:
            found += map("".join, itertools.pairwise(word))
        else:
            found.append(word)
    return found


def topic_of(words: list[str]) -> str:
    """One of TOPICS buckets, `t00` ...: signs of four fixed random projections of the words; `none` without words.

    The same words give the same bucket on every machine. A bucket is no subject: texts of like wording share one more often than chance
    has it, so that a shift of subjects moves the buckets' shares, which is all it is for (docs/signals.md says how well).
    """
    sums = [0, 0, 0, 0]
    for word in set(words):
        bits = zlib.crc32(word.encode("utf-8", "replace"))
        for place in range(4):
            sums[place] += 1 if bits >> (8 * place) & 1 else -1
    if not words:
        return "none"
    return f"t{sum(1 << place for place in range(4) if sums[place] > 0):02d}"


def repetition(text: str) -> float | None:
    """Share of runs of four words that stood in the text before; 0 = nothing is said twice. None for a short text."""
    words = words_of(text)
    if len(words) < LEAST_WORDS:
        return None
    runs = [tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)]
    return 1.0 - len(set(runs)) / len(runs)


def is_json(text: str) -> bool:
    """Whether a text is one JSON value; a fence of code around it is allowed."""
    fenced = _FENCE.fullmatch(text)
    try:
        json.loads(fenced[1] if fenced is not None else text)
    except (ValueError, RecursionError):
        return False
    return True


class Vocabulary:
    """Words of the first requests, as a Bloom filter of 128 KiB: no word can be read from it. It closes after LEARN_WORDS words.

    While it is open nothing is unseen. At most 1 in 100 new words passes for a seen one.
    """

    BITS = 2**20
    LEARN_WORDS = 100_000

    def __init__(self, data: bytes = b"", n_words: int = 0) -> None:
        self._bits = bytearray(data) if len(data) == self.BITS // 8 else bytearray(self.BITS // 8)
        self.n_words = n_words if len(data) == self.BITS // 8 else 0

    @property
    def is_closed(self) -> bool:
        return self.n_words >= self.LEARN_WORDS

    def unseen(self, words: list[str]) -> float | None:
        """Share of words that were not seen; None while it still learns, from these words too, and where there are none."""
        if not words:
            return None
        if not self.is_closed:
            for word in words:
                for place in self._places(word):
                    self._bits[place >> 3] |= 1 << (place & 7)
            self.n_words += len(words)
            return None
        known = sum(all(self._bits[place >> 3] >> (place & 7) & 1 for place in self._places(word)) for word in words)
        return 1.0 - known / len(words)

    def data(self) -> bytes:
        """For `Vocabulary(data, n_words)`."""
        return bytes(self._bits)

    def _places(self, word: str) -> tuple[int, ...]:
        raw = word.encode("utf-8", "replace")
        one, other = zlib.crc32(raw), zlib.crc32(raw, 0x5BD1E995) | 1
        return tuple((one + turn * other) % self.BITS for turn in range(4))


def served_tokens(logprobs: Mapping[str, Any] | None) -> dict[str, float]:
    """`nats_per_token` and `entropy` of an answer's `logprobs`, in the form of chats or of completions; empty where none are served.

    entropy: over the alternatives that were served and one rest, so that it is too small the fewer they are
    """
    if not isinstance(logprobs, Mapping):
        return {}
    content = logprobs.get("content")
    if isinstance(content, list):
        taken = [one.get("logprob") for one in content if isinstance(one, dict)]
        tops = [
            [at.get("logprob") for at in one.get("top_logprobs") or () if isinstance(at, dict)] for one in content if isinstance(one, dict)
        ]
    else:
        taken = list(logprobs.get("token_logprobs") or ())
        tops = [list(one.values()) for one in logprobs.get("top_logprobs") or () if isinstance(one, dict)]
    told = [max(float(one), -100.0) for one in taken if isinstance(one, int | float) and one <= 1e-3]
    found = {"nats_per_token": -math.fsum(told) / len(told)} if told else {}
    spreads = []
    for top in tops:
        shares = [math.exp(one) for one in top if isinstance(one, int | float) and one <= 1e-3]
        if len(shares) > 1:
            rest = max(0.0, 1.0 - math.fsum(shares))
            spreads.append(-math.fsum(share * math.log(share) for share in (*shares, rest) if share > 0.0))
    if spreads:
        found["entropy"] = math.fsum(spreads) / len(spreads)
    return found
