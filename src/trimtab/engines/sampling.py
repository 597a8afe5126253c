"""From a row of logits to a token and its log-probability: for engines whose logits pass through numpy."""

import numpy as np
import numpy.typing as npt

from trimtab.engines.base import GenerateRequest


def pick(
    row: npt.NDArray[np.float32], scratch: npt.NDArray[np.float32], request: GenerateRequest, rng: np.random.Generator
) -> tuple[int, float]:
    """Choose a token from logits [vocab_size]: (id, log-probability at temperature 1 under the full distribution).

    Above temperature 0 by inversion of the cumulative distribution with one uniform number a token, so a seed gives the same choice
    wherever the request runs. top_p keeps the smallest set of most likely tokens that reaches it. Overwrites scratch [vocab_size].
    """
    peak = row.max()
    np.subtract(row, peak, out=scratch)
    if request.temperature <= 0:
        token = int(row.argmax())
        np.exp(scratch, out=scratch)
        return token, -float(np.log(np.float64(scratch.sum())))
    weights = np.exp(scratch / np.float32(request.temperature))
    if request.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        heights = np.cumsum(weights[order], dtype=np.float64)
        heights = heights[: int(np.searchsorted(heights, request.top_p * heights[-1])) + 1]
    else:
        order = None
        heights = np.cumsum(weights, dtype=np.float64)
    place = min(int(np.searchsorted(heights, rng.random() * heights[-1], side="right")), len(heights) - 1)
    token = place if order is None else int(order[place])
    above = float(scratch[token])
    np.exp(scratch, out=scratch)
    return token, above - float(np.log(np.float64(scratch.sum())))


def pick_allowed(
    row: npt.NDArray[np.float32],
    scratch: npt.NDArray[np.float32],
    request: GenerateRequest,
    rng: np.random.Generator,
    allowed: npt.NDArray[np.bool_],
) -> tuple[int, float]:
    """As `pick`, among the allowed tokens only, [vocab_size]. The log-probability stays that under the full distribution."""
    token, _ = pick(np.where(allowed, row, np.float32(-np.inf)), scratch, request, rng)
    np.subtract(row, row.max(), out=scratch)
    above = float(scratch[token])
    np.exp(scratch, out=scratch)
    return token, above - float(np.log(np.float64(scratch.sum())))


def top_of(row: npt.NDArray[np.float32], scratch: npt.NDArray[np.float32], k: int) -> tuple[tuple[int, float], ...]:
    """The k most likely tokens with their log-probabilities, after `pick` has left exp(row - its maximum) in scratch."""
    best = np.argpartition(row, -k)[-k:] if k < len(row) else np.arange(len(row))
    best = best[np.argsort(-row[best], kind="stable")]
    total = float(row.max()) + float(np.log(np.float64(scratch.sum())))
    return tuple((int(token), float(row[token]) - total) for token in best)
