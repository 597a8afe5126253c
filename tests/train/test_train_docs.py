"""docs/train.md has every key of train.toml with its usual value, and no other."""

import re
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from trimtab.core.training import TrainConfig
from trimtab.train.config import HARDWARE

PAGE = Path(__file__).parents[2] / "docs" / "train.md"


def shown(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return ""
    value = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
    if isinstance(value, bool):
        return "on" if value else "off"
    if value in ("", (), {}):
        return "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_table_of_keys_is_that_of_the_code() -> None:
    hints = get_type_hints(TrainConfig)
    tables = {field.name: hints[field.name] for field in fields(TrainConfig)}
    keys = {f"[{name}] {one.name}": shown(one) for name, kind in tables.items() if is_dataclass(kind) for one in fields(kind)}
    keys |= {f"[hardware] {name}": "empty" for name in HARDWARE}
    told = dict(re.findall(r"^\| `(\[\w+\] \w+)` \| (.*?) ?\|", PAGE.read_text(encoding="utf-8"), re.M))
    assert told == keys
