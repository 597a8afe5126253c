"""Scoring with vLLM: each continuation is a prompt of its own after its prefix, all of them batched by vLLM's scheduler."""

from collections.abc import Sequence

import numpy as np

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.engines.vllm_rows import MARK, Rows
from trimtab.engines.vllm_run import Run, sentence_of


class Scorer:
    """Prefixes are computed again for each continuation: vLLM shares whole blocks of a cache, and would leave out rows that are wanted."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One result a request, in order. The requests have passed `check`."""
        from vllm import SamplingParams

        places = [(request, branch) for request in requests for branch in range(len(request.continuations))]
        if not places:
            return []
        engine = self.run.engine
        engine.collective_rpc("trimtab_ask", args=({mark: rows_of(*place) for mark, place in enumerate(places)},))
        names = []
        for mark, (request, branch) in enumerate(places):
            params = SamplingParams(
                max_tokens=1, temperature=0.0, detokenize=False, ignore_eos=True, skip_reading_prefix_cache=True, extra_args={MARK: mark}
            )
            names.append(self.run.add([*request.prefix_ids, *request.continuations[branch][:-1]], params))
        try:
            while engine.has_unfinished_requests():
                engine.step()
        except Exception as error:
            engine.abort_request(names, internal=True)
            raise EngineRefused(f"vLLM could not score: {sentence_of(error)}.") from error
        found = next(filter(None, engine.collective_rpc("trimtab_take")))
        if any(np.isnan(rows.logprobs).any() for rows in found.values()):
            raise EngineRefused("vLLM gave no log-probability for some token.")
        results, mark = [], 0
        for request in requests:
            own = [found[mark + branch] for branch in range(len(request.continuations))]
            mark += len(own)
            results.append(result_of(request, own))
        return results


def rows_of(request: ScoreRequest, branch: int) -> Rows:
    """What is wanted of one continuation."""
    targets = request.continuations[branch]
    watch = request.watch[branch] if request.watch else ()
    ids = np.full((len(targets), max(map(len, watch), default=0)), -1, np.int64)
    for row, wanted in enumerate(watch):
        ids[row, : len(wanted)] = wanted
    return Rows(
        first=len(request.prefix_ids) - 1,
        targets=np.array(targets, np.int64),
        watch=ids,
        top_k=request.top_k,
        bias_ids=np.array([token for token, _ in request.logit_bias], np.int64),
        bias=np.array([value for _, value in request.logit_bias], np.float32),
    )


def result_of(request: ScoreRequest, found: Sequence[Rows]) -> ScoreResult:
    """The rows of a request's continuations as its result."""
    watched = tuple(
        tuple(tuple(row[: len(wanted)].tolist()) for row, wanted in zip(rows.watched, positions, strict=True))
        for rows, positions in zip(found, request.watch, strict=bool(request.watch))
    )
    top = tuple(
        tuple(tuple(zip(ids.tolist(), values.tolist(), strict=True)) for ids, values in zip(rows.top_ids, rows.top, strict=True))
        for rows in found
    )
    return ScoreResult(
        logprobs=tuple(tuple(rows.logprobs.tolist()) for rows in found),
        greedy=tuple(tuple(rows.greedy.tolist()) for rows in found),
        watched=watched,
        top=top if request.top_k else (),
    )
