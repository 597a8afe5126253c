"""A datasheet for a data set in Markdown, by the headings of Gebru et al. (2018): what can be counted is filled in, the rest is named.

Questions that a file cannot answer are left to the people who know, marked so that a search finds every one of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Plain = Mapping[str, Any]
BLANK = "_To be filled in by the people who made or collected the data._"
_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|#~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "})

_MOTIVATION = (
    "For what purpose was the data set created?",
    "Who created it, and on behalf of whom?",
    "Who paid for it?",
)
_COLLECTION = (
    "How was the data acquired: observed, reported by people, or inferred?",
    "If it is a sample, how was it drawn?",
    "Who collected it, how were they paid, and over what time?",
    "Were the people in it told, did they agree, and can they take it back?",
    "Was it reviewed ethically, or its effect on people assessed (such as a data protection impact assessment)?",
)
_PREPROCESSING = (
    "What cleaning, labelling or filtering was done, and by whom?",
    "Is the raw data kept?",
)
_USES = (
    "What has it been used for already?",
    "What should it not be used for?",
    "Is there anything in it that could lead to unfair treatment of a group, and what could a user do about it?",
)
_DISTRIBUTION = ("Who gets it, how and when?", "Under what licence and terms?", "Do export controls or other rules apply?")
_MAINTENANCE = (
    "Who supports it, and how are they reached?",
    "Will it be corrected or extended, how often, and how are users told?",
    "How long is data about people kept?",
)


def datasheet(document: Plain) -> str:
    """The page of a document of `trimtab fairness data` (schema trimtab.fairness_data/1)."""
    source = document["input"]
    parts = [
        f"# Datasheet: {escaped(source['name'])}",
        "After Gebru et al., *Datasheets for Datasets* (2018). What trimtab could count is filled in; everything else says so.",
        *_asked("Motivation", _MOTIVATION),
        "## Composition",
        *_composition(document),
        *_asked("Collection process", _COLLECTION),
        *_asked("Preprocessing, cleaning, labelling", _PREPROCESSING),
        *_asked("Uses", _USES),
        *_asked("Distribution", _DISTRIBUTION),
        *_asked("Maintenance", _MAINTENANCE),
    ]
    return "\n\n".join(parts) + "\n"


def _asked(title: str, questions: Sequence[str]) -> list[str]:
    return [f"## {title}", *(f"**{question}**\n\n{BLANK}" for question in questions)]


def _composition(document: Plain) -> list[str]:
    source = document["input"]
    columns = ", ".join(f"`{name}`" if "`" not in name else escaped(name) for name in source["columns"])
    parts = [
        f"**What do the instances represent?**\n\n{BLANK}",
        f"**How many instances are there?**\n\n{source['rows']:,} rows. File {escaped(source['name'])}, sha256 {source['sha256']}.",
        f"**What does each instance consist of?**\n\nColumns: {columns}.",
        "**Is any information missing?**\n\n" + _missing(document),
        "**Is there a label?**\n\n" + _labels(document),
        f"**Is it a sample of a larger set, and is it representative?**\n\n{BLANK}",
        "**Are there errors, noise or redundancies?**\n\n" + _duplicates(document),
        "**Does it identify subpopulations?**\n\n" + _groups(document),
        "**Could people be identified, and is there data that is confidential or sensitive?**\n\n" + _personal(document) + f"\n\n{BLANK}",
        f"**Might it be offensive or cause anxiety?**\n\n{BLANK}",
    ]
    return parts


def _missing(document: Plain) -> str:
    missing = {name: n for name, n in document["input"]["missing"].items() if n}
    if not missing:
        return "No value is missing in the columns that were read."
    return "; ".join(f"{escaped(name)}: {n:,} rows without a value" for name, n in missing.items()) + "."


def _labels(document: Plain) -> str:
    found = document["labels"]
    if not found:
        return f"No label was named. {BLANK}"
    shares = ", ".join(f"{escaped(row['group'])} {100 * row['share']:.1f} %" for row in found["shares"])
    told = " ".join(escaped(row["sentence"]) for row in document["label_association"])
    return f"{escaped(found['column'])}: {shares}. {told}"


def _duplicates(document: Plain) -> str:
    return escaped(document["duplicates"]["sentence"]) if document["duplicates"] else f"No texts were named. {BLANK}"


def _groups(document: Plain) -> str:
    lines = []
    for axis in document["representation"]:
        lines += [f"| {escaped(' x '.join(axis['axis']))} | n | share (95 % interval) |", "| --- | ---: | ---: |"]
        lines += [
            f"| {escaped(row['group'])} | {row['n']:,} | {100 * row['share']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f}) |"
            for row in axis["groups"]
        ]
        lines.append("")
    return "\n".join(lines).rstrip() or f"No groups were named. {BLANK}"


def _personal(document: Plain) -> str:
    if not document["input"]["text"]:
        return "No texts were searched for personal data."
    found = [f"{row['kind']}: {row['found']:,} in {row['texts']:,} rows" for row in document["personal_data"]]
    told = "; ".join(found) if found else "none"
    return f"Patterns of personal data in the texts: {told}. Patterns do not find names, addresses or what is told in words."


def escaped(text: Any) -> str:
    """A text that Markdown shows as it is."""
    return str(text).translate(_SPECIAL)
