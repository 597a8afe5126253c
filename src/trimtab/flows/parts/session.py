"""What every step of one run shares: where things are kept, what is already known, whom to tell, and when to stop."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trimtab.core.files import digest_of, to_plain
from trimtab.flows.events import Event, OnEvent
from trimtab.flows.parts.cluster_fan import Fan
from trimtab.flows.parts.cluster_join import Cluster, join
from trimtab.flows.parts.opening import Opened, open_model
from trimtab.flows.parts.workers import Workers
from trimtab.measure.machine import available_memory_bytes
from trimtab.record.cache import Cache
from trimtab.record.home import cache_dir
from trimtab.record.run import RunDir, caches_in_use

T = TypeVar("T")

NO_LIMIT_S = 3600.0
"""A limit this long was not meant as an estimate of how long the run takes."""


@dataclass(kw_only=True)
class Session:
    """One run in progress.

    limit_s: seconds after the start at which no new work is started
    caches: folder of everything that can be made or fetched again; products_dir: built weights
    fan: what gives scoring to other machines, None = it is done here
    n_computed, n_known: pieces of work done in this run, and pieces found in the cache
    """

    run: RunDir
    cache: Cache
    caches: Path
    products_dir: Path
    offline: bool
    seed: int
    tell: OnEvent
    workers: Workers
    limit_s: float
    fan: Fan | None = None
    started_s: float = field(default_factory=time.monotonic)
    n_computed: int = 0
    n_known: int = 0

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started_s

    @property
    def seconds_left(self) -> float:
        """Until no new work is started; negative when that time is past."""
        return self.limit_s - self.seconds

    def say(self, phase: str, message: str = "", done: float | None = None, total: float | None = None) -> None:
        """Tell one step of progress."""
        left_s = max(0.0, self.seconds_left) if self.limit_s < NO_LIMIT_S else None
        self.tell(Event(phase=phase, message=message, done=done, total=total, seconds_left=left_s))

    async def once(self, kind: str, key: Any, compute: Callable[[], Awaitable[Any]]) -> Any:
        """The result of `compute` as JSON types, from the cache if this was ever computed; `key`: all that it depends on."""
        digest = digest_of([kind, key])
        known = self.cache.get_json(kind, digest)
        if known is not None:
            self.n_known += 1
            return known
        result = to_plain(await compute())
        self.n_computed += 1
        self.cache.put_json(kind, digest, result)
        return result


async def together(session: Session, work: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Results of pieces of work, in order: all at once where other machines do them, else one after the other.

    Raises what the first of them in this order raises, as if they had been done one after the other.
    """
    if session.fan is None:
        return [await one() for one in work]
    found = await asyncio.gather(*(one() for one in work), return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from synchronous code, also where an event loop already runs (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@asynccontextmanager
async def open_session(
    model: str,
    *,
    out: Path,
    digests: Mapping[str, str],
    inputs: Mapping[str, Any],
    versions: Mapping[str, str],
    fresh: bool,
    offline: bool,
    limit_s: float,
    seed: int,
    on_event: OnEvent,
    cluster: Cluster | None = None,
) -> AsyncIterator[tuple[Session, Opened]]:
    """Open the model and the run directory. A fresh run neither reads what is known nor an earlier part of this run.

    cluster: where scoring is done; None = here
    Raises InputError, MissingError.
    """
    caches = cluster.caches if cluster is not None else cache_dir()
    on_event(Event(phase="open", message=model))
    in_use = caches_in_use()  # from before the model is opened until the run says so itself
    try:
        opened = open_model(model, cache_dir=caches, offline=offline)
        digests = {"source": opened.snapshot.digest, **digests}
        run = RunDir.open(out, digests=digests, seed=seed, inputs=inputs, versions=versions, fresh=fresh)
    finally:
        if in_use is not None:
            in_use.release()
    async with _running(run, fresh=fresh, offline=offline, limit_s=limit_s, seed=seed, on_event=on_event, cluster=cluster) as session:
        yield session, opened


@asynccontextmanager
async def open_run(
    *,
    out: Path,
    digests: Mapping[str, str],
    inputs: Mapping[str, Any],
    versions: Mapping[str, str],
    fresh: bool,
    offline: bool,
    limit_s: float,
    seed: int,
    on_event: OnEvent,
) -> AsyncIterator[Session]:
    """A run that is bound to no one model's files, otherwise as `open_session`. Raises InputError, MissingError."""
    run = RunDir.open(out, digests=digests, seed=seed, inputs=inputs, versions=versions, fresh=fresh)
    async with _running(run, fresh=fresh, offline=offline, limit_s=limit_s, seed=seed, on_event=on_event) as session:
        yield session


@asynccontextmanager
async def _running(
    run: RunDir, *, fresh: bool, offline: bool, limit_s: float, seed: int, on_event: OnEvent, cluster: Cluster | None = None
) -> AsyncIterator[Session]:
    caches = cluster.caches if cluster is not None else cache_dir()
    async with Workers(available_memory_bytes()) as workers, AsyncExitStack() as stack:
        with run:
            for warning in run.warnings:
                on_event(Event(phase="open", message=warning))
            own_cache = run.path / "cache"
            session = Session(
                run=run,
                cache=Cache(own_cache if fresh or own_cache.exists() else caches / "results"),
                caches=caches,
                products_dir=caches / "products",
                offline=offline,
                seed=seed,
                tell=on_event,
                workers=workers,
                limit_s=limit_s,
            )
            if cluster is not None:
                session.cache, session.fan = await stack.enter_async_context(
                    join(cluster, run, fresh=fresh, say=lambda message: session.say("cluster", message))
                )
            yield session
