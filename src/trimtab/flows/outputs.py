"""`trimtab evaluate --why` and `trimtab compare --on`: what an answer rests on, and where two deployments part on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from trimtab.core.deployment import Candidate, CandidateSpec, Settings, parse_spec
from trimtab.core.errors import EngineRefused, InputError
from trimtab.core.files import to_plain
from trimtab.describe.card import model_card
from trimtab.engines.base import GenerateRequest, with_first
from trimtab.engines.client import WorkerClient
from trimtab.engines.registry import engine_names
from trimtab.evaluate.outputs import Beside, attribute, beside, beside_request, ids_to_name
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.flows.parts.opening import build_typed, open_typed
from trimtab.flows.parts.session import run_sync
from trimtab.flows.parts.workers import Workers
from trimtab.measure.machine import available_memory_bytes
from trimtab.record.home import cache_dir

CONTEXT_TOKENS = 4096
ANSWER_TOKENS = 48


def why(
    model: str, prompt: str, *, answer: str = "", chat: bool = True, offline: bool = False, on_event: OnEvent = ignore
) -> dict[str, Any]:
    """Which spans of the prompt the answer rests on, as JSON types (schema trimtab.why/1).

    answer: default what the model itself says, greedily, up to 48 tokens; chat: the prompt is a user's message in the chat template
    Raises InputError, MissingError, InfeasibleError.
    """
    return run_sync(_why(parse_spec(model, engine_names()), prompt, answer, chat, offline, on_event))


def side_by_side(
    a: str, b: str, prompt: str, *, answer: str = "", chat: bool = True, offline: bool = False, on_event: OnEvent = ignore
) -> dict[str, Any]:
    """An answer token by token under both, as JSON types (schema trimtab.beside/1). answer: default what A says. See `why`."""
    names = engine_names()
    return run_sync(_side_by_side(parse_spec(a, names), parse_spec(b, names), prompt, answer, chat, offline, on_event))


async def _why(spec: CandidateSpec, prompt: str, answer: str, chat: bool, offline: bool, on_event: OnEvent) -> dict[str, Any]:
    async with _side(spec, offline, on_event) as (candidate, workers):
        client = await workers.ready(candidate, "serve")
        said = answer or await _greedy(client, prompt, chat)
        client = await workers.ready(candidate, "score")
        on_event(Event(phase="why", message="leaving out one span after the other"))
        found = await attribute(client, prompt, said, chat=chat)
        return {"schema": "trimtab.why/1", "model": candidate.id, "was_given": bool(answer), **to_plain(found)}


async def _side_by_side(
    a: CandidateSpec, b: CandidateSpec, prompt: str, answer: str, chat: bool, offline: bool, on_event: OnEvent
) -> dict[str, Any]:
    async with _side(a, offline, on_event) as (one, workers), _side(b, offline, on_event) as (other, other_workers):
        client = await workers.ready(one, "serve")
        said = answer or await _greedy(client, prompt, chat)
        client, second = await workers.ready(one, "score"), await other_workers.ready(other, "score")
        sizes = [(await each.info()).vocab_size for each in (client, second)]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"{one.id} and {other.id} have vocabularies of {sizes[0]} and {sizes[1]} tokens; a token of one is none of the other."
            )
        head, tail = await _prompt_ids(client, prompt, chat), (await client.tokenize([said], parse_special=False))[0]
        request = beside_request(head, tail)
        results = [(await each.score([request]))[0] for each in (client, second)]
        names = {token: await client.detokenize([token]) for token in ids_to_name(tail, results)}
        found = beside(prompt, tail, results[0], results[1], names)
        return _beside_document(found, one, other, bool(answer))


def _beside_document(found: Beside, one: Candidate, other: Candidate, was_given: bool) -> dict[str, Any]:
    return {
        "schema": "trimtab.beside/1",
        "a": one.id,
        "b": other.id,
        "was_given": was_given,
        "first_parting": found.first_parting,
        "change_nats": found.change_nats,
        **to_plain(found),
    }


@asynccontextmanager
async def _side(spec: CandidateSpec, offline: bool, on_event: OnEvent) -> AsyncIterator[tuple[Candidate, Workers]]:
    """A built candidate and workers of its own. Raises InputError, MissingError, InfeasibleError."""
    caches = cache_dir()
    on_event(Event(phase="open", message=spec.source))
    opened = open_typed(spec, cache_dir=caches, offline=offline)
    limit = model_card(opened.header, opened.snapshot).context_tokens or CONTEXT_TOKENS
    common = Settings(slots=1, context_tokens=min(CONTEXT_TOKENS, limit))
    candidate = await build_typed(opened, spec, common, products_dir=caches / "products")
    async with Workers(available_memory_bytes()) as workers:
        yield candidate, workers


async def _prompt_ids(client: WorkerClient, prompt: str, chat: bool) -> list[int]:
    text = await client.render([{"role": "user", "content": prompt}]) if chat else prompt
    ids = (await client.tokenize([text], parse_special=chat))[0]
    return list(with_first(ids, (await client.info()).first_id(chat=chat)))


async def _greedy(client: WorkerClient, prompt: str, chat: bool) -> str:
    """What the model says by itself. Raises InputError if that is nothing, EngineRefused if it cannot."""
    ids = tuple(await _prompt_ids(client, prompt, chat))
    said = []
    async for event in client.generate(GenerateRequest(request_id=1, prompt_ids=ids, max_tokens=ANSWER_TOKENS)):
        if event.error:
            raise EngineRefused(event.error)
        if event.token_id is not None:
            said.append(event.token_id)
    text = await client.detokenize(said)
    if not text.strip():
        raise InputError("The model says nothing to this prompt; give an answer with --answer.")
    return text
