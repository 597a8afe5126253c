"""Serving with OpenVINO GenAI's continuous batching pipeline, one token of every running request a step.

With prompt lookup the pipeline proposes tokens from the request's own, and a step gives as many as come true. It picks each token as
always and compares it with the proposal, so a seed gives the same tokens as without. No more requests are put in than one step has room
for, with all their proposals: GenAI 2026.4 goes on proposing for a request that has to miss a step, and then fails with all of them.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import Done, GenerateRequest, TokenEvent
from trimtab.engines.openvino_json import grammar_of
from trimtab.engines.openvino_text import last_sentence

EVERY_TOKEN = 2**63 - 1


@dataclass(kw_only=True)
class Run:
    """A request in the pipeline. grammar: the rules of its JSON schema, empty = none"""

    request: GenerateRequest
    grammar: str = ""
    handle: Any = None


class Server:
    """The pipeline and the requests in it.

    properties: OpenVINO CPU properties; scheduler: openvino_genai.SchedulerConfig; context_tokens: of one request, prompt and output
    draft_tokens: proposed in a step at most, 0 = no prompt lookup; ngram_tokens: how many last tokens are looked up at most
    most_running: requests in the pipeline at most, None = it has a queue of its own
    schema_end_id: the token that GenAI lets an answer with a schema end with
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        *,
        tokenizer: Any,
        properties: Mapping[str, Any],
        scheduler: Any,
        vocab_size: int,
        context_tokens: int,
        end_ids: Sequence[int],
        draft_tokens: int = 0,
        ngram_tokens: int = 0,
        most_running: int | None = None,
        schema_end_id: int | None = None,
    ) -> None:
        import openvino_genai

        options = {"prompt_lookup": True, **properties} if draft_tokens else properties

        def opened() -> Any:
            try:
                return openvino_genai.ContinuousBatchingPipeline(str(folder), tokenizer, scheduler, "CPU", **options)
            except RuntimeError as error:
                raise EngineRefused(f"OpenVINO GenAI cannot serve {source}: {last_sentence(error)}.") from error

        self._opened = opened
        self.pipeline = opened()
        self.schema_end_ids = set() if schema_end_id is None else {schema_end_id}
        self.vocab_size = vocab_size
        self.context_tokens = context_tokens
        self.end_ids = frozenset(end_ids)
        self.draft_tokens = draft_tokens
        self.ngram_tokens = ngram_tokens
        self.most_running = most_running
        self.queue: deque[Run] = deque()
        self.running: dict[int, Run] = {}
        self.cancelled: deque[int] = deque()
        self._next_handle = 0

    @property
    def n_running(self) -> int:
        return len(self.queue) + len(self.running) + len(self.cancelled)

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
        if request.request_id in self.running or any(run.request.request_id == request.request_id for run in self.queue):
            raise EngineRefused(f"Request {request.request_id} is running already.")
        run = Run(request=request)
        if request.json_schema:
            if request.ignore_end:
                raise EngineRefused("A request that is held to a schema ends where the schema does; it cannot go on past its end.")
            run.grammar = grammar_of(request.json_schema)
        if self._has_room and not self.queue:
            self._put_in(run)
        else:
            self.queue.append(run)

    @property
    def _has_room(self) -> bool:
        return self.most_running is None or len(self.running) < self.most_running

    def _put_in(self, run: Run) -> None:
        """Give a request to the pipeline. Raises EngineRefused."""
        import numpy as np
        import openvino

        # GenAI keeps an id until its next step, so ids of ours that are used again get new ones there.
        self._next_handle += 1
        try:
            ids = openvino.Tensor(np.array([run.request.prompt_ids], np.int64))
            run.handle = self.pipeline.add_request(self._next_handle, ids, self._config(run.request, run.grammar))
        except RuntimeError as error:
            raise EngineRefused(f"OpenVINO GenAI refused the request: {last_sentence(error)}.") from error
        self.running[run.request.request_id] = run

    def _config(self, request: GenerateRequest, grammar: str) -> Any:
        """Greedy, or sampling from the whole distribution: GenAI then reports log-probabilities at temperature 1 whatever it samples at."""
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = request.max_tokens
        config.logprobs = 1
        config.apply_chat_template = False
        config.ignore_eos = request.ignore_end
        config.stop_token_ids = {*self.end_ids, *request.stop_ids}
        if grammar:
            config.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=grammar)
            config.stop_token_ids |= self.schema_end_ids
        if self.draft_tokens:
            config.num_assistant_tokens = self.draft_tokens
            config.max_ngram_size = self.ngram_tokens
        config.do_sample = request.temperature > 0
        if config.do_sample:
            config.temperature = request.temperature
            config.top_p = request.top_p
            config.top_k = EVERY_TOKEN
            config.rng_seed = request.seed
        return config

    def cancel(self, request_id: int) -> None:
        """See Engine.cancel."""
        run = self.running.pop(request_id, None)
        if run is not None:
            run.handle.cancel()
            self.cancelled.append(request_id)
        for run in [run for run in self.queue if run.request.request_id == request_id]:
            self.queue.remove(run)
            self.cancelled.append(request_id)

    def step(self) -> list[TokenEvent]:
        """See Engine.step. If the pipeline fails, its requests end with its sentence, and another is opened: it would fail again."""
        events = [_end(request_id, "cancelled") for request_id in self.cancelled]
        self.cancelled.clear()
        while self.queue and self._has_room:
            waiting = self.queue.popleft()
            try:
                self._put_in(waiting)
            except EngineRefused as error:
                events.append(_end(waiting.request.request_id, "error", str(error)))
        if not self.pipeline.has_non_finished_requests():
            return events
        try:
            self.pipeline.step()
        except RuntimeError as error:
            events += [_end(request_id, "error", last_sentence(error)) for request_id in self.running]
            self.running.clear()
            self.pipeline = None
            self.pipeline = self._opened()
            return events
        now_ns = time.monotonic_ns()
        for run in tuple(self.running.values()):
            events += self._read(run, now_ns)
        return events

    def _read(self, run: Run, now_ns: int) -> list[TokenEvent]:
        """What the last step gave this request: usually one token, none while its prompt waits or is computed in parts."""
        import openvino_genai

        events: list[TokenEvent] = []
        request_id = run.request.request_id
        reasons = openvino_genai.GenerationFinishReason
        while run.handle.can_read():
            for output in run.handle.read().values():
                done: Done = "stop" if output.finish_reason == reasons.STOP else "length" if output.finish_reason == reasons.LENGTH else ""
                ids = output.generated_ids
                for place, (token, logprob) in enumerate(zip(ids, output.generated_log_probs, strict=True)):
                    last = done if place == len(ids) - 1 else ""
                    events.append(TokenEvent(request_id=request_id, token_id=int(token), logprob=float(logprob), time_ns=now_ns, done=last))
        if not (events and events[-1].done):
            if run.handle.get_status() == openvino_genai.GenerationStatus.IGNORED:
                events.append(_end(request_id, "error", "The cache has no room for this request."))
            else:
                return events
        del self.running[request_id]
        return events


def _end(request_id: int, done: Done, error: str = "") -> TokenEvent:
    return TokenEvent(request_id=request_id, token_id=None, logprob=None, time_ns=time.monotonic_ns(), done=done, error=error)
