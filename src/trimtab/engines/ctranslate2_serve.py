"""Many requests at once with CTranslate2, in waves: those that wait begin together, and nobody joins a wave that runs.

The library has no continuous batching. Waves take turns, a token of each at a step (`ctranslate2_wave.py`), so a request that comes later
starts at once where a wave may start. Requests of one kind make two waves at most: once both run, the others gather for the next, because
what is computed together costs little more than one alone. Of one kind are greedy ones, and those with the same temperature and top_p.
"""

import weakref
from collections import Counter, deque
from collections.abc import Sequence

from trimtab.core.errors import EngineRefused
from trimtab.engines.answers import check_request, ended
from trimtab.engines.base import GenerateRequest, TokenEvent
from trimtab.engines.ctranslate2_model import Model
from trimtab.engines.ctranslate2_random import choose_draws, why_not
from trimtab.engines.ctranslate2_wave import PLAIN, Run, Wave, states_of

MOST_WAVES = 2
"""Of one kind. More would start sooner, and compute less together."""
MOST_LONGER = 32
"""Prompts begin together that differ by no more tokens: those are computed one by one, in steps in which the shorter ones generate."""
MOST_IN_ORDER = 16
"""Rows of a wave whose order counts, for draws and logits: of more, the library's sort leaves equally long ones in no known order."""
MOST_LOGITS_BYTES = 2**30


class Server:
    """slots: requests that run at most; batch_tokens: of prompts that begin together at most; context_tokens: of one request"""

    def __init__(self, model: Model, *, end_ids: Sequence[int], slots: int, batch_tokens: int, context_tokens: int) -> None:
        self.model = model
        self.end_ids = frozenset(end_ids)
        self.slots = slots
        self.batch_tokens = batch_tokens
        self.context_tokens = context_tokens
        self.queue: deque[Run] = deque()
        self.waves: list[Wave] = []
        self.cancelled: list[int] = []
        self.states: set[int] = set()  # of the library's random numbers, one a thread
        # Also at the end of the process: the library waits for its threads, and they wait for us.
        self.close = weakref.finalize(self, _give_up, self.waves)

    @property
    def running(self) -> list[Run]:
        """Requests that hold a slot."""
        return [run for wave in self.waves for run in wave.running]

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
        kept = 4 * self.model.vocab_size * request.max_tokens
        if request.top_logprobs and kept > MOST_LOGITS_BYTES:
            raise EngineRefused(
                f"CTranslate2 keeps the logits of all tokens of an answer with top_logprobs, {kept / 1e9:.1f} GB for {request.max_tokens}; "
                f"ask for {MOST_LOGITS_BYTES // (4 * self.model.vocab_size)} tokens at most, or for no top_logprobs."
            )
        if request.temperature > 0 and why_not():
            raise EngineRefused(f"CTranslate2 cannot sample by a seed ({why_not()}); ask for temperature 0.")
        self.queue.append(Run(request=request))

    def cancel(self, request_id: int) -> None:
        """See Engine.cancel. The row of a running request is computed once more; its token is dropped."""
        for run in (*self.queue, *self.running):
            if run.request.request_id == request_id:
                if run in self.queue:
                    self.queue.remove(run)
                run.is_over = True
                self.cancelled.append(request_id)
                return

    def step(self) -> list[TokenEvent]:
        """See Engine.step. If a call fails, the requests of its wave end with its reason."""
        events = [ended(request_id, "cancelled") for request_id in self.cancelled]
        self.cancelled.clear()
        for wave in tuple(self.waves):
            if wave.running:
                events += self._advance(wave)
            else:  # all were cancelled
                wave.give_up()
                self.waves.remove(wave)
        while runs := self._gathered():
            wave = Wave(self.model, runs, end_ids=self.end_ids, most_tokens=self.context_tokens)
            if wave.is_sampled and not self._choose_first_draws(wave):
                why = "CTranslate2 did not show the random numbers of all its threads."
                events += [ended(run.request.request_id, "error", why) for run in runs]
                continue
            self.waves.append(wave)
            events += self._advance(wave)
        return events

    def _advance(self, wave: Wave) -> list[TokenEvent]:
        events = wave.advance()
        if wave.has_ended:
            self.waves.remove(wave)
            why = f"CTranslate2 could not go on: {wave.error or 'it ended without a reason'}."
            for run in wave.running:
                run.is_over = True
                events.append(ended(run.request.request_id, "error", why))
        return events

    def _choose_first_draws(self, wave: Wave) -> bool:
        """In all threads that are idle, because any of them may take the wave. False if they are not known."""
        busy = {other.state for other in self.waves if other.state is not None}
        if len(self.states) < self.slots:
            self.states = states_of(self.model, self.slots - len(self.waves)) | busy
        draws = wave.next_draws()
        for state in self.states - busy:
            choose_draws(state, draws)
        return len(self.states) == self.slots

    def _gathered(self) -> list[Run]:
        """The oldest request that may begin now, with those that may begin with it. They leave the queue; [] = none may."""
        free = self.slots - len(self.running)
        kinds = Counter(wave.runs[0].kind for wave in self.waves)
        first = next((run for run in self.queue if kinds[run.kind] < MOST_WAVES), None)
        if first is None or free < 1:
            return []
        most = free if first.kind == PLAIN else min(free, MOST_IN_ORDER)
        runs = [first]
        for run in self.queue:
            if run is not first and len(runs) < most and run.kind == first.kind and self._may_begin([*runs, run]):
                runs.append(run)
        for run in runs:
            self.queue.remove(run)
        return runs

    def _may_begin(self, runs: Sequence[Run]) -> bool:
        """Whether the prompts of requests of one kind go together."""
        lengths = [len(run.request.prompt_ids) for run in runs]
        return sum(lengths) <= self.batch_tokens and max(lengths) - min(lengths) <= MOST_LONGER


def _give_up(waves: list[Wave]) -> None:
    for wave in waves:
        wave.give_up()
    waves.clear()
