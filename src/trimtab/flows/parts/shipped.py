"""What `trimtab export` was asked for, found: a release of the ledger with its evidence, a deploy.toml, or the folder of a run."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.files import sha256_file
from trimtab.core.release import Entry
from trimtab.decide.release import find, read_book
from trimtab.decide.release_book import Record
from trimtab.decide.release_may import rules_of
from trimtab.flows.parts.release_folder import NAME as RELEASE
from trimtab.flows.parts.release_folder import Released, read_released, write_release_folder
from trimtab.flows.parts.released import entries_if_any, opened_store
from trimtab.flows.parts.shipment import Shipment, shipment_of


@contextlib.contextmanager
def shipped(what: str, *, ledger: str, allow_uncertified: bool) -> Iterator[Shipment]:
    """The lock and the evidence that a name or a path stands for; what was fetched for it is gone when the block ends.

    what: a deploy.toml or the folder of a run, else `support-chat@3` or `support-chat@production` of the ledger
    Raises InputError (nothing of that name, revoked, evidence missing, what `shipment_of` raises), MissingError.
    """
    path = Path(what).expanduser()
    if path.exists():
        found = _released(path)
        release, rules = (found.release, rules_of(found.body)) if found is not None else (None, None)
        yield shipment_of(path, allow_uncertified=allow_uncertified, release=release, rules=rules)
        return
    if "/" in what or what.endswith(".toml"):
        raise InputError(f"There is no {what}; give a deploy.toml, the folder of a run (`trimtab runs list` shows them), or a release.")
    with tempfile.TemporaryDirectory(prefix="trimtab-export-") as scratch:
        record = _fetched(what, Path(scratch), ledger, allow_revoked=allow_uncertified)
        yield shipment_of(Path(scratch), allow_uncertified=allow_uncertified, release=record.release, rules=record.rules)


def _released(path: Path) -> Released | None:
    """The release that a folder was exported from, if it says so of the lock in it. Raises InputError."""
    named = path / RELEASE
    if not named.is_file():
        return None
    found = read_released(named)
    if found.faults:
        raise InputError(f"{named} is not as it was written: {found.faults[0]} `trimtab verify {path}` says more.")
    lock = path / "deploy.toml"
    if lock.is_file() and sha256_file(lock) != found.release.lock_sha256:
        raise InputError(f"{lock} is not the lock of {found.release.id}, which {named} is about; `trimtab verify {path}` says more.")
    return found


def _fetched(what: str, folder: Path, url: str, *, allow_revoked: bool) -> Record:
    """Write a release of the ledger into a folder."""
    entries = entries_if_any(url)
    record = _found(what, entries)
    if record.revoked is not None and not allow_revoked:
        reason = str(record.revoked.body.get("reason", ""))
        raise InputError(f"{record.release.id} was revoked by {record.revoked.by} ({reason}); it is not exported.")
    write_release_folder(folder, record, entries, opened_store())
    return record


def _found(what: str, entries: tuple[Entry, ...]) -> Record:
    try:
        return find(read_book(entries), what)
    except InputError as error:
        if "@" in what:
            raise
        raise InputError(f"There is no {what}: it is no deploy.toml, no folder, and no release ({error})") from None
