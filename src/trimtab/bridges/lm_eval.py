"""trimtab's engines as a model of lm-evaluation-harness: any of its tasks on any deployment.

python -m trimtab.bridges.lm_eval run --model trimtab --model_args "spec=llamacpp:model.gguf?recipe=llamacpp-q8_0" --tasks arc_easy

is lm-eval's own command line with one model more, `trimtab`; `spec` is what `trimtab compare` takes. From Python, importing this module
registers the model. Needs lm-eval (`pip install lm-eval==0.4.13`), which is no part of trimtab.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from trimtab.core.deployment import Candidate, Settings, parse_spec
from trimtab.core.errors import EngineRefused, InputError
from trimtab.engines.base import GenerateRequest, ScoreRequest
from trimtab.engines.client import WorkerEngine
from trimtab.engines.registry import engine_names
from trimtab.flows.parts.opening import build_typed, open_typed
from trimtab.flows.parts.session import run_sync
from trimtab.record.home import cache_dir

CONTEXT_TOKENS = 2048
CHUNK_TOKENS = 2000
MAX_ANSWER_TOKENS = 256


class CandidateLM(TemplateLM):  # type: ignore[misc]
    """A deployment as lm-eval's model, in a worker of its own until `close`.

    is_guest: trimtab asks, not lm-eval's command line: no bars of progress, and a prompt longer than the context is an InputError; else it
    loses its beginning, as in lm-eval's own models
    on_done: called with the number of requests that were just finished; may raise to stop
    Raises InfeasibleError.
    """

    def __init__(self, candidate: Candidate, *, is_guest: bool = False, on_done: Callable[[int], None] = lambda n: None) -> None:
        super().__init__()
        self.candidate = candidate
        self._is_guest = is_guest
        self._on_done = on_done
        self._engine = WorkerEngine(candidate.snapshot, candidate.settings, engine=candidate.engine)
        self._engine.load("score")
        self._info = self._engine.info()
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self._engine.close()

    @property
    def eot_token_id(self) -> int:
        return next(iter(self._info.end_ids))

    @property
    def prefix_token_id(self) -> int:
        first = self._info.first_id(chat=False)
        return self.eot_token_id if first is None else first

    @property
    def max_length(self) -> int:
        return self.candidate.settings.context_tokens or self._info.context_tokens

    @property
    def tokenizer_name(self) -> str:
        return f"trimtab-{self.candidate.template_sha256[:12]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self._engine.tokenize(string, parse_special=bool(add_special_tokens) or add_special_tokens is None)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not add_generation_prompt:
            raise EngineRefused(
                "trimtab renders conversations as they are served, with the generation prompt; leave add_generation_prompt on."
            )
        return self._engine.render(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self._info.chat_template if chat_template else None

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm or self._is_guest)
        return found

    def _loglikelihood_tokens(self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any) -> list[tuple[float, bool]]:
        """As lm-eval's own models: a context too long for the model loses its beginning. Options of one context are computed together."""
        fitted = [self._fitted(context, continuation) for _texts, context, continuation in requests]
        found: list[tuple[float, bool]] = []
        for chunk in _chunks(list(_by_context(fitted))):
            n_before = len(found)
            for result in self._engine.score(
                [ScoreRequest(prefix_ids=context, continuations=tuple(answers)) for context, answers in chunk]
            ):
                found += [(sum(row), all(greedy)) for row, greedy in zip(result.logprobs, result.greedy, strict=True)]
            self._on_done(len(found) - n_before)
        for (texts, *_ids), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def _fitted(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self._is_guest and len(context) + len(continuation) > self.max_length:
            raise _too_long(len(context) + len(continuation), self.max_length)
        whole = [*context, *continuation][-self.max_length :]
        n = min(len(continuation), len(whole) - 1)
        return tuple(whole[:-n]), tuple(whole[-n:])

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        totals = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            windows = [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.max_length - 1, context_len=1
                )
            ]
            scored = self._loglikelihood_tokens([(("", ""), list(context), list(answer)) for context, answer in windows])
            totals.append(sum(logprob for logprob, _ in scored))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy, or sampled where a task asks for it, up to the first of its stop texts."""
        self._engine.load("serve")
        try:
            texts = [self._generate(*request.args) for request in requests]
        finally:
            self._engine.load("score")
        return texts

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        stops = [options["until"]] if isinstance(options.get("until"), str) else list(options.get("until") or ())
        most = int(options.get("max_gen_toks", MAX_ANSWER_TOKENS))
        number = next(self._numbers)
        prompt_ids = self.tok_encode(context)
        if self._is_guest and len(prompt_ids) + most > self.max_length:
            raise _too_long(len(prompt_ids) + most, self.max_length)
        request = GenerateRequest(
            request_id=number,
            prompt_ids=tuple(prompt_ids[-(self.max_length - most) :]),
            max_tokens=most,
            temperature=float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0,
        )
        self._engine.submit(request)
        said: list[int] = []
        text = ""
        while self._engine.n_running:
            for event in self._engine.step():
                if event.error:
                    raise EngineRefused(event.error)
                said += [] if event.token_id is None else [event.token_id]
            text = self._engine.detokenize(said)
            if any(stop and stop in text for stop in stops):
                self._engine.cancel(number)
                stops_at = min(text.find(stop) for stop in stops if stop and stop in text)
                text = text[:stops_at]
                while self._engine.n_running:
                    self._engine.step()
                break
        self.cache_hook.add_partial("generate_until", (context, options), text)
        self._on_done(1)
        return text


@register_model("trimtab")
class TrimtabLM(CandidateLM):
    """spec: `[engine:]source[?recipe=NAME&setting=value]`. Other arguments of lm-eval's command line have no meaning here and are ignored.

    Raises InputError, MissingError, InfeasibleError.
    """

    def __init__(self, spec: str, **_: Any) -> None:
        super().__init__(_candidate(spec))


def _candidate(spec: str) -> Candidate:
    asked = parse_spec(spec, engine_names())
    opened = open_typed(asked, cache_dir=cache_dir(), offline=False)
    common = Settings(slots=1, context_tokens=CONTEXT_TOKENS)
    return run_sync(build_typed(opened, asked, common, products_dir=cache_dir() / "products"))


def _too_long(n_tokens: int, context_tokens: int) -> InputError:
    return InputError(
        f"A prompt of lm-eval's takes {n_tokens} tokens with its answer, more than the context of {context_tokens}; give both models room, "
        f"such as ?context_tokens={n_tokens + 64}."
    )


def _by_context(
    pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Neighbours of one context together, in order."""
    for context, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
        yield context, [continuation for _, continuation in group]


def _chunks(groups: list[tuple[tuple[int, ...], list[tuple[int, ...]]]]) -> Iterator[list[tuple[tuple[int, ...], list[tuple[int, ...]]]]]:
    """Groups up to CHUNK_TOKENS together, so that no call takes long."""
    chunk: list[tuple[tuple[int, ...], list[tuple[int, ...]]]] = []
    room = CHUNK_TOKENS
    for context, answers in groups:
        size = len(context) + sum(map(len, answers))
        if chunk and size > room:
            yield chunk
            chunk, room = [], CHUNK_TOKENS
        chunk.append((context, answers))
        room -= size
    if chunk:
        yield chunk


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
