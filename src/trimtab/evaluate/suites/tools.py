"""The `tools` suite: does a model call the right tool with the right arguments in valid JSON, and say what came back? By likelihood.

What each sub-suite measures and does not, with an example, is in docs/suites.md. Changing any item changes the suite's digest.
"""

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from trimtab.core.evidence import Item

VERSION = "1"
SYSTEM = "You can call these tools:\n{tools}\nAnswer with one call as JSON with the keys name and arguments, and nothing else."
AFTER = "You called a tool for the user. Tell the user in one sentence what it answered, and nothing that it did not."
WRONG = {"tool-argument": 1, "tool-choice": 2, "tool-schema": 3}
"""Sub-suite -> which of a request's wrong calls the right one is held against."""


def tool_items() -> tuple[Item, ...]:
    """All items of the suite, in a fixed order."""
    tables: dict[str, Any] = tomllib.loads(files(__package__).joinpath("tools", "tools.toml").read_text(encoding="utf-8"))
    return tuple(item for name, table in tables.items() for item in _items(name, table))


def _items(name: str, table: dict[str, Any]) -> Iterator[Item]:
    system = SYSTEM.format(tools="\n".join(table["tools"]))
    for number, (request, *calls) in enumerate(table["requests"], 1):
        cluster = f"tools-{name}-{number}"
        common = {"cluster": cluster, "prompt": request, "system": system, "chat": True}
        yield Item(id=f"{cluster}-call", suite="tool-call", scorer="nats_per_token", options=(calls[0],), **common)
        for suite, wrong in WRONG.items():
            yield Item(id=f"{cluster}-{suite}", suite=suite, scorer="margin", options=(calls[0], calls[wrong]), **common)
    for number, (request, result, right, wrong_answer) in enumerate(table["after"], 1):
        key = f"tools-{name}-after-{number}"
        yield Item(
            id=key,
            suite="tool-result",
            cluster=key,
            scorer="margin",
            prompt=f"My request was: {request}\nThe tool answered: {result}",
            system=AFTER,
            chat=True,
            options=(right, wrong_answer),
        )
