"""Scoring with transformers: requests of about the same length beside each other, a shared prefix once, log-softmax in float32.

A request with one continuation is one row. One with several is a row for its prefix, whose keys and values are then copied for the
continuations of two tokens and more; their first token is predicted by the prefix. A continuation's last token is never computed.
Models that keep a state instead of keys and values are given one whole sequence at a time.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.engines.rows import Row, groups_of, rows_of
from trimtab.engines.tally import Logits, Place, Tally
from trimtab.engines.transformers_cache import bytes_per_column, n_columns, taken
from trimtab.engines.transformers_model import Call, Model, left_padded

LOGITS_BYTES = 2**28
"""At most this much memory for the logits of one call."""
CACHE_BYTES = 2**30
"""At most this much for the copies of prefixes, as long as one fits."""


class Scorer:
    """batch_tokens: tokens of one call at most, as far as one column of the rows has no more"""

    def __init__(self, model: Model, *, batch_tokens: int) -> None:
        self.model = model
        self.batch_tokens = batch_tokens
        self.scratch: Logits = np.empty(model.vocab_size, np.float32)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One result a request, in order. The requests have passed `check`."""
        tallies = [Tally(request=request) for request in requests]
        rows = [row for tally in tallies for row in rows_of(tally, shares=self.model.batches)]
        for group in groups_of(rows, self.batch_tokens if self.model.batches else 0):
            self._compute(group)
        return [tally.result() for tally in tallies]

    def _compute(self, rows: Sequence[Row]) -> None:
        width = max(len(row.ids) for row in rows)
        ids, mask, positions = left_padded([row.ids for row in rows], width)
        keep = max(len(row.places) for row in rows)
        forks = [(place, branch) for place, row in enumerate(rows) for branch in row.branches]
        cache = self._pass(ids, mask, positions, keep, None, [row.places for row in rows], [row.tally for row in rows], bool(forks))
        if not forks:
            return
        forks.sort(key=lambda fork: len(rows[fork[0]].tally.request.continuations[fork[1]]))
        per_row = width * bytes_per_column(cache)
        for some in self._fork_groups(rows, forks, per_row):
            self._compute_forks(rows, some, cache, mask)

    def _fork_groups(self, rows: Sequence[Row], forks: Sequence[tuple[int, int]], row_bytes: int) -> Iterator[list[tuple[int, int]]]:
        """Continuations, shortest first, in groups that one call takes."""
        group: list[tuple[int, int]] = []
        for place, branch in forks:
            length = len(rows[place].tally.request.continuations[branch]) - 1
            if group and ((len(group) + 1) * length > self.batch_tokens or (len(group) + 1) * row_bytes > CACHE_BYTES):
                yield group
                group = []
            group.append((place, branch))
        yield group

    def _compute_forks(self, rows: Sequence[Row], forks: Sequence[tuple[int, int]], cache: Any, mask: torch.Tensor) -> None:
        """Continuations after their prefixes; the shorter ones are padded at their end, where padding follows and changes nothing."""
        tallies = [rows[place].tally for place, _ in forks]
        tails = [tally.request.continuations[branch][:-1] for tally, (_, branch) in zip(tallies, forks, strict=True)]
        width = max(map(len, tails))
        ids = torch.zeros((len(forks), width), dtype=torch.int64)
        for place, tail in enumerate(tails):
            ids[place, : len(tail)] = torch.tensor(tail, dtype=torch.int64)
        places = []
        for (_, branch), tail in zip(forks, tails, strict=True):
            own: list[tuple[Place, ...]] = [((branch, position + 1),) for position in range(len(tail))]
            places.append((*own, *[()] * (width - len(tail))))
        prefixes = mask[[place for place, _ in forks]]
        positions = prefixes.sum(1, keepdim=True) + torch.arange(width)
        whole = torch.cat([prefixes, torch.ones_like(ids)], 1)
        forked = taken(cache, [place for place, _ in forks])
        self._pass(ids, whole, positions, width, forked, places, tallies, True)

    def _pass(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        keep: int,
        cache: Any,
        places: Sequence[Sequence[Sequence[Place]]],
        tallies: Sequence[Tally],
        needs_cache: bool,
    ) -> Any:
        """Compute rows, in parts of their columns where one call would be too large, and read off the last `keep` columns. The cache.

        places: of each row, for its last columns; a row may have fewer than `keep`
        """
        n_rows, width = ids.shape
        before = n_columns(cache) if cache is not None else 0
        parts = list(self._parts(n_rows, width, keep)) if self.model.batches else [(0, width)]
        if cache is None and (needs_cache or len(parts) > 1):
            cache = self.model.new_cache()
        for first, end in parts:
            wanted = min(keep - (width - end), end - first)
            call = Call(
                ids=ids[:, first:end],
                mask=mask[:, : before + end],
                positions=positions[:, first:end],
                cache=cache,
                keep=max(1, wanted),
            )
            logits = self.model.call(call)
            for column in range(end - wanted, end):
                for row in range(n_rows):
                    place = len(places[row]) - (width - column)
                    if place >= 0 and places[row][place]:
                        tallies[row].take(logits[row, column - end], self.scratch, places[row][place])
        return cache

    def _parts(self, n_rows: int, width: int, keep: int) -> Iterator[tuple[int, int]]:
        """Columns [first, end) of each call: so many tokens, and so many rows of logits, at most."""
        tokens = max(1, self.batch_tokens // n_rows)
        read = max(1, LOGITS_BYTES // (4 * self.model.vocab_size * n_rows))
        first = 0
        while first < width:
            end = min(width, first + tokens)
            unread = width - keep  # columns before this one are not read
            if end > unread + read and end - max(first, unread) > read:
                end = max(first, unread) + read
            yield first, end
            first = end
