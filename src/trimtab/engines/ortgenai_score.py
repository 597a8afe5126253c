"""Scoring with ONNX Runtime GenAI: one request after another, its prefix once, log-softmax in float32.

After each continuation the generator is taken back to the end of the prefix. A continuation's last token is never computed.
"""

from collections.abc import Sequence

import numpy as np

from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.engines.ortgenai_model import Model, Tokens
from trimtab.engines.tally import Logits, Tally


class Scorer:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.scratch: Logits = np.empty(model.vocab_size, np.float32)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One result a request, in order. The requests have passed `check`."""
        return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> ScoreResult:
        tally = Tally(request=request)
        n_prefix = len(request.prefix_ids)
        tokens = self.model.begin(n_prefix + max(map(len, request.continuations)))
        if len(request.continuations) == 1:
            self._take(tokens, tally, (*request.prefix_ids, *request.continuations[0][:-1]), branch=0, n_before=n_prefix - 1)
            return tally.result()
        row = tokens.last_row(request.prefix_ids)
        tally.take(row, self.scratch, [(branch, 0) for branch in range(len(request.continuations))])
        for branch, ids in enumerate(request.continuations):
            if len(ids) > 1:
                self._take(tokens, tally, ids[:-1], branch=branch, n_before=-1)
                tokens.cut(n_prefix)
        return tally.result()

    def _take(self, tokens: Tokens, tally: Tally, ids: Sequence[int], *, branch: int, n_before: int) -> None:
        """Append tokens and read off what follows them. n_before: of them come before the first one that is read; -1 = one was read."""
        for place, row in tokens.rows(ids, max(n_before, 0)):
            tally.take(row, self.scratch, [(branch, place - n_before)])
