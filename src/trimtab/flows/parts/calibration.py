"""The texts that a recipe is fitted on: the shipped ones, with the identity-swapped twins of some suites where the recipe names them."""

from collections.abc import Sequence

from trimtab.compress.base import needs_calibration
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InputError
from trimtab.evaluate.prompts import calibration_texts
from trimtab.evaluate.split import split
from trimtab.evaluate.suites.registry import load_suite
from trimtab.evaluate.twins import in_turns, twin_texts

SHARE_TWINS = 0.1
"""The smallest share of items that any verb keeps for its search: what certifies, here or in `compare`, was never fitted on."""


def calibration_of(recipe: Recipe) -> tuple[str, ...]:
    """The texts for a recipe, () if it takes none. `calibration = ["core"]` adds twins of these suites' items, `true` does not.

    Raises InputError for a suite that cannot be found, or one without identity-swapped items.
    """
    if not needs_calibration(recipe):
        return ()
    names = recipe.parameters["calibration"]
    if names is True:
        return calibration_texts()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"Recipe {recipe.name!r}: calibration is true, or a list of suites' names, not {names!r}.")
    items = [item for name in names for item in load_suite(name).items]
    twins = twin_texts(split(items, SHARE_TWINS)[0])
    if not twins:
        raise InputError(f"Recipe {recipe.name!r}: no items of {', '.join(names)} are there once for each of several groups.")
    return in_turns(calibration_texts(), twins)


def suites_with_twins(names: Sequence[str]) -> list[str]:
    """Those of the suites whose search part has identity-swapped items. Raises InputError."""
    return [name for name in names if twin_texts(split(load_suite(name).items, SHARE_TWINS)[0])]
