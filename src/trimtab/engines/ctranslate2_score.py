"""Scoring with CTranslate2: whole sequences of about the same length beside each other, log-softmax in float32.

The library keeps nothing between two such calls, so a prefix is computed again for each of its continuations of two tokens and more.
It gives the logits of every position, needed or not. Shorter rows are padded at their end, where padding follows and changes nothing.
"""

from collections.abc import Sequence

import numpy as np

from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.engines.ctranslate2_model import Model
from trimtab.engines.rows import groups_of, rows_of
from trimtab.engines.tally import Logits, Tally

LOGITS_BYTES = 2**28
"""Rows are computed together as long as their logits take no more memory; one row may."""


class Scorer:
    """batch_tokens: of one call at most, as far as one row has no more"""

    def __init__(self, model: Model, *, batch_tokens: int) -> None:
        self.model = model
        self.batch_tokens = min(batch_tokens, LOGITS_BYTES // (4 * model.vocab_size))
        self.scratch: Logits = np.empty(model.vocab_size, np.float32)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One result a request, in order. The requests have passed `check`."""
        tallies = [Tally(request=request) for request in requests]
        rows = [row for tally in tallies for row in rows_of(tally, shares=False)]
        for group in groups_of(rows, self.batch_tokens):
            for row, logits in zip(group, self.model.forward([row.ids for row in group]), strict=True):
                first = len(row.ids) - len(row.places)
                for place, predicted in enumerate(row.places):
                    row.tally.take(logits[first + place], self.scratch, predicted)
        return [tally.result() for tally in tallies]
