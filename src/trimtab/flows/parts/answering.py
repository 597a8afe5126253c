"""Two kinds of sides that answer prompts as text: a server over HTTP, and a deployment in a worker here. The same questions to both."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from trimtab.core.deployment import Candidate
from trimtab.core.endpoint import Answer, Messages, TextScore
from trimtab.core.errors import EngineRefused, TrimtabError
from trimtab.core.files import digest_of, to_plain
from trimtab.engines.base import GenerateRequest, ScoreRequest, with_first
from trimtab.engines.client import WorkerClient
from trimtab.engines.endpoint import EndpointClient
from trimtab.engines.endpoint_probe import Probe, listed_models, probe
from trimtab.evaluate.answers import AskedPrompt, kept
from trimtab.flows.parts.document import subject
from trimtab.flows.parts.session import Session
from trimtab.sources.endpoint import key_of, parse_endpoint

RESUME_HOURS = 6
"""Answers of a server are used to go on with an interrupted run that began at most this long ago, and for nothing else."""
BATCH = 8
NO_TIME = "not asked: the time limit was reached"
ANSWERS_VERSION = 3


class Side(Protocol):
    """One side of a comparison by answers.

    id: as shown; digest: identity, as far as it can be known; concurrency: requests in flight at most
    can_score: it gives log-probabilities of a given text; why_not: in words where it does not
    scores_chats: also of an answer in the chat template; else an answer is scored after the conversation as plain text
    """

    id: str
    digest: str
    concurrency: int
    can_score: bool
    why_not: str
    scores_chats: bool

    async def answers(self, prompts: Sequence[AskedPrompt], repeat: int) -> list[Answer]:
        """One greedy answer a prompt; repeat: which asking of the same prompt this is. Failures are answers with an error."""

    async def asked(self, messages: Messages, max_tokens: int) -> Answer:
        """One greedy answer now, never from a cache: for timing."""

    async def score(self, texts: Sequence[tuple[AskedPrompt | str, str]], *, may_recall: bool = False) -> list[TextScore]:
        """Log-probability of each text after a conversation, or after plain text.

        may_recall: what this run scored already may be taken again (never to learn how well a side repeats itself)
        """

    def changed(self) -> str:
        """What was noticed of a change while the run went on, as a sentence; empty = nothing."""

    def document(self) -> dict[str, Any]:
        """The side as decision.json names it."""


class EndpointSide:
    """A server. It is never known what weights it runs, so its answers are kept for the run they belong to only."""

    def __init__(self, session: Session, name: str, spec: str, client: EndpointClient, found: Probe) -> None:
        self.session, self.spec, self.client, self.found = session, spec, client, found
        self.id = f"{name}{': ' if name else ''}{client.model} at {client.http.place}"
        self.concurrency = client.endpoint.concurrency
        self.can_score = found.can("prompt log-probabilities")
        lacking = next((one.reason for one in found.capabilities if one.name == "prompt log-probabilities"), "")
        self.why_not = "" if self.can_score else lacking
        self.scores_chats = client.scores_chats
        self.digest = digest_of(["endpoint", client.endpoint.url, client.model, found.model, found.fingerprint])
        self._sitting = sitting(session.run.head, datetime.now(UTC))
        self._ends: tuple[str, ...] | None = None

    async def answers(self, prompts: Sequence[AskedPrompt], repeat: int) -> list[Answer]:
        return list(await asyncio.gather(*(self._answer(prompt, repeat) for prompt in prompts)))

    async def _answer(self, prompt: AskedPrompt, repeat: int) -> Answer:
        key = digest_of([ANSWERS_VERSION, self.digest, self._sitting, prompt.messages, prompt.max_tokens, repeat])
        known = self.session.cache.get_json("answers", key)
        if known is not None:
            self.session.n_known += 1
            self._seen_before(known)
            return kept(known)
        if self.session.seconds_left <= 0:
            return Answer(error=NO_TIME)
        answer = await self.client.ask(prompt.plain, prompt.max_tokens)
        self.session.n_computed += 1
        if not answer.error:
            self.session.cache.put_json("answers", key, answer)
        return answer

    def _seen_before(self, known: Mapping[str, Any]) -> None:
        """An answer from before the interruption counts in what the server called itself."""
        name = (str(known["model"]), str(known["fingerprint"]))
        self.client.seen[name] = self.client.seen.get(name, 0) + 1

    async def asked(self, messages: Messages, max_tokens: int) -> Answer:
        return await self.client.ask(messages, max_tokens)

    async def score(self, texts: Sequence[tuple[AskedPrompt | str, str]], *, may_recall: bool = False) -> list[TextScore]:
        heads = [head if isinstance(head, str) else head.plain if self.scores_chats else head.text for head, _ in texts]
        key = digest_of([ANSWERS_VERSION, self.digest, self._sitting, heads, [text for _, text in texts]])
        known = self.session.cache.get_json("textscores", key) if may_recall else None
        if known is not None:
            self.session.n_known += 1
            return [TextScore(**plain) for plain in known]
        if may_recall and self.session.seconds_left <= 0:
            return [TextScore(nats=None, n_bytes=len(text.encode()), error=NO_TIME) for _, text in texts]
        scores = list(await asyncio.gather(*(self.client.score(head, text) for head, (_, text) in zip(heads, texts, strict=True))))
        if may_recall and not any(score.error for score in scores):
            self.session.n_computed += 1
            self.session.cache.put_json("textscores", key, scores)
        return scores

    async def look_again(self) -> None:
        """The list of models once more, at the end of the run; a server that does not answer has not changed for that."""
        if self.found.models:
            with contextlib.suppress(TrimtabError):
                self._ends = await asyncio.to_thread(listed_models, self.client)

    def changed(self) -> str:
        other = next((model for model, _ in self.client.seen if model != self.client.model and model in self.found.models), "")
        if other:
            return f"{self.id} was asked for {self.client.model!r}, and {other!r} answered, another model that it has."
        names = [f"{model or 'no name'}{f' ({fingerprint})' if fingerprint else ''}" for model, fingerprint in self.client.seen]
        if len(names) > 1:
            return (
                f"{self.id} changed during the run: its answers came from {', then '.join(names)}; nothing can be said of any one of them."
            )
        if self._ends is not None and self.client.model not in self._ends and self.client.model in self.found.models:
            return f"{self.id} changed during the run: its list of models no longer holds {self.client.model!r}."
        return ""

    def document(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "engine": "openai",
            "recipe": "",
            "settings": {},
            "build": {"engine": "openai", "version": self.found.fingerprint, "details": ""},
            "source": self.spec,
            "size_bytes": None,
            "weights_sha256": "",
            "deployment_sha256": self.digest,
            "capabilities": to_plain(self.found.capabilities),
            "answered_as": [{"model": model, "fingerprint": name, "n": n} for (model, name), n in self.client.seen.items()],
        }


class LocalSide:
    """A deployment in a worker of ours."""

    def __init__(self, session: Session, candidate: Candidate, source: str) -> None:
        self.session, self.candidate, self.source = session, candidate, source
        self.id, self.digest = candidate.id, candidate.deployment.digest
        self.concurrency = candidate.settings.slots or 1
        self.can_score, self.why_not, self.scores_chats = True, "", True
        self._n_asked = 0
        self._turns = asyncio.Semaphore(self.concurrency)
        self._opening = asyncio.Lock()

    async def answers(self, prompts: Sequence[AskedPrompt], repeat: int) -> list[Answer]:
        async def compute() -> list[Answer]:
            return list(await asyncio.gather(*(self.asked(one.plain, one.max_tokens) for one in prompts)))

        if self.session.seconds_left <= 0:
            return [Answer(error=NO_TIME) for _ in prompts]
        key = [ANSWERS_VERSION, self.candidate.numeric_sha256, [(one.messages, one.max_tokens) for one in prompts], repeat]
        return [kept(plain) for plain in await self.session.once("answers", key, compute)]

    async def asked(self, messages: Messages, max_tokens: int) -> Answer:
        async with self._opening:  # two that wait for the same worker would start two
            await self.session.workers.ready(self.candidate, "serve")
        async with self.session.workers.lent(self.candidate, "serve") as client:
            ids = (await client.tokenize([await client.render(messages)], parse_special=True))[0]
            asked = with_first(ids, (await client.info()).bos_id)  # as it is served
            self._n_asked += 1  # with no wait until it is used: others count meanwhile
            request = GenerateRequest(request_id=self._n_asked, prompt_ids=asked, max_tokens=max_tokens)
            async with self._turns:
                try:
                    return await _collected(client, request)
                except EngineRefused as error:
                    return Answer(error=str(error))

    async def score(self, texts: Sequence[tuple[AskedPrompt | str, str]], *, may_recall: bool = False) -> list[TextScore]:
        async def compute() -> list[TextScore]:
            async with self.session.workers.lent(self.candidate, "score") as client:
                return await _scored(client, texts)

        key = [ANSWERS_VERSION, self.candidate.numeric_sha256, [(getattr(head, "messages", head), text) for head, text in texts]]
        return [TextScore(**plain) for plain in await self.session.once("textscores", key, compute)]

    def changed(self) -> str:
        return ""

    def document(self) -> dict[str, Any]:
        return subject(self.candidate, source=self.source)


def sitting(head: Mapping[str, Any], now: datetime) -> str:
    """What answers are kept under: one unfinished run, for RESUME_HOURS; later, or when it was finished, all is asked again."""
    began = datetime.fromisoformat(str(head["started"]))
    if head.get("finished") is not None:
        return f"again {now.isoformat()}"
    windows = int((now - began).total_seconds() // (3600 * RESUME_HOURS))
    return f"{head['started']} {windows}"


@asynccontextmanager
async def endpoint_side(session: Session, name: str, spec: str) -> AsyncIterator[EndpointSide]:
    """A server, probed. Raises InputError, Unreachable, ExchangeFailed."""
    endpoint = parse_endpoint(spec)
    client = EndpointClient(endpoint, key_of(endpoint))
    try:
        called = name or "server"
        session.say("probe", f"{called}: {endpoint.url}")
        found = await asyncio.to_thread(probe, client)
        for one in found.capabilities:
            session.say("probe", f"{called}: {'can' if one.can else 'cannot'} {one.name}: {one.reason}")
        yield EndpointSide(session, name, spec, client, found)
    finally:
        client.close()


async def _collected(client: WorkerClient, request: GenerateRequest) -> Answer:
    ids: list[int] = []
    piece_ns: list[int] = []
    finish = error = ""
    submit_ns = time.monotonic_ns()
    async for event in client.generate(request):
        if event.token_id is not None:
            ids.append(event.token_id)
            piece_ns.append(event.time_ns)
        finish, error = event.done or finish, event.error or error
    text = await client.detokenize(ids)
    failed = error or ("the engine gave up" if finish in ("error", "cancelled") else "")
    if failed:
        return Answer(error=failed)
    return Answer(text=text, finish=finish, n_tokens=len(ids), is_counted=True, submit_ns=submit_ns, piece_ns=tuple(piece_ns))


async def _scored(client: WorkerClient, texts: Sequence[tuple[AskedPrompt | str, str]]) -> list[TextScore]:
    """Texts after a rendered conversation or plain text; the tokens from the first one that holds a letter of the text count."""
    info = await client.info()
    heads = [head if isinstance(head, str) else await client.render(head.plain) for head, _ in texts]
    requests: list[ScoreRequest] = []
    places: list[int | None] = []
    before = await client.tokenize(heads, parse_special=True)
    whole = await client.tokenize([head + text for head, (_, text) in zip(heads, texts, strict=True)], parse_special=True)
    for (head, _), short, long in zip(texts, before, whole, strict=True):
        first = info.first_id(chat=not isinstance(head, str))
        cut = next((place for place, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), min(len(short), len(long)))
        lead = (first,) if first is not None and long[:1] != [first] else ()
        if not long[cut:] or not (lead or cut):
            places.append(None)
            continue
        places.append(len(requests))
        requests.append(ScoreRequest(prefix_ids=(*lead, *long[:cut]), continuations=(tuple(long[cut:]),)))
    results = await _in_chunks(client, requests)
    return [
        TextScore(nats=None, n_bytes=len(text.encode()), error="no token of it can be scored")
        if place is None
        else dataclasses.replace(results[place], n_bytes=len(text.encode()))
        for place, (_, text) in zip(places, texts, strict=True)
    ]


async def _in_chunks(client: WorkerClient, requests: Sequence[ScoreRequest]) -> list[TextScore]:
    """Sums in order; n_bytes is the caller's. What the engine refuses is alone in being missing."""
    sums: list[TextScore] = []
    for start in range(0, len(requests), BATCH):
        chunk = requests[start : start + BATCH]
        try:
            sums += [TextScore(nats=sum(result.logprobs[0]), n_bytes=0) for result in await client.score(chunk)]
        except EngineRefused as error:
            if len(chunk) == 1:
                sums.append(TextScore(nats=None, n_bytes=0, error=str(error)))
            else:
                sums += [score for one in chunk for score in await _in_chunks(client, [one])]
    return sums
