"""What a release is meant for, as a file that people fill in: the template with its questions, the reading of it, what it lacks."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.release import IntendedUse

USE_FIELDS = ("owner", "intended", "prohibited", "affected")
_LISTS = USE_FIELDS[1:]
_SAYS = {
    "owner": "Who answers for it: a person or a team that can be reached.",
    "intended": "What it is for, one use a line.",
    "prohibited": "What it must not be used for, one use a line. A line such as `topics: betting = casino, bet` or\n"
    "# `hazards: advice on weapons` names a guard, which the gateway then puts before it.",
    "affected": "Groups of people whom its answers may touch, whether they use it or not.",
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of the impact assessment. id: its key in the file."""

    id: str
    text: str


@cache
def questions() -> tuple[Question, ...]:
    """All questions, in the order in which they are asked."""
    text = (resources.files("trimtab") / "catalog" / "intended_use.toml").read_text(encoding="utf-8")
    return tuple(Question(**one) for one in tomllib.loads(text)["questions"])


def question_ids() -> tuple[str, ...]:
    """Ids of all questions."""
    return tuple(one.id for one in questions())


def use_template(required_use: Sequence[str], required_answers: Sequence[str]) -> str:
    """The text of a use.toml to fill in; what must not stay empty is marked."""
    lines = ["# What a release is for. What is marked as required must be filled in before an alias may point at the release.", ""]
    for name in USE_FIELDS:
        lines.append(f"# {_SAYS[name]}{_mark(name in required_use)}")
        lines += [f"{name} = []" if name in _LISTS else f'{name} = ""', ""]
    lines += ["# A short impact assessment: a sentence or two each.", "[answers]"]
    for question in questions():
        lines += [f"# {question.text}{_mark(question.id in required_answers)}", f'{question.id} = ""']
    return "\n".join(lines) + "\n"


def _mark(required: bool) -> str:
    return " (required)" if required else ""


def parse_use(text: str, where: str) -> IntendedUse:
    """What a use.toml says; empty answers are left out. where: the file's name. Raises InputError: one sentence that names the key."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{where} is not valid TOML: {error}.") from None
    for key in table:
        if key not in (*USE_FIELDS, "answers"):
            raise InputError(f"{where}: unknown key {key!r}; the keys are {', '.join(USE_FIELDS)} and [answers].")
    owner = table.get("owner", "")
    if not isinstance(owner, str):
        raise InputError(f"{where}: owner must be a text, not {owner!r}.")
    for key in _LISTS:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise InputError(f"{where}: {key} must be a list of texts, not {value!r}.")
    return IntendedUse(
        owner=owner.strip(),
        **{key: tuple(one.strip() for one in table.get(key, []) if one.strip()) for key in _LISTS},
        answers=_answers(table.get("answers", {}), where),
    )


def _answers(table: Any, where: str) -> Mapping[str, str]:
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: answers must be a table, begun with [answers].")
    for key, value in table.items():
        if key not in question_ids():
            raise InputError(f"{where}: there is no question {key!r}; the questions are {', '.join(question_ids())}.")
        if not isinstance(value, str):
            raise InputError(f"{where}: the answer {key!r} must be a text, not {value!r}.")
    return {key: value.strip() for key, value in table.items() if value.strip()}


def use_gaps(use: IntendedUse, required_use: Sequence[str], required_answers: Sequence[str]) -> tuple[str, ...]:
    """What a release's use lacks, as sentences; empty = it is complete."""
    empty = [name for name in required_use if not getattr(use, name)]
    unanswered = [one for one in required_answers if not use.answers.get(one, "").strip()]
    gaps = []
    if empty:
        gaps.append(f"Its intended use lacks {', '.join(empty)}.")
    if unanswered:
        gaps.append(f"Its impact assessment leaves {', '.join(unanswered)} unanswered.")
    return tuple(gaps)
