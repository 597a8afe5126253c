"""Continuous batching on one llama.cpp context: each step is one llama_decode over all slots.

A step holds one token of every request that is generating, then as much of the waiting prompts, in order of arrival, as the batch
takes; so a long prompt is computed in chunks while the others go on.

With speculation, by prompt lookup or by a draft model, a generating request also puts in the tokens proposed for it, as far as the
prompts leave room. Row by row a token is picked as always; the answer goes on through the proposal while the pick is what was proposed.
For a proposal that is certain of itself this is speculative sampling (Leviathan et al. 2023; Chen et al. 2023): a proposed token is
accepted with its own probability, and where it is not, the pick comes from the rest of the distribution, renormalised. So the
distribution is unchanged, and a seed picks the same tokens with and without proposals as long as the logits are the same.

With a prefix cache the sequence of a request that ended is kept. A new request begins on a copy (of references, not of numbers) of the
longest beginning that any sequence shares with it. Kept sequences give way, the least recently used first, when cells or ids run out.

llama.cpp applies a LoRA adapter to a whole context, so all that runs at one time uses the same one, or none; `turns.py` says whose turn
it is. What was computed under one adapter is never the beginning of a sequence under another.
"""

import itertools
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import Done, GenerateRequest, TokenEvent
from trimtab.engines.llamacpp_adapters import use_adapter
from trimtab.engines.llamacpp_draft import Drafter, Wanted
from trimtab.engines.llamacpp_lookup import Lookup
from trimtab.engines.llamacpp_native import TokenBatch, decode
from trimtab.engines.sampling import pick, pick_allowed, top_of
from trimtab.engines.schemas import Constraint, Schemas
from trimtab.engines.turns import Turn, next_of


@dataclass(kw_only=True, eq=False)
class Run:
    """A request on its way, or a kept one.

    tokens: prompt and answer; n_computed: how many of them are in the cache; last: the newest token, not yet computed
    drafts: tokens proposed in this step; cells: names of the cache cells of the first tokens, to count shared ones once
    came_s: when it was submitted; n_cached: tokens of the prompt that it began with, until its first event has told
    """

    request: GenerateRequest
    slot: int = -1
    n_computed: int = 0
    n_generated: int = 0
    n_cached: int = 0
    last: int | None = None
    lookup: Lookup | None = None
    constraint: Constraint | None = None
    drafts: tuple[int, ...] = ()
    cells: list[int] = field(default_factory=list)
    came_s: float = field(default_factory=time.monotonic)
    tokens: list[int] = field(init=False)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)
        self.rng = np.random.Generator(np.random.PCG64(self.request.seed))

    @property
    def adapter(self) -> str:
        return self.request.adapter

    @property
    def n_wanted(self) -> int:
        """Tokens still to be generated."""
        return self.request.max_tokens - self.n_generated

    @property
    def n_reserved(self) -> int:
        return len(self.request.prompt_ids) + self.request.max_tokens


class Server:
    """Slots over one context.

    context_tokens: of one request, prompt and output; pool_tokens: cells that all slots share, None if each slot has its own
    draft_tokens: proposed in a step at most, 0 = no speculation; drafter: who proposes, None = prompt lookup; ngram_tokens: see Lookup
    schemas: makes the constraints of requests with a JSON schema
    n_kept: sequences kept after their requests at most, beside the slots' own (needs a shared pool); 0 = no prefix cache
    adapters: handles of those that requests may name
    """

    def __init__(
        self,
        context: int,
        vocab_size: int,
        *,
        end_ids: Sequence[int],
        schemas: Schemas,
        slots: int,
        batch_tokens: int,
        context_tokens: int,
        pool_tokens: int | None,
        draft_tokens: int = 0,
        drafter: Drafter | None = None,
        ngram_tokens: int = 1,
        n_kept: int = 0,
        adapters: Mapping[str, Any] | None = None,
    ) -> None:
        self.context = context
        self.memory = native.llama_get_memory(context)
        self.vocab_size = vocab_size
        self.end_ids = frozenset(end_ids)
        self.schemas = schemas
        self.slots = slots
        self.context_tokens = context_tokens
        self.pool_tokens = pool_tokens
        self.draft_tokens = draft_tokens
        self.drafter = drafter
        self.ngram_tokens = ngram_tokens
        self.n_kept = n_kept
        self.adapters = adapters or {}
        self.batch = TokenBatch(batch_tokens)
        self.free_slots = list(range(slots + n_kept))
        self.queue: deque[Run] = deque()
        self.running: list[Run] = []
        self.kept: list[Run] = []
        """Least recently used first."""
        self.cancelled: list[int] = []
        self.scratch: npt.NDArray[np.float32] = np.empty(vocab_size, np.float32)
        self._full = False  # the next request waits for another to end
        self._turn: Turn | None = None  # of those that run, or ran last
        self._adapter = ""  # that the context uses
        self._cell_names = itertools.count()

    @property
    def n_running(self) -> int:
        return len(self.queue) + len(self.running) + len(self.cancelled)

    def submit(self, request: GenerateRequest) -> None:
        """See Engine.submit."""
        if not request.prompt_ids or request.max_tokens < 1:
            raise EngineRefused("A request needs at least one prompt token and max_tokens of at least 1.")
        if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= self.vocab_size:
            raise EngineRefused(f"The prompt holds a token id outside the vocabulary of {self.vocab_size}.")
        if request.adapter and request.adapter not in self.adapters:
            raise EngineRefused(f"There is no adapter {request.adapter!r} here; there are {', '.join(self.adapters) or 'none'}.")
        run = Run(request=request)
        if run.n_reserved > self.context_tokens:
            raise EngineRefused(
                f"The prompt of {len(request.prompt_ids)} tokens and {request.max_tokens} new ones do not fit the context of "
                f"{self.context_tokens} tokens."
            )
        if any(other.request.request_id == request.request_id for other in (*self.queue, *self.running)):
            raise EngineRefused(f"Request {request.request_id} is running already.")
        if request.json_schema:
            if request.ignore_end:
                raise EngineRefused("A request that is held to a schema ends where the schema does; it cannot go on past its end.")
            run.constraint = self.schemas.begin(request.json_schema)
        if self.draft_tokens and self.drafter is None:
            run.lookup = Lookup(request.prompt_ids, self.ngram_tokens)
        self.queue.append(run)

    def cancel(self, request_id: int) -> None:
        """See Engine.cancel."""
        for run in (*self.queue, *self.running):
            if run.request.request_id == request_id:
                self._release(run)
                self.cancelled.append(request_id)
                return

    def step(self) -> list[TokenEvent]:
        """See Engine.step. If llama.cpp fails, all requests of the batch end with its reason, and nothing is kept."""
        events = [_end(request_id, "cancelled") for request_id in self.cancelled]
        self.cancelled.clear()
        self._admit()
        ready = self._fill()
        if self.batch.n_tokens == 0:
            return events
        try:
            self._use(self.running[0].adapter)
            logits = decode(self.context, self.batch, self.vocab_size)
        except EngineRefused as error:
            events += [_end(run.request.request_id, "error", str(error)) for run in self.running]
            for run in (*self.running, *self.kept):
                self._forget(run)
            self.running.clear()
            self.kept.clear()
            self._full = False
            return events
        row = 0
        for run in ready:
            n_rows = 1 + len(run.drafts)
            events += self._advance(run, logits[row : row + n_rows])
            row += n_rows
        return events

    # Who may run

    def _admit(self) -> None:
        """Give free slots to waiting requests, first come first served as far as adapters take turns.

        In a shared pool only while their whole length fits.
        """
        while len(self.running) < self.slots and not self._full:
            now_s = time.monotonic()
            run = next_of(self.queue, self._turn if self.running else None, now_s)
            if run is None:
                return
            source = self._begin_shared(run) if self.n_kept else None
            if not self._fits(run, ()) and self.running:
                self._full = True
                return
            if source in self.kept:
                self.kept.append(self.kept.pop(self.kept.index(source)))
            self.queue.remove(run)
            if not self.running:
                self._turn = Turn(adapter=run.adapter, began_s=now_s)
            run.slot = self.free_slots.pop(0)
            if source is not None:
                native.llama_memory_seq_cp(self.memory, source.slot, run.slot, 0, run.n_computed)
                run.n_cached = run.n_computed
            while self.kept and not self._fits(run, self.kept):
                self._forget(self.kept.pop(0))
            self.running.append(run)

    def _begin_shared(self, run: Run) -> Run | None:
        """The sequence that shares the longest beginning with a prompt, whose last token is left to compute. Notes its cells."""
        run.n_computed, run.cells = 0, []  # what an earlier try noted may be gone
        for other in self.running:
            self._name_cells(other)
        most = len(run.request.prompt_ids) - 1
        alike = (other for other in (*self.kept, *self.running) if other.adapter == run.adapter)
        source = max(alike, key=lambda other: _n_common(run.tokens, other.tokens[: other.n_computed]), default=None)
        if source is None:
            return None
        run.n_computed = min(most, _n_common(run.tokens, source.tokens[: source.n_computed]))
        run.cells = source.cells[: run.n_computed]
        return source if run.n_computed else None

    def _name_cells(self, run: Run) -> None:
        """Give the cells that a run has filled itself names of their own."""
        run.cells += itertools.islice(self._cell_names, run.n_computed - len(run.cells))

    def _fits(self, run: Run, kept: Collection[Run]) -> bool:
        """Whether the pool holds all that runs, to its full length, together with `run` and the kept sequences."""
        if self.pool_tokens is None:
            return True
        runs = (*self.running, run)
        held = {cell for each in (*runs, *kept) for cell in each.cells}
        return len(held) + sum(each.n_reserved - len(each.cells) for each in runs) <= self.pool_tokens

    # One step

    def _use(self, adapter: str) -> None:
        """Have the context use an adapter, or none. Raises EngineRefused."""
        if adapter != self._adapter:
            use_adapter(self.context, self.adapters.get(adapter))
            self._adapter = adapter

    def _fill(self) -> list[Run]:
        """Compose the batch. Returns the runs that will get tokens, in the batch's order."""
        self.batch.clear()
        ready = [run for run in self.running if run.last is not None]
        if ready and self.draft_tokens:
            self._propose(ready)
        for run in ready:
            where = self.batch.add((run.last, *run.drafts), run.n_computed, run.slot)
            self.batch.output[where] = 1
            run.n_computed += 1
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

    def _propose(self, runs: Sequence[Run]) -> None:
        """Note tokens that may come next, as many as the batch has room for and the requests still want."""
        spare = self._draft_room()
        if self.drafter is not None:
            share = min(self.draft_tokens, spare // len(runs))
            wanted = [Wanted(slot=run.slot, tokens=run.tokens, count=min(share, run.n_wanted - 1)) for run in runs]
            for run, drafts in zip(runs, self.drafter.propose(wanted), strict=True):
                run.drafts = drafts
            return
        for run in runs:
            assert run.lookup is not None
            run.drafts = run.lookup.propose(min(self.draft_tokens, spare, run.n_wanted - 1))
            spare -= len(run.drafts)

    def _draft_room(self) -> int:
        """Tokens of the batch that neither generating requests nor waiting prompts need."""
        needed = sum(1 if run.last is not None else len(run.request.prompt_ids) - run.n_computed for run in self.running)
        return max(0, self.batch.capacity - needed)

    def _advance(self, run: Run, rows: npt.NDArray[np.float32]) -> list[TokenEvent]:
        """Tokens of one run from its rows of logits: after its last token, then after each proposed one while they come true."""
        events: list[TokenEvent] = []
        for row, draft in zip(rows, (*run.drafts, None), strict=True):
            events.append(self._take(run, row))
            if events[-1].done:
                self._release(run)
                return events
            if run.last != draft:
                break
            run.n_computed += 1
        if len(events) <= len(run.drafts):
            native.llama_memory_seq_rm(self.memory, run.slot, run.n_computed, -1)
        run.drafts = ()
        return events

    def _take(self, run: Run, row: npt.NDArray[np.float32]) -> TokenEvent:
        request = run.request
        if run.constraint is None:
            token, logprob = pick(row, self.scratch, request, run.rng)
        else:
            try:
                allowed = run.constraint.allowed()
            except EngineRefused as error:
                return _end(request.request_id, "error", str(error))
            token, logprob = pick_allowed(row, self.scratch, request, run.rng, allowed)
            run.constraint.take(token)
        run.last = token
        run.tokens.append(token)
        if run.lookup is not None:
            run.lookup.append(token)
        run.n_generated += 1
        done: Done = ""
        if not request.ignore_end and (token in self.end_ids or token in request.stop_ids):
            done = "stop"
        elif run.n_wanted == 0:
            done = "length"
        top = top_of(row, self.scratch, request.top_logprobs) if request.top_logprobs else ()
        now_ns, cached, run.n_cached = time.monotonic_ns(), run.n_cached, 0
        return TokenEvent(request_id=request.request_id, token_id=token, logprob=logprob, time_ns=now_ns, done=done, top=top, cached=cached)

    # Endings

    def _release(self, run: Run) -> None:
        """End a request, running or waiting; with a prefix cache what it computed is kept."""
        self._full = False
        if run not in self.running:
            self.queue.remove(run)
            return
        self.running.remove(run)
        if self.drafter is not None:
            self.drafter.forget(run.slot)
        if self.n_kept and run.n_computed:
            self._keep(run)
        else:
            self._forget(run)

    def _keep(self, run: Run) -> None:
        """Keep a sequence, as far as it is computed, unless another holds all of it; one that it holds all of goes."""
        del run.tokens[run.n_computed :]
        self._name_cells(run)
        alike = [other for other in self.kept if other.adapter == run.adapter]
        if any(other.tokens[: run.n_computed] == run.tokens for other in alike):
            self._forget(run)
            return
        native.llama_memory_seq_rm(self.memory, run.slot, run.n_computed, -1)
        for other in [other for other in alike if run.tokens[: other.n_computed] == other.tokens]:
            self.kept.remove(other)
            self._forget(other)
        run.lookup = None
        self.kept.append(run)
        if len(self.kept) > self.n_kept:
            self._forget(self.kept.pop(0))

    def _forget(self, run: Run) -> None:
        """Empty a run's sequence and give its id back."""
        native.llama_memory_seq_rm(self.memory, run.slot, -1, -1)
        self.free_slots.append(run.slot)
        self.free_slots.sort()


def _n_common(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens two sequences share at the beginning."""
    return next((place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _end(request_id: int, done: Done, error: str = "") -> TokenEvent:
    return TokenEvent(request_id=request_id, token_id=None, logprob=None, time_ns=time.monotonic_ns(), done=done, error=error)
