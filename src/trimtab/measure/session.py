"""One timed session: baseline and candidates take turns, so that whatever the machine does happens to all of them.

Every entrant's worker is loaded before and stays idle while another one runs. A warm-up, which is not timed, comes first; then in each
round every entrant runs each concurrency level once, in an order that rotates and reverses from round to round. Ratios are formed
within a round. The session ends when every ratio is known well enough or its time is over; as that looks at the width of an interval
and not at which side of 1 it lies, it favours nobody.
"""

import asyncio
import contextlib
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.measurement import LoadPoint, Measurement, Ratio
from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.measure.load import LoadClient, RoundTrace, finished_requests, run_round, summarise
from trimtab.measure.machine import available_cores
from trimtab.measure.meters import (
    EnergyReading,
    MemoryReading,
    PeakMemory,
    clock_conditions,
    files_mapped_together,
    higher,
    joules_between,
    memory_of,
    read_energy,
)
from trimtab.measure.noise import CalibrationKernel, Noise, NoiseWatch, read_counters
from trimtab.stats.ratios import log_ratio_interval

T = TypeVar("T")
Metric = Literal["e2e_ms_p50", "ttft_ms_p50", "tpot_ms_p50"]
Stopped = Literal["narrow", "time", "max_rounds", "nobody_left"]


class MakePrompts(Protocol):
    """Prompts as token ids; never the same one twice, whatever the seed."""

    def __call__(self, n: int, n_tokens: int, seed: int) -> list[list[int]]:
        """`n` prompts of exactly `n_tokens` tokens."""

    def of_messages(self, request: WorkloadRequest, seed: int) -> list[int]:
        """A user's own prompt, made different from all others by a number in it; a few tokens longer than `request.prompt_tokens`."""


WARM_UP_TOKENS = 16
LEAST_TURN_LIMIT_S = 60.0
LEAST_UNLIKE_REQUESTS = 4
"""A turn of unlike requests has so many at least: the median of one long or one short request says little."""
WITHDRAW_S = 5.0


class Entrant(LoadClient, Protocol):
    async def kill(self) -> None:
        """End the worker at once: one that was given up on would go on computing beside the others."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One entrant at one concurrency in one round. `medians`: over the finished requests. `energy_j` None = not measured.

    repeat: which of a level's turns in that round, from 0; turns of different entrants are paired by round and repeat
    """

    round: int
    entrant: str
    trace: RoundTrace
    medians: Mapping[Metric, float]
    energy_j: float | None
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class SessionProgress:
    """Sent before each turn. `half_width`: of the least known ratio so far, relative; None before the second round."""

    round: int
    entrant: str
    concurrency: int
    elapsed_s: float
    time_budget_s: float
    half_width: float | None


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """What a session observed.

    baseline: the entrant that ratios are against
    turns: in the order they ran, warm-up excluded; n_rounds: rounds that every entrant still in it finished
    points: per entrant, one LoadPoint a concurrency at which a request finished
    left: entrants that dropped out, with the reason; their points are of the turns before
    memory: highest reading per entrant; stopped: why the session ended; target_met: every ratio is known as well as was asked
    """

    baseline: str
    turns: tuple[Turn, ...]
    n_rounds: int
    points: Mapping[str, tuple[LoadPoint, ...]]
    left: Mapping[str, str]
    memory: Mapping[str, MemoryReading]
    noise: Noise
    stopped: Stopped
    target_met: bool
    elapsed_s: float
    conditions: Mapping[str, str]

    def ratios(self, baseline: str, metric: Metric = "e2e_ms_p50", concurrency: int = 1) -> dict[str, Ratio]:
        """How many times faster than `baseline` each other entrant still in the session was; see `round_ratios`."""
        return {name: ratio for name, ratio in round_ratios(self.turns, baseline, metric, concurrency).items() if name not in self.left}

    def measurement(
        self, name: str, *, load_s: float | None = None, cold_ttft_ms: float | None = None, roofline_share: float | None = None
    ) -> Measurement:
        """An entrant's numbers of this session with those taken outside it. Raises InfeasibleError if nothing was timed of it."""
        if not self.points.get(name):
            raise InfeasibleError(self.left.get(name, f"Nothing was timed of {name}."))
        memory = self.memory[name]
        how = {"memory_kind": memory.kind} if memory.bytes_used is not None else {"memory_not_measured": memory.reason}
        return Measurement(
            points=self.points[name],
            load_s=load_s,
            cold_ttft_ms=cold_ttft_ms,
            peak_memory_bytes=memory.bytes_used,
            roofline_share=roofline_share,
            noisy=self.noise.noisy,
            noise=self.noise.sentence,
            conditions={**self.conditions, **how},
        )


def round_ratios(turns: Sequence[Turn], baseline: str, metric: Metric, concurrency: int) -> dict[str, Ratio]:
    """Geometric mean over rounds of baseline / candidate, with a 95 % t interval on the logs; turns that both finished, at least two."""
    values: dict[str, dict[tuple[int, int], float]] = {}
    for turn in turns:
        if turn.trace.concurrency == concurrency:
            values.setdefault(turn.entrant, {})[turn.round, turn.repeat] = turn.medians[metric]
    base = values.pop(baseline, {})
    found = {}
    for name, own in values.items():
        shared = sorted(base.keys() & own.keys())
        if len(shared) >= 2:
            found[name] = log_ratio_interval([base[index] for index in shared], [own[index] for index in shared])
    return found


def order_of_round(names: Sequence[str], index: int) -> list[str]:
    """Turn order: every second round reverses the one before, every pair of rounds starts with the next name. Cancels a steady drift."""
    shift = index // 2 % len(names)
    rotated = [*names[shift:], *names[:shift]]
    return rotated if index % 2 == 0 else rotated[::-1]


def turns_per_round(level: int, levels: Sequence[int]) -> int:
    """How often a round runs a level: few requests take little time, so a level is repeated until it has half of the highest one's."""
    return max(1, max(levels) // (2 * level))


def of_turn(workload: Workload, level: int, number: int) -> list[WorkloadRequest]:
    """The requests of one turn: the same for every entrant, so that a ratio compares like with like; turns go through all in order."""
    if not workload.requests:
        return [WorkloadRequest(prompt_tokens=workload.prompt_tokens, output_tokens=workload.output_tokens)] * level
    n = max(level, LEAST_UNLIKE_REQUESTS)
    order = random.Random(0).sample(workload.requests, len(workload.requests))
    return [order[(number * n + place) % len(order)] for place in range(n)]


async def timed_session(
    entrants: Mapping[str, Entrant],
    workload: Workload,
    make_prompts: MakePrompts,
    *,
    time_budget_s: float,
    baseline: str | None = None,
    min_rounds: int = 3,
    max_rounds: int = 100,
    target_half_width: float = 0.04,
    turn_limit_s: float | None = None,
    on_progress: Callable[[SessionProgress], None] | None = None,
    seed: int = 0,
    noise_watch: NoiseWatch | None = None,
) -> SessionResult:
    """Time loaded clients against each other. Each prompt is used once, by one entrant.

    time_budget_s: for the whole session, warm-up included; no round is begun that would not fit, but `min_rounds` are run even
        if that takes up to twice as long
    baseline: default the first entrant
    target_half_width: half-width of the interval of every log ratio of end-to-end medians against the baseline
    turn_limit_s: an entrant that needs longer for one turn is killed and leaves; default the time budget, 60 s at least
    An entrant that crashes, hangs or finishes no request of a turn leaves, and the others go on. Raises InputError.
    """
    baseline = next(iter(entrants), "") if baseline is None else baseline
    if baseline not in entrants:
        raise InputError(f"The baseline {baseline!r} is not among the entrants: {', '.join(entrants) or 'there are none'}.")
    with _watch(noise_watch) as watch:
        session = _Session(
            clients=entrants,
            workload=workload,
            prompts=FreshPrompts(make_prompts, seed),
            baseline=baseline,
            time_budget_s=time_budget_s,
            turn_limit_s=turn_limit_s or max(LEAST_TURN_LIMIT_S, time_budget_s),
            on_progress=on_progress,
            watch=watch,
            started_s=time.monotonic(),
        )
        await session.warm_up()
        index, stopped = 0, session.why_stop(0, min_rounds, max_rounds, target_half_width)
        while stopped is None:
            await session.run_one_round(index)
            index += 1
            stopped = session.why_stop(index, min_rounds, max_rounds, target_half_width)
        return session.result(index, stopped, target_half_width)


@contextlib.contextmanager
def _watch(given: NoiseWatch | None) -> Iterator[NoiseWatch]:
    """The watch that was handed in, or one of this machine's own counters."""
    if given is not None:
        yield given
        return
    n_cores = available_cores()
    kernel = CalibrationKernel(n_cores)
    try:
        yield NoiseWatch(n_cores, kernel, read_counters)
    finally:
        kernel.close()


class FreshPrompts:
    """Prompts that were not used before, checked: an engine that caches prefixes answers a repeated one at once."""

    def __init__(self, make: MakePrompts, seed: int) -> None:
        self._make = make
        self._seed = seed * 1_000_003
        self._used: set[tuple[int, ...]] = set()

    def take(self, requests: Sequence[WorkloadRequest]) -> list[list[int]]:
        """One prompt for each request."""
        alike = Counter(request.prompt_tokens for request in requests if not request.messages)
        made = {n_tokens: iter(self._exactly(n, n_tokens)) for n_tokens, n in alike.items()}
        prompts = [self._own(request) if request.messages else next(made[request.prompt_tokens]) for request in requests]
        before = len(self._used)
        self._used.update(map(tuple, prompts))
        if len(self._used) != before + len(requests):
            raise InputError("Timing got the same prompt twice; a cached prefix would be timed. Give fresh prompts for every seed.")
        return prompts

    def _exactly(self, n: int, n_tokens: int) -> list[list[int]]:
        self._seed += 1
        prompts = self._make(n, n_tokens, self._seed)
        if len(prompts) != n or any(len(prompt) != n_tokens for prompt in prompts):
            raise InputError(f"Timing needs {n} prompts of exactly {n_tokens} tokens; got lengths {[len(prompt) for prompt in prompts]}.")
        return prompts

    def _own(self, request: WorkloadRequest) -> list[int]:
        self._seed += 1
        return self._make.of_messages(request, self._seed)


@dataclass(kw_only=True)
class _Session:
    """A session while it runs."""

    clients: Mapping[str, Entrant]
    workload: Workload
    prompts: FreshPrompts
    baseline: str
    time_budget_s: float
    turn_limit_s: float
    on_progress: Callable[[SessionProgress], None] | None
    watch: NoiseWatch
    started_s: float
    round_s: float = 0.0
    turns: list[Turn] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    memory: dict[str, MemoryReading] = field(default_factory=dict)
    files_in_common: frozenset[str] = frozenset()

    @property
    def live(self) -> list[str]:
        return [name for name in self.clients if name not in self.left]

    async def warm_up(self) -> None:
        """Short answers to full prompts at every level, for caches, kernels and clocks, and for peak memory: reading that disturbs."""
        output_tokens = min(WARM_UP_TOKENS, self.workload.output_tokens)
        # Served alone, each would need the whole of a model file that is mapped by several of them here.
        self.files_in_common = files_mapped_together([client.pid for client in self.clients.values()])
        for name in self.live:
            with PeakMemory(self.clients[name].pid, counted_fully=self.files_in_common) as peak:
                for level in self.workload.concurrency:
                    requests = [
                        replace(one, output_tokens=min(output_tokens, one.output_tokens)) for one in of_turn(self.workload, level, 0)
                    ]
                    if await self._run(name, level, requests) is None:
                        break
            self.memory[name] = peak.reading

    async def run_one_round(self, index: int) -> None:
        start_s = time.monotonic()
        self.watch.calibrate()
        levels = self.workload.concurrency if index % 2 == 0 else self.workload.concurrency[::-1]
        turns = [(level, 0) for level in levels]
        turns += [(level, repeat) for level in levels for repeat in range(1, turns_per_round(level, levels))]
        for level, repeat in turns:
            for name in order_of_round(list(self.clients), index):
                if name not in self.left:
                    await self._turn(index, name, level, repeat)
        self.round_s = time.monotonic() - start_s

    async def _turn(self, index: int, name: str, level: int, repeat: int) -> None:
        if self.on_progress is not None:
            self.on_progress(
                SessionProgress(
                    round=index,
                    entrant=name,
                    concurrency=level,
                    elapsed_s=time.monotonic() - self.started_s,
                    time_budget_s=self.time_budget_s,
                    half_width=self.half_width(),
                )
            )
        energy = read_energy()
        self.watch.begin([client.pid for client in self.clients.values()])
        number = index * turns_per_round(level, self.workload.concurrency) + repeat
        trace = await self._run(name, level, of_turn(self.workload, level, number))
        self.watch.end()
        energy_j = _joules_since(energy)
        if trace is None:
            return
        self.memory[name] = higher(self.memory[name], memory_of(self.clients[name].pid, counted_fully=self.files_in_common))
        self.turns.append(turn_of(index, name, trace, energy_j, repeat))

    async def _run(self, name: str, level: int, requests: Sequence[WorkloadRequest]) -> RoundTrace | None:
        """One closed loop; None if the entrant left by it."""
        prompts, lengths = self.prompts.take(requests), [request.output_tokens for request in requests]
        try:
            trace = await within(self.turn_limit_s, run_round(self.clients[name], prompts, lengths, level))
            finished_requests([trace], level)
        except TimeoutError:
            await self.clients[name].kill()
            self.left[name] = f"It did not finish its turn at concurrency {level} within {self.turn_limit_s:g} s."
        except (InfeasibleError, OSError) as error:
            self.left[name] = str(error)
        else:
            return trace
        return None

    def half_width(self) -> float | None:
        """Half-width of the least known log ratio of end-to-end medians against the baseline; None while one is unknown or none exists."""
        widths = []
        for level in self.workload.concurrency:
            ratios = round_ratios(self.turns, self.baseline, "e2e_ms_p50", level)
            for name in self.live:
                if name != self.baseline:
                    if name not in ratios:
                        return None
                    widths.append(math.log(ratios[name].high / ratios[name].low) / 2)
        return max(widths, default=None)

    def why_stop(self, n_rounds: int, min_rounds: int, max_rounds: int, target: float) -> Stopped | None:
        """Why no further round is run, None if one is."""
        elapsed_s = time.monotonic() - self.started_s
        if not self.live:
            return "nobody_left"
        if n_rounds >= max_rounds:
            return "max_rounds"
        if n_rounds < min_rounds:
            return "time" if n_rounds > 0 and elapsed_s + self.round_s > 2 * self.time_budget_s else None
        if self.is_narrow(target):
            return "narrow"
        return "time" if elapsed_s + self.round_s > self.time_budget_s else None

    def is_narrow(self, target: float) -> bool:
        """Every ratio that can still be formed is known well enough; trivially so if none can."""
        rivals = [name for name in self.live if name != self.baseline]
        if not rivals or self.baseline in self.left:
            return True
        width = self.half_width()
        return width is not None and width <= target

    def result(self, n_rounds: int, stopped: Stopped, target: float) -> SessionResult:
        self.watch.calibrate()
        return SessionResult(
            baseline=self.baseline,
            turns=tuple(self.turns),
            n_rounds=n_rounds,
            points={name: self._points(name) for name in self.clients},
            left=dict(self.left),
            memory=dict(self.memory),
            noise=self.watch.verdict(),
            stopped=stopped,
            target_met=self.is_narrow(target),
            elapsed_s=time.monotonic() - self.started_s,
            conditions={"rounds": str(n_rounds), "stopped": stopped, **clock_conditions()},
        )

    def _points(self, name: str) -> tuple[LoadPoint, ...]:
        points = []
        for level in self.workload.concurrency:
            turns = [turn for turn in self.turns if turn.entrant == name and turn.trace.concurrency == level]
            if turns:
                energies = [turn.energy_j for turn in turns if turn.energy_j is not None]
                energy_j = sum(energies) if len(energies) == len(turns) else None
                points.append(summarise([turn.trace for turn in turns], level, energy_j=energy_j))
        return tuple(points)


async def within(limit_s: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises TimeoutError after `limit_s`. It then gets a few seconds to withdraw its requests.

    Unlike `asyncio.timeout` it does not wait for that to end: a hung worker would not answer the withdrawal either.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=limit_s)
        if task.done():
            return task.result()
    finally:
        task.cancel()
    await asyncio.wait({task}, timeout=WITHDRAW_S)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # so that it is not reported as unseen
    raise TimeoutError


def turn_of(index: int, name: str, trace: RoundTrace, energy_j: float | None, repeat: int = 0) -> Turn:
    """A turn with the medians over its finished requests. Raises InfeasibleError if there are none."""
    finished = finished_requests([trace], trace.concurrency)
    medians: dict[Metric, float] = {
        "e2e_ms_p50": statistics.median(request.e2e_ms for request in finished),
        "ttft_ms_p50": statistics.median(request.ttft_ms for request in finished),
        "tpot_ms_p50": statistics.median(request.tpot_ms for request in finished),
    }
    return Turn(round=index, entrant=name, trace=trace, medians=medians, energy_j=energy_j, repeat=repeat)


def _joules_since(before: EnergyReading) -> float | None:
    return joules_between(before, read_energy()) if before.counters_uj else None
