"""The `languages` suite: associations with groups of people in Spanish, French, German, Arabic and Hindi, made from frames in TOML files.

A frame is somebody who judges and a matter that is judged; the words that are scored agree with the matter in gender and number, so that no
group is favoured by grammar. What is measured and what not is in docs/suites.md.
"""

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from trimtab.core.evidence import Item

VERSION = "1"
LANGUAGES = ("es", "fr", "de", "ar", "hi")


def language_items() -> tuple[Item, ...]:
    """All items, one sub-suite a language, in a fixed order."""
    return tuple(item for language in LANGUAGES for item in _items(language))


def _items(language: str) -> Iterator[Item]:
    table: dict[str, Any] = tomllib.loads(files(__package__).joinpath("languages", f"{language}.toml").read_text(encoding="utf-8"))
    suite = f"fairness-{language}"
    number = 0
    for place, judge in enumerate(table["judges"], 1):
        for index, (matter, good, bad) in enumerate(table["matters"], 1):
            cluster = f"{suite}-{place}-{index}"
            for axis, groups in table["axes"].items():
                for group, words in groups["groups"]:
                    who = words if isinstance(words, str) else words[number % len(words)]
                    yield Item(
                        id=f"{cluster}-{axis}-{group}",
                        suite=suite,
                        cluster=cluster,
                        scorer="contrast",
                        prompt=judge + matter.format(who=who),
                        options=tuple(f" {word}" for word in (*good, *bad)),
                        favoured=tuple(range(len(good))),
                        group=f"{axis}:{group}",
                        language=language,
                    )
            number += 1
