"""One request on its way: from a row of logits to a token, its log-probability and its event. For engines that choose tokens in numpy."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import Done, GenerateRequest, TokenEvent
from trimtab.engines.sampling import pick, pick_allowed, top_of
from trimtab.engines.schemas import Constraint, Schemas
from trimtab.engines.tally import Logits


@dataclass(kw_only=True, eq=False)
class Answer:
    """A request and what it has got so far. last: the newest token, which is not computed yet; -1 = there is none"""

    request: GenerateRequest
    constraint: Constraint | None = None
    last: int = -1
    n_generated: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.Generator(np.random.PCG64(self.request.seed))

    def take(self, row: Logits, scratch: Logits, end_ids: Collection[int]) -> TokenEvent:
        """Choose the next token from its logits [vocab_size]. Overwrites scratch [vocab_size]."""
        request = self.request
        if self.constraint is None:
            token, logprob = pick(row, scratch, request, self.rng)
        else:
            try:
                allowed = self.constraint.allowed()
            except EngineRefused as error:
                return ended(request.request_id, "error", str(error))
            token, logprob = pick_allowed(row, scratch, request, self.rng, allowed)
            self.constraint.take(token)
        self.last = token
        self.n_generated += 1
        done: Done = ""
        if not request.ignore_end and (token in end_ids or token in request.stop_ids):
            done = "stop"
        elif self.n_generated == request.max_tokens:
            done = "length"
        top = top_of(row, scratch, request.top_logprobs) if request.top_logprobs else ()
        return TokenEvent(request_id=request.request_id, token_id=token, logprob=logprob, time_ns=time.monotonic_ns(), done=done, top=top)


def ended(request_id: int, done: Done, error: str = "") -> TokenEvent:
    """The end of a request without a token."""
    return TokenEvent(request_id=request_id, token_id=None, logprob=None, time_ns=time.monotonic_ns(), done=done, error=error)


def check_request(request: GenerateRequest, *, vocab_size: int, context_tokens: int, running: Collection[int]) -> None:
    """Raises EngineRefused for a request that cannot run: nothing to go on from, unknown tokens, too long, an id that runs already."""
    prompt = request.prompt_ids
    if not prompt or request.max_tokens < 1:
        raise EngineRefused("A request needs at least one prompt token and max_tokens of at least 1.")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        raise EngineRefused(f"The prompt holds a token id outside the vocabulary of {vocab_size}.")
    if len(prompt) + request.max_tokens > context_tokens:
        raise EngineRefused(
            f"The prompt of {len(prompt)} tokens and {request.max_tokens} new ones do not fit the context of {context_tokens} tokens."
        )
    if request.request_id in running:
        raise EngineRefused(f"Request {request.request_id} is running already.")


def constraint_of(request: GenerateRequest, schemas: Schemas) -> Constraint | None:
    """What holds a request to its schema, None if it has none. Raises EngineRefused."""
    if not request.json_schema:
        return None
    if request.ignore_end:
        raise EngineRefused("A request that is held to a schema ends where the schema does; it cannot go on past its end.")
    return schemas.begin(request.json_schema)
