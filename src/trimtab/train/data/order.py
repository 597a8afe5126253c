"""Which sequence stands where: a step's number alone decides it, on any number of processes.

Each epoch the shards are put in a new order and taken in windows of `WINDOW_SHARDS`; within a window all sequences change places. So each
sequence comes exactly once an epoch, reading needs one window of shards at hand, and nothing is held but numbers for one window: data of
any size is shuffled, data that fit in a window completely. The numbers come from splitmix64 (Steele, Lea & Flood 2014), not from a
library whose generators may change: a run goes on in the same order under another version.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW_SHARDS = 16
RULES = "windows-of-16-splitmix64/1"
"""Names how an order is made; part of a stream's digest."""

Int64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Shards [n], where each begins among the window's sequences [n + 1], and which sequence is the window's i-th."""

    shards: Int64
    starts: Int64
    places: Int64


class Order:
    """The sequences of shards, epoch after epoch for ever.

    counts: sequences of each shard; position p of the order lies in epoch p // n_sequences
    """

    def __init__(self, counts: Sequence[int], *, shuffle: bool, seed: int) -> None:
        self._counts = np.asarray(counts, dtype=np.int64)
        self._firsts = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        self.n_sequences = int(self._firsts[-1])
        self._shuffle, self._seed = shuffle, seed
        self._epochs: dict[int, tuple[Int64, Int64]] = {}
        self._windows: dict[tuple[int, int], _Window] = {}

    def locate(self, positions: Int64) -> tuple[Int64, Int64]:
        """(shard [n], sequence within the shard [n]) of positions [n] from 0."""
        shards, rows = np.empty_like(positions), np.empty_like(positions)
        for epoch in np.unique(positions // self.n_sequences):
            _, window_starts = self._epoch(int(epoch))
            within = positions - epoch * self.n_sequences
            windows = np.searchsorted(window_starts, within, side="right") - 1
            in_epoch = positions // self.n_sequences == epoch
            for number in np.unique(windows[in_epoch]):
                chosen = in_epoch & (windows == number)
                window = self._window(int(epoch), int(number))
                places = window.places[within[chosen] - window_starts[number]]
                owners = np.searchsorted(window.starts, places, side="right") - 1
                shards[chosen], rows[chosen] = window.shards[owners], places - window.starts[owners]
        return shards, rows

    def numbers(self, shards: Int64, rows: Int64) -> Int64:
        """Numbers of sequences in the order of the data, the same in each epoch."""
        return self._firsts[shards] + rows

    def shards_from(self, position: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shards of the window that a position lies in, and those of the window after it."""
        epoch, within = divmod(position, self.n_sequences)
        shards, window_starts = self._epoch(epoch)
        number = int(np.searchsorted(window_starts, within, side="right")) - 1
        here = _part(shards, number)
        if number + 1 < len(window_starts) - 1:
            return here, _part(shards, number + 1)
        return here, _part(self._epoch(epoch + 1)[0], 0)

    def _epoch(self, epoch: int) -> tuple[Int64, Int64]:
        """The shards that hold anything, in the order of an epoch, and where its windows begin among its sequences, [windows + 1]."""
        if epoch not in self._epochs:
            _make_room(self._epochs)
            shards = np.flatnonzero(self._counts).astype(np.int64)
            if self._shuffle:
                shards = shards[permutation(len(shards), self._seed, f"shards/{epoch}")]
            ends = np.cumsum(self._counts[shards])
            last = [min(end, len(shards)) - 1 for end in range(WINDOW_SHARDS, len(shards) + WINDOW_SHARDS, WINDOW_SHARDS)]
            self._epochs[epoch] = shards, np.concatenate([[0], ends[last]]).astype(np.int64)
        return self._epochs[epoch]

    def _window(self, epoch: int, number: int) -> _Window:
        key = (epoch, number)
        if key not in self._windows:
            _make_room(self._windows)
            shards = np.asarray(_part(self._epoch(epoch)[0], number), dtype=np.int64)
            starts = np.concatenate([[0], np.cumsum(self._counts[shards])]).astype(np.int64)
            n = int(starts[-1])
            places = permutation(n, self._seed, f"sequences/{epoch}/{number}") if self._shuffle else np.arange(n, dtype=np.int64)
            self._windows[key] = _Window(shards=shards, starts=starts, places=places)
        return self._windows[key]


def _make_room(kept: dict[Any, Any]) -> None:
    """A step may lie across two: the one after them takes the place of the older."""
    while len(kept) >= 2:
        kept.pop(next(iter(kept)))


def _part(shards: Int64, number: int) -> tuple[int, ...]:
    return tuple(shards[number * WINDOW_SHARDS : (number + 1) * WINDOW_SHARDS].tolist())


def permutation(n: int, seed: int, purpose: str) -> Int64:
    """The numbers below n in an order that seed and purpose decide, on any machine."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        state = np.uint64(key) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(state ^ (state >> np.uint64(31)), kind="stable").astype(np.int64)


def batch_of_step(step: int, leave_out: Collection[int] = ()) -> int:
    """Which whole batch of the order a step (from 0) takes when some batches are left out: the step-th of those that are not."""
    batch = step
    for left in sorted(set(leave_out)):
        if left > batch:
            break
        batch += 1
    return batch


def positions_of(batch: int, *, rank: int, world: int, micro_batch_seqs: int, grad_accum: int) -> Int64:
    """Positions [grad_accum, micro_batch_seqs] that a process takes of a batch: the batch is [grad_accum, world, micro_batch_seqs]."""
    size = world * grad_accum * micro_batch_seqs
    whole = np.arange(batch * size, (batch + 1) * size, dtype=np.int64)
    return whole.reshape(grad_accum, world, micro_batch_seqs)[:, rank]
