"""The interleaved session on clients with a virtual clock: order, fresh prompts, stopping, crashes, ratios."""

import asyncio
import dataclasses
import itertools
import math
import random
import time
from collections import Counter

import pytest

from trimtab.core.errors import EngineCrashed, InfeasibleError, InputError
from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.engines.base import TokenEvent
from trimtab.measure import load, session
from trimtab.measure.noise import CpuCounters, NoiseWatch
from trimtab.measure.session import order_of_round, round_ratios, timed_session

WORKLOAD = Workload(name="small", prompt_tokens=8, output_tokens=4, concurrency=(1, 2))


class Clock:
    """Stands in for the `time` module: only clients make time pass."""

    now_ns = 10**9

    def monotonic_ns(self):
        return self.now_ns

    def monotonic(self):
        return self.now_ns / 1e9


class TimedClient:
    """TTFT 10 * slow ms, then 5 * slow ms a token, times `jitter()`. From its `crash_at`-th request on it is dead."""

    pid = 0

    def __init__(self, clock, slow=1.0, jitter=lambda: 1.0, crash_at=None, log=None, name=""):
        self.clock, self.slow, self.jitter, self.crash_at = clock, slow, jitter, crash_at
        self.log = [] if log is None else log
        self.name = name
        self.prompts = []
        self.killed = False

    async def kill(self):
        self.killed = True

    async def generate(self, request):
        self.prompts.append(request.prompt_ids)
        self.log.append((self.name, request.max_tokens))
        if self.crash_at is not None and len(self.prompts) >= self.crash_at:
            raise EngineCrashed("The engine's process crashed (SIGSEGV).")
        now_ns = self.clock.now_ns
        unit_ns = round(1e6 * self.slow * self.jitter())
        for index in range(request.max_tokens):
            time_ns = now_ns + 10 * unit_ns + 5 * unit_ns * index
            await asyncio.sleep(0)
            yield TokenEvent(request_id=request.request_id, token_id=1, logprob=-1.0, time_ns=time_ns)
        self.clock.now_ns = max(self.clock.now_ns, time_ns)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(load, "time", made)
    monkeypatch.setattr(session, "time", made)
    return made


def fresh(n, n_tokens, seed):
    return [[seed, index, *range(n_tokens - 2)] for index in range(n)]


def quiet_watch(kernel=lambda: 0.01):
    return NoiseWatch(2, kernel, lambda pids: CpuCounters(at_s=0, busy_s=0, stolen_s=0, own_s=0))


def timed(clients, **options):
    options = {"time_budget_s": 60.0, "noise_watch": quiet_watch(), "make_prompts": fresh, "workload": WORKLOAD} | options
    return asyncio.run(timed_session(clients, options.pop("workload"), options.pop("make_prompts"), **options))


def test_order_is_balanced():
    """Over 2k rounds each of k names runs equally often at each position, and each round reverses its neighbour."""
    for n in range(1, 6):
        names = list("abcde"[:n])
        orders = [order_of_round(names, index) for index in range(2 * n)]
        for first, second in zip(orders[::2], orders[1::2], strict=True):
            assert second == first[::-1]
        for position in range(n):
            assert Counter(order[position] for order in orders) == Counter(names * 2)


def test_turns_are_interleaved_and_warm_up_is_not_timed(clock):
    log = []
    clients = {name: TimedClient(clock, log=log, name=name) for name in "ab"}
    result = timed(clients, max_rounds=2, min_rounds=2)
    # Warm-up: concurrency 1 and 2 for a, then for b; then level by level, who starts alternates, and so does the level.
    assert "".join(name for name, _ in log) == "aaabbb" + "abaabb" + "bbaaba"
    assert [(turn.round, turn.entrant, turn.trace.concurrency) for turn in result.turns] == [
        *[(0, "a", 1), (0, "b", 1), (0, "a", 2), (0, "b", 2)],
        *[(1, "b", 2), (1, "a", 2), (1, "b", 1), (1, "a", 1)],
    ]
    assert result.points["a"][0].n_requests == 2
    assert result.points["a"][1].n_requests == 4


def test_each_prompt_is_used_once(clock):
    clients = {name: TimedClient(clock) for name in "abc"}
    timed(clients, max_rounds=4)
    prompts = [prompt for client in clients.values() for prompt in client.prompts]
    assert len(set(prompts)) == len(prompts) == 3 * (3 + 3 * 3)
    assert {len(prompt) for prompt in prompts} == {8}


def test_unlike_requests_are_the_same_for_every_entrant_of_a_turn(clock):
    class Make:
        def __call__(self, n, n_tokens, seed):
            return fresh(n, n_tokens, seed)

        def of_messages(self, request, seed):
            return [-seed, *range(request.prompt_tokens - 1)]

    requests = tuple(
        WorkloadRequest(prompt_tokens=8 + n, output_tokens=2 + n, messages=(("user", "x"),) if n % 2 else ()) for n in range(6)
    )
    workload = dataclasses.replace(WORKLOAD, requests=requests)
    clients = {name: TimedClient(clock) for name in "ab"}
    result = timed(clients, workload=workload, make_prompts=Make(), max_rounds=3, min_rounds=3)
    shapes = {}
    for turn in result.turns:
        shape = sorted((one.prompt_tokens, len(one.token_ns)) for one in turn.trace.requests)
        shapes.setdefault((turn.round, turn.trace.concurrency, turn.repeat), []).append(shape)
    assert all(len(both) == 2 and both[0] == both[1] for both in shapes.values())
    assert all(len(shape) == 4 for both in shapes.values() for shape in both), "the median of fewer would say little"
    seen = {shape for both in shapes.values() for shape in both[0]}
    assert {output for _, output in seen} == {request.output_tokens for request in requests}, "in turns all are used"
    assert result.ratios("a")["b"].ratio == pytest.approx(1.0)


@pytest.mark.parametrize(
    "make", [lambda n, n_tokens, seed: [[1] * n_tokens] * n, lambda n, n_tokens, seed: fresh(n, n_tokens + 1, seed), lambda *_: []]
)
def test_stale_or_misshapen_prompts_are_refused(clock, make):
    with pytest.raises(InputError):
        timed({"a": TimedClient(clock)}, make_prompts=make)


def test_ratio_of_constant_speeds_is_exact(clock):
    result = timed({"base": TimedClient(clock, slow=3.0), "fast": TimedClient(clock, slow=2.0)})
    assert (result.stopped, result.n_rounds, result.target_met) == ("narrow", 3, True)
    for metric in ("e2e_ms_p50", "ttft_ms_p50", "tpot_ms_p50"):
        for level in (1, 2):
            ratio = result.ratios("base", metric, level)["fast"]
            assert ratio.ratio == pytest.approx(1.5)
            assert (ratio.low, ratio.high, ratio.n_rounds) == (pytest.approx(1.5), pytest.approx(1.5), 3)
    assert result.ratios("fast")["base"].ratio == pytest.approx(2 / 3)
    measurement = result.measurement("fast", load_s=0.5)
    assert measurement.points[0].e2e_ms.p50 == pytest.approx(2 * (10 + 3 * 5))
    assert measurement.load_s == 0.5
    assert measurement.peak_memory_bytes is None
    assert measurement.conditions["memory_not_measured"]


def test_a_common_drift_cancels(clock):
    """The machine slows down by 3 % with every request; the paired ratio stays close to the true 1.5."""
    pace = itertools.count()

    def slower():
        return 1.03 ** next(pace)

    clients = {"base": TimedClient(clock, 3.0, slower), "fast": TimedClient(clock, 2.0, slower)}
    result = timed(clients, max_rounds=8, min_rounds=8)
    assert result.ratios("base")["fast"].ratio == pytest.approx(1.5, rel=0.01)


def test_noisy_speeds_take_more_rounds_until_narrow(clock):
    rng = random.Random(0)

    def jitter():
        return math.exp(rng.gauss(0, 0.05))

    result = timed({"base": TimedClient(clock, 3.0, jitter), "fast": TimedClient(clock, 2.0, jitter)}, time_budget_s=1000.0)
    assert result.stopped == "narrow"
    assert result.n_rounds > 5
    for level in (1, 2):
        ratio = result.ratios("base", "e2e_ms_p50", level)["fast"]
        assert math.log(ratio.high / ratio.low) / 2 <= 0.04
        assert ratio.ratio == pytest.approx(1.5, rel=0.1)


def test_time_budget_is_kept(clock):
    rng = random.Random(0)

    def jitter():
        return math.exp(rng.gauss(0, 0.5))

    clients = {"base": TimedClient(clock, 3.0, jitter), "fast": TimedClient(clock, 2.0, jitter)}
    start = clock.monotonic()
    result = timed(clients, time_budget_s=3.0)
    assert result.stopped == "time"
    assert not result.target_met
    assert clock.monotonic() - start <= 3.0 * 1.2
    assert result.n_rounds > 3


def test_min_rounds_go_before_the_budget_but_not_for_ever(clock):
    start = clock.monotonic()
    assert timed({"a": TimedClient(clock), "b": TimedClient(clock)}, time_budget_s=0.16).n_rounds == 2
    assert clock.monotonic() - start < 0.32
    one = timed({"a": TimedClient(clock, 1000.0), "b": TimedClient(clock)}, time_budget_s=1.0)
    assert (one.n_rounds, one.stopped) == (1, "time")
    assert one.ratios("a") == {}


@pytest.mark.parametrize("crash_at", [1, 4, 6])
def test_a_crash_takes_one_entrant_out(clock, crash_at):
    """Request 1 is in the warm-up, 4 in the first round at concurrency 1, 6 in the same round at concurrency 2."""
    clients = {"base": TimedClient(clock, 3.0), "bad": TimedClient(clock, crash_at=crash_at), "fast": TimedClient(clock, 2.0)}
    result = timed(clients)
    assert result.left == {"bad": "The engine's process crashed (SIGSEGV)."}
    assert set(result.ratios("base")) == {"fast"}
    assert result.n_rounds == 3
    assert len(result.points["fast"]) == 2
    if crash_at == 1:
        with pytest.raises(InfeasibleError, match="SIGSEGV"):
            result.measurement("bad")


def test_everybody_gone(clock):
    result = timed({"a": TimedClient(clock, crash_at=1), "b": TimedClient(clock, crash_at=5)})
    assert result.stopped == "nobody_left"
    assert set(result.left) == {"a", "b"}


def test_a_lost_baseline_leaves_distributions_but_no_ratio(clock):
    result = timed({"base": TimedClient(clock, crash_at=2), "fast": TimedClient(clock)})
    assert result.ratios("base") == {}
    assert result.points["fast"][0].n_requests == 3


@pytest.mark.parametrize("deaf", [False, True])
def test_a_turn_that_never_ends_is_cut(clock, monkeypatch, deaf):
    """Also if the worker does not answer the withdrawal of its requests: the session goes on without it."""
    monkeypatch.setattr(session, "WITHDRAW_S", 0.05)

    class Stuck(TimedClient):
        async def generate(self, request):
            try:
                await asyncio.sleep(60)
                yield
            finally:
                if deaf:
                    await asyncio.sleep(0.5)

    start = time.monotonic()
    clients = {"base": TimedClient(clock), "stuck": Stuck(clock)}
    result = timed(clients, turn_limit_s=0.05)
    assert clients["stuck"].killed
    assert not clients["base"].killed
    assert "did not finish its turn at concurrency 1" in result.left["stuck"]
    assert result.points["base"][0].n_requests == 3
    assert time.monotonic() - start < 5


def test_an_interrupt_withdraws_the_requests(clock):
    """Cancelling the session, as Ctrl-C does, reaches the request in flight."""
    withdrawn = []

    class Slow(TimedClient):
        async def generate(self, request):
            try:
                await asyncio.sleep(60)
                yield
            finally:
                withdrawn.append(request.request_id)

    async def interrupted():
        task = asyncio.create_task(timed_session({"a": Slow(clock)}, WORKLOAD, fresh, time_budget_s=60, noise_watch=quiet_watch()))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.01)
        return task

    assert asyncio.run(interrupted()).cancelled()
    assert len(withdrawn) == 1


def test_unknown_baseline_is_refused(clock):
    with pytest.raises(InputError, match="not among the entrants: a"):
        timed({"a": TimedClient(clock)}, baseline="b")
    with pytest.raises(InputError, match="there are none"):
        timed({})


def test_progress_tells_how_well_it_is_known(clock):
    seen = []
    timed({"base": TimedClient(clock), "fast": TimedClient(clock, 0.5)}, on_progress=seen.append)
    assert [one.half_width is None for one in seen] == [True] * 8 + [False] * 4
    assert seen[-1].half_width == pytest.approx(0, abs=1e-9)
    assert [one.elapsed_s for one in seen] == sorted(one.elapsed_s for one in seen)


def test_ratios_pair_only_shared_rounds(clock):
    """A turn lost in the middle must not shift the pairing."""
    result = timed({"base": TimedClient(clock, 3.0), "fast": TimedClient(clock, 2.0)}, min_rounds=4, max_rounds=4)
    turns = [turn for turn in result.turns if not (turn.entrant == "fast" and turn.round == 1)]
    ratio = round_ratios(turns, "base", "e2e_ms_p50", 1)["fast"]
    assert ratio.n_rounds == 3
    assert ratio.ratio == pytest.approx(1.5)


def test_noise_reaches_the_measurement(clock):
    """Three rounds are calibrated four times: 10, 10, 20, 20 ms are speeds of 100 and 50, quartiles 100 and 50, median 75."""
    runs = iter([0.01] * 6 + [0.02] * 6)
    result = timed({"a": TimedClient(clock), "b": TimedClient(clock)}, noise_watch=quiet_watch(lambda: next(runs)))
    measurement = result.measurement("b")
    assert measurement.noisy
    assert measurement.noise == "The machine was noisy: the machine's speed varied by 67 % (IQR) between rounds."
