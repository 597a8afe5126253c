"""Rounds that a long benchmark has run so far, in a file, so that it can be run in pieces."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Records:
    """Rows of JSON, one a line; without a folder they last as long as the process."""

    def __init__(self, folder: Path | None, name: str, *, conditions: Mapping[str, Any]) -> None:
        self.path = None if folder is None else folder / f"{name}.jsonl"
        self.rows: list[dict[str, Any]] = []
        if self.path is not None and self.path.is_file():
            self.rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        first = self.last("conditions") or self.add("conditions", **conditions)
        if {key: first.get(key) for key in conditions} != dict(conditions):
            sys.exit(f"{self.path} is of another model, other items or other programs; remove it or name another folder.")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] == kind]

    def last(self, kind: str) -> dict[str, Any] | None:
        return (self.of(kind) or [None])[-1]

    def add(self, kind: str, **values: Any) -> dict[str, Any]:
        row = {"kind": kind, **values}
        self.rows.append(row)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row
