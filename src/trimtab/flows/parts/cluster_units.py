"""What a machine of a cluster does: open the very deployment that is asked for, score or screen, and put the result where it is looked for.

Results are put under the key that `flows/parts/evidence.py` and `screening.py` look up, so that who decides does not know, and need not
know, where something was computed.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from trimtab.cluster.store import is_url, open_results
from trimtab.cluster.units import Receipt, Unit, failed
from trimtab.compress.child import make_apart
from trimtab.core.deployment import Candidate, Settings
from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.files import digest_of, to_plain
from trimtab.core.model import Snapshot
from trimtab.engines.client import WorkerClient
from trimtab.engines.protocol import score_request_from, score_result_from
from trimtab.engines.registry import engine_class
from trimtab.evaluate.runner import score_items
from trimtab.evaluate.screen import candidate_screen_requests, screen
from trimtab.evaluate.stored import prepared_from
from trimtab.flows.parts.calibration import calibration_of
from trimtab.flows.parts.cluster_search import search_here
from trimtab.flows.parts.opening import recipe_named
from trimtab.flows.parts.workers import Workers
from trimtab.measure.machine import available_memory_bytes
from trimtab.record.cache import Cache
from trimtab.record.home import cache_dir
from trimtab.sources.digests import file_sha256
from trimtab.sources.open import open_source

TARGET = "trimtab.flows.parts.cluster_units:Hands"
QUESTIONS = "questions"
"""Kind of what is asked, in the shared results, by its own digest."""
IDLE_S = 30.0
"""Engines that nothing was asked of for so long give their memory back."""


def candidate_to_plain(candidate: Candidate) -> dict[str, Any]:
    """What another machine needs in order to open this very deployment, as JSON types."""
    plain: dict[str, Any] = to_plain(candidate)
    return {
        **plain,
        "settings": to_plain(candidate.settings.given()),
        "numeric": sorted(candidate.numeric),
        "build": candidate.build.digest,
    }


def incomplete_key(key: str) -> str:
    """Where outcomes go of which some are missing: what is missing today may be there tomorrow."""
    return digest_of(["incomplete", key])


class Hands:
    """Does one unit after the other in this process, with engines in child processes that stay for the next."""

    def __init__(self) -> None:
        self._workers = Workers(available_memory_bytes())
        self._rest: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def do(self, unit: Unit) -> Receipt:
        """A unit's receipt; what it cannot be done for is in the receipt too."""
        if self._rest is not None:
            self._rest.cancel()
        started_s = time.monotonic()
        try:
            receipt = await {"score": self._score, "screen": self._screen, "optimize": self._optimize}[unit.what](unit)
        except TrimtabError as error:
            receipt = failed(unit, error)
        finally:
            self._rest = asyncio.get_running_loop().call_later(IDLE_S, self._idle)
        return Receipt(**{**to_plain(receipt), "seconds": round(time.monotonic() - started_s, 3)})

    async def close(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        await self._workers.end_all()

    def _idle(self) -> None:
        task = asyncio.get_running_loop().create_task(self._workers.end_all())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _score(self, unit: Unit) -> Receipt:
        results, asked = _results(unit), unit.spec["questions"]
        known = results.get_outcomes(unit.key)
        if known is not None:
            return Receipt(key=unit.key, sha256=digest_of(known), was_known=True)
        prepared = prepared_from(_questions(results, asked))
        candidate = await opened_here(unit.spec["candidate"], unit.spec["place"])
        async with self._workers.lent(candidate, "score") as client:
            found = await score_items(client, prepared)
            peak_bytes = _resident_bytes(client)
        is_whole = all(outcome.value is not None for outcome in found)
        why = results.put_outcomes(unit.key if is_whole else incomplete_key(unit.key), found, {"deployment": candidate.deployment.digest})
        if why:
            raise MissingError(why, "see that there is room and permission there")
        return Receipt(key=unit.key, sha256=digest_of(found), is_whole=is_whole, peak_bytes=peak_bytes)

    async def _screen(self, unit: Unit) -> Receipt:
        results = _results(unit)
        known = results.get_json("screen", unit.key)
        if known is not None:
            return Receipt(key=unit.key, sha256=digest_of(known), was_known=True)
        asked = _questions(results, unit.spec["questions"])
        requests = [score_request_from(one) for one in asked["requests"]]
        reference = [score_result_from(one) for one in asked["results"]]
        candidate = await opened_here(unit.spec["candidate"], unit.spec["place"])
        async with self._workers.lent(candidate, "score") as client:
            info = await client.info()
            if info.vocab_size != unit.spec["vocab_size"]:
                raise InputError(f"{candidate.id} has another vocabulary than the reference.")
            found = screen(reference, await client.score(candidate_screen_requests(requests, reference)))
            peak_bytes = _resident_bytes(client)
        results.put_json("screen", unit.key, found)
        return Receipt(key=unit.key, sha256=digest_of(found), peak_bytes=peak_bytes)

    async def _optimize(self, unit: Unit) -> Receipt:
        from trimtab.flows.optimize import optimize  # which imports this

        await self._workers.end_all()  # nothing else may take time or memory while it times
        return Receipt(key=unit.key, sha256=await asyncio.to_thread(search_here, unit.spec, optimize))


def _results(unit: Unit) -> Cache:
    return open_results(unit.spec["place"], unit.spec["part"])


def _questions(results: Cache, digest: str) -> Mapping[str, Any]:
    asked = results.get_json(QUESTIONS, digest)
    if asked is None:
        raise MissingError("What was asked is not in the shared results.", "see that all nodes reach the same --cluster-store")
    found: Mapping[str, Any] = asked
    return found


async def opened_here(plain: Mapping[str, Any], place: str) -> Candidate:
    """The deployment on this machine: its files where they are seen here too, else its source opened and its recipe applied here.

    place: of the shared results; a folder is also where fetched models and built weights are.
    Raises InputError or MissingError if this machine has another build, or comes to other weights.
    """
    build = engine_class(plain["engine"]).build()
    if build.digest != plain["build"]:
        raise MissingError(
            f"{plain['engine']} is {build.version} on this node ({build.details}), another build than the asking side's.",
            "install the same version on all nodes",
        )
    wanted = Snapshot.parse(plain["snapshot"])
    caches = cache_dir() if is_url(place) else Path(place)
    snapshot = wanted if _is_here(wanted, caches) else await _made_here(plain, wanted, caches)
    return Candidate(
        **{
            **plain,
            "settings": Settings.parse(plain["settings"]),
            "snapshot": snapshot,
            "build": build,
            "numeric": frozenset(plain["numeric"]),
        }
    )


async def _made_here(plain: Mapping[str, Any], wanted: Snapshot, caches: Path) -> Snapshot:
    source = open_source(wanted.source, cache_dir=caches)
    if source.digest != plain["source_sha256"]:
        raise InputError(
            f"{wanted.source} is another model on this node than on the asking side; give a source that is the same everywhere."
        )
    recipe = recipe_named(plain["recipe"], plain["engine"])
    made = await make_apart(recipe, source, caches / "products", calibration=calibration_of(recipe))
    if made.digest != wanted.digest:
        raise InputError(
            f"Recipe {recipe.name} gives other weights on this node than on the asking side; use a --cluster-store that is a folder all "
            "nodes see, where weights are built once."
        )
    return made


def _is_here(wanted: Snapshot, caches: Path) -> bool:
    """Whether the files that the asking side has are seen here, byte for byte."""
    with contextlib.suppress(InputError):
        return all(
            file_sha256(one.root / file.name, caches) == (file.size_bytes, file.sha256)
            for one in (wanted, *([wanted.draft] if wanted.draft else []))
            for file in one.files
        )
    return False


def _resident_bytes(client: WorkerClient) -> int:
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(client.pid).memory_info().rss)
    return 0
