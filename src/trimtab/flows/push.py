"""`trimtab release push`: a release, or what a run chose, into the registry of another tool."""

import asyncio
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from trimtab.core.errors import InputError, MissingError
from trimtab.decide.release import find, read_book
from trimtab.decide.release_book import Book, standing
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.flows.parts.card_facts import card_facts
from trimtab.flows.parts.release_folder import write_release_folder
from trimtab.flows.parts.released import entries_if_any, now_after, opened_store
from trimtab.flows.parts.shipment import Shipment, cargo_of, serving_of, shipment_of
from trimtab.package.formats import card_files
from trimtab.record.disk import sentences

ENTRY_POINTS = "trimtab.push"
SCHEMA = "trimtab.push/1"
EVIDENCE = ("deploy.toml", "decision.json", "run.json", "candidates.jsonl", "report.html", "items/*.parquet")
"""Of the folder of a run that was not released."""


class Push(Protocol):
    """Sends a folder and says what lies where by now. Raises InputError (also for what the registry answers), MissingError.

    folder: evidence under the names it had in the run, cards, and the weights if they are sent
    to: the place, as the registry names it; version: of the release, `3`, empty if there is none
    """

    def __call__(self, folder: Path, *, to: str, name: str, version: str, aliases: Sequence[str]) -> Mapping[str, str]: ...


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A registry of another tool: what an entry point of the group `trimtab.push` names.

    takes_weights: gets them unless told otherwise; takes_aliases: has names that move from one version to another
    """

    push: Push
    takes_weights: bool
    takes_aliases: bool


def registries() -> list[str]:
    """Names of all that can be pushed to."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def push(
    where: str,
    what: str,
    *,
    to: str,
    aliases: Sequence[str] = (),
    weights: bool | None = None,
    ledger: str = "",
    offline: bool = False,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Push a release with its evidence and its cards.

    where: `mlflow`, `hub`, or the registry of another package; to: the place there, as that registry names it
    what: `NAME@N`, `NAME@ALIAS`, or the folder of a run
    aliases: to point at it there; none given = those that the ledger has on the release, where the registry has aliases
    weights: None = as the registry takes them
    Raises InputError, MissingError, InfeasibleError.
    """
    points = list(entry_points(group=ENTRY_POINTS, name=where))
    if not points:
        raise InputError(f"There is no registry {where!r} to push to; there are {', '.join(registries())}.")
    if offline:
        raise MissingError("A registry may be a network away, and --offline forbids that.", "leave --offline out")
    registry: Registry = points[0].load()
    if aliases and not registry.takes_aliases:
        raise InputError(f"{where} has no aliases; leave --alias out.")
    with tempfile.TemporaryDirectory(prefix="trimtab-push-") as made:
        folder = Path(made)
        shipment, live = _fill(folder, what, ledger)
        sends = registry.takes_weights if weights is None else weights
        if sends:
            on_event(Event(phase="weights", message=f"making the weights of {what}, unless they are there"))
            _place_weights(folder, shipment, offline=offline)
        release = shipment.release
        name = serving_of(shipment).model if release is None else release.name
        named = tuple(aliases) or (live if registry.takes_aliases else ())
        on_event(Event(phase="push", message=f"{name} to {where}: {to}"))
        done = registry.push(folder, to=to, name=name, version="" if release is None else str(release.number), aliases=named)
    return {"schema": SCHEMA, "where": where, "to": to, "what": what, "aliases": list(named), "with_weights": sends, **done}


def _fill(folder: Path, what: str, ledger: str) -> tuple[Shipment, tuple[str, ...]]:
    """Put evidence and cards into the folder. Returns what it is, and the aliases that the ledger has on it."""
    live: tuple[str, ...] = ()
    if Path(what).expanduser().exists():
        run = Path(what).expanduser()
        shipment = shipment_of(run, allow_uncertified=False)
        with sentences(folder, "write"):
            for path in (found for pattern in EVIDENCE for found in shipment.folder.glob(pattern)):
                place = folder / path.relative_to(shipment.folder)
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, place)
    else:
        shipment, live = _released(folder, what, ledger)
    for name, data in card_files("cards", card_facts(shipment)).items():
        if not (folder / name).exists():  # those of a release are as they were signed
            (folder / name).write_bytes(data)
    return shipment, live


def _released(folder: Path, what: str, ledger: str) -> tuple[Shipment, tuple[str, ...]]:
    """The release of that name, its folder as `trimtab verify` takes it. Raises InputError for one that was revoked."""
    entries = entries_if_any(ledger)
    if not entries:
        raise InputError(f"There is no {what}: it is no folder, and the ledger has no releases yet.")
    book: Book = read_book(entries)
    record = find(book, what)
    release = record.release
    if standing(book, record, now_after(entries)).state == "revoked":
        raise InputError(f"{release.id} was revoked; what nobody may use is not pushed anywhere.")
    write_release_folder(folder, record, entries, opened_store())
    return shipment_of(folder, allow_uncertified=release.verdict != "pass", release=release), book.live_on(release.id)


def _place_weights(folder: Path, shipment: Shipment, *, offline: bool) -> None:
    """The files that the engine opens, at the top of the folder, a draft's in `draft`; by links, since they are only read."""
    weights = asyncio.run(cargo_of(shipment, offline=offline)).weights
    wanted = [(file.name, weights.root / file.name) for file in weights.files]
    if weights.draft is not None:
        wanted += [(f"draft/{file.name}", weights.draft.root / file.name) for file in weights.draft.files]
    for name, path in wanted:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            raise InputError(f"The weights have a file {name}, which is a name of the evidence; they cannot be sent in one folder.")
        place.symlink_to(path)
