"""Parity probe: are the served log-probabilities those of the scoring path?

Tokens are sampled at temperature 1, not picked greedily: a greedy pick favours whatever the serving numerics prefer, while over sampled
tokens the mean of served minus re-scored log-probability estimates KL(served || scored), in nats per token.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from trimtab.core.errors import EngineCrashed, EngineHung, InputError, TrimtabError
from trimtab.core.evidence import ParityProbe
from trimtab.engines.base import GenerateRequest, ScoreRequest, ScoreResult, TokenEvent

MIN_TOKENS = 256


class ParityClient(Protocol):
    """What the probe needs of a worker client."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]: ...

    async def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]: ...


@dataclass(frozen=True, kw_only=True)
class ServedAnswer:
    """Sampled tokens of one answer with the log-probabilities that the served path gave them; failed: it did not finish."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    failed: bool = False


async def sample_answers(
    client: ParityClient, prompts_ids: Sequence[Sequence[int]], *, n_tokens: int, concurrency: int, seed: int
) -> list[ServedAnswer]:
    """Sample answers to the prompts in turn, `concurrency` at a time, until n_tokens tokens are there or every prompt had eight answers.

    Answers are in the order they were begun. Raises InputError for no prompt or too few tokens; EngineCrashed, EngineHung.
    """
    if not prompts_ids or not all(prompts_ids) or concurrency < 1:
        raise InputError("The parity probe needs prompts of at least one token and a concurrency of at least 1.")
    if n_tokens < MIN_TOKENS:
        raise InputError(f"The parity probe needs at least {MIN_TOKENS} tokens, not {n_tokens}.")
    # Short enough that every prompt is answered, long enough to leave the prompt behind.
    answer_tokens = max(16, -(-n_tokens // len(prompts_ids)))
    answers: dict[int, ServedAnswer] = {}
    begun = 0

    async def worker() -> None:
        nonlocal begun
        while begun < 8 * len(prompts_ids) and sum(len(answer.ids) for answer in answers.values()) < n_tokens:
            index = begun
            begun += 1
            request = GenerateRequest(
                request_id=index,
                prompt_ids=tuple(prompts_ids[index % len(prompts_ids)]),
                max_tokens=answer_tokens,
                temperature=1.0,
                seed=seed + index,
            )
            answers[index] = await _answer(client, request)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [answers[index] for index in sorted(answers)]


async def _answer(client: ParityClient, request: GenerateRequest) -> ServedAnswer:
    ids: list[int] = []
    logprobs: list[float] = []
    failed = False
    try:
        async for event in client.generate(request):
            if event.token_id is not None:
                failed = failed or event.logprob is None
                ids.append(event.token_id)
                logprobs.append(0.0 if event.logprob is None else event.logprob)
            failed = failed or event.done in ("error", "cancelled")
    except (EngineCrashed, EngineHung):
        raise
    except TrimtabError:
        failed = True
    return ServedAnswer(prompt_ids=request.prompt_ids, ids=tuple(ids), logprobs=tuple(logprobs), failed=failed or not ids)


async def rescore(client: ParityClient, answers: Sequence[ServedAnswer]) -> ParityProbe:
    """Served minus re-scored log-probability of every token of the answers that finished. Any client on the same tokenizer may re-score.

    Raises what `client.score` raises.
    """
    whole = [answer for answer in answers if not answer.failed]
    results = (
        await client.score([ScoreRequest(prefix_ids=answer.prompt_ids, continuations=(answer.ids,)) for answer in whole]) if whole else []
    )
    differences: list[float] = []
    owners: list[int] = []
    for index, (answer, result) in enumerate(zip(whole, results, strict=True)):
        differences += [served - scored for served, scored in zip(answer.logprobs, result.logprobs[0], strict=True)]
        owners += [index] * len(answer.ids)
    return ParityProbe(differences=tuple(differences), answers=tuple(owners), n_failed=len(answers) - len(whole))


async def parity_probe(
    client: ParityClient,
    prompts_ids: Sequence[Sequence[int]],
    *,
    n_tokens: int = MIN_TOKENS,
    concurrency: int,
    seed: int,
    scorer: ParityClient | None = None,
) -> ParityProbe:
    """Sample through `client`, re-score through `scorer` (default: the same client)."""
    answers = await sample_answers(client, prompts_ids, n_tokens=n_tokens, concurrency=concurrency, seed=seed)
    probe = await rescore(scorer or client, answers)
    conditions = {"temperature": "1", "concurrency": str(concurrency), "seed": str(seed), "tokens": str(len(probe.differences))}
    return ParityProbe(differences=probe.differences, answers=probe.answers, n_failed=probe.n_failed, conditions=conditions)
