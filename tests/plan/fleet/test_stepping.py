"""The simulation jumps; a slow one that takes every single step must come to the same."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.plan.fleet.events import simulate
from trimtab.plan.fleet.settings import Batching, Fleet, Kind, policy_of
from trimtab.plan.fleet.steps import AffineSteps, StepTable, tabled
from trimtab.plan.fleet.traces import Trace

STEPS = AffineSteps(fixed_s=0.01, sequence_s=0.001, context_token_s=1e-5, prompt_token_s=1e-4, prompt_pair_s=1e-8)


@dataclass(kw_only=True)
class Sequence:
    number: int
    prompt: int
    output: int
    computed: int = 0
    got: int = 0
    earlier: int = 0
    first_s: float = -1.0
    end_s: float = -1.0
    started_s: float = -1.0

    @property
    def cells(self) -> int:
        """Tokens of the cache: the whole prompt from its start on, and every answered token but the newest."""
        return self.prompt + max(self.earlier, self.got - 1 if self.got > self.earlier else self.earlier)


@dataclass(kw_only=True)
class Slow:
    """One engine, one step at a time, written without a look at the fast one's bookkeeping."""

    table: StepTable
    rules: Batching
    running: list[Sequence] = field(default_factory=list)
    waiting: list[Sequence] = field(default_factory=list)
    most: int = 0
    n_preempted: int = 0

    def taken(self) -> int:
        if self.rules.reserve == "whole":
            return sum(one.prompt + one.output for one in self.running)
        return sum(one.cells for one in self.running)

    def decoding(self) -> list[Sequence]:
        return [one for one in self.running if one.computed == one.prompt + one.earlier]

    def admit(self, now_s: float) -> None:
        while self.waiting and len(self.running) < self.rules.slots:
            head = self.waiting[0]
            need = head.prompt + (head.output if self.rules.reserve == "whole" else head.earlier)
            spare = len(self.decoding()) if self.rules.reserve == "grow" and self.running else 0
            if self.rules.kv_tokens and self.running and self.taken() + need + spare > self.rules.kv_tokens:
                return
            self.running.append(self.waiting.pop(0))
            head.computed = 0
            head.started_s = now_s if head.started_s < 0 else head.started_s

    def make_room(self) -> None:
        while self.rules.kv_tokens and self.rules.reserve == "grow" and self.taken() + len(self.decoding()) > self.rules.kv_tokens:
            prompts = [one for one in self.running if one.computed < one.prompt + one.earlier]
            victim = prompts[-1] if prompts else self.running_order[-1]
            self.running.remove(victim)
            if victim in self.running_order:
                self.running_order.remove(victim)
                victim.earlier = victim.got
            self.n_preempted += 1
            self.waiting.insert(0, victim)

    def run(self, arrivals: list[tuple[float, Sequence]]) -> None:
        self.running_order: list[Sequence] = []
        now_s, coming = 0.0, list(arrivals)
        while coming or self.running or self.waiting:
            if not self.running and not self.waiting:
                now_s = max(now_s, coming[0][0])
            while coming and coming[0][0] <= now_s:
                self.waiting.append(coming.pop(0)[1])
            now_s = self.step(now_s)

    def step(self, now_s: float) -> float:
        self.admit(now_s)
        prompts = [one for one in self.running if one.computed < one.prompt + one.earlier]
        if self.rules.chunked or not prompts:
            self.make_room()
        prompts = [one for one in self.running if one.computed < one.prompt + one.earlier]
        decode = self.decoding() if self.rules.chunked or not prompts else []
        room, chunks, pairs = self.rules.batch_tokens - len(decode), [], 0.0
        for one in prompts:
            left = one.prompt + one.earlier - one.computed
            size = min(left, room) if self.rules.chunked else left
            if size > room or size <= 0:
                break
            chunks.append((one, size))
            pairs += sum(one.computed + i for i in range(size))
            room -= size
        mean = sum(one.cells for one in decode) / len(decode) if decode else 0.0
        total = sum(size for _, size in chunks)
        seconds = self.table.mixed_s(len(decode), mean, total, pairs) if chunks else self.table.decode_s(len(decode), mean)
        now_s += seconds
        self.most = max(self.most, self.taken() + (len(decode) if self.rules.reserve == "grow" else 0))
        for one in decode:
            one.got += 1
        for one, size in chunks:
            one.computed += size
            if one.computed == one.prompt + one.earlier:
                one.got += 1
                one.first_s = now_s if one.first_s < 0 else one.first_s
                self.running_order.append(one)
        for one in [one for one in self.running if one.got == one.output]:
            # a recomputed sequence decodes on, and one that was never interrupted has `computed` stay at its prompt
            one.end_s = now_s
            self.running.remove(one)
            self.running_order.remove(one)
        return now_s


REQUESTS = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 90), st.integers(1, 60)), min_size=1, max_size=25)
RULES = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 6),
        "batch_tokens": st.sampled_from([8, 32, 128]),
        "kv_tokens": st.sampled_from([0, 150, 260]),
        "reserve": st.sampled_from(["whole", "grow"]),
        "chunked": st.booleans(),
    }
)


@settings(max_examples=120, deadline=None)
@given(REQUESTS, RULES)
def test_jumps_are_steps(rows: list[tuple[float, int, int]], rules: dict[str, Any]) -> None:
    if not rules["chunked"]:
        rules["batch_tokens"] = 128
    batching = Batching(**rules, kv_spare=0.0)
    table = tabled(STEPS, max_batch=batching.slots, batch_tokens=batching.batch_tokens)
    gaps, prompts, outputs = (np.array(column) for column in zip(*rows, strict=True))
    at = np.cumsum(gaps * 0.1)
    none = np.full(len(rows), -1)
    trace = Trace(name="t", arrival_s=at, prompt_tokens=prompts, output_tokens=outputs, prefix=none, prefix_tokens=none * 0)
    course = simulate(trace, Fleet(kinds=(Kind(name="k", steps=table, batching=batching),), policy=policy_of("fixed")))
    slow = Slow(table=table, rules=batching)
    sequences = [Sequence(number=i, prompt=int(p), output=int(o)) for i, (p, o) in enumerate(zip(prompts, outputs, strict=True))]
    slow.run(list(zip(at.tolist(), sequences, strict=True)))
    fast = course.requests
    assert fast.first_s == pytest.approx([one.first_s for one in sequences], abs=1e-9)
    assert fast.end_s == pytest.approx([one.end_s for one in sequences], abs=1e-9)
    assert fast.started_s == pytest.approx([one.started_s for one in sequences], abs=1e-9)
    replica = course.lives[0].replica
    assert replica.n_preempted == slow.n_preempted
    assert replica.most_kv == slow.most
    assert replica.used == replica.context == replica.n_decoding == 0


def test_the_slow_one_preempts_and_so_does_the_fast(trace: Callable[..., Trace], fleet: Callable[..., Fleet]) -> None:
    """The property above would say nothing of memory if memory were never short."""
    course = simulate(trace([(0.0, 50, 60), (0.0, 50, 60), (0.01, 50, 60)]), fleet(kv_tokens=150))
    assert course.lives[0].replica.n_preempted > 0
    assert course.lives[0].replica.most_kv <= 150
    assert min(course.requests.end_s) > 0
