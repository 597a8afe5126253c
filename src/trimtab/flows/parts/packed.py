"""Weights that lie beside their lock, as the engine opens them: what a package holds, and what is served with no recipe and no source."""

import dataclasses
from pathlib import Path

from trimtab.core.deployment import Candidate
from trimtab.core.errors import EngineRefused, InputError
from trimtab.core.model import Snapshot
from trimtab.engines.registry import engine_class
from trimtab.package.cargo import PACKED, PACKED_DRAFT
from trimtab.record.deploy import DeployLock
from trimtab.sources.digests import file_sha256
from trimtab.sources.open import open_source, read_header


def packed_candidate(lock: DeployLock, lock_path: Path, *, caches: Path) -> Candidate | None:
    """The lock's deployment made of the weights in `packed/` beside it; None if there are none.

    Raises InputError for weights that are not those that were certified, EngineRefused, MissingError.
    """
    folder = lock_path.absolute().parent
    if not (folder / PACKED).is_dir():
        return None
    snapshot = packed_snapshot(folder, caches=caches)
    if snapshot.digest != lock.weights_sha256:
        raise InputError(f"{folder / PACKED} does not hold the weights that {lock_path} names; import the package again.")
    kind = engine_class(lock.build.engine)
    if refusal := kind.refuses(snapshot, read_header(snapshot), lock.settings):
        raise EngineRefused(f"{lock.build.engine} cannot open {folder / PACKED}: {refusal}.")
    return Candidate(
        id=lock.id,
        engine=lock.build.engine,
        recipe=lock.recipe.name,
        settings=lock.settings,
        snapshot=snapshot,
        source_sha256=lock.source_sha256,
        template_sha256=lock.template_sha256,
        build=kind.build(),
        numeric=kind.numeric_settings,
    )


def packed_snapshot(folder: Path, *, caches: Path) -> Snapshot:
    """The weights that lie in `packed/` of a folder, with the draft in `packed-draft/` if there is one. Raises InputError."""
    snapshot = whole_snapshot(folder / PACKED, caches)
    draft = folder / PACKED_DRAFT
    return dataclasses.replace(snapshot, draft=whole_snapshot(draft, caches)) if draft.is_dir() else snapshot


def whole_snapshot(folder: Path, caches: Path) -> Snapshot:
    """All files of a folder as one model: a recipe's product may have files that no other model of its kind has."""
    found = open_source(str(folder), cache_dir=caches)
    known = {file.name for file in found.files}
    others = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.relative_to(folder).as_posix() not in known]
    files = []
    for path in others:
        size, sha256 = file_sha256(path, caches)
        name = path.relative_to(folder).as_posix()
        files.append(dataclasses.replace(found.files[0], name=name, size_bytes=size, sha256=sha256))
    return dataclasses.replace(found, files=(*found.files, *files))
