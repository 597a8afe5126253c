"""Many requests at once with ONNX Runtime GenAI: each has a generator of its own, and they are advanced in turn.

GenAI's own engine for many requests tells which tokens it chose and no log-probabilities, so nobody could hold what it serves against
what was certified. A step computes one token of every request that is generating, and a part of the oldest prompt; so what a request gets
does not depend on the others, to the last bit.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.core.errors import EngineRefused
from trimtab.engines.answers import Answer, check_request, constraint_of, ended
from trimtab.engines.base import GenerateRequest, TokenEvent
from trimtab.engines.ortgenai_model import Model, Tokens
from trimtab.engines.schemas import Schemas
from trimtab.engines.tally import Logits


@dataclass(kw_only=True, eq=False)
class Run(Answer):
    """tokens: what is computed of it, None while it waits; n_computed: tokens of its prompt that are"""

    tokens: Tokens | None = None
    n_computed: int = 0


class Server:
    """slots: requests that run at most; batch_tokens: of a prompt, in one step at most; context_tokens: of one request"""

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
        self.running: list[Run] = []
        self.cancelled: list[int] = []
        self.scratch: Logits = np.empty(model.vocab_size, np.float32)

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
        for runs in (self.queue, self.running):
            for run in runs:
                if run.request.request_id == request_id:
                    runs.remove(run)
                    self.cancelled.append(request_id)
                    return

    def step(self) -> list[TokenEvent]:
        """See Engine.step. A call that fails ends its own request, with the reason."""
        events = [ended(request_id, "cancelled") for request_id in self.cancelled]
        self.cancelled.clear()
        while self.queue and len(self.running) < self.slots:
            self.running.append(self.queue.popleft())
        oldest = next((run for run in self.running if run.last < 0), None)
        for run in tuple(self.running):
            try:
                found = self._decode(run) if run.last >= 0 else self._fill(run) if run is oldest else []
            except (EngineRefused, MemoryError) as error:
                why = str(error) if isinstance(error, EngineRefused) else "The engine ran out of memory."
                found = [ended(run.request.request_id, "error", why)]
            events += found
            if found and found[-1].done:
                self.running.remove(run)
        return events

    def _fill(self, run: Run) -> list[TokenEvent]:
        """Compute more of a prompt; its first token once all of it is computed."""
        prompt = run.request.prompt_ids
        if run.tokens is None:
            run.tokens = self.model.begin(len(prompt) + run.request.max_tokens)
        part = prompt[run.n_computed : run.n_computed + self.batch_tokens]
        row = run.tokens.last_row(part)
        run.n_computed += len(part)
        return [run.take(row, self.scratch, self.end_ids)] if run.n_computed == len(prompt) else []

    def _decode(self, run: Run) -> list[TokenEvent]:
        assert run.tokens is not None
        return [run.take(run.tokens.last_row((run.last,)), self.scratch, self.end_ids)]
