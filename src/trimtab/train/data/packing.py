"""Documents in a shard to sequences of T tokens.

packed  documents one after another; sequence i takes tokens [i T, (i + 1) T) of the shard and is to tell [i T + 1, (i + 1) T + 1), so every
        token is a target once, also where a document is cut; only the last sequence of a shard is padded
padded  each document begins a sequence; a longer one is cut the same way into several

Nothing is dropped. What a sequence of a cut document lacks is the context before the cut.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.train.batch import MicroBatch

Int64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ShardArrays:
    """Documents of one shard.

    tokens: uint16 or uint32 [n]; starts: int64 [documents + 1], where each begins; each has at least one token
    learnt: uint8 [n], whether a token is learnt, None = all; weights: float32 [documents], None = 1
    """

    tokens: NDArray[np.uint16] | NDArray[np.uint32]
    starts: Int64
    learnt: NDArray[np.uint8] | None = None
    weights: NDArray[np.float32] | None = None


def packed_count(n_tokens: int, seq_tokens: int) -> int:
    """Sequences of a shard whose documents are packed."""
    return -(-max(0, n_tokens - 1) // seq_tokens)


def padded_counts(lengths: NDArray[np.integer], seq_tokens: int) -> Int64:
    """Sequences of each document [documents] of so many tokens, padded. A document of one token has none: nothing follows it."""
    return -(-(np.asarray(lengths, dtype=np.int64) - 1) // seq_tokens)


class Packing:
    """A shard cut into sequences. Costs one number a document under `padded`, nothing under `packed`."""

    def __init__(self, shard: ShardArrays, *, seq_tokens: int, padded: bool, mask_documents: bool) -> None:
        self._shard, self._seq_tokens, self._masked = shard, seq_tokens, mask_documents
        self._ends = np.cumsum(padded_counts(np.diff(shard.starts), seq_tokens)) if padded else None

    def fill(self, row: int, sequence: int, batch: MicroBatch) -> None:
        """Write a sequence of the shard into a row of a batch of zeros whose document_ids are -1."""
        shard = self._shard
        begin, end = self._span(sequence)
        n = end - begin
        batch.input_ids[row, :n] = shard.tokens[begin:end]
        first = int(np.searchsorted(shard.starts, begin, side="right")) - 1
        last = int(np.searchsorted(shard.starts, end, side="right")) - 1
        documents = np.zeros(n + 1, dtype=np.int32)
        documents[shard.starts[first + 1 : last + 1] - begin] = 1
        documents = np.cumsum(documents, dtype=np.int32)
        weights = np.ones(n, dtype=np.float32) if shard.weights is None else shard.weights[first + documents[1:]]
        if shard.learnt is not None:
            weights = weights * shard.learnt[begin + 1 : end + 1]
        here = np.arange(n, dtype=np.int64)
        if self._masked:
            weights = weights * (documents[1:] == documents[:-1])
            begins = np.concatenate([[0], shard.starts[first + 1 : last + 1] - begin])
            batch.position_ids[row, :n] = here - begins[documents[:-1]]
            batch.document_ids[row, :n] = documents[:-1]
        else:
            batch.position_ids[row, :n] = here
            batch.document_ids[row, :n] = 0
        batch.weights[row, :n] = weights
        batch.target_ids[row, :n] = np.where(weights > 0, shard.tokens[begin + 1 : end + 1], 0)

    def _span(self, sequence: int) -> tuple[int, int]:
        """First token of a sequence and the one after its last input."""
        starts, size = self._shard.starts, self._seq_tokens
        if self._ends is None:
            begin, stop = sequence * size, int(starts[-1])
        else:
            document = int(np.searchsorted(self._ends, sequence, side="right"))
            before = int(self._ends[document - 1]) if document else 0
            begin, stop = int(starts[document]) + (sequence - before) * size, int(starts[document + 1])
        return begin, min(begin + size, stop - 1)


def empty_batch(n_sequences: int, seq_tokens: int) -> MicroBatch:
    """Nothing but padding, to be filled."""
    shape = (n_sequences, seq_tokens)
    return MicroBatch(
        input_ids=np.zeros(shape, np.int64),
        target_ids=np.zeros(shape, np.int64),
        weights=np.zeros(shape, np.float32),
        position_ids=np.zeros(shape, np.int64),
        document_ids=np.full(shape, -1, np.int32),
        sequence_ids=np.zeros(n_sequences, np.int64),
    )
