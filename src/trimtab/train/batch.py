"""What one process computes on at a time: B sequences of T tokens, and what each token is to be followed by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TeacherTargets:
    """The K most probable next tokens of a teacher at each position.

    ids: int32 [B, T, K]; logprobs: float32 [B, T, K], natural logarithms
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """B sequences of T tokens.

    input_ids: int64 [B, T]
    target_ids: int64 [B, T], the token that follows; 0 where the weight is 0
    weights: float32 [B, T], of each target's loss; 0 = does not count (padding, what a user says, the end of a document under masking)
    position_ids: int64 [B, T], from 0 in each document under masking, else in each sequence; 0 in padding
    document_ids: int32 [B, T], from 0 in each sequence; all 0 without masking; -1 = padding
    sequence_ids: int64 [B], which sequence of the data this is, the same in each epoch; None where a batch was not made from a stream
    """

    input_ids: NDArray[np.int64]
    target_ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    position_ids: NDArray[np.int64]
    document_ids: NDArray[np.int32]
    sequence_ids: NDArray[np.int64] | None = None
    teacher: TeacherTargets | None = None
