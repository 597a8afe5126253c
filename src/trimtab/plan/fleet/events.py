"""The fleet's course: requests come, replicas step, start, fail and leave. One heap of what happens next; time is a number."""

import heapq
import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from trimtab.plan.fleet.replica import LOST, NEVER_SERVED, OPEN, QUEUE_FULL, TOO_LONG, Replica, Requests, fits, give_up
from trimtab.plan.fleet.routing import Choose, chooser
from trimtab.plan.fleet.settings import Fleet, Kind, Policy, check
from trimtab.plan.fleet.traces import Trace

NOTHING_S = 3600.0
"""After so long without an event, with requests that still wait, nothing will happen any more."""
WAKE, UP, LOOK, FAIL, NOTICE, TAKEN = range(6)


@dataclass(kw_only=True)
class Life:
    """One replica from its start to its end. up_s: when it first took requests; end_s: infinite while it lives."""

    replica: Replica
    kind: Kind
    start_s: float
    up_s: float = math.inf
    end_s: float = math.inf
    is_up: bool = False
    is_leaving: bool = False
    n_failures: int = 0
    is_taken: bool = False


@dataclass(frozen=True, kw_only=True)
class Course:
    """What happened: every request, every replica's life, and when it was over. n_cold: starts after the beginning"""

    requests: Requests
    lives: tuple[Life, ...]
    end_s: float
    n_cold: int


def simulate(trace: Trace, fleet: Fleet, *, seed: int = 0) -> Course:
    """Play a trace on a fleet. The same seed gives the same course. Raises InputError for a fleet that cannot be meant."""
    check(fleet)
    return _Run(trace, fleet, seed).play()


class _Run:
    def __init__(self, trace: Trace, fleet: Fleet, seed: int) -> None:
        self.fleet, self.policy = fleet, fleet.policy
        self.requests = Requests(trace)
        self.choose: Choose = chooser(fleet.route, seed)
        self.rng = np.random.default_rng([seed, 2])
        self.heap: list[tuple[float, int, int, Life | None, int]] = []
        self.n_events = 0
        self.lives: list[Life] = []
        self.ready: list[Replica] = []
        self.life_of: dict[int, Life] = {}
        self.queue: deque[int] = deque()
        """Requests that no replica has yet."""
        self.n_open = len(trace)
        self.n_cold = 0
        self.moved_s = 0.0  # when a replica last came or went
        self.wanted: deque[tuple[float, int]] = deque()
        """(when, replicas wanted), falling: whose first is the most that was wanted within keep_s."""
        self.longest_cold_s = max(kind.cold_s for kind in fleet.kinds)
        self.may_fail = any(kind.mtbf_s or kind.spot_s for kind in fleet.kinds)
        self.slots = max(kind.batching.slots for kind in fleet.kinds)
        self.kind_fits = list(dict.fromkeys(kind.batching for kind in fleet.kinds))

    def play(self) -> Course:
        for kind, n in zip(self.fleet.kinds, self._floors(), strict=True):
            for _ in range(n):
                self._start(kind, 0.0, is_warm=True)
        self._later(0.0, LOOK, None)
        requests, heap = self.requests, self.heap
        arrivals, n, place, now_s = requests.arrival_s, len(requests.arrival_s), 0, 0.0
        while self.n_open:
            if place < n and (not heap or arrivals[place] <= heap[0][0]):
                now_s = arrivals[place]
                self._arrive(place, now_s)
                place += 1
                continue
            if not heap:
                break
            now_s, _, what, life, version = heapq.heappop(heap)
            if what == WAKE:
                assert life is not None
                replica = life.replica
                if version != replica.version:
                    continue
                replica.wake(now_s)
                if replica.ended:
                    self._ended(life, now_s)
                if replica.at_s != math.inf:
                    self._later(replica.at_s, WAKE, life, replica.version)
            elif what == LOOK:
                if not self._look(now_s, next_s=arrivals[place] if place < n else math.inf):
                    break
            else:
                self.moved_s = now_s
                self._happen(what, life, now_s)
        end_s = max(now_s, arrivals[-1])
        self._close(end_s)
        return Course(requests=requests, lives=tuple(self.lives), end_s=end_s, n_cold=self.n_cold)

    def _later(self, at_s: float, what: int, life: Life | None, version: int = 0) -> None:
        self.n_events += 1
        heapq.heappush(self.heap, (at_s, self.n_events, what, life, version))

    # Requests

    def _arrive(self, request: int, now_s: float) -> None:
        requests, fleet = self.requests, self.fleet
        prompt, output = requests.prompt[request], requests.output[request]
        if not any(fits(batching, prompt, output) for batching in self.kind_fits):
            self._refuse(request, TOO_LONG, now_s)
            return
        if fleet.queue_limit and self._n_waiting(now_s) >= fleet.queue_limit and not self._has_place():
            self._refuse(request, QUEUE_FULL, now_s)
            return
        if not self.ready:
            requests.is_cold[request] = True
        if (not self.ready or len(self.kind_fits) > 1) and not any(fits(life.kind.batching, prompt, output) for life in self._alive()):
            self._start_any(now_s, prompt, output)
        if self.queue or not self._give(request, now_s):
            self.queue.append(request)

    def _give(self, request: int, now_s: float) -> bool:
        """Send a request to a replica; False if none takes it now."""
        replicas: list[Replica] = self.ready
        if self.fleet.queue_at_gateway:
            replicas = [replica for replica in replicas if replica.n_outstanding < replica.batching.slots]
        if len(self.kind_fits) > 1:
            prompt, output = self.requests.prompt[request], self.requests.output[request]
            replicas = [replica for replica in replicas if fits(replica.batching, prompt, output)]
        if not replicas:
            return False
        replica = replicas[0] if len(replicas) == 1 else self.choose(replicas, self.requests.prefix[request], now_s)
        self.requests.where[request] = replica.number
        if replica.join(request, now_s):
            self._later(replica.at_s, WAKE, self.life_of[replica.number], replica.version)
        return True

    def _drain_queue(self, now_s: float) -> None:
        limit_s = self.fleet.queue_wait_s
        while self.queue:
            request = self.queue[0]
            if limit_s and self.requests.started_s[request] < 0 and now_s - self.requests.arrival_s[request] >= limit_s:
                self.queue.popleft()
                give_up(self.requests, request, limit_s)
                self.n_open -= 1
            elif self._give(request, now_s):
                self.queue.popleft()
            else:
                return

    def _refuse(self, request: int, status: int, now_s: float) -> None:
        self.requests.status[request] = status
        self.requests.end_s[request] = now_s
        self.n_open -= 1

    def _ended(self, life: Life, now_s: float) -> None:
        self.n_open -= len(life.replica.ended)
        life.replica.ended.clear()
        if self.queue:
            self._drain_queue(now_s)
        if life.is_leaving and not life.replica.n_outstanding:
            self._gone(life, now_s)

    def _n_waiting(self, now_s: float) -> int:
        self._expire(now_s)
        return len(self.queue) + sum(len(replica.waiting) for replica in self.ready)

    def _expire(self, now_s: float) -> None:
        """Those at the head of the fleet's queue who waited too long do not count as waiting."""
        limit_s, requests = self.fleet.queue_wait_s, self.requests
        while limit_s and self.queue and now_s - requests.arrival_s[self.queue[0]] >= limit_s and requests.started_s[self.queue[0]] < 0:
            give_up(requests, self.queue.popleft(), limit_s)
            self.n_open -= 1

    def _has_place(self) -> bool:
        return any(replica.n_outstanding < replica.batching.slots for replica in self.ready)

    # Replicas

    def _floors(self) -> list[int]:
        """Replicas that always are there, by kind."""
        if self.policy.signal == "none":
            return [kind.max_replicas for kind in self.fleet.kinds]
        if self.policy.min_replicas is None:
            return [kind.min_replicas for kind in self.fleet.kinds]
        return [min(kind.min_replicas, self.policy.min_replicas) for kind in self.fleet.kinds]

    def _alive(self, kind: Kind | None = None) -> list[Life]:
        """Those that start or take requests."""
        return [life for life in self.life_of.values() if not life.is_leaving and (kind is None or life.kind is kind)]

    def _start(self, kind: Kind, now_s: float, *, is_warm: bool = False) -> None:
        replica = Replica(len(self.lives), kind.steps, kind.batching, self.requests, self.fleet.queue_wait_s)
        life = Life(replica=replica, kind=kind, start_s=now_s)
        self.lives.append(life)
        self.life_of[replica.number] = life
        if kind.spot_s:
            at_s = now_s + float(self.rng.exponential(kind.spot_s))
            self._later(max(now_s, at_s - kind.notice_s), NOTICE, life)
            self._later(at_s, TAKEN, life)
        if is_warm:
            self._up(life, now_s)
        else:
            self.n_cold += 1
            self._later(now_s + kind.cold_s, UP, life)

    def _start_any(self, now_s: float, prompt: int = 1, output: int = 1) -> bool:
        """Start one of the first kind that may have another and can answer a request of these lengths."""
        for kind in self.fleet.kinds:
            if fits(kind.batching, prompt, output) and len(self._alive(kind)) < kind.max_replicas:
                self._start(kind, now_s)
                return True
        return False

    def _up(self, life: Life, now_s: float) -> None:
        if life.end_s != math.inf:
            return
        life.is_up = True
        life.up_s = min(life.up_s, now_s)
        if life.is_leaving:
            self._gone(life, now_s)
            return
        self.ready.append(life.replica)
        self.ready.sort(key=lambda replica: replica.number)
        if life.kind.mtbf_s:
            self._later(now_s + float(self.rng.exponential(life.kind.mtbf_s)), FAIL, life)
        self._drain_queue(now_s)

    def _happen(self, what: int, life: Life | None, now_s: float) -> None:
        assert life is not None
        if life.end_s != math.inf:
            return
        if what == UP:
            self._up(life, now_s)
        elif what == FAIL:
            life.n_failures += 1
            life.is_up = False
            self._lose(life, now_s)
            if life.is_leaving:
                self._gone(life, now_s)
            else:
                self._later(now_s + (life.kind.restart_s or life.kind.cold_s), UP, life)
        elif what == NOTICE:
            self._leave(life, now_s)
        else:
            life.is_taken = True
            self._gone(life, now_s)

    def _leave(self, life: Life, now_s: float) -> None:
        """It gets no more requests, ends what it has, and goes."""
        life.is_leaving = True
        if life.replica in self.ready:
            self.ready.remove(life.replica)
        if life.is_up and not life.replica.n_outstanding:
            self._gone(life, now_s)

    def _gone(self, life: Life, now_s: float) -> None:
        life.end_s = now_s
        life.is_leaving = True
        self._lose(life, now_s)
        del self.life_of[life.replica.number]

    def _lose(self, life: Life, now_s: float) -> None:
        """What a replica had goes back in front of the queue, as far as the fleet tries again."""
        if life.replica in self.ready:
            self.ready.remove(life.replica)
        requests, retry = self.requests, self.fleet.retry
        for request in reversed(life.replica.stop(now_s)):
            if retry == "all" or (retry == "unstarted" and requests.first_s[request] < 0):
                requests.n_moves[request] += 1
                self.queue.appendleft(request)
            else:
                self._refuse(request, LOST, now_s)
        if self.queue and not self._alive():
            self._start_any(now_s)
        self._drain_queue(now_s)

    # Scaling

    def _look(self, now_s: float, *, next_s: float) -> bool:
        """The policy looks at the fleet. next_s: when the next request comes. False if nothing will ever happen any more."""
        policy = self.policy
        alive = self._alive()
        most = sum(kind.max_replicas for kind in self.fleet.kinds)
        wanted = max(sum(self._floors()), min(most, self._wanted(policy, alive, now_s)))
        while self.wanted and self.wanted[-1][1] <= wanted:
            self.wanted.pop()
        self.wanted.append((now_s, wanted))
        while self.wanted[0][0] < now_s - policy.keep_s:
            self.wanted.popleft()
        for _ in range(wanted - len(alive)):
            if not self._start_any(now_s):
                break
        if self.queue:  # its head may need a kind of which there is none
            lengths = self.requests.prompt[self.queue[0]], self.requests.output[self.queue[0]]
            if not any(fits(life.kind.batching, *lengths) for life in self._alive()):
                self._start_any(now_s, *lengths)
        if now_s >= policy.keep_s:
            self._shrink(alive, len(alive) - self.wanted[0][1], now_s)
        self._drain_queue(now_s)
        if next_s == math.inf and not self.heap and now_s > max(self.moved_s, self.requests.arrival_s[-1]) + policy.keep_s + NOTHING_S:
            return False
        self._later(now_s + self._looks_until_change(wanted, now_s, next_s) * policy.every_s, LOOK, None)
        return True

    def _looks_until_change(self, wanted: int, now_s: float, next_s: float) -> int:
        """How many looks on something may be other than now: 1, unless nobody is here and nothing but time and arrivals can change that."""
        alive, (since_s, most) = self._alive(), self.wanted[0]
        is_idle = not self.queue and not any(life.replica.n_outstanding for life in alive)
        if not is_idle or next_s == math.inf or self.may_fail or wanted > len(alive) or len(alive) > most:
            return 1
        until_s = next_s if most == wanted else min(next_s, since_s + self.policy.keep_s)
        return max(1, int((until_s - now_s) / self.policy.every_s))

    def _shrink(self, alive: list[Life], n: int, now_s: float) -> None:
        """Let the emptiest leave, of the last kind first, down to each kind's floor. One that is starting stays."""
        for kind, floor in reversed(list(zip(self.fleet.kinds, self._floors(), strict=True))):
            here = [life for life in alive if life.kind is kind]
            going = sorted((life for life in here if life.is_up), key=lambda life: (life.replica.n_outstanding, -life.replica.number))
            for life in going[: max(0, min(n, len(here) - floor))]:
                self._leave(life, now_s)
                n -= 1

    def _wanted(self, policy: Policy, alive: list[Life], now_s: float) -> int:
        """Replicas that the policy would have now."""
        if policy.signal == "none":
            return sum(kind.max_replicas for kind in self.fleet.kinds)
        loads = [life.replica.n_outstanding for life in alive]
        waiting = len(self.queue) + sum(len(life.replica.waiting) for life in alive)
        total = len(self.queue) + sum(loads)
        if policy.signal == "outstanding":
            return math.ceil(total / (policy.target * self.slots)) if policy.target else len(alive) + 1
        running = total - waiting
        if policy.signal == "utilisation":
            slots = sum(life.kind.batching.slots for life in alive if life.is_up)
            share = total / slots if slots else float(total > 0)
            return math.ceil(len(alive) * share / policy.target) if policy.target and alive else int(total > 0)
        needed = math.ceil(running / self.slots) if policy.signal == "queue" else sum(map(bool, loads))
        if policy.signal == "queue":
            return len(alive) + 1 if waiting > policy.target * max(1, len(alive)) else needed
        starting = any(not life.is_up for life in alive)
        late = waiting and now_s - self._oldest_waiting_s(alive) > (policy.target or self.longest_cold_s)
        return len(alive) + 1 if late and not starting else max(needed, int(total > 0))

    def _oldest_waiting_s(self, alive: list[Life]) -> float:
        heads = [life.replica.waiting[0] for life in alive if life.replica.waiting] + ([self.queue[0]] if self.queue else [])
        return min(self.requests.arrival_s[request] for request in heads)

    def _close(self, end_s: float) -> None:
        """Whoever is still there when nothing moves any more was never served; replicas that live are paid until the end."""
        for request, status in enumerate(self.requests.status):
            if status == OPEN:
                self._refuse(request, NEVER_SERVED, end_s)
        for life in self.lives:
            life.end_s = min(life.end_s, end_s)
