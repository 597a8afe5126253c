"""Which signals are watched. The list is catalog/signals.toml; outcomes that a site names itself become signals as they come."""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.watching import Signal

SIGNALS_FILE = Path(__file__).parent.parent / "catalog" / "signals.toml"


@functools.cache
def signals() -> Mapping[str, Signal]:
    """Every signal of the catalogue by its name, in its order."""
    rows: list[dict[str, Any]] = tomllib.loads(SIGNALS_FILE.read_text(encoding="utf-8"))["signals"]
    numbers = {field.name for field in dataclasses.fields(Signal) if field.type is float}
    plain: list[dict[str, Any]] = [{key: float(value) if key in numbers else value for key, value in row.items()} for row in rows]
    return {row["name"]: Signal(**row) for row in plain}


def signal_of(name: str) -> Signal:
    """The catalogue's signal, else that of an outcome which a site has named itself: a share from 0 to 1, of which any change is told."""
    return signals().get(name) or Signal(name=name, kind="mean", about="people", text=f"outcome {name}")
