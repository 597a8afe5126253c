"""Continuous batching with transformers: each step computes one token of every request that is generating, and a part of the prompts.

Requests that generate are rows of one cache (`transformers_cache.py`), which all end at the same column; a request that joins is put at
the end of a row that is free, and columns that no request needs any more are cut off. Prompts are computed in a cache of their own, those
of about the same length together, long ones in parts, so that the others go on meanwhile. Of a model whose rows cannot lie beside each
other each request has a cache for itself, and they are computed one after another.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trimtab.core.errors import EngineRefused
from trimtab.engines.answers import Answer, check_request, constraint_of, ended
from trimtab.engines.base import GenerateRequest, TokenEvent
from trimtab.engines.schemas import Schemas
from trimtab.engines.tally import Logits
from trimtab.engines.transformers_cache import joined, put_row, taken
from trimtab.engines.transformers_model import Call, Model, left_padded, sentence_of

MOST_PADDING = 0.5
"""Prompts are computed together as long as padding is less than this share of the tokens."""
LEAST_CUT = 256
"""Columns that nothing needs are cut off once there are so many, and once they are a quarter of all."""


@dataclass(kw_only=True, eq=False)
class Run(Answer):
    """n_computed: tokens in the cache"""

    n_computed: int = 0


@dataclass(kw_only=True, eq=False)
class Filling:
    """Prompts that are being computed. n_done: columns of them; a request that was cancelled is None"""

    runs: list[Run | None]
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    cache: Any
    n_done: int = 0


@dataclass(kw_only=True, eq=False)
class Grid:
    """Requests that are generating, a row of the cache each; None = the row is free. width: columns that are filled"""

    rows: list[Run | None]
    cache: Any
    width: int

    @property
    def runs(self) -> list[Run]:
        return [run for run in self.rows if run is not None]


class Server:
    """slots: requests that run at most; batch_tokens: of prompts, in one step at most; context_tokens: of one request"""

    def __init__(
        self, model: Model, *, end_ids: Sequence[int], schemas: Schemas, slots: int, batch_tokens: int, context_tokens: int
    ) -> None:
        self.model = model
        self.end_ids = frozenset(end_ids)
        self.schemas = schemas
        self.slots = slots
        self.batch_tokens = batch_tokens
        self.context_tokens = context_tokens
        self.queue: deque[Run] = deque()
        self.filling: Filling | None = None
        self.grids: list[Grid] = []
        self.cancelled: list[int] = []
        self.scratch: Logits = np.empty(model.vocab_size, np.float32)

    @property
    def running(self) -> list[Run]:
        """Requests that hold a slot."""
        filled = [run for run in self.filling.runs if run is not None] if self.filling else []
        return [*filled, *(run for grid in self.grids for run in grid.runs)]

    @property
    def n_running(self) -> int:
        return len(self.queue) + len(self.running) + len(self.cancelled)

    def submit(self, request: GenerateRequest) -> None:
        """See Engine.submit."""
        check_request(
            request,
            vocab_size=self.model.vocab_size,
            context_tokens=self.context_tokens,
            running=[run.request.request_id for run in (*self.queue, *self.running)],
        )
        self.queue.append(Run(request=request, constraint=constraint_of(request, self.schemas)))

    def cancel(self, request_id: int) -> None:
        """See Engine.cancel."""
        for run in (*self.queue, *self.running):
            if run.request.request_id == request_id:
                self._release(run)
                self.cancelled.append(request_id)
                return

    def step(self) -> list[TokenEvent]:
        """See Engine.step. If a call fails, all requests that hold a slot end with its reason."""
        events = [ended(request_id, "cancelled") for request_id in self.cancelled]
        self.cancelled.clear()
        try:
            for grid in tuple(self.grids):
                events += self._decode(grid)
            events += self._fill()
        except (EngineRefused, RuntimeError, MemoryError) as error:
            why = str(error) if isinstance(error, EngineRefused) else f"transformers could not go on: {sentence_of(error)}."
            told = {event.request_id for event in events if event.done}
            events += [ended(run.request.request_id, "error", why) for run in self.running if run.request.request_id not in told]
            self.filling = None
            self.grids.clear()
        return events

    # Prompts

    def _fill(self) -> list[TokenEvent]:
        """Compute as much of the prompts as one step takes; the first tokens of those that are complete."""
        if self.filling is None:
            self.filling = self._begin()
        filling = self.filling
        if filling is None:
            return []
        n_rows, width = filling.ids.shape
        count = max(1, self.batch_tokens // n_rows) if self.model.batches else width
        first, end = filling.n_done, min(width, filling.n_done + count)
        logits = self.model.call(
            Call(
                ids=filling.ids[:, first:end],
                mask=filling.mask[:, :end],
                positions=filling.positions[:, first:end],
                cache=filling.cache,
                keep=1,
            )
        )
        filling.n_done = end
        if end < width:
            return []
        self.filling = None
        for run in filling.runs:
            if run is not None:
                run.n_computed = len(run.request.prompt_ids)
        return self._advance(self._place(filling), filling.runs, logits)

    def _begin(self) -> Filling | None:
        """The oldest waiting requests for which there are slots, as long as their prompts are of about the same length."""
        free = self.slots - len(self.running)
        runs: list[Run] = []
        while self.queue and len(runs) < (free if self.model.batches else min(free, 1)):
            lengths = [len(run.request.prompt_ids) for run in (*runs, self.queue[0])]
            padded = max(lengths) * len(lengths)
            if runs and (padded > self.batch_tokens or padded - sum(lengths) > MOST_PADDING * padded):
                break
            runs.append(self.queue.popleft())
        if not runs:
            return None
        width = max(len(run.request.prompt_ids) for run in runs)
        ids, mask, positions = left_padded([run.request.prompt_ids for run in runs], width)
        return Filling(runs=list(runs), ids=ids, mask=mask, positions=positions, cache=self.model.new_cache())

    def _place(self, filling: Filling) -> Grid:
        """Make rows of prompts that are computed: in free rows, else beside the others."""
        width = filling.ids.shape[1]
        made = Grid(rows=list(filling.runs), cache=filling.cache, width=width)
        self.grids = [grid for grid in self.grids if grid.runs]
        if not self.grids or not self.model.batches:
            self.grids.append(made)
            return made
        (grid,) = self.grids
        free = [row for row, run in enumerate(grid.rows) if run is None]
        new = [row for row, run in enumerate(made.rows) if run is not None]
        if len(new) <= len(free) and width <= grid.width:
            for row, source in zip(free, new, strict=False):
                put_row(grid.cache, row, made.cache, source)
                grid.rows[row] = made.rows[source]
            return grid
        kept = [row for row, run in enumerate(grid.rows) if run is not None]
        if len(kept) < len(grid.rows):
            self._keep(grid, kept)
        grid.cache = joined(grid.cache, taken(made.cache, new) if len(new) < len(made.rows) else made.cache)
        grid.rows += [made.rows[row] for row in new]
        grid.width = max(grid.width, width)
        return grid

    # Tokens

    def _decode(self, grid: Grid) -> list[TokenEvent]:
        """One token of every row."""
        if not grid.runs:
            self.grids.remove(grid)
            return []
        self._tidy(grid)
        lengths = torch.tensor([run.n_computed if run else 0 for run in grid.rows])
        ids = torch.tensor([[run.last if run else 0] for run in grid.rows])
        mask = (torch.arange(grid.width + 1) >= (grid.width - lengths)[:, None]).to(torch.int64)
        logits = self.model.call(Call(ids=ids, mask=mask, positions=lengths[:, None], cache=grid.cache, keep=1))
        grid.width += 1
        for run in grid.runs:
            run.n_computed += 1
        return self._advance(grid, grid.rows, logits)

    def _advance(self, grid: Grid, runs: Sequence[Run | None], logits: Logits) -> list[TokenEvent]:
        """A token of each run from its row of logits."""
        events = []
        for run, row in zip(tuple(runs), logits, strict=True):
            if run is not None:
                events.append(run.take(row[0], self.scratch, self.end_ids))
                if events[-1].done:
                    grid.rows[grid.rows.index(run)] = None
        return events

    # Room

    def _tidy(self, grid: Grid) -> None:
        """Cut off columns that no row needs, and free rows once nobody waits for them or they are the most."""
        if not self.model.batches:
            return
        kept = [row for row, run in enumerate(grid.rows) if run is not None]
        n_free = len(grid.rows) - len(kept)
        unused = grid.width - max(run.n_computed for run in grid.runs)
        if (n_free and not self.queue and self.filling is None) or n_free > len(kept) or unused > max(LEAST_CUT, grid.width // 4):
            self._keep(grid, kept)

    def _keep(self, grid: Grid, rows: Sequence[int]) -> None:
        """Only these rows, and only the columns that they need."""
        unused = grid.width - max((run.n_computed for run in grid.runs), default=0)
        grid.cache = taken(grid.cache, rows, unused)
        grid.rows = [grid.rows[row] for row in rows]
        grid.width -= unused

    def _release(self, run: Run) -> None:
        """Take a request out, wherever it is."""
        if run in self.queue:
            self.queue.remove(run)
        elif self.filling is not None and run in self.filling.runs:
            self.filling.runs[self.filling.runs.index(run)] = None
            if not any(self.filling.runs):
                self.filling = None
        else:
            for grid in self.grids:
                if run in grid.rows:
                    grid.rows[grid.rows.index(run)] = None
