"""Which weights of a GGUF file get a type of their own, from the `tensors` parameter of a recipe."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Recipe
from trimtab.core.errors import InputError

KEEP = "keep"
"""Not a type: the bytes that the source has."""
TENSOR_TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0"),
    *("IQ4_NL", "IQ4_XS", "Q3_K", "Q2_K"),
)


def check_tensors(recipe: Recipe) -> None:
    """Raise InputError for a `tensors` table with a broken expression or an unknown type."""
    tensors = recipe.parameters.get("tensors", {})
    if not isinstance(tensors, Mapping):
        raise InputError(f"Recipe {recipe.name!r}: tensors is a table of name patterns to types, not {tensors!r}.")
    for pattern, type_name in tensors.items():
        if type_name not in (*TENSOR_TYPES, KEEP):
            raise InputError(
                f"Recipe {recipe.name!r} asks for type {type_name!r} for {pattern!r}; the types of single weights are "
                f"{', '.join(TENSOR_TYPES)} and {KEEP}."
            )
        check_pattern(recipe, pattern)


def check_pattern(recipe: Recipe, pattern: str) -> None:
    """Raise InputError for something that is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(f"Recipe {recipe.name!r}: {pattern!r} is not a regular expression ({error}).") from None


def types_by_weight(recipe: Recipe, source: Path, *, rest: str) -> dict[str, int]:
    """Type number of each weight that gets one of its own; empty if the recipe has no `tensors`.

    source: the (first) file; rest: what the weights get that no pattern finds: a float type, `keep`, or empty = what llama.cpp chooses
    Raises InputError for a pattern that finds no weight, and for a weight that two patterns give different types.
    """
    import gguf

    tensors: Mapping[str, str] = recipe.parameters.get("tensors", {})
    if not tensors:
        return {}
    parts = sorted(source.parent.glob(re.sub(r"-\d{5}-of-", "-*-of-", source.name))) if "-of-" in source.name else [source]
    weights = {tensor.name: tensor.tensor_type for part in parts for tensor in gguf.GGUFReader(part).tensors if len(tensor.shape) > 1}
    chosen = match_types(recipe, tensors, weights)
    numbers = {}
    for name, stored in weights.items():
        type_name = chosen.get(name, rest)
        if type_name:
            numbers[name] = int(stored if type_name == KEEP else gguf.GGMLQuantizationType[type_name])
    return numbers


def match_types(recipe: Recipe, tensors: Mapping[str, str], names: Mapping[str, Any]) -> dict[str, str]:
    """The type of each name that a pattern finds. The table has no order, so two patterns must not disagree. Raises InputError."""
    chosen: dict[str, str] = {}
    found_by: dict[str, str] = {}
    for pattern, type_name in tensors.items():
        found = [name for name in names if re.search(pattern, name)]
        if not found:
            raise InputError(f"Recipe {recipe.name!r}: no weight's name matches {pattern!r}; names look like {next(iter(names), '')!r}.")
        for name in found:
            if chosen.setdefault(name, type_name) != type_name:
                raise InputError(
                    f"Recipe {recipe.name!r}: {found_by[name]!r} and {pattern!r} both find {name!r} and give it different types; "
                    "write patterns that do not overlap."
                )
            found_by.setdefault(name, pattern)
    return chosen
