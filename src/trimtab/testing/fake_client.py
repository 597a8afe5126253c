"""A worker client without a model: a bigram model over bytes, exact and deterministic, with the methods of WorkerClient.

For tests of suites, scorers and flows: `temperature` above 1 makes it worse (flatter), `noise` changes its weights a little,
`served_noise` makes what it serves differ from what it scores, `refuse` names token ids it fails on.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.deployment import EngineBuild
from trimtab.core.errors import EngineRefused
from trimtab.engines.base import Done, EngineInfo, GenerateRequest, ScoreRequest, ScoreResult, TokenEvent

BOS_ID, END_ID, USER_ID, ASSISTANT_ID = 256, 257, 258, 259
VOCAB_SIZE = 260
MARKERS = {"<|bos|>": BOS_ID, "<|end|>": END_ID, "<|user|>": USER_ID, "<|assistant|>": ASSISTANT_ID}


class FakeClient:
    """Scores and generates with P(token | previous token) from a seeded table [VOCAB_SIZE, VOCAB_SIZE]."""

    def __init__(
        self,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        noise: float = 0.0,
        served_noise: float = 0.0,
        refuse: frozenset[int] = frozenset(),
    ) -> None:
        table = 2.0 * np.random.default_rng(seed).standard_normal((VOCAB_SIZE, VOCAB_SIZE))
        table += noise * np.random.default_rng(seed + 1).standard_normal(table.shape)
        served = table + served_noise * np.random.default_rng(seed + 2).standard_normal(table.shape)
        self.logits = table / temperature
        self.served = log_softmax(served / temperature)
        self.refuse = refuse
        self.scored: list[ScoreRequest] = []

    async def tokenize(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        """Bytes; with parse_special the four markers are tokens of their own."""
        return [fake_tokenize(text, parse_special=parse_special) for text in texts]

    async def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """All contents after a user marker, then the assistant's."""
        return fake_render(messages)

    async def info(self) -> EngineInfo:
        """A model with a BOS and one end token."""
        return EngineInfo(
            build=EngineBuild(engine="fake", version="1"),
            vocab_size=VOCAB_SIZE,
            context_tokens=4096,
            bos_id=BOS_ID,
            end_ids=(END_ID,),
            settings={},
        )

    async def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Exact log-probabilities. Raises EngineRefused for a request that holds a refused id."""
        self.scored += requests
        for request in requests:
            if self.refuse & {*request.prefix_ids, *(token for ids in request.continuations for token in ids)}:
                raise EngineRefused("The fake engine refuses a token of this request.")
        return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> ScoreResult:
        logits = self.logits.copy()
        for token, bias in request.logit_bias:
            logits[:, token] += bias
        table = log_softmax(logits)
        rows = [table[[request.prefix_ids[-1], *ids[:-1]]] for ids in request.continuations]
        tops = [np.argsort(-row, axis=1)[:, : request.top_k] for row in rows]
        return ScoreResult(
            logprobs=tuple(
                tuple(float(p[t]) for p, t in zip(row, ids, strict=True)) for row, ids in zip(rows, request.continuations, strict=True)
            ),
            greedy=tuple(
                tuple(int(p.argmax()) == t for p, t in zip(row, ids, strict=True))
                for row, ids in zip(rows, request.continuations, strict=True)
            ),
            watched=tuple(
                tuple(tuple(float(p[t]) for t in ids) for p, ids in zip(row, wanted, strict=True))
                for row, wanted in zip(rows, request.watch, strict=False)
            ),
            top=tuple(
                tuple(tuple((int(t), float(p[t])) for t in best) for p, best in zip(row, top, strict=True))
                for row, top in zip(rows, tops, strict=True)
            )
            if request.top_k
            else (),
        )

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """Sampled (or at temperature 0 greedy) tokens until END or max_tokens."""
        rng = np.random.default_rng(request.seed)
        previous = request.prompt_ids[-1]
        for position in range(request.max_tokens):
            row = self.served[previous]
            token = int(rng.choice(VOCAB_SIZE, p=np.exp(row))) if request.temperature > 0 else int(row.argmax())
            ended = token == END_ID and not request.ignore_end
            done: Done = "stop" if ended else ("length" if position == request.max_tokens - 1 else "")
            yield TokenEvent(
                request_id=request.request_id, token_id=token, logprob=float(row[token]), time_ns=time.monotonic_ns(), done=done
            )
            if done:
                return
            previous = token


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Row-wise."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def fake_tokenize(text: str, *, parse_special: bool) -> list[int]:
    """UTF-8 bytes as ids, markers as one id each if parse_special."""
    if not parse_special:
        return list(text.encode())
    ids: list[int] = []
    rest = text
    while rest:
        marker = next((name for name in MARKERS if rest.startswith(name)), None)
        ids += [MARKERS[marker]] if marker else list(rest[0].encode())
        rest = rest[len(marker) :] if marker else rest[1:]
    return ids


def fake_render(messages: Sequence[Mapping[str, Any]]) -> str:
    """The fake chat template, with the generation prompt."""
    return "".join(f"<|user|>{message['content']}<|end|>" for message in messages) + "<|assistant|>"
