"""Beginnings of texts about people, each told about two groups; the model itself ends them, and what it writes is told about both.

Nothing here is an item of a suite: catalog/debias/stems.toml was written for training alone, and `overlapping` finds texts that share words
with what is asked later. Pure.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from importlib import resources
from random import Random
from typing import Any, Literal

from trimtab.train.debias.swaps import swap_gender

Kind = Literal["one", "two", "pronoun", "ask"]
SHARES: Mapping[Kind, float] = {"one": 0.45, "two": 0.2, "pronoun": 0.2, "ask": 0.15}
"""Of the cases, by kind."""
ENDING_TOKENS: Mapping[Kind, int] = {"one": 20, "two": 8, "pronoun": 20, "ask": 6}
SHARED_WORDS = 8
"""So many words in a row make two texts the same, as for the calibration texts."""
GENDERED = frozenset({"sex", "pronoun"})
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A beginning about one group, and the same about another of its axis.

    chat: `begin` and `twin` are what a user says; else the ending follows them in the same line
    words: words of the ending that change with the group, as pairs; on the axis of sex all words of gender change
    """

    kind: Kind
    axis: str
    group: str
    twin_group: str
    begin: str
    twin: str
    words: tuple[tuple[str, str], ...] = ()

    @property
    def chat(self) -> bool:
        return self.kind == "ask"

    def twin_ending(self, ending: str) -> str:
        """The ending as it reads about the other group."""
        if self.axis in GENDERED:
            return swap_gender(ending)
        table = dict(self.words)
        if not table:
            return ending
        pattern = "|".join(re.escape(word) for word in sorted(table, key=len, reverse=True))
        swapped = re.sub(rf"\b({pattern})\b", lambda match: table[match[1]], ending)
        return re.sub(rf"\b([Aa])n?(?=\s+(?:{pattern})\b)(?=\s+(\w))", lambda match: match[1] + "n" * (match[2] in "aeioAEIO"), swapped)


@cache
def stems() -> dict[str, Any]:
    """The shipped beginnings and groups."""
    return tomllib.loads((resources.files("trimtab") / "catalog" / "debias" / "stems.toml").read_text(encoding="utf-8"))


def draw_cases(n: int, seed: int) -> tuple[Case, ...]:
    """So many cases of all kinds, mixed; every axis and every beginning comes about as often. The same for the same seed."""
    random = Random(seed)
    found: list[Case] = []
    for kind, share in SHARES.items():
        lines = _in_turns(stems()[kind], random)
        axes = _in_turns([axis for axis in stems()["axis"] if kind == "pronoun" or axis[_slot(kind)]], random)
        found += [_case(kind, next(lines), next(axes), random) for _ in range(round(share * n))]
    random.shuffle(found)
    return tuple(dict.fromkeys(found))


def _slot(kind: Kind) -> str:
    return "who" if kind == "one" else kind


def _in_turns(things: Sequence[Any], random: Random) -> Iterator[Any]:
    while True:
        yield from random.sample(list(things), len(things))


def _case(kind: Kind, line: str, axis: Mapping[str, Any], random: Random) -> Case:
    if kind == "pronoun":
        job, other = random.sample(stems()["jobs"], 2)
        he, she = random.sample(["he", "she"], 2)
        texts = [line.format(job=job, other=other, he=pronoun) for pronoun in (he, she)]
        return Case(kind=kind, axis="pronoun", group=he, twin_group=she, begin=texts[0], twin=texts[1])
    row = random.choice(axis[_slot(kind)])
    one, two = random.sample(range(len(row)), 2)
    words = exchanged_words(row[one], row[two])
    begin, twin = (line.format(*pair, who=_at_start(line, pair[0])) for pair in ((row[one], row[two]), (row[two], row[one])))
    return Case(kind=kind, axis=axis["name"], group=row[one], twin_group=row[two], begin=fitting(begin), twin=fitting(twin), words=words)


def _at_start(line: str, who: str) -> str:
    return who[0].upper() + who[1:] if line.startswith("{who}") else who


def fitting(text: str) -> str:
    """`a` and `an` as the next word wants them."""
    return re.sub(r"\b([Aa])n?(?=\s+(\w))", lambda match: match[1] + "n" * (match[2] in "aeioAEIO"), text)


def exchanged_words(one: str, other: str) -> tuple[tuple[str, str], ...]:
    """Words in which two descriptions of people differ, both ways: `the old man`, `the young man` give old for young and young for old."""
    first, second = _WORD.findall(one), _WORD.findall(other)
    pairs = [
        (" ".join(first[a:b]), " ".join(second[c:d]))
        for kind, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
        if kind == "replace"
    ]
    pairs = [pair for pair in pairs if not {*pair} <= {"a", "an", "A", "An"}]
    return (*pairs, *((b, a) for a, b in pairs))


def clean_ending(text: str) -> str:
    """What a model wrote up to the end of its first sentence; without one, up to its last whole word. Empty where nothing is left."""
    line = text.split("\n", 1)[0].rstrip() if text.strip() else ""
    end = re.search(r"[.!?](?=\s|$)[\"”']?", line)
    if end is not None:
        return line[: end.end()] if _WORD.search(line[: end.end()]) else ""
    kept = line.rsplit(" ", 1)[0] if "\n" not in text and " " in line.strip() else line
    return kept if _WORD.search(kept) else ""


def attribute_of(ending: str) -> str:
    """`favourable`, `unfavourable` or `other`, by the first word of the lists that stands in an ending."""
    lists = stems()["attributes"]
    for word in re.findall(r"[\w'-]+", ending.lower()):
        for name in ("favourable", "unfavourable"):
            if word in lists[name]:
                return name
    return "other"


def overlapping(texts: Iterable[str], asked: Iterable[str]) -> set[str]:
    """Those of the texts that share SHARED_WORDS words in a row with something that is asked."""
    known = {run for text in asked for run in _runs(text)}
    return {text for text in texts if any(run in known for run in _runs(text))}


def _runs(text: str) -> Iterable[tuple[str, ...]]:
    words = [word.lower() for word in _WORD.findall(text)]
    return (tuple(words[start : start + SHARED_WORDS]) for start in range(len(words) - SHARED_WORDS + 1))
