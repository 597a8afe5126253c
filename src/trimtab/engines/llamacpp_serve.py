"""Continuous batching on one llama.cpp context: each step is one llama_decode over all slots.

A step holds one token of every request that is generating, then as much of the waiting prompts, in order of arrival, as the batch
takes; so a long prompt is computed in chunks while the others go on.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import Done, GenerateRequest, TokenEvent
from trimtab.engines.llamacpp_native import TokenBatch, decode


@dataclass(kw_only=True)
class Run:
    """A request on its way. n_computed: tokens in the cache; last: the newest token, not yet computed."""

    request: GenerateRequest
    slot: int = -1
    n_computed: int = 0
    n_generated: int = 0
    last: int | None = None
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.Generator(np.random.PCG64(self.request.seed))

    @property
    def n_reserved(self) -> int:
        return len(self.request.prompt_ids) + self.request.max_tokens


class Server:
    """Slots over one context.

    context_tokens: of one request, prompt and output; pool_tokens: cells that all slots share, None if each slot has its own
    """

    def __init__(
        self,
        context: int,
        vocab_size: int,
        *,
        end_ids: Sequence[int],
        slots: int,
        batch_tokens: int,
        context_tokens: int,
        pool_tokens: int | None,
    ) -> None:
        self.context = context
        self.memory = native.llama_get_memory(context)
        self.vocab_size = vocab_size
        self.end_ids = frozenset(end_ids)
        self.context_tokens = context_tokens
        self.pool_tokens = pool_tokens
        self.batch = TokenBatch(batch_tokens)
        self.free_slots = list(range(slots))
        self.queue: deque[Run] = deque()
        self.running: list[Run] = []
        self.cancelled: list[int] = []
        self.scratch: npt.NDArray[np.float32] = np.empty(vocab_size, np.float32)

    @property
    def n_running(self) -> int:
        return len(self.queue) + len(self.running) + len(self.cancelled)

    def submit(self, request: GenerateRequest) -> None:
        """See Engine.submit."""
        if not request.prompt_ids or request.max_tokens < 1:
            raise EngineRefused("A request needs at least one prompt token and max_tokens of at least 1.")
        if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= self.vocab_size:
            raise EngineRefused(f"The prompt holds a token id outside the vocabulary of {self.vocab_size}.")
        run = Run(request=request)
        if run.n_reserved > self.context_tokens:
            raise EngineRefused(
                f"The prompt of {len(request.prompt_ids)} tokens and {request.max_tokens} new ones do not fit the context of "
                f"{self.context_tokens} tokens."
            )
        if any(other.request.request_id == request.request_id for other in (*self.queue, *self.running)):
            raise EngineRefused(f"Request {request.request_id} is running already.")
        self.queue.append(run)

    def cancel(self, request_id: int) -> None:
        """See Engine.cancel."""
        for run in (*self.queue, *self.running):
            if run.request.request_id == request_id:
                self._release(run)
                self.cancelled.append(request_id)
                return

    def step(self) -> list[TokenEvent]:
        """See Engine.step. If llama.cpp fails, all requests of the batch end with its reason."""
        events = [_end(request_id, "cancelled") for request_id in self.cancelled]
        self.cancelled.clear()
        self._admit()
        ready = self._fill()
        if self.batch.n_tokens == 0:
            return events
        try:
            logits = decode(self.context, self.batch, self.vocab_size)
        except EngineRefused as error:
            events += [_end(run.request.request_id, "error", str(error)) for run in self.running]
            for run in tuple(self.running):
                self._release(run)
            return events
        for row, run in zip(logits, ready, strict=True):
            events.append(self._advance(run, row))
        return events

    def _admit(self) -> None:
        """Give free slots to waiting requests, first come first served; in a shared pool only while their whole length fits."""
        while self.queue and self.free_slots:
            reserved = sum(run.n_reserved for run in self.running) + self.queue[0].n_reserved
            if self.pool_tokens is not None and self.running and reserved > self.pool_tokens:
                return
            run = self.queue.popleft()
            run.slot = self.free_slots.pop(0)
            self.running.append(run)

    def _fill(self) -> list[Run]:
        """Compose the batch. Returns the runs that will get a token, in the batch's order."""
        self.batch.clear()
        ready: list[Run] = []
        for run in self.running:
            if run.last is not None:
                where = self.batch.add((run.last,), run.n_computed, run.slot)
                self.batch.output[where] = 1
                run.n_computed += 1
                ready.append(run)
        for run in self.running:
            prompt = run.request.prompt_ids
            if run.last is None and self.batch.room:
                chunk = prompt[run.n_computed : run.n_computed + self.batch.room]
                where = self.batch.add(chunk, run.n_computed, run.slot)
                run.n_computed += len(chunk)
                if run.n_computed == len(prompt):
                    self.batch.output[where.stop - 1] = 1
                    ready.append(run)
        return ready

    def _advance(self, run: Run, row: npt.NDArray[np.float32]) -> TokenEvent:
        request = run.request
        token, logprob = pick(row, self.scratch, request, run.rng)
        run.last = token
        run.n_generated += 1
        done: Done = ""
        if not request.ignore_end and (token in self.end_ids or token in request.stop_ids):
            done = "stop"
        elif run.n_generated == request.max_tokens:
            done = "length"
        if done:
            self._release(run)
        return TokenEvent(request_id=request.request_id, token_id=token, logprob=logprob, time_ns=time.monotonic_ns(), done=done)

    def _release(self, run: Run) -> None:
        if run in self.running:
            self.running.remove(run)
            native.llama_memory_seq_rm(self.memory, run.slot, -1, -1)
            self.free_slots.append(run.slot)
            self.free_slots.sort()
        else:
            self.queue.remove(run)


def _end(request_id: int, done: Done, error: str = "") -> TokenEvent:
    return TokenEvent(request_id=request_id, token_id=None, logprob=None, time_ns=time.monotonic_ns(), done=done, error=error)


def pick(
    row: npt.NDArray[np.float32], scratch: npt.NDArray[np.float32], request: GenerateRequest, rng: np.random.Generator
) -> tuple[int, float]:
    """Choose a token from logits [vocab_size]: (id, log-probability at temperature 1 under the full distribution).

    Above temperature 0 by inversion of the cumulative distribution with one uniform number a token, so a seed gives the same choice
    wherever the request runs. top_p keeps the smallest set of most likely tokens that reaches it. Overwrites scratch [vocab_size].
    """
    peak = row.max()
    np.subtract(row, peak, out=scratch)
    if request.temperature <= 0:
        token = int(row.argmax())
        np.exp(scratch, out=scratch)
        return token, -float(np.log(np.float64(scratch.sum())))
    weights = np.exp(scratch / np.float32(request.temperature))
    if request.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        heights = np.cumsum(weights[order], dtype=np.float64)
        heights = heights[: int(np.searchsorted(heights, request.top_p * heights[-1])) + 1]
    else:
        order = None
        heights = np.cumsum(weights, dtype=np.float64)
    place = min(int(np.searchsorted(heights, rng.random() * heights[-1], side="right")), len(heights) - 1)
    token = place if order is None else int(order[place])
    above = float(scratch[token])
    np.exp(scratch, out=scratch)
    return token, above - float(np.log(np.float64(scratch.sum())))
