"""Scoring with llama.cpp: requests packed into batches, prefixes shared through the cache, log-softmax beside the logits.

A request is a tree: its prefix lies in the cache once, as a member of every continuation's sequence, and each continuation hangs
on its own sequence. The last token of a continuation is never computed, nothing is predicted from it. Trees are packed until a
micro-batch is full, because attention looks at every cell in use: fuller caches would only add masked work.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.engines.llamacpp_native import TokenBatch, decode

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
        """Read off one row of logits [vocab_size], which predicts the tokens at `places`. Overwrites scratch [vocab_size]."""
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


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Some continuations of one request that are computed together. long: those of two tokens or more, which need a sequence each."""

    tally: Tally
    branches: tuple[int, ...]
    long: tuple[int, ...]
    cells: int

    @property
    def n_sequences(self) -> int:
        return max(1, len(self.long))


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


def path_tokens(request: ScoreRequest) -> int:
    """Tokens of the longest sequence that has to be computed."""
    return len(request.prefix_ids) + max(map(len, request.continuations)) - 1


def trees_of(tally: Tally, max_cells: int, max_sequences: int) -> Iterator[Tree]:
    """Cut a request into trees that hold at most so many cells and sequences; usually it is one."""
    prefix = len(tally.request.prefix_ids)
    branches: list[int] = []
    long: list[int] = []
    cells = prefix
    for branch, ids in enumerate(tally.request.continuations):
        extra = len(ids) - 1
        if extra and long and (cells + extra > max_cells or len(long) == max_sequences):
            yield Tree(tally=tally, branches=tuple(branches), long=tuple(long), cells=cells)
            branches, long, cells = [], [], prefix
        branches.append(branch)
        cells += extra
        if extra:
            long.append(branch)
    yield Tree(tally=tally, branches=tuple(branches), long=tuple(long), cells=cells)


class Scorer:
    """Scores in one context whose cache is unified (or, for recurrent models, with one sequence a tree).

    batch_tokens: tokens of one call at most; max_outputs: rows of logits of one call at most; max_cells: what the cache holds
    """

    def __init__(
        self, context: int, vocab_size: int, *, batch_tokens: int, max_outputs: int, max_cells: int, max_sequences: int, shared: bool
    ) -> None:
        self.context = context
        self.memory = native.llama_get_memory(context)
        self.vocab_size = vocab_size
        self.max_outputs = max_outputs
        self.max_cells = max_cells
        self.max_sequences = max_sequences
        self.shared = shared
        self.batch = TokenBatch(batch_tokens)
        self.scratch: Logits = np.empty(vocab_size, np.float32)
        self.rows: list[tuple[Tally, Sequence[Place]]] = []
        self.next_sequence = 0

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One result a request, in order. The requests have passed `check`."""
        tallies = [Tally(request=request) for request in requests]
        try:
            for tally in tallies:
                for tree in trees_of(tally, self.max_cells, self.max_sequences if self.shared else 1):
                    self._add(tree)
            self._flush()
        finally:
            self._forget()
        return [tally.result() for tally in tallies]

    def _add(self, tree: Tree) -> None:
        if tree.cells > self.batch.room or self.next_sequence + tree.n_sequences > self.max_sequences:
            self._flush()
        first = self.next_sequence
        self.next_sequence += tree.n_sequences
        request = tree.tally.request
        prefix = request.prefix_ids
        from_prefix = [(branch, 0) for branch in tree.branches]
        self._add_run(tree.tally, prefix[:-1], 0, first, tree.n_sequences, ())
        self._add_run(tree.tally, prefix[-1:], len(prefix) - 1, first, tree.n_sequences, (from_prefix,))
        for offset, branch in enumerate(tree.long):
            ids = request.continuations[branch][:-1]
            places = [[(branch, position + 1)] for position in range(len(ids))]
            self._add_run(tree.tally, ids, len(prefix), first + offset, 1, places)
        if tree.cells > self.batch.capacity:
            self._flush()  # it took several calls; nothing else may lie beside it in the cache

    def _add_run(
        self, tally: Tally, ids: Sequence[int], position: int, first: int, n_sequences: int, places: Sequence[Sequence[Place]]
    ) -> None:
        """Consecutive tokens; places[i] is what the i-th token predicts, () = no outputs. Runs the batch whenever it is full."""
        done = 0
        while done < len(ids):
            if self.batch.room == 0 or (places and len(self.rows) == self.max_outputs):
                self._decode()
            count = min(len(ids) - done, self.batch.room)
            if places:
                count = min(count, self.max_outputs - len(self.rows))
            where = self.batch.add(ids[done : done + count], position + done, first, n_sequences)
            if places:
                self.batch.output[where] = 1
                self.rows.extend((tally, places[index]) for index in range(done, done + count))
            done += count

    def _decode(self) -> None:
        logits = decode(self.context, self.batch, self.vocab_size)
        for row, (tally, places) in zip(logits, self.rows, strict=True):
            tally.take(row, self.scratch, places)
        self.batch.clear()
        self.rows.clear()

    def _flush(self) -> None:
        if self.batch.n_tokens:
            self._decode()
        self._forget()

    def _forget(self) -> None:
        self.batch.clear()
        self.rows.clear()
        native.llama_memory_clear(self.memory, False)
        self.next_sequence = 0
