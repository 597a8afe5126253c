"""Suites by name or file: `core`, those that other packages register under `trimtab.suites`, and the user's own files."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.evidence import Item
from trimtab.core.files import digest_of, parsed_json
from trimtab.evaluate.suites import bias, core, languages, recall, robustness, safety, tools
from trimtab.evaluate.suites.core import request_kinds
from trimtab.evaluate.suites.public import public_kinds, public_sets, read_public

ENTRY_POINTS = "trimtab.suites"
SHIPPED = {
    "core": (core.VERSION, core.core_items),
    "tools": (tools.VERSION, tools.tool_items),
    "bias": (bias.VERSION, bias.bias_items),
    "languages": (languages.VERSION, languages.language_items),
    "safety": (safety.VERSION, safety.safety_items),
    "recall": (recall.VERSION, recall.recall_items),
    "robustness": (robustness.VERSION, robustness.robustness_items),
}
KEYS = frozenset({"id", "prompt", "text", "answer", "options", "cluster", "system", "chat"})


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Versioned items. The digest is over the items alone: equal digests are equal suites, whatever their name.

    kinds: item id -> class of harm of a request, or kind of its harmless look-alikes, for reports. It is no part of the digest, because
        nothing that is asked or judged depends on it
    """

    name: str
    version: str
    items: tuple[Item, ...]
    kinds: Mapping[str, str] = field(default_factory=dict, compare=False)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.items)


def load_suite(name_or_path: str) -> Suite:
    """A suite by name (one that ships, or that an installed package registers), by file (.jsonl, .toml or .txt), or a public set with its
    file (`bbq:bbq_Age.jsonl`; see evaluate/suites/public.py).

    A line of a .jsonl file, and an [[item]] of a .toml file, holds either `text`, or `prompt` alone (both scored as text), or `prompt` and
    `answer` (the answer is scored), or `prompt`, `options` and `answer` (an option or its index from 0; scored is the margin over the other
    options). `id`, `cluster` (items that share a template), `chat` (put the prompt into the chat template) and `system` may be added.
    Each line of a .txt file that is not empty is a text. Raises InputError with the line.
    """
    if name_or_path in SHIPPED:
        version, items_of = SHIPPED[name_or_path]
        return Suite(name=name_or_path, version=version, items=(items := items_of()), kinds=request_kinds(items))
    public, colon, file = name_or_path.partition(":")
    if public == "recall" and file.isascii() and file.isdigit():
        return Suite(name=name_or_path, version=recall.VERSION, items=recall.recall_items(int(file)))
    if colon and public == "lm-eval":
        raise InputError(
            f"Tasks of lm-eval are for `trimtab evaluate --suite {name_or_path}`; its logs are judged by `trimtab compare A B --logs`."
        )
    if colon and public in public_sets():
        found, version = read_public(public, Path(file))
        return Suite(name=f"{public}:{Path(file).name}", version=version, items=found, kinds=public_kinds(public, Path(file), found))
    path = Path(name_or_path)
    if path.suffix in (".jsonl", ".toml", ".txt"):
        return _load_file(path)
    for point in entry_points(group=ENTRY_POINTS, name=name_or_path):
        suite = point.load()()
        if not isinstance(suite, Suite):
            raise InputError(f"The suite {name_or_path!r} of {point.value} is not a trimtab Suite; ask its author for a current version.")
        return suite
    if path.exists():
        raise InputError(f"{path} is not a suite: its name must end in .jsonl, .toml or .txt.")
    names = [*SHIPPED, *sorted(point.name for point in entry_points(group=ENTRY_POINTS))]
    raise InputError(
        f"No suite and no file is called {name_or_path!r}; the suites are {', '.join(names)}, files end in .jsonl, .toml or .txt."
    )


def _load_file(path: Path) -> Suite:
    readers = {".jsonl": _jsonl_rows, ".toml": _toml_rows, ".txt": _txt_rows}
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"Cannot read the suite {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The suite {path} is not UTF-8 at byte {error.start}; save it as UTF-8.") from error
    # A gate is about one sub-suite: the user's must not be mistaken for one of core's.
    name = f"my-{path.stem}" if path.stem in {item.suite for item in core.core_items()} else path.stem
    items = tuple(_item(row, name, number, where) for number, (where, row) in enumerate(readers[path.suffix](content, path), 1))
    if not items:
        raise InputError(f"The suite {path} holds no items; write one a line.")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InputError(f"{path} has two items with the id {item.id!r}; ids must be different.")
        seen.add(item.id)
    return Suite(name=name, version=digest_of(items)[:12], items=items)


def _jsonl_rows(content: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parsed_json(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error}); write one object a line.") from error
        if not isinstance(row, dict):
            raise InputError(f'{where}: an object is needed, such as {{"prompt": "...", "answer": "..."}}.')
        yield where, row


def _toml_rows(content: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        tables = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML ({error}).") from error
    rows = tables.get("item")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: a suite in TOML holds its items as [[item]] tables.")
    for number, row in enumerate(rows, 1):
        yield f"{path}, [[item]] number {number}", row


def _txt_rows(content: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", {"text": line.strip()}


def _item(row: Mapping[str, Any], suite: str, number: int, where: str) -> Item:
    unknown = sorted(set(row) - KEYS)
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(KEYS))}.")
    for key in ("id", "prompt", "text", "cluster", "system"):
        if key in row and (not isinstance(row[key], str) or not row[key].strip()):
            raise InputError(f"{where}: {key!r} must be a text that is not empty.")
    if ("text" in row) == ("prompt" in row):
        raise InputError(f"{where}: give either 'text' or 'prompt'.")
    if not isinstance(row.get("chat", False), bool):
        raise InputError(f"{where}: 'chat' must be true or false.")
    key = row.get("id", f"{suite}-{number}")
    common = {"id": key, "suite": suite, "cluster": row.get("cluster", key)}
    if "answer" not in row:
        for extra in ("options", "chat", "system"):
            if extra in row:
                raise InputError(f"{where}: {extra!r} needs an 'answer'.")
        return Item(**common, scorer="nats_per_token", options=(row.get("text", row.get("prompt")),))
    if "text" in row:
        raise InputError(f"{where}: an 'answer' needs a 'prompt', not a 'text'.")
    chat = row.get("chat", False)
    if "system" in row and not chat:
        raise InputError(f"{where}: 'system' needs \"chat\": true.")
    options, answer = _options(row, where)
    if not chat and not row["prompt"][-1].isspace():
        options = [option if option[0].isspace() else f" {option}" for option in options]
    return Item(
        **common,
        scorer="margin" if len(options) > 1 else "nats_per_token",
        prompt=row["prompt"],
        system=row.get("system", ""),
        chat=chat,
        options=tuple(options),
        answer=answer,
    )


def _options(row: Mapping[str, Any], where: str) -> tuple[list[str], int]:
    """(options, index of the right one)."""
    answer = row["answer"]
    if "options" not in row:
        if not isinstance(answer, str) or not answer.strip():
            raise InputError(f"{where}: 'answer' must be a text that is not empty, or come with 'options'.")
        return [answer], 0
    options = row["options"]
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(option, str) and option.strip() for option in options):
        raise InputError(f"{where}: 'options' must be a list of at least two texts that are not empty.")
    if len(set(options)) < len(options):
        raise InputError(f"{where}: two of the 'options' are the same.")
    if isinstance(answer, str) and answer in options:
        return list(options), options.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return list(options), answer
    raise InputError(f"{where}: 'answer' must be one of the options, or its index from 0 to {len(options) - 1}.")
