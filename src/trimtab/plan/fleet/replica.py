"""One engine with continuous batching: what runs, what waits, and when that next changes.

Time jumps. While nobody comes and nobody ends, decode steps differ only in their growing context, so a replica computes at once when the
next sequence ends, or memory is full, and sleeps until then. Somebody who comes meanwhile cuts the jump at the next step's boundary. The
result is that of stepping through, which tests hold against a simulator that does.
"""

import heapq
import math
from collections import OrderedDict, deque

from trimtab.plan.fleet.settings import Batching
from trimtab.plan.fleet.steps import StepTable
from trimtab.plan.fleet.traces import Trace

OPEN, ANSWERED, QUEUE_FULL, WAITED_OUT, TOO_LONG, LOST, NEVER_SERVED = range(7)
STATUSES = ("open", "answered", "queue full", "waited too long", "too long", "lost with its replica", "never served")
NONE = -1.0
LEAST_S = 1e-9
"""Of a step: a fitted line may come out at nothing."""


class Requests:
    """All requests of a run, a list a property and a place a request: what the simulation reads and writes most.

    done: tokens that it got in earlier lives (before it was preempted or moved)
    started_s: when it first got into a batch, first_s: its first token, end_s: -1 = never
    own: tokens of the cache that are its own; since: its replica's count of decode steps when it began to decode
    hit: prompt tokens that a kept prefix saved; pinned: it uses a kept prefix
    """

    __slots__ = (
        "arrival_s", "computed", "done", "end_s", "first_s", "hit", "is_cold", "n_moves", "n_preempted", "output", "own", "pinned",
        "prefix", "prefix_tokens", "prompt", "since", "started_s", "status", "where",
    )  # fmt: skip

    def __init__(self, trace: Trace) -> None:
        n = len(trace)
        self.arrival_s: list[float] = trace.arrival_s.tolist()
        self.prompt: list[int] = trace.prompt_tokens.tolist()
        self.output: list[int] = trace.output_tokens.tolist()
        self.prefix: list[int] = trace.prefix.tolist()
        self.prefix_tokens: list[int] = trace.prefix_tokens.tolist()
        self.done, self.own, self.since, self.hit, self.n_preempted, self.n_moves, self.computed = ([0] * n for _ in range(7))
        self.pinned, self.is_cold = [False] * n, [False] * n
        self.started_s, self.first_s, self.end_s = [NONE] * n, [NONE] * n, [NONE] * n
        self.status, self.where = [OPEN] * n, [-1] * n


class Replica:
    """See above. `at_s` is when it must be woken with `wake`; infinite = it has nothing to do.

    n_decoding, context: sequences that decode, and the tokens that they hold together
    n_steps: decode steps so far; ends: heap of (step at which a sequence ends, order, request)
    prefilling: requests whose prompts are being computed, in order; ready is what came of them: computed tokens in `Requests.computed`
    used, kept: tokens of the cache that sequences have of their own, and that kept prefixes take; reserved under `whole`
    ended: requests that ended, whoever reads them empties it
    version: of at_s: an event that was planned for another version is void
    """

    __slots__ = (
        "at_s", "batching", "busy_s", "chunks", "context", "ended", "ends", "hit_tokens", "kept", "limit", "most_kv",
        "n_decoding", "n_jump", "n_outstanding", "n_preempted", "n_steps", "number", "order", "pins", "prefilling", "prefixes",
        "requests", "slope_s", "starting_s", "step_s", "table", "used", "version", "wait_limit_s", "waiting",
    )  # fmt: skip

    def __init__(self, number: int, table: StepTable, batching: Batching, requests: Requests, wait_limit_s: float = 0.0) -> None:
        self.number, self.table, self.batching, self.requests = number, table, batching, requests
        self.wait_limit_s = wait_limit_s or math.inf
        self.limit = batching.kv_tokens or math.inf
        self.busy_s, self.most_kv, self.version, self.n_preempted, self.hit_tokens, self.order = 0.0, 0, 0, 0, 0, 0
        self.ended: list[int] = []
        self.clear()

    def clear(self) -> None:
        """Empty, as after a start."""
        self.n_decoding = self.context = self.n_steps = self.used = self.kept = self.n_jump = self.n_outstanding = 0
        self.ends: list[tuple[int, int, int]] = []
        self.prefilling: deque[int] = deque()
        self.waiting: deque[int] = deque()
        self.chunks: list[tuple[int, int]] = []
        self.prefixes: OrderedDict[int, int] = OrderedDict()
        self.pins: dict[int, int] = {}
        self.at_s, self.starting_s, self.step_s, self.slope_s = math.inf, 0.0, 0.0, 0.0
        self.version += 1

    # What others ask of it

    def join(self, request: int, now_s: float) -> bool:
        """A request comes. True if `at_s` changed."""
        self.n_outstanding += 1
        self.waiting.append(request)
        if self.at_s == math.inf:  # begin when all that come at this very moment are here
            self.at_s = self.starting_s = now_s
            self.version += 1
            return True
        if self.n_jump <= 1 or self.chunks or len(self.waiting) > 1 or self.n_decoding >= self.batching.slots:
            return False  # the next boundary comes anyway, or it would have to wait there too
        steps = self._steps_until(now_s)
        if steps >= self.n_jump:
            return False
        self.n_jump = steps
        self.at_s = self.starting_s + self._seconds(steps)
        self.version += 1
        return True

    def kv_tokens(self, now_s: float) -> int:
        """Tokens of the cache that are taken at a time."""
        grows = self.n_jump > 1 and self.batching.reserve == "grow"
        return self.used + self.kept + (self.n_decoding * (self._steps_until(now_s) - 1) if grows else 0)

    def wake(self, now_s: float) -> None:
        """The step, or the jump, is over. Adds the requests that ended to `ended`; plans what follows."""
        requests = self.requests
        self.busy_s += now_s - self.starting_s
        steps, n = self.n_jump, self.n_decoding
        if n and steps:
            self.n_steps += steps
            self.context += steps * n
            if self.batching.reserve == "grow":
                self.used += steps * n
        ends, count = self.ends, self.n_steps
        while ends and ends[0][0] <= count:
            request = heapq.heappop(ends)[2]
            self.n_decoding -= 1
            self.context -= requests.prompt[request] + requests.output[request] - 1
            self._end(request, now_s)
        if self.chunks:
            self._computed(now_s)
        self._begin(now_s)

    def stop(self, now_s: float) -> list[int]:
        """It dies. Everybody's requests, those that ran first, each with what it had got so far noted in `done`."""
        requests, lost = self.requests, []
        if self.at_s != math.inf:
            self.busy_s += now_s - self.starting_s
            if self.n_jump and self.n_decoding:
                self.n_steps += max(0, (1 if self.chunks else self._steps_until(now_s)) - 1)
        for _, _, request in sorted(self.ends, key=lambda end: end[1]):
            requests.done[request] += 1 + self.n_steps - requests.since[request]
            lost.append(request)
        lost += [*self.prefilling, *self.waiting]
        for request in lost:
            requests.pinned[request], requests.computed[request] = False, 0
        self.clear()
        return lost

    # Steps

    def _begin(self, now_s: float) -> None:
        """Compose what comes next."""
        if self.waiting:
            self._admit(now_s)
        self.chunks = []
        self.starting_s = now_s
        self.version += 1
        before = self.kept, self.n_preempted
        if self.batching.reserve == "grow" and self.n_decoding and (self.batching.chunked or not self.prefilling):
            self._make_room()
        table, n = self.table, self.n_decoding
        if self.prefilling:
            self.at_s = now_s + self._prompt_step()
            return
        if not n:
            self.at_s, self.n_jump = math.inf, 0
            return
        steps = self.ends[0][0] - self.n_steps
        if self.batching.reserve == "grow" and self.limit != math.inf:
            steps = min(steps, max(1, int(self.limit - self.used - self.kept) // n))
        if self.waiting and before != (self.kept, self.n_preempted):
            steps = 1  # what gave way may have been larger than need be: whoever waits may fit at the next boundary
        self.slope_s = table.slope_s[n]
        self.step_s = max(LEAST_S, table.base_s[n] + self.slope_s * (self.context / n))
        self.n_jump = steps
        self.at_s = now_s + self._seconds(steps)
        if self.waiting and self.wait_limit_s != math.inf:
            self._look_up_at(self.requests.arrival_s[self.waiting[0]] + self.wait_limit_s)
        kv = self.used + self.kept + (self.n_jump * n if self.batching.reserve == "grow" else 0)
        if kv > self.most_kv:
            self.most_kv = kv

    def _look_up_at(self, moment_s: float) -> None:
        """End the jump at the first boundary from a time on: the first in the queue leaves then, and the next may fit."""
        if self.starting_s < moment_s < self.at_s:
            self.n_jump = self._steps_until(moment_s)
            self.at_s = self.starting_s + self._seconds(self.n_jump)

    def _seconds(self, steps: int) -> float:
        return steps * (self.step_s + 0.5 * self.slope_s * (steps - 1))

    def _steps_until(self, now_s: float) -> int:
        """Steps of the present jump until the first boundary at or after a time, 1 to n_jump."""
        passed = now_s - self.starting_s
        if passed <= 0.0:
            return 1
        half = 0.5 * self.slope_s
        linear = self.step_s - half
        root = 2 * passed / (linear + math.sqrt(linear * linear + 4 * half * passed))  # of _seconds(root) = passed
        steps = min(self.n_jump, max(1, math.ceil(root - 1e-9)))
        while steps > 1 and self.starting_s + self._seconds(steps - 1) >= now_s:
            steps -= 1
        while steps < self.n_jump and self.starting_s + self._seconds(steps) < now_s:
            steps += 1
        return steps

    def _prompt_step(self) -> float:
        """Choose the prompt tokens of one step. Returns its seconds."""
        batching, requests = self.batching, self.requests
        n = self.n_decoding if batching.chunked else 0
        room, total, pairs = batching.batch_tokens - n, 0, 0.0
        chunks = self.chunks
        for request in self.prefilling:
            done = requests.computed[request]
            size = requests.prompt[request] + requests.done[request] - done
            if size > room:
                if not batching.chunked:
                    if chunks:
                        break
                elif room <= 0:
                    break
                else:
                    size = room
            chunks.append((request, size))
            room -= size
            total += size
            pairs += size * (done + 0.5 * (size - 1))
            if room <= 0:
                break
        self.n_jump = 1 if n else 0
        kv = self.used + self.kept + (n if batching.reserve == "grow" else 0)
        if kv > self.most_kv:
            self.most_kv = kv
        mean = self.context / n if n else 0.0
        return self.table.mixed_s(n, mean, total, pairs)

    def _computed(self, now_s: float) -> None:
        """Prompt tokens of a step are there: whose prompt is whole gets its first token and decodes from now on."""
        requests = self.requests
        for request, size in self.chunks:
            requests.computed[request] += size
            whole = requests.prompt[request] + requests.done[request]
            if requests.computed[request] < whole:
                continue
            self.prefilling.remove(request)
            if requests.prefix_tokens[request]:
                self._keep_prefix(request)
            if requests.first_s[request] < 0:
                requests.first_s[request] = now_s
            more = requests.output[request] - requests.done[request] - 1
            requests.since[request] = self.n_steps
            if more <= 0:
                self._end(request, now_s)
                continue
            self.order += 1
            heapq.heappush(self.ends, (self.n_steps + more, self.order, request))
            self.n_decoding += 1
            self.context += whole

    def _end(self, request: int, now_s: float) -> None:
        requests = self.requests
        requests.end_s[request] = now_s
        requests.status[request] = ANSWERED
        self._free(request)
        self.n_outstanding -= 1
        self.ended.append(request)

    # Memory

    def _admit(self, now_s: float) -> None:
        """Take waiting requests while there are slots and memory."""
        requests, batching, waiting = self.requests, self.batching, self.waiting
        while waiting:
            request = waiting[0]
            if requests.started_s[request] < 0 and now_s - requests.arrival_s[request] >= self.wait_limit_s:
                waiting.popleft()
                give_up(requests, request, self.wait_limit_s)
                self.n_outstanding -= 1
                self.ended.append(request)
                continue
            if self.n_decoding + len(self.prefilling) >= batching.slots or not self._take(request):
                return
            waiting.popleft()
            if requests.started_s[request] < 0:
                requests.started_s[request] = now_s
            self.prefilling.append(request)

    def _take(self, request: int) -> bool:
        """Reserve what a sequence needs to start, if there is room. Kept prefixes that nobody uses make room."""
        requests, batching = self.requests, self.batching
        prompt = requests.prompt[request] + requests.done[request]
        shared = requests.prefix_tokens[request] if batching.prefix_cache else 0
        prefix = requests.prefix[request]
        hit = min(self.prefixes.get(prefix, 0), shared, prompt - 1) if shared else 0
        need = prompt - hit + (requests.output[request] - requests.done[request] if batching.reserve == "whole" else 0)
        if self.limit != math.inf:
            is_first = not self.n_decoding and not self.prefilling
            spare = 0 if is_first or batching.reserve == "whole" else batching.kv_spare * self.limit + self.n_decoding
            if not self._evict(need + spare, but=prefix if hit else -1):
                if not is_first:
                    return False
                hit, need = 0, need + hit  # alone, it fits without sharing: longer requests are refused at the door
                self._evict(need, but=-1)
        self.used += need
        requests.own[request] = need
        if hit:
            self.pins[prefix] = self.pins.get(prefix, 0) + 1
            self.prefixes.move_to_end(prefix)
            self.hit_tokens += hit
        requests.pinned[request] = hit > 0
        requests.hit[request] = requests.computed[request] = hit
        return True

    def _evict(self, tokens: float, but: int) -> bool:
        """Make room by dropping prefixes that nobody uses, oldest first. False, and nothing is dropped, if that is not enough."""
        lacks = self.used + self.kept + tokens - self.limit
        if lacks <= 0:
            return True
        victims = []
        for prefix, size in self.prefixes.items():
            if prefix != but and not self.pins.get(prefix):
                victims.append(prefix)
                lacks -= size
                if lacks <= 0:
                    break
        if lacks > 0:
            return False
        for prefix in victims:
            self.kept -= self.prefixes.pop(prefix)
        return True

    def _keep_prefix(self, request: int) -> None:
        """The shared beginning of a computed prompt is kept for others; the request goes on using it."""
        requests, tokens, prefix = self.requests, self.requests.prefix_tokens[request], self.requests.prefix[request]
        if not self.batching.prefix_cache:
            return
        own = tokens - requests.hit[request]
        if own > 0:
            more = max(0, tokens - self.prefixes.get(prefix, 0))
            self.prefixes[prefix] = self.prefixes.get(prefix, 0) + more
            self.prefixes.move_to_end(prefix)
            self.kept += more
            self.used -= own
            requests.own[request] -= own
            requests.hit[request] = tokens
        if not requests.pinned[request]:
            requests.pinned[request] = True
            self.pins[prefix] = self.pins.get(prefix, 0) + 1

    def _free(self, request: int) -> None:
        """Give back what a sequence holds."""
        requests = self.requests
        self.used -= requests.own[request]
        if self.batching.reserve == "grow" and requests.computed[request] >= requests.prompt[request] + requests.done[request]:
            self.used -= self.n_steps - requests.since[request]
        if requests.pinned[request]:
            requests.pinned[request] = False
            prefix = requests.prefix[request]
            self.pins[prefix] -= 1

    def _make_room(self) -> None:
        """See that each decoding sequence can take one more token; the last that started give way."""
        while self.n_decoding and not self._evict(self.n_decoding, but=-1):
            if self.n_decoding + len(self.prefilling) == 1:
                self._unshare(self.ends[0][2])
                continue
            victim = self._last_started()
            self._preempt(victim)

    def _last_started(self) -> int:
        if self.prefilling:
            return self.prefilling[-1]
        return max(self.ends, key=lambda end: end[1])[2]

    def _preempt(self, request: int) -> None:
        requests = self.requests
        self._free(request)
        if request in self.prefilling:
            self.prefilling.remove(request)
        else:
            place = next(i for i, end in enumerate(self.ends) if end[2] == request)
            self.ends[place] = self.ends[-1]
            self.ends.pop()
            heapq.heapify(self.ends)
            self.n_decoding -= 1
            got = 1 + self.n_steps - requests.since[request]
            self.context -= requests.prompt[request] + requests.done[request] + got - 1
            requests.done[request] += got
        requests.computed[request] = 0
        requests.n_preempted[request] += 1
        self.n_preempted += 1
        self.waiting.appendleft(request)

    def _unshare(self, request: int) -> None:
        """The only sequence takes its share of a kept prefix for itself, so that what is kept beyond it can go."""
        requests, prefix = self.requests, self.requests.prefix[request]
        assert requests.pinned[request], "a sequence that is alone fits, or was refused at the door"
        requests.pinned[request] = False
        self.pins[prefix] -= 1
        self.kept -= self.prefixes.pop(prefix)
        self.used += requests.hit[request]
        requests.own[request] += requests.hit[request]
        requests.hit[request] = 0


def give_up(requests: Requests, request: int, after_s: float) -> None:
    """A request that waited too long is refused at that moment."""
    requests.status[request] = WAITED_OUT
    requests.end_s[request] = requests.arrival_s[request] + after_s


def fits(batching: Batching, prompt: int, output: int) -> bool:
    """Whether a request can be answered by a replica that has nothing else to do."""
    if not batching.chunked and prompt > batching.batch_tokens:
        return False
    extra = 0 if batching.reserve == "whole" else 1
    return not batching.kv_tokens or prompt + output - extra <= batching.kv_tokens
