"""Scoring with llama.cpp: requests packed into batches, prefixes shared through the cache, log-softmax beside the logits.

A request is a tree: its prefix lies in the cache once, as a member of every continuation's sequence, and each continuation hangs
on its own sequence. The last token of a continuation is never computed, nothing is predicted from it. Trees are packed until a
micro-batch is full, because attention looks at every cell in use: fuller caches would only add masked work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import llama_cpp.llama_cpp as native
import numpy as np

from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.engines.llamacpp_native import TokenBatch, decode
from trimtab.engines.tally import Logits, Place, Tally


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
