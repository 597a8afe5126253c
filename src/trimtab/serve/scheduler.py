"""Who gets a replica, which replicas run, and who makes room: a state machine. Events go in, actions come out, and nothing else happens.

It knows the time only from events, so one list of events has one list of actions. It is the single writer of what runs: every replica is
started and stopped by an action of its own, and a replica's number is never used twice, so a late word about an old one changes nothing.

Rules, in the order in which they are applied:

1. A request gets the least busy replica of its version that has room. Requests of one version are served in their order of arrival.
2. A version without a replica, for which somebody waits, is started: one start for all who wait. Versions take turns for memory in the
   order in which their first request came to wait, and nobody overtakes for memory.
3. Room is made by stopping idle replicas, those first that are cheap to do without (`Lane.price`). Busy ones are left alone for
   `patience_s`, or for as long as the load takes that would follow if that is longer, so that requests for what is loaded are served
   together; then they take no new requests, end what they have, and stop.
4. Another replica of a version that has one starts in free memory only, once a request has waited for a place as long as a load takes.

So with k versions in memory for one, the first of those who wait for a version waits for k - 1 turns of others at most, a turn being a
load, that patience, the longest request and a stop.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

from trimtab.serve.base import ReplicaState
from trimtab.serve.lane import STEADY_S, Lane, Replica, Request
from trimtab.serve.room import coming_bytes, free_bytes, victims
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
    Status,
    Stop,
    Ticked,
    Unfit,
)


class Scheduler:
    """The state of one gateway's queues and replicas.

    memory_bytes: what all replicas together may take, None = no budget; patience_s: see the top
    next_s: when a `Ticked` is due if nothing else happens before, inf = never. A tick too early does no harm.
    """

    def __init__(self, plans: Sequence[Plan] = (), *, memory_bytes: int | None = None, patience_s: float = 10.0) -> None:
        self.next_s = inf
        self._lanes: dict[str, Lane] = {}
        self._leaving: list[Lane] = []
        self._replicas: dict[int, Replica] = {}
        self._requests: dict[int, Request] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._numbers = itertools.count(1)
        self._is_draining = False
        self._now_s = -inf
        self._out: list[Action] = []
        self._configure(Reconfigured(tuple(plans), memory_bytes, patience_s))
        self._handlers: dict[type, Callable[[Any], bool]] = {
            Asked: self._asked,
            Ended: self._ended,
            Loaded: self._loaded,
            LoadFailed: self._load_failed,
            Died: self._died,
            Unfit: self._unfit,
            Measured: self._measured,
            Rescaled: self._rescaled,
            Gone: self._gone,
            Ticked: lambda _: False,
            Reconfigured: self._configure,
            Draining: self._drain,
            Aborted: self._abort,
        }

    def on(self, event: Event, now_s: float) -> list[Action]:
        """What to do because of an event. Time never runs backwards: an earlier `now_s` counts as the latest one."""
        self._now_s = max(self._now_s, now_s)
        self._out = []
        if not self._handlers[type(event)](event):
            self._advance()
        return self._out

    @property
    def n_requests(self) -> int:
        """Admitted requests that have not ended."""
        return len(self._requests)

    @property
    def is_empty(self) -> bool:
        """Nobody waits, nothing runs."""
        return not self._requests and not self._replicas

    def plan(self, version: str) -> Plan | None:
        """The plan of a version that is served."""
        lane = self._lanes.get(version)
        return lane.plan if lane is not None else None

    # Events. A handler returns True where all that follows has been done.

    def _asked(self, event: Asked) -> bool:
        lane = self._lanes.get(event.version)
        if lane is None and event.again:
            lane = next((one for one in self._leaving if one.plan.id == event.version), None)
        if lane is None:
            return self._refuse(event.request, 503, "model_unavailable", f"The version {event.version!r} is not served any more.", 1.0)
        if self._is_draining and not event.again:
            return self._refuse(event.request, 503, "shutting_down", "The server is shutting down.", 5.0)
        request = Request(event.request, lane, self._now_s, self._now_s + event.wait_s)
        replica = None if lane.waiting else lane.free_replica()
        if replica is not None:
            self._requests[event.request] = request
            self._grant(request, replica)
            return True
        if lane.is_refusing and self._now_s < lane.retry_s and lane.n_live == 0:
            return self._refuse(event.request, 503, "model_unavailable", *self._broken(lane))
        n_waiting = sum(len(one.waiting) for one in self._lanes.values() if one.name == lane.name)
        if n_waiting >= lane.plan.model.queue_limit and not event.again:
            why = f"The queue of {lane.name!r} is full: {n_waiting} requests wait."
            return self._refuse(event.request, 429, "queue_full", why, lane.retry_after_s(self._now_s))
        self._requests[event.request] = request
        heapq.heappush(self._deadlines, (request.deadline_s, request.id))
        if event.again:
            lane.waiting.appendleft(request)
        else:
            lane.waiting.append(request)
        return False

    def _ended(self, event: Ended) -> bool:
        request = self._requests.pop(event.request, None)
        if request is None:
            return True
        lane, replica = request.lane, request.replica
        if replica is None:
            lane.waiting.remove(request)
            return False
        replica.n_running -= 1
        if replica.n_running == 0:
            replica.idle_s = self._now_s
        if replica.status == "stopping":
            return False
        hold_s = self._now_s - request.granted_s
        lane.hold_s = hold_s if lane.hold_s is None else 0.9 * lane.hold_s + 0.1 * hold_s
        lane.n_failures, lane.why = 0, ""
        if replica.status != "ready" or lane.is_leaving or self._is_draining or any(one.waiting for one in self._all_lanes()):
            return False
        if replica.n_running == 0:
            self.next_s = min(self.next_s, self._now_s + lane.plan.idle_s)
        return True

    def _loaded(self, event: Loaded) -> bool:
        replica = self._replicas.get(event.replica)
        if replica is None or replica.status != "loading":
            return True
        lane = replica.lane
        lane.load_s = self._now_s - replica.started_s
        lane.is_refusing = False
        replica.slots = max(1, event.slots)
        if event.memory_bytes is not None:
            replica.memory_bytes = max(lane.memory_bytes, event.memory_bytes)
            if lane.plan.memory_bytes:
                lane.memory_bytes = replica.memory_bytes
        replica.status, replica.loaded_s, replica.idle_s = "ready", self._now_s, self._now_s
        return False

    def _rescaled(self, event: Rescaled) -> bool:
        replica = self._replicas.get(event.replica)
        if replica is None or replica.slots is None:
            return True
        replica.slots = max(1, event.slots)
        return False

    def _load_failed(self, event: LoadFailed) -> bool:
        replica = self._replicas.get(event.replica)
        if replica is None or replica.status != "loading":
            return True
        self._leave(replica, "stopping")
        self._forget(replica)
        self._failed(replica.lane, event.why, may_pass=event.may_pass)
        return False

    def _died(self, event: Died) -> bool:
        replica = self._replicas.get(event.replica)
        if replica is None or replica.status in ("loading", "stopping"):
            return True
        lane, up_s = replica.lane, self._now_s - replica.loaded_s
        self._stop(replica, event.why)
        if up_s < STEADY_S:
            self._failed(lane, event.why, may_pass=True)
        return False

    def _unfit(self, event: Unfit) -> bool:
        replica = self._replicas.get(event.replica)
        if replica is None or replica.status not in ("ready", "yielding"):
            return True
        self._leave(replica, "retired")
        return False

    def _measured(self, event: Measured) -> bool:
        replica = self._replicas.get(event.replica)
        if replica is None:
            return True
        replica.memory_bytes = max(replica.lane.memory_bytes, event.memory_bytes)
        return False

    def _gone(self, event: Gone) -> bool:
        replica = self._replicas.get(event.replica)
        if replica is None or replica.status != "stopping":
            return True
        self._forget(replica)
        return False

    def _configure(self, event: Reconfigured) -> bool:
        self._memory_bytes, self._patience_s = event.memory_bytes, event.patience_s
        before = list(self._all_lanes())
        self._lanes = {}
        for plan in event.plans:
            same = (lane for lane in before if (lane.plan.version, lane.name) == (plan.version, plan.model.name))
            lane = next(same, None) or Lane(plan, plan.memory_bytes)
            lane.plan, lane.is_leaving = plan, False
            lane.memory_bytes = max(plan.memory_bytes, lane.memory_bytes if plan.memory_bytes else 0)
            self._lanes[plan.id] = lane
        self._leaving = [lane for lane in before if lane not in self._lanes.values()]
        for lane in self._leaving:
            lane.is_leaving, lane.is_asleep = True, False
        over = -self._free_bytes() - self._coming_bytes()
        for replica in self._victims(over, lambda _: True, all_or_none=False) or () if over > 0 else ():
            self._leave(replica, "retired")
        return False

    def _drain(self, event: Draining) -> bool:
        self._is_draining = True
        return False

    def _abort(self, event: Aborted) -> bool:
        self._is_draining = True
        for lane in self._all_lanes():
            self._refuse_waiting(lane, "shutting_down", "The server is shutting down.", 5.0)
        for replica in list(self._replicas.values()):
            if replica.status != "stopping":
                self._stop(replica, "the server shuts down")
        return False

    # What follows from where things stand

    def _advance(self) -> None:
        self._expire()
        self._serve_waiting()
        self._stop_unneeded()
        is_short = self._share_memory()
        self._serve_waiting()
        if not is_short:
            self._scale_out()
        self._leaving = [lane for lane in self._leaving if lane.waiting or lane.replicas]
        self.next_s = self._next_due(is_short)

    def _expire(self) -> None:
        """Refuse who has waited too long."""
        while self._deadlines and self._deadlines[0][0] <= self._now_s:
            _, number = heapq.heappop(self._deadlines)
            request = self._requests.get(number)
            if request is not None and request.replica is None:
                lane = request.lane
                code, why = lane.why_late(self._now_s - request.arrived_s)
                self._drop(request, code, why, lane.retry_after_s(self._now_s))

    def _serve_waiting(self) -> None:
        for lane in self._all_lanes():
            while lane.waiting and (replica := lane.free_replica()) is not None:
                self._grant(lane.waiting.popleft(), replica)

    def _stop_unneeded(self) -> None:
        """Stop who has ended what it had to end, and who was idle for too long."""
        for replica in list(self._replicas.values()):
            lane = replica.lane
            if replica.n_running or replica.status == "stopping":
                continue
            if replica.status == "retired":
                self._stop(replica, "it was to be replaced")
            elif replica.status == "yielding":
                self._stop(replica, "its memory is needed")
            elif not lane.waiting and lane.is_leaving:
                self._stop(replica, "it is configured no more")
            elif not lane.waiting and self._is_draining:
                self._stop(replica, "the server shuts down")
            elif replica.status == "ready" and self._is_over_due(replica):
                self._stop(replica, "nobody asked for it")
                lane.is_asleep = lane.n_live == 0

    def _share_memory(self) -> bool:
        """Start versions that need their first replica or their minimum, and make room for them. Returns whether who waits lacks memory."""
        self._relieve()
        needing = [lane for lane in self._all_lanes() if self._needs_replica(lane)]
        is_held = is_short = False
        for lane in sorted(needing, key=lambda lane: lane.claim_s):
            if not self._can_fit(lane):
                why = f"{lane.name!r} needs {lane.memory_bytes:,} bytes, more than the budget leaves."
                self._refuse_waiting(lane, "no_memory", why, 60.0)
                continue
            if not is_held:
                self._revive(lane)
            while self._needs_replica(lane) and (not lane.memory_bytes or (not is_held and lane.memory_bytes <= self._free_bytes())):
                self._start(lane)
            if self._needs_replica(lane) and not is_held:
                is_held, is_short = True, bool(lane.waiting)
                missing = lane.memory_bytes - self._free_bytes() - self._coming_bytes()
                if missing > 0:
                    self._make_room(lane, missing)
                if lane.waiting and not lane.is_prefetched:
                    lane.is_prefetched = True
                    self._out.append(Prefetch(lane.plan))
        if not is_short:
            for lane in self._all_lanes():
                self._revive(lane)
        return is_short

    def _revive(self, lane: Lane) -> None:
        """What was to yield goes on: nobody needs its memory any more."""
        for replica in lane.replicas:
            if replica.status == "yielding":
                replica.status = "ready"

    def _make_room(self, lane: Lane, missing: float) -> None:
        """Stop idle replicas, or have busy ones whose turn is over yield, if that gives what is missing; else wait."""
        chosen = self._victims(missing, lambda replica: not replica.n_running)
        if chosen is None and lane.waiting:
            chosen = self._victims(missing, lambda replica: not replica.n_running or self._now_s >= self._turn_end_s(lane, replica))
        for replica in chosen or ():
            if replica.n_running:
                self._leave(replica, "yielding")
            else:
                self._stop(replica, f"its memory is needed for {lane.name!r}")

    def _relieve(self) -> None:
        """Replicas that measure more than was expected have made the sum too large: stop idle ones."""
        over = -self._free_bytes() - self._coming_bytes()
        if over <= 0:
            return
        for replica in self._victims(over, lambda replica: not replica.n_running, all_or_none=False) or ():
            self._stop(replica, "the memory budget is exceeded")

    def _victims(self, missing: float, may_go: Callable[[Replica], bool], *, all_or_none: bool = True) -> list[Replica] | None:
        spare = {id(lane): lane.n_live - lane.least(self._is_draining) for lane in self._all_lanes()}
        return victims(self._replicas.values(), missing, self._now_s, spare=spare, may_go=may_go, all_or_none=all_or_none)

    def _scale_out(self) -> None:
        for lane in self._lanes.values():
            if self._now_s >= self._scale_out_s(lane) and lane.memory_bytes <= self._free_bytes():
                self._start(lane)

    def _next_due(self, is_short: bool) -> float:
        """When the next thing happens by time alone."""
        while self._deadlines and not self._is_waiting(self._deadlines[0][1]):
            heapq.heappop(self._deadlines)
        due = [self._deadlines[0][0]] if self._deadlines else []
        for lane in self._all_lanes():
            if (lane.waiting or lane.least(self._is_draining)) and lane.retry_s > self._now_s:
                due.append(lane.retry_s)
            if lane.n_live > lane.least(self._is_draining):
                idle = (one.idle_s for one in lane.replicas if one.status == "ready" and not one.n_running)
                due += [since_s + lane.plan.idle_s for since_s in idle]
            if is_short and self._needs_replica(lane) and lane.waiting:
                ends = (self._turn_end_s(lane, one) for one in self._replicas.values() if one.status == "ready")
                due += [end_s for end_s in ends if end_s > self._now_s]
            if (scale_s := self._scale_out_s(lane)) > self._now_s:
                due.append(scale_s)
        return min(due, default=inf)

    # Small questions

    def _is_over_due(self, replica: Replica) -> bool:
        """Whether an idle replica above the minimum had its time."""
        lane = replica.lane
        return lane.n_live > lane.least(self._is_draining) and self._now_s >= replica.idle_s + lane.plan.idle_s

    def _all_lanes(self) -> Iterator[Lane]:
        return itertools.chain(self._lanes.values(), self._leaving)

    def _is_waiting(self, number: int) -> bool:
        request = self._requests.get(number)
        return request is not None and request.replica is None

    def _needs_replica(self, lane: Lane) -> bool:
        """Whether it has fewer replicas than it must have: one if somebody waits, else its minimum."""
        wanted = max(lane.least(self._is_draining), 1 if lane.waiting else 0)
        return lane.n_live < wanted and self._now_s >= lane.retry_s

    def _can_fit(self, lane: Lane) -> bool:
        """Whether it fits beside what must always run."""
        if self._memory_bytes is None or not lane.memory_bytes:
            return True
        kept = sum(one.memory_bytes * one.least(self._is_draining) for one in self._lanes.values() if one is not lane)
        return lane.memory_bytes + kept <= self._memory_bytes

    def _free_bytes(self) -> float:
        return free_bytes(self._replicas.values(), self._memory_bytes)

    def _coming_bytes(self) -> int:
        return coming_bytes(self._replicas.values())

    def _turn_end_s(self, lane: Lane, replica: Replica) -> float:
        """When a busy replica has had its turn, as far as a waiting version is concerned: no sooner than the swap pays."""
        return max(lane.claim_s, replica.loaded_s) + max(self._patience_s, lane.load_s or 0.0)

    def _scale_out_s(self, lane: Lane) -> float:
        """When another replica of a version that has some would be worth its load; inf if none may start."""
        if not lane.waiting or lane.is_leaving or not 0 < lane.n_live < lane.plan.max_replicas:
            return inf
        if any(replica.status == "loading" for replica in lane.replicas):
            return inf
        return max(lane.waiting[0].arrived_s + (lane.load_s or 0.0), lane.retry_s)

    # Small deeds

    def _start(self, lane: Lane) -> None:
        replica = Replica(next(self._numbers), lane, lane.memory_bytes, self._now_s)
        lane.replicas.append(replica)
        lane.is_prefetched = lane.is_asleep = False
        self._replicas[replica.number] = replica
        self._out.append(Start(replica.number, lane.plan))

    def _stop(self, replica: Replica, why: str) -> None:
        self._leave(replica, "stopping")
        self._out.append(Stop(replica.number, why))

    def _leave(self, replica: Replica, status: Status) -> None:
        """It takes no more requests."""
        replica.status = status
        if replica.lane.n_live == 0:
            replica.lane.lost_s, replica.lane.is_asleep = self._now_s, False

    def _forget(self, replica: Replica) -> None:
        del self._replicas[replica.number]
        replica.lane.replicas.remove(replica)

    def _grant(self, request: Request, replica: Replica) -> None:
        request.replica, request.granted_s = replica, self._now_s
        replica.n_running += 1
        self._out.append(Grant(request.id, replica.number))

    def _failed(self, lane: Lane, why: str, *, may_pass: bool) -> None:
        lane.failed(why, self._now_s, may_pass=may_pass)
        if lane.is_refusing:
            self._refuse_waiting(lane, "model_unavailable", *self._broken(lane))

    def _broken(self, lane: Lane) -> tuple[str, float]:
        return f"{lane.name!r} cannot be loaded: {lane.why}", round(max(1.0, lane.retry_s - self._now_s), 1)

    def _refuse_waiting(self, lane: Lane, code: str, why: str, retry_after_s: float) -> None:
        for request in list(lane.waiting):
            self._drop(request, code, why, retry_after_s)

    def _drop(self, request: Request, code: str, why: str, retry_after_s: float) -> None:
        request.lane.waiting.remove(request)
        del self._requests[request.id]
        self._refuse(request.id, 503, code, why, retry_after_s)

    def _refuse(self, request: int, status: int, code: str, why: str, retry_after_s: float) -> bool:
        self._out.append(Refuse(request, status, code, why, retry_after_s))
        return True

    # For whoever looks

    def state_of(self, version: str) -> ReplicaState:
        """The best state of a version's replicas."""
        return self._lanes[version].state(self._now_s)

    def facts(self, now_s: float) -> dict[str, Any]:
        """Queues, replicas and memory as plain values."""
        return {
            "memory_bytes": self._memory_bytes,
            "memory_used_bytes": sum(replica.memory_bytes for replica in self._replicas.values()),
            "versions": [lane.facts(now_s) for lane in self._all_lanes()],
        }
