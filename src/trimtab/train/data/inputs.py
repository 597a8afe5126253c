"""What [data] files names: files of text and folders of prepared shards, here or behind an address."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.train.data.documents import KINDS
from trimtab.train.data.places import LocalPlace, Place, RemotePlace
from trimtab.train.data.shards import MANIFEST


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """texts: (place of the folder, name in it) of each file of text; prepared: places of folders of shards; both in the order given."""

    texts: tuple[tuple[Place, str], ...]
    prepared: tuple[Place, ...]


def resolved(files: Sequence[str]) -> Inputs:
    """Find what files, patterns and addresses name. Raises InputError, MissingError."""
    texts: list[tuple[Place, str]] = []
    prepared: list[Place] = []
    seen: set[str] = set()
    for given in files:
        for place, name in _remote(given) if "://" in given.removeprefix("file://") else _local(given.removeprefix("file://")):
            where = place.where(name)
            if where in seen:
                raise InputError(f"{where} is named twice in [data] files; a document that is to count twice gets a weight.")
            seen.add(where)
            if name:
                texts.append((place, name))
            else:
                prepared.append(place)
    if not seen:
        raise InputError("[data] files names nothing; give files of text or folders of prepared shards.")
    return Inputs(texts=tuple(texts), prepared=tuple(prepared))


def _local(given: str) -> Iterator[tuple[Place, str]]:
    """(place, name of the file) of each; a folder of shards has the name ""."""
    path = Path(given).expanduser()
    is_pattern = not path.exists() and glob.has_magic(given)
    found = sorted(glob.glob(str(path), recursive=True)) if is_pattern else [str(path)]
    if not found:
        raise InputError(f"No file matches {given}; check the pattern.")
    for item in map(Path, found):
        if (item / MANIFEST).is_file():
            yield LocalPlace(item), ""
        elif item.is_dir():
            if not is_pattern:
                raise InputError(f"{given} is a folder without a {MANIFEST}; give the files in it ({given.rstrip('/')}/*.jsonl).")
        elif not item.exists():
            raise InputError(f"There is no {given}; check the path.")
        else:
            yield LocalPlace(item.parent), _known(item.name, str(item))


def _remote(given: str) -> Iterator[tuple[Place, str]]:
    if given.endswith(KINDS):
        folder, _, name = given.rpartition("/")
        place = RemotePlace(folder)
        for match in place.matching(name) if glob.has_magic(name) else [name]:
            yield place, _known(match, given)
    else:
        yield RemotePlace(given.removesuffix("/").removesuffix(f"/{MANIFEST}")), ""


def _known(name: str, where: str) -> str:
    if not name.endswith(KINDS):
        raise InputError(f"{where} is none of {', '.join(KINDS)}; convert it to one of them.")
    return name
