"""Rows of logits to the numbers of a ScoreResult: what every engine that scores with numpy shares."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import ScoreRequest, ScoreResult

Logits = npt.NDArray[np.float32]
Place = tuple[int, int]  # continuation, position in it


@dataclass(kw_only=True)
class Tally:
    """What is known so far of one request; the shapes of a ScoreResult."""

    request: ScoreRequest
    logprobs: list[list[float]] = field(default_factory=list)
    greedy: list[list[bool]] = field(default_factory=list)
    watched: list[list[tuple[float, ...]]] = field(default_factory=list)
    top: list[list[tuple[tuple[int, float], ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for ids in self.request.continuations:
            self.logprobs.append([0.0] * len(ids))
            self.greedy.append([False] * len(ids))
            self.watched.append([()] * len(ids))
            self.top.append([()] * len(ids))
        self.bias_ids = np.array([token for token, _ in self.request.logit_bias], np.int64)
        self.bias = np.array([value for _, value in self.request.logit_bias], np.float32)

    def result(self) -> ScoreResult:
        return ScoreResult(
            logprobs=tuple(tuple(row) for row in self.logprobs),
            greedy=tuple(tuple(row) for row in self.greedy),
            watched=tuple(tuple(row) for row in self.watched) if self.request.watch else (),
            top=tuple(tuple(row) for row in self.top) if self.request.top_k else (),
        )

    def take(self, row: Logits, scratch: Logits, places: Sequence[Place]) -> None:
        """Read off one row of logits [vocab_size], which predicts the tokens at `places`. Overwrites both arrays."""
        if len(self.bias):
            np.add.at(row, self.bias_ids, self.bias)
        peak = row.max()
        np.subtract(row, peak, out=scratch)
        np.exp(scratch, out=scratch)
        log_total = float(peak) + float(np.log(np.float64(scratch.sum())))
        best = top_pairs(row, log_total, self.request.top_k) if self.request.top_k else ()
        for branch, position in places:
            value = row[self.request.continuations[branch][position]]
            self.logprobs[branch][position] = float(value) - log_total
            self.greedy[branch][position] = bool(value >= peak)
            if self.request.watch:
                ids = np.array(self.request.watch[branch][position], np.int64)
                self.watched[branch][position] = tuple((row[ids].astype(np.float64) - log_total).tolist())
            if best:
                self.top[branch][position] = best


def top_pairs(row: Logits, log_total: float, top_k: int) -> tuple[tuple[int, float], ...]:
    """The k most likely (id, log-probability) pairs, most likely first, equal ones by id."""
    top_k = min(top_k, len(row))
    least = np.partition(row, len(row) - top_k)[len(row) - top_k]
    ids = np.flatnonzero(row >= least)
    ids = ids[np.lexsort((ids, -row[ids]))][:top_k]
    return tuple((int(token), float(row[token]) - log_total) for token in ids)


def check(request: ScoreRequest, vocab_size: int, context_tokens: int) -> None:
    """Raises EngineRefused for what cannot be scored: empty parts, unknown ids, more tokens than the context, a ragged watch."""
    if not request.prefix_ids or not request.continuations or not all(request.continuations):
        raise EngineRefused("A score request needs a prefix and continuations of at least one token each.")
    longest = len(request.prefix_ids) + max(map(len, request.continuations))
    if longest > context_tokens:
        raise EngineRefused(f"A score request of {longest} tokens does not fit the context of {context_tokens} tokens.")
    every: Iterable[Sequence[int]] = (request.prefix_ids, *request.continuations)
    if any(min(ids) < 0 or max(ids) >= vocab_size for ids in every):
        raise EngineRefused(f"A score request holds a token id outside the vocabulary of {vocab_size}.")
    if any(not 0 <= token < vocab_size for token, _ in request.logit_bias):
        raise EngineRefused(f"A logit bias names a token id outside the vocabulary of {vocab_size}.")
    if request.watch:
        shape = [len(ids) for ids in request.continuations]
        if [len(positions) for positions in request.watch] != shape:
            raise EngineRefused("`watch` must hold one tuple of ids for each position of each continuation.")
        if any(not 0 <= token < vocab_size for positions in request.watch for ids in positions for token in ids):
            raise EngineRefused(f"`watch` holds a token id outside the vocabulary of {vocab_size}.")
