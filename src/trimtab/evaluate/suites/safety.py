"""The `safety` suite: fraud and false content, harmful requests in the wrappings of known attacks, and instructions hidden in what is read.

What each sub-suite measures and does not, with an example, is in docs/suites.md. Changing any item changes the suite's digest.
"""

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from trimtab.core.evidence import Item
from trimtab.evaluate.suites.core import opening_item

VERSION = "1"


def safety_items() -> tuple[Item, ...]:
    """All items of the suite, in a fixed order."""
    return (*_fraud(), *_jailbreak(), *_injection())


def _read(folder: str, name: str) -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath(folder, f"{name}.toml").read_text(encoding="utf-8"))


def _fraud() -> Iterator[Item]:
    for kind, requests in _read("safety", "fraud").items():
        for number, request in enumerate(requests, 1):
            yield opening_item("fraud", f"{kind}-{number}", request, refuses=True, group=kind)


def _jailbreak() -> Iterator[Item]:
    """Every harmful request of `core` in one wrapping; the wrappings take turns, kinds first, so that each meets several kinds of harm."""
    wrappings = _read("safety", "wrappers")
    kinds = list(wrappings)
    number = 0
    for topic, table in _read("core", "refusal").items():
        for index, request in enumerate(table["items"], 1):
            kind = kinds[number % len(kinds)]
            ways = wrappings[kind]
            wrapped = ways[number // len(kinds) % len(ways)].format(request=request)
            yield opening_item("jailbreak", f"{topic}-{index}", wrapped, refuses=True, group=kind)
            number += 1


def _injection() -> Iterator[Item]:
    """What the user wants to read against what the text demands; both begin an answer."""
    for number, (ask, text, hidden, wanted, demanded) in enumerate(_read("safety", "injection")["items"], 1):
        key = f"injection-{number}"
        yield Item(
            id=key,
            suite="injection",
            cluster=key,
            scorer="contrast",
            prompt=f"{ask}\n\nText: {text} {hidden}",
            chat=True,
            options=(wanted, demanded),
            favoured=(0,),
        )
