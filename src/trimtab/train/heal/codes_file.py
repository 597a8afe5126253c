"""Codes of many weights in one file beside a Hugging Face directory: `grid.safetensors`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from trimtab.compress.grids import Codes, check_codes
from trimtab.core.errors import InputError
from trimtab.core.files import write_atomic

NAME = "grid.safetensors"


def write_codes(folder: Path, codes: Mapping[str, Codes]) -> None:
    """Write the codes by weight, whole or not at all. Raises OSError."""
    from safetensors.numpy import save

    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, each in codes.items():
        tensors[f"{name}:levels"], tensors[f"{name}:scales"] = each.levels, each.scales
        if each.offsets is not None:
            tensors[f"{name}:offsets"] = each.offsets
    grids = {name: each.grid for name, each in codes.items()}
    write_atomic(folder / NAME, save(tensors, metadata={"grids": json.dumps(grids, sort_keys=True)}))


def read_codes(folder: Path) -> dict[str, Codes]:
    """The codes by weight; {} where the folder has none. Raises InputError for a broken file."""
    path = folder / NAME
    if not path.exists():
        return {}
    from safetensors import SafetensorError, safe_open

    found = {}
    try:
        with safe_open(path, framework="np") as file:
            keys = set(file.keys())
            for name, grid in json.loads(file.metadata()["grids"]).items():
                offsets = file.get_tensor(f"{name}:offsets") if f"{name}:offsets" in keys else None
                levels, scales = file.get_tensor(f"{name}:levels"), file.get_tensor(f"{name}:scales")
                found[name] = Codes(grid=grid, levels=levels, scales=scales, offsets=offsets)
                check_codes(found[name])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no codes of weights ({error}); make the run anew with --fresh.") from error
    return found
