"""Wordings that guards look for, from the TOML files beside this one."""

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import regex

from trimtab.guard.rules import Rule


@functools.cache
def table_of(guard: str) -> Mapping[str, Any]:
    """The file of a guard."""
    return tomllib.loads(resources.files(__package__).joinpath(f"{guard}.toml").read_text(encoding="utf-8"))


@functools.cache
def rules_of(guard: str) -> tuple[Rule, ...]:
    """One rule for each of the file's `rules`, without case, `^` at each line."""
    table = table_of(guard)
    return tuple(
        Rule(
            name=f"{guard}.{name}",
            pattern=regex.compile(
                "|".join(_with_parts(one, table["parts"]) for one in rule["wordings"]), regex.IGNORECASE | regex.MULTILINE
            ),
            reason=rule.get("reason", f"worded like a request for, or a case of: {name}"),
            score=rule.get("score", 0.8),
            replacement="[REMOVED]",
        )
        for name, rule in table["rules"].items()
    )


def _with_parts(wording: str, parts: Mapping[str, str]) -> str:
    for name, part in parts.items():
        wording = wording.replace(f"@{name}@", part)
    return wording
