"""Answers in use scored again under locked deployments: one worker process at a time, at the lowest priority, ended when idle."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.core.deployment import Candidate
from trimtab.core.errors import EngineCrashed, EngineHung, TrimtabError
from trimtab.engines.base import EngineInfo, ScoreRequest, with_first
from trimtab.engines.client import WorkerClient
from trimtab.record.samples import Sample
from trimtab.serve.wishes import plain_messages

MOST_ANSWER_TOKENS = 256
"""Of a long answer so many tokens from its beginning are scored."""
LEAST_ANSWER_TOKENS = 2
BATCH_LIMIT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class AnswerScore:
    """Log-probabilities of an answer's tokens under one deployment, in nats. ids: the tokens; is_cut: only its beginning was scored."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    is_cut: bool

    @property
    def total(self) -> float:
        return sum(self.logprobs)


def lowest_priority() -> None:
    """Have this thread, and every process that it starts, run only when nobody else wants to, where the system can do that."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return
    with contextlib.suppress(OSError, AttributeError):
        os.nice(19)


@dataclass(kw_only=True)
class LiveScorer:
    """Use from one event loop; `close` at the end.

    n_starts: workers that were started
    """

    batch_limit_s: float = BATCH_LIMIT_S
    n_starts: int = 0
    _client: WorkerClient | None = None
    _info: EngineInfo | None = None
    _key: str = ""

    async def score(
        self, deployment: Candidate, samples: Sequence[Sample], *, lowered: Sequence[int] = (), nats: float = 0.0
    ) -> list[AnswerScore | str]:
        """One result a sample; a sentence for one that cannot be scored.

        lowered, nats: token ids whose logits are lowered by so much, a planted loss
        Raises TrimtabError where the deployment cannot be run at all, TimeoutError where nothing came within the limit.
        """
        try:
            async with asyncio.timeout(self.batch_limit_s):
                client, info = await self._ready(deployment)
                found = [await self._asked(client, info, sample) for sample in samples]
                requests = [_request(one, lowered, nats) for one in found if not isinstance(one, str)]
                results = iter(await client.score(requests) if requests else ())
        except (EngineCrashed, EngineHung, TimeoutError):
            await self.end()
            raise
        scores: list[AnswerScore | str] = []
        for one in found:
            if isinstance(one, str):
                scores.append(one)
                continue
            _, ids, is_cut = one
            scores.append(AnswerScore(ids=ids, logprobs=tuple(next(results).logprobs[0]), is_cut=is_cut))
        return scores

    async def end(self) -> None:
        """End the worker, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _ready(self, deployment: Candidate) -> tuple[WorkerClient, EngineInfo]:
        key = deployment.deployment.digest
        if self._client is not None and self._info is not None and self._key == key:
            return self._client, self._info
        await self.end()
        client = await WorkerClient.start(deployment.engine, deployment.snapshot, deployment.settings, purpose="score")
        self.n_starts += 1
        self._client, self._key = client, key
        self._info = await client.info()
        return client, self._info

    async def _asked(self, client: WorkerClient, info: EngineInfo, sample: Sample) -> tuple[tuple[int, ...], tuple[int, ...], bool] | str:
        """Token ids of the prompt and of what is scored of the answer, and whether that is only its beginning."""
        try:
            prompt = await _prompt_ids(client, info, sample)
        except (EngineCrashed, EngineHung):
            raise
        except TrimtabError as error:
            return str(error)
        answer = (await client.tokenize([sample.answer]))[0]
        room = min(MOST_ANSWER_TOKENS, info.context_tokens - len(prompt))
        ids = tuple(answer[: max(0, room)])
        if len(ids) < LEAST_ANSWER_TOKENS:
            return "the answer is too short to be scored, or its prompt fills the context"
        return prompt, ids, len(ids) < len(answer)


def paired(reference: AnswerScore | str, other: AnswerScore | str) -> tuple[float, float] | str:
    """Mean log-probability a token of the same text under two deployments; a sentence where they cannot be held against each other.

    Both are means over the reference's tokens, so that another way of cutting the text into tokens is no gain and no loss.
    """
    if isinstance(reference, str):
        return reference
    if isinstance(other, str):
        return other
    if reference.ids != other.ids and (reference.is_cut or other.is_cut):
        return "the versions cut the text into tokens in different ways, and it is too long to be scored whole"
    n = len(reference.ids)
    return reference.total / n, other.total / n


async def _prompt_ids(client: WorkerClient, info: EngineInfo, sample: Sample) -> tuple[int, ...]:
    """As the gateway's own worker makes them."""
    if sample.kind == "chat":
        ids, _ = await client.prompt(plain_messages(sample.messages, info.chat_template))
        return with_first(ids, info.bos_id)
    ids = (await client.tokenize([sample.prompt], parse_special=True))[0]
    return with_first(ids, info.bos_id) or info.end_ids[:1]


def _request(asked: tuple[tuple[int, ...], tuple[int, ...], bool], lowered: Sequence[int], nats: float) -> ScoreRequest:
    prompt, ids, _ = asked
    return ScoreRequest(prefix_ids=prompt, continuations=(ids,), logit_bias=tuple((token, -nats) for token in lowered))
