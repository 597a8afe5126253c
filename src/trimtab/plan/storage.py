"""How fast weights and checkpoints are read and written: tiers of storage and loaders, from catalog/loading.toml."""

import tomllib
from functools import cache
from importlib import resources
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.planning import Fact, Loader, StorageTier
from trimtab.plan.device_files import fact_of

RATES = (1e6, 1e14, "bytes/s, such as 3.5e9")


@cache
def tiers() -> tuple[StorageTier, ...]:
    """All tiers, in the catalog's order."""
    return tuple(
        StorageTier(
            name=row["name"],
            about=row["about"],
            per=row["per"],
            read_bytes_s=_rate(row, "read_bytes_s"),
            write_bytes_s=_rate(row, "write_bytes_s"),
        )
        for row in _tables()["tiers"]
    )


@cache
def loaders() -> tuple[Loader, ...]:
    """All loaders, in the catalog's order; the first is what engines use where nothing else is asked."""
    found = []
    for row in _tables()["loaders"]:
        rate = _rate(row, "read_bytes_s")
        assert rate is not None
        found.append(Loader(name=row["name"], about=row["about"], per_device=row["per_device"], read_bytes_s=rate))
    return tuple(found)


def tier(name: str) -> StorageTier:
    """By name. Raises InputError if there is none."""
    for entry in tiers():
        if entry.name == name.strip().lower():
            return entry
    raise InputError(f"No storage is called {name!r}; there are {', '.join(entry.name for entry in tiers())}.")


def loader(name: str) -> Loader:
    """By name. Raises InputError if there is none."""
    for entry in loaders():
        if entry.name == name.strip().lower():
            return entry
    raise InputError(f"No loader is called {name!r}; there are {', '.join(entry.name for entry in loaders())}.")


def _rate(row: dict[str, Any], key: str) -> Fact | None:
    low, high, example = RATES
    return fact_of(row[key], f"loading.toml, {row['name']}: {key}", low, high, example) if key in row else None


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((resources.files("trimtab") / "catalog" / "loading.toml").read_text(encoding="utf-8"))
