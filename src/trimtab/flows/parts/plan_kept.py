"""Plans on disk: a folder with plan.json, report.html and configuration files; a page by itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain, write_atomic
from trimtab.record.disk import sentences
from trimtab.record.plan_report import write_plan_page

SCHEMA = "trimtab.plan/1"
PLAN_FILE = "plan.json"
PAGE_FILE = "report.html"


def write_page(document: Mapping[str, Any], path: Path) -> None:
    """The page alone. Raises InputError, MissingError."""
    write_plan_page(path, document)


def keep_plan(document: Mapping[str, Any], folder: Path) -> None:
    """All of a plan in a folder, made if need be; an earlier plan there is replaced. Raises InputError, MissingError."""
    if (folder / "run.json").exists():
        raise InputError(f"{folder} holds a run; name another folder with --out.")
    with sentences(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (document["emitted"].get("files") or {}).items():
            write_atomic(folder / name, text)
    write_plan_page(folder / PAGE_FILE, document)
    with sentences(folder, "write"):
        write_atomic(folder / PLAN_FILE, json.dumps(to_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan of a folder. Raises InputError for a file that is none."""
    path = folder / PLAN_FILE
    with sentences(path, "read"):
        text = path.read_text(encoding="utf-8")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}.") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(f"{path} is no plan of schema {SCHEMA}.")
    return document
