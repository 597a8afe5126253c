"""How fast data come: what a stream can give, and whether a run waits for it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.core.training import StepRecord
from trimtab.plan.search.feed import Supply
from trimtab.train.data.stream import Stream

LEAST_SHARE = 0.02
"""Below this share of its time a run does not wait for data in any way that matters."""
LEAST_STEPS = 20
GLANCE_S, LEAST_TIMED = 0.2, 8
SURE_Z = 2.33
"""One-sided 99 % of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class StreamRate:
    """What one process got from a stream that nothing held up.

    tokens_s: of sequences, padding included; bytes_s: that these tokens are as they are stored; fetch_bytes_s: from behind an address while
    it was fetching, 0 = nothing was fetched; first_s: until the first step was there, which is not in wall_s
    """

    tokens_s: float
    bytes_s: float
    fetch_bytes_s: float
    n_steps: int
    wall_s: float
    first_s: float


def stream_rate(
    stream: Stream, *, rank: int, world: int, micro_batch_seqs: int, grad_accum: int, first_step: int = 0, limit_s: float = 2.0
) -> StreamRate:
    """Take steps as fast as they come for about `limit_s` seconds, after the first, for which shards are brought and mapped."""
    steps = stream.steps(first_step=first_step, rank=rank, world=world, micro_batch_seqs=micro_batch_seqs, grad_accum=grad_accum)
    begun = time.perf_counter()
    next(steps)
    first_s = time.perf_counter() - begun
    n_steps = n_tokens = 0
    wall_s = 0.0
    while wall_s < limit_s or n_steps < LEAST_TIMED:
        n_tokens += sum(batch.input_ids.size for batch in next(steps))
        n_steps += 1
        wall_s = time.perf_counter() - begun - first_s
    stream.end()
    n_bytes, fetch_s = stream.fetched()
    return StreamRate(
        tokens_s=n_tokens / wall_s,
        bytes_s=n_tokens / wall_s * stream.bytes_per_token,
        fetch_bytes_s=n_bytes / fetch_s if fetch_s > 0 else 0.0,
        n_steps=n_steps,
        wall_s=wall_s,
        first_s=first_s,
    )


def data_facts(stream: Stream, *, world: int, micro_batch_seqs: int, grad_accum: int) -> dict[str, Any]:
    """What a run keeps of its data, with the rate that the first process got before the first step."""
    rate = stream_rate(stream, rank=0, world=world, micro_batch_seqs=micro_batch_seqs, grad_accum=grad_accum, limit_s=GLANCE_S)
    return {
        "places": stream.places,
        "n_sequences": stream.n_sequences,
        "n_documents": stream.n_documents,
        "n_tokens": stream.n_tokens,
        "n_target_tokens": stream.n_target_tokens,
        "padding_share": stream.padding_share,
        "rate": rate,
    }


def supply_of(rate: StreamRate) -> Supply:
    """A measured stream as the planner's data feed takes it, with one reader a device; see `plan.search.feed.feed`."""
    return Supply(
        bytes_per_token=rate.bytes_s / rate.tokens_s,
        network_bytes_s=rate.fetch_bytes_s,
        worker_tok_s=rate.tokens_s,
        workers_per_device=1,
    )


@dataclass(frozen=True, kw_only=True)
class DataBound:
    """A run that waits for data. share: of its time; least_share: with 99 % confidence at least; text: one sentence that says so."""

    share: float
    least_share: float
    n_steps: int
    text: str


def data_bound(records: Sequence[StepRecord]) -> DataBound | None:
    """Whether steps wait for data, None if not or if it cannot be told yet. The first of a run and of each resumed part should be left out.

    The share is the ratio of two sums, and its standard error that of a ratio estimator by linearisation (Cochran, Sampling Techniques,
    1977, 6.4). One step that waited long has an error as large as the share it makes, so it does not count; waits that come back do.
    """
    n = len(records)
    step_s = sum(record.step_s for record in records)
    if n < LEAST_STEPS or step_s <= 0:
        return None
    share = sum(record.data_wait_s for record in records) / step_s
    residuals = sum((record.data_wait_s - share * record.step_s) ** 2 for record in records)
    least = share - SURE_Z * math.sqrt(residuals * n / (n - 1)) / step_s
    if least < LEAST_SHARE:
        return None
    text = (
        f"{100 * share:.0f} % of the last {n} steps' time went by waiting for data (at least {100 * least:.0f} % with 99 % confidence): "
        "the data are the limit, not the model; bring them nearer, or raise prefetch_steps in [data]"
    )
    return DataBound(share=share, least_share=least, n_steps=n, text=text)
