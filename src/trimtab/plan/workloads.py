"""Workloads by name, from a TOML file, from prompts or a trace, or written out as `512/128@1,4`."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.workload import Workload
from trimtab.plan.requests import LEAST_PROMPT_TOKENS, read_prompts, read_trace

WORKLOADS_FOLDER = Path(__file__).parent.parent / "catalog" / "workloads"
WRITTEN_OUT = re.compile(r"(\d+)/(\d+)(?:@(\d+(?:,\d+)*))?")
KEYS = ("name", "title", "prompt_tokens", "output_tokens", "concurrency", "shared_prefix_tokens")
OPTIONAL_KEYS = ("title", "shared_prefix_tokens")


def workload_names() -> list[str]:
    """Names of the workloads that ship."""
    return sorted(path.stem for path in WORKLOADS_FOLDER.glob("*.toml"))


def load_workload(name_or_path: str) -> Workload:
    """A shipped workload's name, the path of a file, or PROMPT/OUTPUT[@LEVEL,LEVEL...] in tokens and requests in flight.

    Files: .toml, or .jsonl and .csv as in `plan.requests`.
    `512/128@1,4` is 512 prompt tokens and 128 output tokens, timed with one and with four requests in flight; without @ it is one.
    Raises InputError.
    """
    text = name_or_path.strip()
    if found := WRITTEN_OUT.fullmatch(text):
        levels = [int(level) for level in (found[3] or "1").split(",")]
        values = {"name": text, "prompt_tokens": int(found[1]), "output_tokens": int(found[2]), "concurrency": levels}
        return _checked(values, f"{text!r}")
    if text in workload_names():
        return _read(WORKLOADS_FOLDER / f"{text}.toml")
    for ending, read in ((".toml", _read), (".jsonl", read_prompts), (".csv", read_trace)):
        if text.endswith(ending):
            return read(Path(text))
    raise InputError(
        f"Unknown workload {name_or_path!r}; give one of {', '.join(workload_names())}, the path of a .toml, .jsonl or .csv file, "
        "or PROMPT/OUTPUT@CONCURRENCY such as 512/128@1,4."
    )


def _read(path: Path) -> Workload:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"Workload file {path} cannot be read: {error}.") from error
    return _checked(values, f"file {path}")


def _checked(values: Mapping[str, Any], where: str) -> Workload:
    for key in values:
        if key not in KEYS:
            raise InputError(f"Unknown key {key!r} in workload {where}; the keys are {', '.join(KEYS)}.")
    for key in KEYS:
        if key not in values and key not in OPTIONAL_KEYS:
            raise InputError(f"Workload {where} lacks {key!r}.")
    for key in ("name", "title"):
        if not isinstance(values.get(key, ""), str):
            raise InputError(f"Key {key!r} of workload {where} must be text.")
    prompt_tokens = _count(values["prompt_tokens"], 1, "prompt_tokens", where)
    # One token has no gap after it, so TPOT would not exist.
    output_tokens = _count(values["output_tokens"], 2, "output_tokens", where)
    shared_prefix_tokens = _count(values.get("shared_prefix_tokens", 0), 0, "shared_prefix_tokens", where)
    if shared_prefix_tokens and prompt_tokens - shared_prefix_tokens < LEAST_PROMPT_TOKENS:
        raise InputError(f"Key 'shared_prefix_tokens' of workload {where} must leave {LEAST_PROMPT_TOKENS} tokens of each prompt unshared.")
    levels = values["concurrency"]
    if not isinstance(levels, list) or not levels:
        raise InputError(f"Key 'concurrency' of workload {where} must be a list of whole numbers, such as [1, 4].")
    concurrency = tuple(_count(level, 1, "concurrency", where) for level in levels)
    if len(set(concurrency)) < len(concurrency):
        raise InputError(f"Key 'concurrency' of workload {where} names a level twice.")
    return Workload(
        name=values["name"],
        title=values.get("title", ""),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        concurrency=tuple(sorted(concurrency)),
        shared_prefix_tokens=shared_prefix_tokens,
    )


def _count(value: object, least: int, key: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"Key {key!r} of workload {where} must be a whole number of at least {least}, not {value!r}.")
    return value
