"""Reading a table of a user's TOML: each mistake is one sentence that names the file and the key's path."""

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.errors import InputError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?\s*")
_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


@dataclass
class Table:
    """One table. Its readers note what was asked for, so that `done` can name what nobody knows.

    where: of error messages, such as `site.toml`; path: of the table in it, such as `models[0].`
    """

    where: str
    values: Mapping[str, Any]
    path: str = ""
    _known: set[str] = field(default_factory=set)

    def wrong(self, key: str, what: str) -> InputError:
        """The error for a key. what: the rest of the sentence, such as `must be a number`."""
        return InputError(f"{self.where}: {self.path}{key} {what}.")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def _get(self, key: str, default: Any) -> Any:
        self._known.add(key)
        return self.values.get(key, default)

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, f"must be a text, not {value!r}")
        if required and not value.strip():
            raise self.wrong(key, "must be given, and not be empty")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, f"must be true or false, not {value!r}")
        return value

    def number(self, key: str, default: float, *, least: float = 0.0, most: float = math.inf) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or math.isinf(value):
            raise self.wrong(key, f"must be a number {_between(least, most)}, not {value!r}")
        return float(value)

    def count(self, key: str, default: int, *, least: int = 0, most: float = math.inf) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, f"must be a whole number {_between(least, most)}, not {value!r}")
        return value

    def size(self, key: str) -> int | None:
        """Bytes, given as a number of them or as text such as "6 GiB"; None if not given."""
        value = self._get(key, None)
        if value is None:
            return None
        found = _SIZE.fullmatch(value) if isinstance(value, str) else None
        n_bytes = int(float(found[1]) * _UNITS[found[2] or ""]) if found else value
        if isinstance(n_bytes, bool) or not isinstance(n_bytes, int) or n_bytes <= 0:
            raise self.wrong(key, f'must be a size such as "6 GiB", not {value!r}')
        return n_bytes

    def one_of(self, key: str, words: Sequence[str], default: str) -> str:
        value = self._get(key, default)
        if value not in words:
            raise self.wrong(key, f"must be one of {', '.join(words)}, not {value!r}")
        return str(value)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
            raise self.wrong(key, f"must be a list of texts, not {value!r}")
        return tuple(value)

    def table(self, key: str) -> "Table":
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, f"must be a table, not {value!r}")
        return Table(self.where, value, f"{self.path}{key}.")

    def tables(self, key: str) -> "list[Table]":
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            name = re.sub(r"\[\d+\]", "", self.path) + key
            raise self.wrong(key, f"must be a list of tables, each begun with [[{name}]]")
        return [Table(self.where, one, f"{self.path}{key}[{number}].") for number, one in enumerate(value)]

    def anything(self, key: str) -> Any:
        """The value as it stands."""
        return self._get(key, {})

    def done(self, also: Collection[str] = ()) -> None:
        """Raises InputError for a key that nobody has asked for."""
        known = self._known | set(also)
        for key in self.values:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                meant = f"; did you mean {near[0]}?" if near else f"; the keys here are {', '.join(sorted(known))}."
                raise InputError(f"{self.where}: {self.path}{key} is no known key{meant}")


def _between(least: float, most: float) -> str:
    return f"from {least:g} up" if math.isinf(most) else f"from {least:g} to {most:g}"
