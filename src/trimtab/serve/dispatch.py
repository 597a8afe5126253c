"""The scheduler's hands: carries out its actions with real replicas, and tells it what became of them.

Everything runs in one event loop. A replica that does not come up, dies, grows or answers its known question wrongly is told to the
scheduler, which decides what follows.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any

from trimtab.core.errors import EngineCrashed, EngineHung, EngineRefused, InfeasibleError, TrimtabError
from trimtab.core.site import ServedModel, Site, Version
from trimtab.serve.base import Pool, Ready, Refusal, Replica, ReplicaState
from trimtab.serve.scheduler import Scheduler
from trimtab.serve.scheduling import (
    Aborted,
    Action,
    Asked,
    Died,
    Draining,
    Ended,
    Event,
    Gone,
    Grant,
    Loaded,
    LoadFailed,
    Measured,
    Plan,
    Prefetch,
    Reconfigured,
    Refuse,
    Rescaled,
    Start,
    Stop,
    Ticked,
    Unfit,
)

GROWTH_SHARE, GROWTH_BYTES = 1.5, 256 * 2**20
"""A replica is replaced once it takes more than this share of what is expected of it, and more than so many bytes above that."""
SETTLING_LOOKS = 6
"""Where nobody says what is expected, it is the most that it took in so many looks while it worked: mapped weights and caches come in
with requests."""

log = logging.getLogger("trimtab.serve")

MakeReplica = Callable[[ServedModel, Version], Replica]
FilesOf = Callable[[Version], Sequence[Path]]


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How often replicas are looked at, in seconds.

    look_s: their memory; probe_s: their known answer, while they are idle; busy_probe_s: the same though they never are
    probe_limit_s: a longer answer counts as none; load_limit_s: so long a replica may take to come up
    stop_limit_s: after the limit of a drain, so long is waited for replicas to be gone
    """

    look_s: float = 10.0
    probe_s: float = 30.0
    busy_probe_s: float = 300.0
    probe_limit_s: float = 60.0
    load_limit_s: float = 900.0
    stop_limit_s: float = 20.0


@dataclass(eq=False)
class _Entry:
    """A replica by its number. n_running: requests that hold it; task: what is being done with it."""

    number: int
    plan: Plan
    replica: Replica | None = None
    n_running: int = 0
    is_dead: bool = False
    task: "asyncio.Task[None] | None" = None


def plans_of(site: Site) -> tuple[Plan, ...]:
    """What the scheduler needs to know of a site. A version that is neither stable nor gets a share of the traffic keeps no replica."""
    plans = []
    for model in site.models:
        traffic = model.rollout
        busy = {
            traffic.stable,
            traffic.canary if traffic.canary_pct > 0 else "",
            traffic.shadow if traffic.shadow_pct > 0 else "",
        }
        for version in model.versions:
            is_pool = bool(site.cluster and version.lock)
            least = model.min_replicas if version.id in busy else 0
            plans.append(
                Plan(
                    model=model,
                    version=version,
                    memory_bytes=0 if site.memory_bytes is None or version.url or is_pool else version.memory_bytes or 0,
                    min_replicas=min(1, least) if is_pool else least,
                    max_replicas=1 if version.url or is_pool else model.max_replicas,
                    stays=is_pool and version.id in busy,
                )
            )
    return tuple(plans)


class Lease:
    """A place at a replica for one request: `async with dispatcher.lease(version) as replica`. Left, it is free again.

    Left by EngineCrashed or EngineHung, the replica counts as dead.
    """

    __slots__ = ("_again", "_dispatcher", "_number", "_replica", "_version", "_wait_s")

    def __init__(self, dispatcher: "Dispatcher", version: str, wait_s: float, again: bool) -> None:
        self._dispatcher, self._version, self._wait_s, self._again = dispatcher, version, wait_s, again
        self._number = next(dispatcher.requests)

    async def __aenter__(self) -> Replica:
        entry = await self._dispatcher.granted(Asked(self._number, self._version, self._wait_s, self._again))
        self._replica = entry.number
        assert entry.replica is not None
        return entry.replica

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, (EngineCrashed, EngineHung)):
            self._dispatcher.died(self._replica, str(error))
        self._dispatcher.ended(self._number)


class Dispatcher:
    """Replicas of a site's versions, on demand. Made anywhere; its first use, or `start`, must be in the event loop that it lives in.

    files_of: files of a version worth reading ahead while it waits for memory
    n_loads, n_failed_loads, n_deaths: since the start, by version
    """

    def __init__(
        self,
        site: Site,
        make_replica: MakeReplica,
        clock: Callable[[], float] = time.monotonic,
        *,
        files_of: FilesOf | None = None,
        rhythm: Rhythm | None = None,
    ) -> None:
        self.requests = itertools.count(1)
        self.n_loads: Counter[str] = Counter()
        self.n_failed_loads: Counter[str] = Counter()
        self.n_deaths: Counter[str] = Counter()
        self._site = site
        self._make_replica = make_replica
        self._clock = clock
        self._files_of = files_of
        self._rhythm = rhythm or Rhythm()
        self._scheduler = Scheduler(plans_of(site), memory_bytes=site.memory_bytes, patience_s=site.patience_s)
        self._entries: dict[int, _Entry] = {}
        self._ahead: dict[tuple[str, Version], Replica] = {}
        self._waiters: dict[int, asyncio.Future[_Entry]] = {}
        self._held: dict[int, _Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf
        self._empty = asyncio.Event()

    def start(self) -> None:
        """Bring up what must always run. Any use does; call it to have that before the first request."""
        self.tell(Ticked())

    def lease(self, version: str, *, wait_s: float, again: bool = False) -> Lease:
        """A place at a replica of a version, waited for at most `wait_s`, a load included.

        again: the request was admitted before and its replica died: it goes first.
        Entering raises Refusal: 429 where the queue is full, 503 where the version does not come up or has no place in time.
        """
        return Lease(self, version, wait_s, again)

    def states(self) -> Mapping[str, ReplicaState]:
        """State of each model's stable version, by the model's name."""
        found: dict[str, ReplicaState] = {}
        for model in self._site.models:
            state = self._scheduler.state_of(model.rollout.stable)
            pool = self._pool_of(model.name, model.rollout.stable) if state == "ready" else None
            found[model.name] = state if pool is None else pool.state
        return found

    def snapshot(self) -> dict[str, Any]:
        """Queues, replicas and memory now, as plain values."""
        counts = {"loads": self.n_loads, "failed_loads": self.n_failed_loads, "deaths": self.n_deaths}
        facts = self._scheduler.facts(self._clock())
        for row in facts["versions"]:
            if (pool := self._pool_of(row["model"], row["version"])) is not None:
                row |= {"replicas": pool.replicas(), "pool": pool.facts()}
        return {**facts, **{name: dict(found) for name, found in counts.items()}}

    def _pool_of(self, model: str, version: str) -> Pool | None:
        """The pool that answers for a version, the newest where two do."""
        found = [entry.replica for entry in self._entries.values() if (entry.plan.model.name, entry.plan.id) == (model, version)]
        return next((one for one in reversed(found) if isinstance(one, Pool)), None)

    async def prepare(self, site: Site) -> None:
        """Bring up the pools that another site needs and that are not there yet, while what there is goes on answering.

        So the new one is up and has answered its known question before the old one gets no more. A pool that is there is scaled as the
        other site says. Raises what Replica.start raises: then what is there goes on.
        """
        plans = plans_of(site)
        there = {(entry.plan.model.name, entry.plan.version) for entry in self._entries.values()}
        made: dict[tuple[str, Version], Replica] = {}
        try:
            for plan in plans:
                key = (plan.model.name, plan.version)
                if plan.stays and key not in there and key not in self._ahead:
                    made[key] = self._make_replica(plan.model, plan.version)
                    async with asyncio.timeout(self._rhythm.load_limit_s):
                        await made[key].start()
            for plan in plans:
                await self._rescale(plan)
        except BaseException:
            for replica in made.values():
                await replica.stop()
            raise
        self._ahead |= made

    async def _rescale(self, plan: Plan) -> None:
        for entry in list(self._entries.values()):
            is_its = (entry.plan.model.name, entry.plan.version) == (plan.model.name, plan.version)
            if is_its and isinstance(entry.replica, Pool):
                self.tell(Rescaled(entry.number, await entry.replica.rescale(plan.model)))

    async def reconfigure(self, site: Site) -> None:
        """Serve another site from now on. What is the same goes on; requests for what is not end as they began."""
        self._site = site
        self.tell(Reconfigured(plans_of(site), site.memory_bytes, site.patience_s))

    async def drain(self, limit_s: float) -> bool:
        """Admit nobody, serve whom there is, stop everything. After `limit_s` what is left is cut off: then it returns False."""
        self.tell(Draining())
        while self._ahead:
            await self._ahead.popitem()[1].stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._empty.wait()
            return True
        self.tell(Aborted())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rhythm.stop_limit_s):
                await self._empty.wait()
        return False

    # Between leases and the scheduler

    async def granted(self, asked: Asked) -> _Entry:
        """The replica that a request may use. Raises Refusal; cancelled, the request is over."""
        waiter: asyncio.Future[_Entry] = asyncio.get_running_loop().create_future()
        self._waiters[asked.request] = waiter
        self.tell(asked)
        if waiter.done():
            return waiter.result()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiters.pop(asked.request, None)
            self.ended(asked.request)  # it may have been granted in this very moment
            raise

    def ended(self, request: int) -> None:
        """A request has left its replica, or waits no more."""
        entry = self._held.pop(request, None)
        if entry is not None:
            entry.n_running -= 1
        self.tell(Ended(request))

    def died(self, replica: int, why: str) -> None:
        """A replica does not answer any more. Many may notice; it counts once."""
        entry = self._entries.get(replica)
        if entry is not None and not entry.is_dead:
            entry.is_dead = True
            self.n_deaths[entry.plan.id] += 1
            log.warning("%s: replica %d is replaced: %s", entry.plan.id, replica, why)
            self.tell(Died(replica, why))

    def tell(self, event: Event) -> None:
        """Pass an event on and carry out what follows."""
        for action in self._scheduler.on(event, self._clock()):
            self._do(action)
        self._set_timer()
        if self._scheduler.is_empty:
            self._empty.set()
        else:
            self._empty.clear()

    def _do(self, action: Action) -> None:
        if isinstance(action, Grant):
            entry = self._entries[action.replica]
            entry.n_running += 1
            self._held[action.request] = entry
            waiter = self._waiters.pop(action.request)
            if not waiter.done():  # else it is cancelled, and will say so itself
                waiter.set_result(entry)
        elif isinstance(action, Refuse):
            waiter = self._waiters.pop(action.request)
            if not waiter.done():
                waiter.set_exception(Refusal(action.status, action.why, code=action.code, retry_after_s=action.retry_after_s))
        elif isinstance(action, Start):
            entry = self._entries[action.replica] = _Entry(action.replica, action.plan)
            entry.task = self._task(self._bring_up(entry))
        elif isinstance(action, Stop):
            log.info("%s: replica %d stops: %s", self._entries[action.replica].plan.id, action.replica, action.why)
            self._task(self._take_down(self._entries[action.replica]))
        elif isinstance(action, Prefetch) and self._files_of is not None:
            self._task(self._read_ahead(self._files_of, action.plan.version))

    def _task(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _set_timer(self) -> None:
        """Have the scheduler ticked when it wants to be. A timer that comes too early stays: it costs one tick."""
        due_s = self._scheduler.next_s
        if self._timer is not None and self._timer_s <= due_s:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_s < inf:
            self._timer_s = due_s
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due_s - self._clock()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.tell(Ticked())

    # One replica's life

    async def _bring_up(self, entry: _Entry) -> None:
        plan, began_s = entry.plan, self._clock()
        try:
            entry.replica = self._ahead.pop((plan.model.name, plan.version), None) or self._make_replica(plan.model, plan.version)
            async with asyncio.timeout(self._rhythm.load_limit_s):  # wait_for of 3.11 may swallow a cancellation
                ready = await entry.replica.start()
        except Exception as error:
            why, may_pass = _in_words(error, self._rhythm.load_limit_s)
            if not isinstance(error, (TrimtabError, TimeoutError)):
                log.exception("%s: replica %d failed in a way that nobody foresaw", plan.id, entry.number)
            log.warning("%s: replica %d did not come up: %s", plan.id, entry.number, why)
            self.n_failed_loads[plan.id] += 1
            if entry.replica is not None:
                await entry.replica.stop()
            del self._entries[entry.number]
            self.tell(LoadFailed(entry.number, why, may_pass))
            return
        self.n_loads[plan.id] += 1
        log.info("%s: replica %d is ready after %.2f s", plan.id, entry.number, self._clock() - began_s)
        self.tell(Loaded(entry.number, ready.slots, ready.memory_bytes))
        await self._watch(entry, entry.replica, ready)

    async def _take_down(self, entry: _Entry) -> None:
        if entry.task is not None and entry.task is not asyncio.current_task():
            entry.task.cancel()
            await asyncio.wait({entry.task})
        if entry.replica is not None:
            await entry.replica.stop()
        self._entries.pop(entry.number, None)  # a start that failed meanwhile has done so
        self.tell(Gone(entry.number))

    async def _watch(self, entry: _Entry, replica: Replica, ready: Ready) -> None:
        """Look after a ready replica until it is taken down. The first probe comes as soon as it is idle."""
        rhythm = self._rhythm
        probed_s = self._clock() - rhythm.probe_s
        expected = max(entry.plan.version.memory_bytes or 0, ready.memory_bytes or 0)
        n_settling = 0 if entry.plan.version.memory_bytes else SETTLING_LOOKS
        while True:
            used = await asyncio.to_thread(replica.memory_bytes)  # reading it takes milliseconds
            if used is not None:
                self.tell(Measured(entry.number, used))
                if n_settling:
                    expected, n_settling = max(expected, used), n_settling - (entry.n_running > 0)
                if ready.memory_bytes is not None and used > max(GROWTH_SHARE * expected, expected + GROWTH_BYTES):
                    log.warning("%s: replica %d grew to %d MiB and is replaced", entry.plan.id, entry.number, used // 2**20)
                    self.tell(Unfit(entry.number, f"it grew to {used:,} bytes, expected were {expected:,}"))
                    return
            unseen_s = self._clock() - probed_s
            if unseen_s >= (rhythm.busy_probe_s if entry.n_running else rhythm.probe_s):
                why = await self._probed(replica)
                if why:
                    self.died(entry.number, why)
                    return
                probed_s = self._clock()
            await asyncio.sleep(min(rhythm.look_s, rhythm.probe_s))

    async def _probed(self, replica: Replica) -> str:
        """Why a replica does not answer as it should; empty if it does."""
        try:
            async with asyncio.timeout(self._rhythm.probe_limit_s):
                await replica.probe()
        except TimeoutError:
            return f"It did not answer a small question within {self._rhythm.probe_limit_s:g} s."
        except Exception as error:
            if not isinstance(error, TrimtabError):
                log.exception("a probe failed in a way that nobody foresaw")
            return str(error) or type(error).__name__
        return ""

    async def _read_ahead(self, files_of: FilesOf, version: Version) -> None:
        try:
            await asyncio.to_thread(lambda: read_ahead(files_of(version)))
        except (OSError, TrimtabError) as error:
            log.info("%s: nothing is read ahead: %s", version.id, error)


def _in_words(error: Exception, limit_s: float) -> tuple[str, bool]:
    """Why a replica did not come up, and whether another try may end otherwise."""
    if isinstance(error, TimeoutError):
        return f"It was not ready within {limit_s:g} s.", False
    if isinstance(error, TrimtabError):
        return str(error), isinstance(error, InfeasibleError) and not isinstance(error, EngineRefused)
    return f"{type(error).__name__}: {error}", False


def read_ahead(paths: Sequence[Path]) -> None:
    """Have the system read files into its page cache, so that whoever opens them next finds them there. Raises OSError."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)
