"""A text told about somebody else: gender, names, religions, origins and other groups swapped by the lists in catalog/debias/swaps.toml.

Counterfactual data augmentation by swap lists is Lu et al. 2018 (arXiv 1807.11714); swapping names is Hall Maudslay et al. 2019 (EMNLP,
arXiv 1909.00871). English has one form `her` for two of `him` and `his`, and one form `his` for two of `her` and `hers`: which is meant is
read from the words around it. Pure.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random
from typing import Any

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The swap lists. gender: lower-case word to word; columns: name -> (origin, gender, place); axes: tables of adjectives and nouns."""

    gender: Mapping[str, str]
    after_object: frozenset[str]
    no_adverbs: frozenset[str]
    causative: frozenset[str]
    bare_verbs: frozenset[str]
    giving: frozenset[str]
    given: frozenset[str]
    after_alone: frozenset[str]
    names: Mapping[str, tuple[str, str, int]]
    columns: Mapping[tuple[str, str], tuple[str, ...]]
    axes: Mapping[str, Mapping[str, Any]]
    people: frozenset[str]


@cache
def swap_lists() -> Lists:
    """The shipped lists."""
    text = (resources.files("trimtab") / "catalog" / "debias" / "swaps.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    gender = {word: other for one, two in table["gender"]["pairs"] for word, other in ((one, two), (two, one))}
    columns = {(origin, sex): tuple(names) for origin, by in table["names"].items() for sex, names in by.items()}
    return Lists(
        gender={**dict(table["gender"]["one_way"]), **gender},
        names={name: (origin, sex, place) for (origin, sex), names in columns.items() for place, name in enumerate(names)},
        columns=columns,
        axes=table["axes"],
        people=frozenset(table["people"]["words"]),
        **{name: frozenset(words) for name, words in table["grammar"].items()},
    )


@dataclass(frozen=True, kw_only=True)
class _Word:
    """One word of a text with what stands around it. before, after: neighbouring words in lower case, "" across punctuation."""

    text: str
    before: str
    after: str
    start: int
    end: int

    @property
    def lower(self) -> str:
        return self.text.lower()


def swap_gender(text: str) -> str:
    """The text with every word of gender, and every first name in the lists, turned to the other one; the rest as it is."""
    return _rewritten(text, _other_gender)


def swap_groups(text: str, groups: Mapping[str, str]) -> str:
    """The text with groups exchanged. groups: adjective (`Muslim`), or origin of names (`arabic`), to another of its kind."""
    lists = swap_lists()
    adjectives: dict[str, str] = {}
    nouns: dict[str, str] = {}
    for axis in lists.axes.values():
        rows = {row[0]: row for row in axis.get("nouns", ())}
        things = dict(zip(axis.get("things_of", ()), axis.get("things", ()), strict=True))
        for one in axis["adjectives"]:
            other = groups.get(one)
            if other is None:
                continue
            adjectives[one] = other
            for table in (rows, things):
                if one in table and other in table:
                    nouns |= dict(zip(table[one], table[other], strict=True))

    def other_group(word: _Word) -> str | None:
        if word.text in nouns:
            return nouns[word.text]
        if word.text in adjectives and (word.after in lists.people or not word.after):
            return adjectives[word.text]
        known = lists.names.get(word.text)
        if known is not None and known[0] in groups:
            column = lists.columns[groups[known[0]], known[1]]
            return column[known[2] % len(column)]
        return None

    return _articles(_rewritten(text, other_group))


def twin_of(text: str, random: Random) -> tuple[str, ...]:
    """Other versions of a text: of the other gender where it names one, with other groups where it names some; () where it names none.

    The groups that change places are drawn anew for each text, so that over many texts every group stands where every other stood.
    """
    lists = swap_lists()
    words = set(_WORD.findall(text))
    groups: dict[str, str] = {}
    for axis in lists.axes.values():
        plurals = {row[1]: row[0] for row in axis.get("nouns", ())}
        present = [name for name in axis["adjectives"] if words & {name, *(many for many, one in plurals.items() if one == name)}]
        groups |= _exchanged(present, axis["adjectives"], random)
    origins = sorted({lists.names[word][0] for word in words if word in lists.names})
    groups |= _exchanged(origins, sorted({origin for origin, _ in lists.columns}), random)
    versions = (swap_gender(text), swap_groups(text, groups) if groups else text)
    return tuple(dict.fromkeys(version for version in versions if version != text))


def _exchanged(present: Sequence[str], all_of: Sequence[str], random: Random) -> dict[str, str]:
    """A group that is there, and another of its axis, in each other's place."""
    if not present:
        return {}
    one = random.choice(list(present))
    other = random.choice([name for name in all_of if name != one])
    return {one: other, other: one}


def _words(text: str) -> list[_Word]:
    found = list(_WORD.finditer(text))
    words = []
    for place, match in enumerate(found):
        gap_before = text[found[place - 1].end() : match.start()] if place else "."
        gap_after = text[match.end() : found[place + 1].start()] if place + 1 < len(found) else "."
        words.append(
            _Word(
                text=match.group(),
                before=found[place - 1].group().lower() if gap_before.isspace() else "",
                after=found[place + 1].group().lower() if gap_after.isspace() else "",
                start=match.start(),
                end=match.end(),
            )
        )
    return words


def _rewritten(text: str, other: Callable[[_Word], str | None]) -> str:
    parts, last = [], 0
    for word in _words(text):
        new = other(word)
        if new is not None:
            parts += [text[last : word.start], new]
            last = word.end
    return "".join((*parts, text[last:]))


def _other_gender(word: _Word) -> str | None:
    lists = swap_lists()
    stem, mark = _possessive(word.text)
    known = lists.names.get(stem)
    if known is not None:
        origin, sex, place = known
        column = lists.columns[origin, "female" if sex == "male" else "male"]
        return column[place % len(column)] + mark
    contracted = re.fullmatch(r"(he|she)(['’](?:s|ll|d))", word.lower)
    if contracted is not None:
        return _cased(lists.gender[contracted[1]], word.text) + word.text[len(contracted[1]) :]
    pronoun = _other_pronoun(word, lists)
    if pronoun is not None:
        return _cased(pronoun, word.text)
    other = lists.gender.get(word.lower) or lists.gender.get(stem.lower())
    return None if other is None else _cased(other, word.text) + (mark if word.lower not in lists.gender else "")


def _possessive(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.+?)(['’]s)", text)
    return (match[1], match[2]) if match else (text, "")


def _other_pronoun(word: _Word, lists: Lists) -> str | None:
    """him, his and hers have one reading; `her` and `his` are read from what stands around them."""
    match word.lower:
        case "him":
            return "her"
        case "hers":
            return "his"
        case "his":
            return "hers" if not word.after or word.after in lists.after_alone else "her"
        case "her":
            return "him" if _is_object(word, lists) else "his"
    return None


def _is_object(word: _Word, lists: Lists) -> bool:
    after = word.after
    if not after or after in lists.after_object or (after.endswith("ly") and after not in lists.no_adverbs):
        return True
    if word.before in lists.causative and after in lists.bare_verbs:
        return True
    return word.before in lists.giving and after in lists.given


def _cased(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if like[0].isupper() else word


def _articles(text: str) -> str:
    """`a` and `an` before groups' adjectives, which may have changed places: the first letter decides, for all that are in the lists."""

    def fitting(match: re.Match[str]) -> str:
        article = "an" if match["group"][0].lower() in "aeio" else "a"
        return _cased(article, match["article"]) + match["gap"] + match["group"]

    return _adjective_after_article().sub(fitting, text)


@cache
def _adjective_after_article() -> re.Pattern[str]:
    names = sorted({name for axis in swap_lists().axes.values() for name in axis["adjectives"]})
    return re.compile(rf"\b(?P<article>[Aa]n?)(?P<gap>\s+)(?P<group>{'|'.join(names)})\b")
