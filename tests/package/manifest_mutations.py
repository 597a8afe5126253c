"""Small faults put into a valid document, one at a time."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FREE = {
    "labels",
    "annotations",
    "matchLabels",
    "data",
    "selector",
    "requests",
    "limits",
    "environment",
    "services",
    "volumes",
    "configs",
    "secrets",
    "rayStartParams",
}
"""Objects whose keys are anybody's choice, so that a renamed key in them is as valid as before."""

WRONG = {"wrong": ["kind"]}
"""What no scalar of these formats may be."""


@dataclass(frozen=True)
class Mutation:
    """kind: `renamed`, `deleted` or `retyped`; where: keys and places from the top"""

    kind: str
    where: tuple[Any, ...]
    document: Mapping[str, Any]


def _walk(node: Any, where: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*where, key)
        yield from _walk(value, (*where, key))


def _parent(document: Any, where: tuple[Any, ...]) -> Any:
    for key in where[:-1]:
        document = document[key]
    return document


def mutations(document: Mapping[str, Any]) -> Iterator[Mutation]:
    """Every key renamed (where keys are given by the format), every key deleted, every scalar given another type."""
    for where in list(_walk(document, ())):
        old = _parent(document, where)
        if isinstance(old, dict):
            if len(where) < 2 or where[-2] not in FREE:
                changed = copy.deepcopy(document)
                inner = _parent(changed, where)
                inner[f"{where[-1]}x"] = inner.pop(where[-1])
                yield Mutation("renamed", where, changed)
            changed = copy.deepcopy(document)
            del _parent(changed, where)[where[-1]]
            yield Mutation("deleted", where, changed)
        if not isinstance(old[where[-1]], (dict, list)):
            changed = copy.deepcopy(document)
            _parent(changed, where)[where[-1]] = copy.deepcopy(WRONG)
            yield Mutation("retyped", where, changed)
