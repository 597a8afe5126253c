"""One call of CTranslate2's `generate_batch`, held after each token until it may compute the next one.

The library has no call for a single step. It does call a function with every token of every sequence, in the thread that generates, and
waits for its answer: here that function makes an event of the token, and after the last sequence of a step it does not return before
`advance` is called. So several such calls can be under way and still only one computes at a time, with all threads.

Of prompts that differ in length the library computes the tokens that some have more than the shortest one by one, in steps in which the
others generate already. A sequence that is done before all have begun goes on meanwhile, its tokens dropped, so that every step is told of.
"""

import contextlib
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab.engines.base import Done, GenerateRequest, TokenEvent
from trimtab.engines.ctranslate2_model import Model, sentence_of
from trimtab.engines.ctranslate2_random import choose_draws, state_here, why_not
from trimtab.engines.sampling import top_of
from trimtab.engines.tally import Logits

MOST_WAIT_S = 60.0
PLAIN = (0.0, 1.0, False)
"""Greedy, no logits told."""


@dataclass(kw_only=True, eq=False)
class Run:
    """A request on its way. is_over: its last event is made, or it was cancelled and gets no more of this kind"""

    request: GenerateRequest
    is_over: bool = False
    n_generated: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.Generator(np.random.PCG64(self.request.seed))

    @property
    def kind(self) -> tuple[float, float, bool]:
        """What the rows of a wave have in common: how tokens are chosen, and whether logits are told."""
        request, told = self.request, bool(self.request.top_logprobs)
        return (request.temperature, request.top_p, told) if request.temperature > 0 else (0.0, 1.0, told)


class Wave:
    """Requests of one kind that are generated together, one row each. Where tokens are sampled, `ctranslate2_random.py` chooses the draws.

    has_ended: the library has returned; error: why it failed, empty if it did not
    state: of the random numbers of the thread that generates, once it does
    """

    def __init__(self, model: Model, runs: Sequence[Run], *, end_ids: Collection[int], most_tokens: int) -> None:
        self.runs = tuple(sorted(runs, key=lambda run: -len(run.request.prompt_ids)))  # as the library sorts them
        self.has_ended = False
        self.error = ""
        self.state: int | None = None
        self._model, self._end_ids, self._most_tokens = model, end_ids, most_tokens
        self._temperature, self._top_p, self._with_logits = runs[0].kind
        lengths = [len(run.request.prompt_ids) for run in self.runs]
        self._first_steps = [length - min(lengths) for length in lengths]
        # From prompts of one token the library goes on by another way, in which it tells the tokens of the longer ones too.
        self._tells_prompts = min(lengths) == 1
        self._alive = list(range(len(runs)))
        self._rows: list[int] = []  # of the step, in the order in which the library has them
        self._step = -1
        self._n_due = 0  # tokens that this step still tells
        self._logits: Logits | None = None
        self._events: list[TokenEvent] = []
        self._is_given_up = False
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._generate, name="ctranslate2-wave", daemon=True)

    @property
    def running(self) -> list[Run]:
        return [run for run in self.runs if not run.is_over]

    @property
    def is_sampled(self) -> bool:
        return self._temperature > 0

    def next_draws(self) -> list[float]:
        """The numbers that decide the tokens of the next step, one a row. A request uses one of its own for each token that it gets."""
        begun = [self._first_steps[place] <= self._step + 1 and not self.runs[place].is_over for place in self._alive]
        return [self.runs[place].rng.random() if told else 0.0 for place, told in zip(self._alive, begun, strict=True)]

    def advance(self) -> list[TokenEvent]:
        """Compute one step, the first time after the prompts. The tokens it brought."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        self._paused.acquire()
        events, self._events = self._events, []
        return events

    def give_up(self) -> None:
        """End the call without another token, and wait until the library has returned."""
        self._is_given_up = True
        if self._thread.ident is not None:
            self._go.release()
            self._thread.join()

    # In threads of the call

    def _generate(self) -> None:
        try:
            self._model.generate(
                [run.request.prompt_ids for run in self.runs],
                most_tokens=self._most_tokens,
                temperature=self._temperature,
                top_p=self._top_p,
                with_logits=self._with_logits,
                seen=self._seen,
            )
        except Exception as error:
            self.error = self.error or sentence_of(error)
        finally:
            self.has_ended = True
            self._paused.release()

    def _seen(self, result: Any) -> bool:
        """Called by the library with each token: whether its sequence ends. An exception must not reach the library's threads."""
        try:
            return self._is_given_up or self._note(result)
        except Exception as error:
            self.error = sentence_of(error)
            self._is_given_up = True
            return True

    def _note(self, result: Any) -> bool:
        place = int(result.batch_id)
        run = self.runs[place]
        if result.step != self._step:
            self._begin_step(result)
        if self._first_steps[place] <= self._step and not run.is_over:
            event = self._event(run, place, result)
            run.is_over = bool(event.done)
            self._events.append(event)
        self._n_due -= 1
        if self._n_due == 0 and (len(self._alive) > 1 or not self._ends(run)):
            self._paused.release()
            self._go.acquire()
        ends = self._ends(run)  # it may have been cancelled meanwhile
        if ends:
            self._alive.remove(place)
        if self._n_due == 0 and self._alive and self.is_sampled and not self._is_given_up:
            choose_draws(state_here(), self.next_draws())
        return ends or self._is_given_up

    def _begin_step(self, result: Any) -> None:
        self._step = result.step
        self._rows = list(self._alive)
        self._n_due = sum(self._tells_prompts or self._first_steps[place] <= self._step for place in self._rows)
        # Only the first result of a step has the logits, of all rows.
        self._logits = np.array(result.logits) if self._with_logits else None
        if self.state is None and not why_not():
            self.state = state_here()

    def _ends(self, run: Run) -> bool:
        return run.is_over and max(self._first_steps) <= self._step + 1

    def _event(self, run: Run, place: int, result: Any) -> TokenEvent:
        request, token = run.request, int(result.token_id)
        run.n_generated += 1
        done: Done = ""
        if not request.ignore_end and (token in self._end_ids or token in request.stop_ids):
            done = "stop"
        elif run.n_generated == request.max_tokens:
            done = "length"
        top: tuple[tuple[int, float], ...] = ()
        if request.top_logprobs and self._logits is not None:
            row = self._logits[self._rows.index(place)]
            top = top_of(row, np.exp(row - row.max()), request.top_logprobs)
        now_ns = time.monotonic_ns()
        return TokenEvent(request_id=request.request_id, token_id=token, logprob=float(result.log_prob), time_ns=now_ns, done=done, top=top)


def states_of(model: Model, n_idle: int) -> set[int]:
    """Where the random numbers of the library's idle threads lie: each computes one token, and waits until all have begun."""
    found: set[int] = set()
    all_here = threading.Barrier(n_idle)

    def seen(_: Any) -> bool:
        found.add(state_here())
        with contextlib.suppress(threading.BrokenBarrierError):
            all_here.wait(timeout=MOST_WAIT_S)
        return True

    def generate() -> None:
        model.generate([(0,)], most_tokens=1, temperature=0.0, top_p=1.0, with_logits=False, seen=seen)

    threads = [threading.Thread(target=generate, daemon=True) for _ in range(n_idle)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
