"""What divergence is left after healing comes from which weights, and a recipe that keeps the costly ones in 8 bits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimtab.compress.grids import GRIDS
from trimtab.core.deployment import Recipe
from trimtab.core.files import to_plain, write_atomic
from trimtab.core.toml import to_toml
from trimtab.flows.parts.heal_student import Student
from trimtab.flows.parts.reference import machine_with_rates
from trimtab.flows.parts.session import Session

EIGHT_BITS = {"gguf": ("Q8_0", 8.5), "openvino": ("int8_sym", 8.0)}
LEFT_SHARE = 0.5
"""Of the divergence, what may stay."""
NAME = "precise.toml"
SHOWN = 12


async def precise(
    session: Session, student: Student, recipe: Recipe, reference: Path, model: Path, sequences: Sequence[Sequence[int]], out: Path
) -> dict[str, Any]:
    """Divergence by weight, largest first, and the recipe written to OUT/precise.toml. The time of a byte is measured on this machine.

    Gives `divergence` (their sum, nats a token), `largest`, `kept` (weights in the recipe), `extra_ms` a token, `recipe` (its path, "" if
    nothing needs to be kept or the candidate's types cannot be named one by one).
    """
    from trimtab.train.heal.sensitivity import keep_precise, shares

    session.say("sensitivity", "which weights the rest comes from")
    found = {name: share for name, share in shares(reference, model, sequences).items() if name in student.grids}
    machine = await machine_with_rates(session)
    costs = _costs_ms(student, model, machine.read_gb_s or 1.0)
    total = sum(found.values())
    kept = keep_precise(found, costs, budget_nats=LEFT_SHARE * total) if total > 0 else ()
    path = _write(student, recipe, kept, out) if kept else ""
    largest = sorted(found.items(), key=lambda one: -one[1])[:SHOWN]
    return {
        "divergence": total,
        "largest": [{"weight": name, "nats": share, "extra_ms": costs[name]} for name, share in largest],
        "kept": list(kept),
        "extra_ms": sum(costs[name] for name in kept),
        "recipe": path,
    }


def _costs_ms(student: Student, model: Path, read_gb_s: float) -> Mapping[str, float]:
    """By weight, how much longer a token takes if it is kept in 8 bits: reading is what decoding waits for."""
    from safetensors import safe_open

    costs = {}
    for path in sorted(model.glob("model*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                if name in student.grids:
                    rows, columns = file.get_slice(name).get_shape()
                    bits = EIGHT_BITS[student.base.format][1] - GRIDS[student.grids[name]].bits_per_weight
                    costs[name] = max(bits, 0.0) / 8 * rows * columns / (read_gb_s * 1e6)
    return costs


def _write(student: Student, recipe: Recipe, kept: Sequence[str], out: Path) -> str:
    """The candidate's recipe with the kept weights in 8 bits. One that names weights already, or is as shipped, is left to its owner."""
    if recipe.parameters.get("tensors") or recipe.parameters.get("type") in ("keep", "as-shipped"):
        return ""
    kind = EIGHT_BITS[student.base.format][0]
    names = student.names.gguf if student.base.format == "gguf" else student.names.ir
    tensors = {f"^{re.escape(names(name))}$": kind for name in kept}
    made = replace(recipe, name=f"{recipe.name}-precise", title=f"{recipe.title}; {len(kept)} weights in 8 bits")
    table = {**to_plain(made), "parameters": {**recipe.parameters, "tensors": tensors}}
    write_atomic(out / NAME, to_toml({key: value for key, value in table.items() if value not in (None, "", [], ())}))
    return str(out / NAME)
