"""Screening on text: how far a candidate's next-token distributions are from the reference's. It ranks candidates; it certifies none.

The divergence is over the reference's 32 most likely tokens and one bucket for all others. Putting tokens into a bucket can only lose
information (data processing inequality), so the figure is a lower bound of the true KL divergence, and close to it where 32 tokens
carry nearly all the probability.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import InputError
from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.evaluate.requests import PreparedSuite

TOP_K = 32
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class ScreenResult:
    """Means per token over all tokens, each with its standard error over passages.

    kl_nats: lower bound of KL(reference || candidate); top1_agreement: share of positions with the same most likely token
    delta_nats_per_token: candidate's log-probability of the text minus the reference's; below 0 is worse
    """

    kl_nats: float
    kl_se: float
    top1_agreement: float
    top1_se: float
    delta_nats_per_token: float
    delta_se: float
    n_tokens: int
    n_passages: int


def reference_screen_requests(prepared: PreparedSuite) -> list[ScoreRequest]:
    """The requests of the `text` sub-suite, with the reference's most likely tokens asked for."""
    return [replace(one.request, watch=(), top_k=TOP_K) for one in prepared.only(["text"]).requests]


def candidate_screen_requests(requests: Sequence[ScoreRequest], reference: Sequence[ScoreResult]) -> list[ScoreRequest]:
    """The same texts for the candidate: its log-probabilities of the reference's likely tokens, and its own first choice."""
    return [
        replace(request, top_k=1, watch=tuple(tuple(tuple(token for token, _ in pairs) for pairs in row) for row in result.top))
        for request, result in zip(requests, reference, strict=True)
    ]


def screen(reference: Sequence[ScoreResult], candidate: Sequence[ScoreResult]) -> ScreenResult:
    """Compare the results of the two sets of requests above. Raises InputError if they do not match or hold no token."""
    if len(reference) != len(candidate) or not reference:
        raise InputError(f"Screening needs the same passages from both sides; {len(reference)} and {len(candidate)} were given.")
    sums = np.array([_passage_sums(ours, theirs) for ours, theirs in zip(reference, candidate, strict=True)])
    counts = sums[:, 3]
    (kl, kl_se), (top1, top1_se), (delta, delta_se) = (ratio_mean(sums[:, column], counts) for column in range(3))
    return ScreenResult(
        kl_nats=kl,
        kl_se=kl_se,
        top1_agreement=top1,
        top1_se=top1_se,
        delta_nats_per_token=delta,
        delta_se=delta_se,
        n_tokens=int(counts.sum()),
        n_passages=len(sums),
    )


def _passage_sums(reference: ScoreResult, candidate: ScoreResult) -> tuple[float, float, float, int]:
    """Sums over a passage's tokens: divergence, agreement, change of log-probability, and the number of tokens."""
    kl = agreed = delta = 0.0
    n = 0
    rows = zip(reference.top, candidate.top, candidate.watched, reference.logprobs, candidate.logprobs, strict=True)
    for ours, theirs, watched, logprobs, other_logprobs in rows:
        delta += sum(other_logprobs) - sum(logprobs)
        n += len(logprobs)
        for pairs, first, values in zip(ours, theirs, watched, strict=True):
            kl += bucketed_kl([value for _, value in pairs], values)
            agreed += pairs[0][0] == first[0][0]
    return kl, agreed, delta, n


def bucketed_kl(reference: Sequence[float], candidate: Sequence[float]) -> float:
    """KL divergence in nats of two distributions given by log-probabilities of the same tokens, all other tokens in one bucket."""
    total = sum(math.exp(p) * (p - q) for p, q in zip(reference, candidate, strict=True))
    rest = max(1.0 - sum(map(math.exp, reference)), 0.0)
    other_rest = max(1.0 - sum(map(math.exp, candidate)), TINY)
    if rest > TINY:
        total += rest * math.log(rest / other_rest)
    return max(total, 0.0)


def ratio_mean(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean per token and its standard error over passages (ratio estimator, linearised)."""
    mean = float(sums.sum() / counts.sum())
    n = len(sums)
    if n < 2:
        return mean, math.nan
    residuals = sums - mean * counts
    return mean, float(math.sqrt(n / (n - 1) * float((residuals**2).sum())) / counts.sum())
