"""Serving with vLLM: its scheduler, its sampler, one event a token. Log-probabilities are vLLM's raw ones: of the full distribution."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import Done, GenerateRequest, TokenEvent
from trimtab.engines.vllm_json import SCHEMA, schemas_of
from trimtab.engines.vllm_run import Run, sentence_of

ENDED: Mapping[str, Done] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True, kw_only=True)
class Running:
    """A request, and vLLM's name for it, which begins with the one that its outputs carry."""

    request: GenerateRequest
    name: str


class Server:
    """context_tokens: of one request"""

    def __init__(self, run: Run, *, end_ids: Sequence[int], vocab_size: int, context_tokens: int) -> None:
        self.run = run
        self.end_ids = tuple(end_ids)
        self.vocab_size = vocab_size
        self.context_tokens = context_tokens
        self.running: dict[str, Running] = {}
        self.cancelled: list[int] = []

    @property
    def n_running(self) -> int:
        return len(self.running) + len(self.cancelled)

    def submit(self, request: GenerateRequest) -> None:
        """See Engine.submit."""
        prompt = request.prompt_ids
        if not prompt or request.max_tokens < 1:
            raise EngineRefused("A request needs at least one prompt token and max_tokens of at least 1.")
        if min(prompt) < 0 or max(prompt) >= self.vocab_size:
            raise EngineRefused(f"The prompt holds a token id outside the vocabulary of {self.vocab_size}.")
        if len(prompt) + request.max_tokens > self.context_tokens:
            raise EngineRefused(
                f"The prompt of {len(prompt)} tokens and {request.max_tokens} new ones do not fit the context of "
                f"{self.context_tokens} tokens."
            )
        if any(one.request.request_id == request.request_id for one in self.running.values()):
            raise EngineRefused(f"Request {request.request_id} is running already.")
        if request.json_schema:
            if request.ignore_end:
                raise EngineRefused("A request that is held to a schema ends where the schema does; it cannot go on past its end.")
            schemas_of(self.run.folder).begin(request.json_schema)
        name = self.run.add(list(prompt), self._params(request))
        self.running[name.partition("-")[0]] = Running(request=request, name=name)

    def _params(self, request: GenerateRequest) -> Any:
        return SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            ignore_eos=request.ignore_end,
            stop_token_ids=[] if request.ignore_end else [*self.end_ids, *request.stop_ids],
            logprobs=request.top_logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={SCHEMA: request.json_schema} if request.json_schema else None,
        )

    def cancel(self, request_id: int) -> None:
        """See Engine.cancel."""
        for shown, one in self.running.items():
            if one.request.request_id == request_id:
                self.run.engine.abort_request([one.name], internal=True)
                del self.running[shown]
                self.cancelled.append(request_id)
                return

    def step(self) -> list[TokenEvent]:
        """See Engine.step. If a step fails, all requests end with its reason."""
        events = [_end(request_id, "cancelled") for request_id in self.cancelled]
        self.cancelled.clear()
        if self.running:
            try:
                outputs = self.run.engine.step()
            except Exception as error:  # of many kinds; whoever computed in it has no answer
                return events + self._failed(f"vLLM could not go on: {sentence_of(error)}.")
            now_ns = time.monotonic_ns()
            for output in outputs:
                if output.request_id in self.running:
                    events += self._events(output, now_ns)
        return events

    def _failed(self, why: str) -> list[TokenEvent]:
        """An end for each request, which vLLM is told too, as far as it still listens."""
        running, self.running = list(self.running.values()), {}
        with contextlib.suppress(Exception):
            self.run.engine.abort_request([one.name for one in running], internal=True)
        return [_end(one.request.request_id, "error", why) for one in running]

    def _events(self, output: Any, now_ns: int) -> list[TokenEvent]:
        """One for each new token; an end without a token has one of its own."""
        request = self.running[output.request_id].request
        (answer,) = output.outputs
        done: Done = ENDED.get(answer.finish_reason, "error") if output.finished else ""
        why = f"vLLM ended the request ({answer.finish_reason})." if done == "error" else ""
        if done:
            del self.running[output.request_id]
        events = []
        for place, token in enumerate(answer.token_ids):
            told = answer.logprobs[place]
            last = place == len(answer.token_ids) - 1
            best = sorted(told.items(), key=lambda pair: -pair[1].logprob)[: request.top_logprobs]
            events.append(
                TokenEvent(
                    request_id=request.request_id,
                    token_id=int(token),
                    logprob=float(told[token].logprob),
                    time_ns=now_ns,
                    done=done if last else "",
                    error=why if last else "",
                    top=tuple((int(one), float(value.logprob)) for one, value in best),
                )
            )
        return events or ([_end(request.request_id, done, why)] if done else [])


def _end(request_id: int, done: Done, error: str = "") -> TokenEvent:
    return TokenEvent(request_id=request_id, token_id=None, logprob=None, time_ns=time.monotonic_ns(), done=done, error=error)
