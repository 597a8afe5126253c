"""TOML 1.0 text of plain values: what `tomllib` reads back equal. Deterministic: keys keep their order."""

import math
import re
from collections.abc import Mapping
from typing import Any

from trimtab.core.errors import InputError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def to_toml(document: Mapping[str, Any]) -> str:
    """Text of a document: plain values first, then a `[table]` for each mapping and `[[table]]` for each list of mappings.

    Entries that are None are left out. Raises InputError for a value TOML cannot hold (NaN is one: a missing number has no entry).
    """
    lines: list[str] = []
    _table(document, (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    present = {str(key): value for key, value in table.items() if value is not None}
    nested = {key: value for key, value in present.items() if isinstance(value, Mapping) or _is_array_of_tables(value)}
    for key, value in present.items():
        if key not in nested:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in nested.items():
        name = (*path, key)
        dotted = ".".join(_key(part) for part in name)
        for inner in [value] if isinstance(value, Mapping) else value:
            lines += ["", f"[{dotted}]" if isinstance(value, Mapping) else f"[[{dotted}]]"]
            _table(inner, name, lines)


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        inner = (f"{_key(str(key))} = {_value(item)}" for key, item in value.items() if item is not None)
        return "{" + ", ".join(inner) + "}"
    raise InputError(f"TOML cannot hold the value {value!r}.")


def _string(text: str) -> str:
    out = []
    for char in text:
        code = ord(char)
        if char in _SHORT:
            out.append(_SHORT[char])
        elif code < 0x20 or code == 0x7F:
            out.append(f"\\u{code:04X}")
        elif 0xD800 <= code < 0xE000:
            raise InputError(f"The text {text!r} is not valid Unicode, TOML cannot hold it; rename the file or model.")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'
