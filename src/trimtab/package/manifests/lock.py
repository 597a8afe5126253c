"""What of deploy.toml the formats need that `Serving` does not hold. Whoever read the file has checked it; here it is only looked into."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.release import Serving

_HUB = re.compile(r"hf:(?P<name>[^@:\s]+/[^@:\s]+)(?:@(?P<revision>[^:\s]+))?(?::(?P<part>\S+))?")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """verdict: of the decision; settings: as given to the engine; recipe: its name; files: names of the source's files
    is_source: the recipe changed nothing, the engine opens the source's own files
    """

    settings: Mapping[str, Any]
    verdict: str
    recipe: str
    files: tuple[str, ...]
    is_source: bool


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A model on the Hugging Face Hub. revision: empty = the newest; part: a file or quantisation of it, empty = all."""

    name: str
    revision: str
    part: str


def judged(serving: Serving) -> Judged:
    """What the lock says of settings and files. Raises InputError if it is not the text of a deploy.toml."""
    try:
        document = tomllib.loads(serving.lock)
        weights = document["weights"]
        return Judged(
            verdict=str(document["decision"]["verdict"]),
            settings=dict(document["settings"]),
            recipe=str(document["recipe"]["name"]),
            files=tuple(str(one["name"]) for one in weights["files"]),
            is_source=weights["sha256"] == weights["source_sha256"],
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The lock of {serving.name} is not the text of a deploy.toml: {error}; give the file as trimtab wrote it."
        ) from error


def hub_name(source: str) -> HubName | None:
    """The model that `hf:org/name@revision:part` names; None for every other source."""
    found = _HUB.fullmatch(source)
    if found is None:
        return None
    return HubName(name=found["name"], revision=found["revision"] or "", part=found["part"] or "")
