"""What a lock names, made ready to run: the weights that were certified and no others."""

import logging
from dataclasses import dataclass
from pathlib import Path

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InputError
from trimtab.record.deploy import DeployLock
from trimtab.record.home import cache_dir

log = logging.getLogger("trimtab.serve")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A locked version whose weights lie here and are what the lock names."""

    lock: DeployLock
    candidate: Candidate


async def prepare_lock(path: Path, *, offline: bool) -> Prepared:
    """Build what a lock names. Raises InputError for weights that are not those that were certified, InfeasibleError, MissingError."""
    # What builds weights brings half a second of imports along, and most sites name servers and no locks.
    from trimtab.flows.parts.locked import build_locked, found_source, read_lock
    from trimtab.flows.parts.opening import open_model
    from trimtab.flows.parts.packed import packed_candidate

    lock = read_lock(path)
    caches = cache_dir()
    packed = packed_candidate(lock, path, caches=caches)
    if packed is not None:
        _warn_of_build(path, lock, packed)
        return Prepared(lock=lock, candidate=packed)
    opened = open_model(found_source(lock.source, path), cache_dir=caches, offline=offline)
    candidate = await build_locked(opened, lock, path, caches=caches, offline=offline)
    changed = [
        what
        for what, was, now in (
            ("its source files", lock.source_sha256, opened.snapshot.digest),
            ("its weights", lock.weights_sha256, candidate.snapshot.digest),
            ("its chat template", lock.template_sha256, opened.template_sha256 if lock.template_sha256 else ""),
        )
        if was != now
    ]
    if changed:
        raise InputError(f"{path}: {' and '.join(changed)} are not what was certified; `trimtab check {path}` says what changed.")
    _warn_of_build(path, lock, candidate)
    return Prepared(lock=lock, candidate=candidate)


def _warn_of_build(path: Path, lock: DeployLock, candidate: Candidate) -> None:
    if lock.build != candidate.build:
        log.warning("%s was certified on %s, this is %s; `trimtab check` measures it again", path, lock.build, candidate.build)
