"""An engine without a model: a fixed random bigram table over 64 tokens. For tests of whatever talks to engines.

Token 60 in a prompt crashes the process, 61 hangs it, 62 makes the call fail with an ordinary error. Otherwise it meets the contract of
`testing/engine_contract.py`.
"""

import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import exp, log
from typing import Any

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.errors import EngineRefused
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.engines.affinity import refused_affinity
from trimtab.engines.base import Engine, EngineInfo, GenerateRequest, Purpose, ScoreRequest, ScoreResult, TokenEvent

VOCAB_SIZE = 64
END_ID, CRASH_ID, HANG_ID, FAIL_ID = 0, 60, 61, 62
CONTEXT_TOKENS = 512
KV_TYPES = ("f16", "u8")
TEMPLATE = "{{ messages | map(attribute='content') | join(' ') }}"


def bigram_logprobs(previous: int, bias: Mapping[int, float]) -> list[float]:
    """Natural-log probabilities of all tokens after `previous`."""
    rng = random.Random(previous)
    logits = [rng.gauss(0.0, 2.0) + bias.get(token, 0.0) for token in range(VOCAB_SIZE)]
    top = max(logits)
    total = top + log(sum(exp(value - top) for value in logits))
    return [value - total for value in logits]


class FakeEngine(Engine):
    """Implements the whole contract; letters a-z and space are tokens 1-27."""

    name = "fake"
    numeric_settings = frozenset({"kv_type"})
    speed_settings = frozenset({"threads", "slots", "cpu_affinity"})
    formats = frozenset({"gguf"})
    abilities = frozenset({"top_logprobs"})

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        unknown = set(settings.given()) - self.numeric_settings - self.speed_settings
        if unknown:
            raise EngineRefused(f"The fake engine has no setting {', '.join(sorted(unknown))}.")
        if why := refused_affinity(settings):
            raise EngineRefused(f"The fake engine cannot be opened: {why}.")
        if settings.kv_type not in (None, *KV_TYPES):
            raise EngineRefused(f"The fake engine has no cache type {settings.kv_type!r}; its types are {', '.join(KV_TYPES)}.")
        self.settings = settings
        self.running: dict[int, tuple[GenerateRequest, list[int], random.Random]] = {}
        self.cancelled: list[int] = []

    @classmethod
    def build(cls) -> EngineBuild:
        return EngineBuild(engine="fake", version="1")

    @classmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        return ""

    def load(self, purpose: Purpose) -> None:
        pass

    def info(self) -> EngineInfo:
        return EngineInfo(
            build=self.build(),
            vocab_size=VOCAB_SIZE,
            context_tokens=CONTEXT_TOKENS,
            bos_id=None,
            end_ids=(END_ID,),
            settings=self.settings.given(),
            chat_template=TEMPLATE,
        )

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        return [27 if letter == " " else 1 + (ord(letter.lower()) - ord("a")) % 26 for letter in text]

    def least_tokens(self, text: str) -> int:
        return len(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(" " if token == 27 else chr(ord("a") + token - 1) for token in ids if 1 <= token <= 27)

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        return " ".join(str(message["content"]) for message in messages)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> ScoreResult:
        for ids in request.continuations:
            refuse_unless_fits(request.prefix_ids, ids, len(ids))
        misbehave(request.prefix_ids)
        bias = dict(request.logit_bias)
        rows = [
            [bigram_logprobs(previous, bias) for previous in (request.prefix_ids[-1], *continuation[:-1])]
            for continuation in request.continuations
        ]
        return ScoreResult(
            logprobs=tuple(
                tuple(row[token] for row, token in zip(table, ids, strict=True))
                for table, ids in zip(rows, request.continuations, strict=True)
            ),
            greedy=tuple(
                tuple(row[token] == max(row) for row, token in zip(table, ids, strict=True))
                for table, ids in zip(rows, request.continuations, strict=True)
            ),
            watched=tuple(
                tuple(tuple(row[token] for token in ids) for row, ids in zip(table, positions, strict=True))
                for table, positions in zip(rows, request.watch, strict=False)
            ),
            top=tuple(tuple(top_pairs(row, request.top_k) for row in table) for table in rows) if request.top_k else (),
        )

    def submit(self, request: GenerateRequest) -> None:
        refuse_unless_fits(request.prompt_ids, (), request.max_tokens)
        self.running[request.request_id] = (request, list(request.prompt_ids), random.Random(request.seed))

    def step(self) -> list[TokenEvent]:
        events = [
            TokenEvent(request_id=request_id, token_id=None, logprob=None, time_ns=time.monotonic_ns(), done="cancelled")
            for request_id in self.cancelled
        ]
        self.cancelled.clear()
        for request_id, (request, ids, rng) in list(self.running.items())[: self.settings.slots or len(self.running)]:
            misbehave(request.prompt_ids)
            row = bigram_logprobs(ids[-1], {})
            token = drawn(row, request, rng) if request.temperature > 0 else row.index(max(row))
            ids.append(token)
            ended = not request.ignore_end and (token == END_ID or token in request.stop_ids)
            full = len(ids) - len(request.prompt_ids) >= request.max_tokens
            events.append(
                TokenEvent(
                    request_id=request_id,
                    token_id=token,
                    logprob=row[token],
                    time_ns=time.monotonic_ns(),
                    done="stop" if ended else "length" if full else "",
                    top=top_pairs(row, request.top_logprobs),
                )
            )
            if ended or full:
                del self.running[request_id]
        return events

    def cancel(self, request_id: int) -> None:
        if self.running.pop(request_id, None) is not None:
            self.cancelled.append(request_id)

    @property
    def n_running(self) -> int:
        return len(self.running) + len(self.cancelled)

    def close(self) -> None:
        self.running.clear()


def top_pairs(row: Sequence[float], top_k: int) -> tuple[tuple[int, float], ...]:
    """The k most likely (id, log-probability) pairs."""
    best = sorted(range(len(row)), key=lambda token: -row[token])[:top_k]
    return tuple((token, row[token]) for token in best)


def drawn(row: Sequence[float], request: GenerateRequest, rng: random.Random) -> int:
    """A token sampled at the request's temperature among the fewest most likely ones that reach its top_p."""
    weights = {token: exp(value / request.temperature) for token, value in top_pairs(row, len(row))}
    total = sum(weights.values())
    before = [0.0, *accumulate(weights.values())]
    kept = [token for token, mass in zip(weights, before, strict=False) if mass <= request.top_p * total]
    return rng.choices(kept, [weights[token] for token in kept])[0]


def refuse_unless_fits(prompt_ids: Sequence[int], given_ids: Sequence[int], n_tokens: int) -> None:
    """Raises EngineRefused for an empty prompt, no tokens after it, ids outside the vocabulary, or more tokens than the context."""
    if not prompt_ids or n_tokens < 1:
        raise EngineRefused("The fake engine needs at least one token of prompt and one after it.")
    if any(not 0 <= token < VOCAB_SIZE for token in (*prompt_ids, *given_ids)):
        raise EngineRefused(f"The fake engine's tokens are 0 to {VOCAB_SIZE - 1}.")
    if len(prompt_ids) + n_tokens > CONTEXT_TOKENS:
        raise EngineRefused(f"The prompt and its answer need more than the context of {CONTEXT_TOKENS} tokens.")


def misbehave(prompt_ids: Sequence[int]) -> None:
    """Do what the marker tokens ask for."""
    if CRASH_ID in prompt_ids:
        os.kill(os.getpid(), signal.SIGSEGV)
    if HANG_ID in prompt_ids:
        time.sleep(3600)
    if FAIL_ID in prompt_ids:
        raise EngineRefused("The fake engine refuses token 62.")
