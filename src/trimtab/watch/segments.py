"""The past of some streams in bounded memory: sums of blocks, finer the newer they are. From it the moment of a change is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ALIKE = 6
"""Segments of one level that are kept; at more, the two oldest of them become one of the next. A segment of age a lasts about a / ALIKE,
and there are ALIKE log2(blocks) of them: some hundred for a million blocks (Datar, Gionis, Indyk & Motwani 2002, SIAM J. Comput. 31(6))."""
EXAMPLES = 5


@dataclass(kw_only=True, slots=True)
class Segment:
    """Requests in a row: n of them from `start_s` on, 2 ** level blocks, their sums by stream.

    highest, lowest: for each stream a request with the most and with the least of it, with the value, as (value, id)
    """

    start_s: float
    level: int
    n: int
    total: Sequence[float]
    spread: Sequence[float]
    highest: Sequence[tuple[float, str]]
    lowest: Sequence[tuple[float, str]]

    def join(self, after: "Segment") -> "Segment":
        """Both as one."""
        return Segment(
            start_s=self.start_s,
            level=self.level + 1,
            n=self.n + after.n,
            total=[*map(add, self.total, after.total)],
            spread=[*map(add, self.spread, after.spread)],
            highest=[*map(max, self.highest, after.highest)],
            lowest=[*map(min, self.lowest, after.lowest)],
        )


@dataclass(frozen=True, kw_only=True)
class ChangePoint:
    """Where a mean moved: the first segment after it, the moment as estimated, and the range of moments that fit nearly as well."""

    index: int
    since_s: float
    earliest_s: float
    latest_s: float
    n_since: int


def append(segments: list[Segment], block: Segment) -> None:
    """Put a new block at the end, and join what has become too many of one level."""
    segments.append(block)
    first, level = len(segments) - ALIKE - 1, 0
    while first >= 0 and segments[first].level == level:
        segments[first : first + 2] = [segments[first].join(segments[first + 1])]
        # The joined one is the last of its level; the oldest of one too many stands ALIKE before it.
        first, level = first - ALIKE, level + 1


def change_point(segments: Sequence[Segment], stream: int, *, yes_or_no: bool) -> ChangePoint:
    """The split that explains one stream best: the largest likelihood ratio of two rates, or of two normal means that share a variance
    (Hinkley 1970, Biometrika 57(1)).

    Splits with a log-likelihood within 3 of it make the range; it is no finer than the segments.
    """
    n = np.array([segment.n for segment in segments], dtype=float)
    sums = np.array([segment.total[stream] for segment in segments])
    if len(segments) < 2:
        only = segments[0]
        return ChangePoint(index=0, since_s=only.start_s, earliest_s=only.start_s, latest_s=only.start_s, n_since=only.n)
    before, sum_before = np.cumsum(n)[:-1], np.cumsum(sums)[:-1]
    after, sum_after = n.sum() - before, sums.sum() - sum_before
    left, right = sum_before / before, sum_after / after
    if yes_or_no:
        whole = _likelihood(sums.sum() / n.sum(), n.sum())
        gain = _likelihood(left, before) + _likelihood(right, after) - whole
    else:
        squares = float(sum(segment.spread[stream] for segment in segments))
        between = before * after / n.sum() * (right - left) ** 2
        gain = 0.5 * n.sum() * np.log1p(between / max(squares - float(between.max()), 0.1 * squares, 1e-12))
    best = int(gain.argmax())
    near = np.flatnonzero(gain >= gain[best] - 3.0)
    return ChangePoint(
        index=best + 1,
        since_s=segments[best + 1].start_s,
        earliest_s=segments[int(near[0])].start_s,
        latest_s=segments[min(int(near[-1]) + 2, len(segments) - 1)].start_s,
        n_since=int(after[best]),
    )


def _likelihood(share: Floats | float, n: Floats | float) -> Floats:
    """Largest log-likelihood of n yes-or-no values of which this share is yes (a season taken off may leave a share out of 0..1)."""
    p = np.clip(share, 1e-12, 1.0 - 1e-12)
    return np.asarray(n * (p * np.log(p) + (1.0 - p) * np.log1p(-p)))


def examples(segments: Sequence[Segment], stream: int, *, most: bool) -> tuple[str, ...]:
    """Ids of up to EXAMPLES requests of these segments, those with the most (or least) of the stream first, one a segment."""
    ends = [(segment.highest if most else segment.lowest)[stream] for segment in segments]
    ranked = sorted(ends, key=lambda end: end[0], reverse=most)
    return tuple(dict.fromkeys(request for _, request in ranked if request))[:EXAMPLES]


def to_plain(segment: Segment) -> list[Any]:
    """For JSON."""
    return [segment.start_s, segment.level, segment.n, segment.total, segment.spread, segment.highest, segment.lowest]


def from_plain(plain: Sequence[Any]) -> Segment:
    """What `to_plain` gave."""
    start_s, level, n, total, spread, highest, lowest = plain
    return Segment(
        start_s=start_s,
        level=level,
        n=n,
        total=list(total),
        spread=list(spread),
        highest=[(value, request) for value, request in highest],
        lowest=[(value, request) for value, request in lowest],
    )
