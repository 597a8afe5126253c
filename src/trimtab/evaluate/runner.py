"""Runs a prepared suite through a scoring client: in chunks, with progress, a time limit, and failures confined to their items."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from trimtab.core.errors import EngineCrashed, EngineHung, TrimtabError
from trimtab.core.evidence import Item, Outcome
from trimtab.engines.base import EngineInfo, ScoreRequest, ScoreResult
from trimtab.evaluate.requests import PreparedRequest, PreparedSuite, build_requests, messages_of, missing, outcomes
from trimtab.evaluate.split import interleaved

CHUNK_TOKENS = 1500
"""Of requests that are given to an engine at once."""
SHARD_CHUNKS = 2
"""Of what one machine is given at once: long enough that opening a model is not felt, short enough that machines end together."""

OnProgress = Callable[[int, int], None]
"""Called with (tokens done, tokens in all)."""


class ScoringClient(Protocol):
    """What the runner needs of a worker client."""

    async def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]: ...


class PreparingClient(Protocol):
    """What `prepare` needs of the reference's worker client."""

    async def tokenize(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]: ...

    async def render(self, messages: Sequence[Mapping[str, Any]]) -> str: ...

    async def info(self) -> EngineInfo: ...


async def prepare(client: PreparingClient, items: Sequence[Item]) -> PreparedSuite:
    """`build_requests` with the client's tokenizer and template, all texts tokenized in two calls; requests come interleaved."""
    rendered = {item.id: await client.render(messages_of(item)) for item in items if item.chat}
    heads = {item.id: rendered.get(item.id, item.prompt) for item in items}
    ids: dict[tuple[str, bool], list[int]] = {}
    for chat in (False, True):
        texts = list(
            dict.fromkeys(
                heads[item.id] + option for item in items if item.chat is chat for option in ("", *item.options) if heads[item.id] + option
            )
        )
        found = await client.tokenize(texts, parse_special=chat) if texts else []
        ids.update({(text, chat): tokens for text, tokens in zip(texts, found, strict=True)})
    by_messages = {_key(messages_of(item)): rendered[item.id] for item in items if item.chat}

    def tokenize(text: str, *, parse_special: bool) -> list[int]:
        return ids[text, parse_special]

    def render(messages: Sequence[Mapping[str, Any]]) -> str:
        return by_messages[_key(messages)]

    return interleaved(build_requests(items, tokenize, render, (await client.info()).first_id))


def _key(messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(message["role"]), str(message["content"])) for message in messages)


async def score_items(
    client: ScoringClient,
    prepared: PreparedSuite,
    *,
    time_limit_s: float | None = None,
    on_progress: OnProgress | None = None,
    logit_bias: tuple[tuple[int, float], ...] = (),
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Outcome, ...]:
    """Outcomes of all items of `prepared`, in its order.

    A chunk that fails is tried again request by request; what fails again is missing with the error as its reason, as is everything not
    begun when the time limit is reached. logit_bias is added to every request's own.
    Raises EngineCrashed and EngineHung: a worker that is gone answers nothing more, and the deployment is infeasible.
    """
    started = time.monotonic()
    total, done = prepared.n_tokens, 0
    found: list[Outcome] = []
    for chunk in _chunks(prepared.requests, chunk_tokens):
        if time_limit_s is not None and time.monotonic() - started > time_limit_s:
            found += [outcome for one in chunk for outcome in missing(one, f"not scored: the time limit of {time_limit_s:g} s was reached")]
            continue
        found += await _score_chunk(client, [_biased(one, logit_bias) for one in chunk])
        done += sum(one.n_tokens for one in chunk)
        if on_progress is not None:
            on_progress(done, total)
    return tuple(found)


def shards(prepared: PreparedSuite, chunk_tokens: int = CHUNK_TOKENS, n_chunks: int = SHARD_CHUNKS) -> tuple[PreparedSuite, ...]:
    """Parts to be scored apart, a few whole chunks of `score_items` each, in order.

    They depend on the items alone, not on how many machines there are; and as an engine is given the same chunks, it gives the same numbers
    as when all is scored in one go.
    """
    chunks = _chunks(prepared.requests, chunk_tokens)
    groups = [chunks[first : first + n_chunks] for first in range(0, len(chunks), n_chunks)]
    return tuple(PreparedSuite(requests=tuple(one for chunk in group for one in chunk)) for group in groups)


def _chunks(requests: Sequence[PreparedRequest], chunk_tokens: int) -> list[list[PreparedRequest]]:
    chunks: list[list[PreparedRequest]] = []
    room = 0
    for one in requests:
        if not chunks or one.n_tokens > room:
            chunks.append([])
            room = chunk_tokens
        chunks[-1].append(one)
        room -= one.n_tokens
    return chunks


def _biased(one: PreparedRequest, logit_bias: tuple[tuple[int, float], ...]) -> PreparedRequest:
    if not logit_bias:
        return one
    return replace(one, request=replace(one.request, logit_bias=(*one.request.logit_bias, *logit_bias)))


async def _score_chunk(client: ScoringClient, chunk: Sequence[PreparedRequest]) -> list[Outcome]:
    try:
        return list(outcomes(chunk, await _checked(client.score([one.request for one in chunk]), len(chunk))))
    except (EngineCrashed, EngineHung):
        raise
    except TrimtabError as error:
        if len(chunk) == 1:
            return list(missing(chunk[0], str(error)))
    return [outcome for one in chunk for outcome in await _score_chunk(client, [one])]


async def _checked(answer: Awaitable[list[ScoreResult]], expected: int) -> list[ScoreResult]:
    results = await answer
    if len(results) != expected:
        raise TrimtabError(f"The engine answered {len(results)} of {expected} score requests; report this against the engine.")
    return results
