"""How many tokens a text has at least, from its bytes alone: a prompt that cannot fit is known without being tokenized.

A token covers at most as many bytes as it is spelled with. So where L(b) is the length of the longest token that holds the byte b, a token
that covers n bytes has L(b) >= n for each of them, and the sum of 1 / L(b) over its bytes is at most 1. The sum over a text is then at most
its number of tokens. Bytes are told apart because letters occur in shorter tokens than the long runs of `-` or `=` that vocabularies have.

It holds where tokens together cover the whole text. A byte that is no token by itself may be passed over by a tokenizer, and white space
may be stripped beside markers: both count nothing.
"""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_STRIPPED = b" \t\n\v\f\r"


def byte_weights(spellings: Iterable[bytes]) -> npt.NDArray[np.float64]:
    """1 / L(b) for each byte, [256]; 0 where nothing is claimed. spellings: of every token, each way in which a text may hold it"""
    known = set(spellings)
    left = {byte for byte in range(256) if bytes((byte,)) in known} - set(_STRIPPED)
    weights = np.zeros(256)
    for spelling in sorted(known, key=len, reverse=True):
        for byte in left.intersection(spelling):
            weights[byte] = 1 / len(spelling)
            left.remove(byte)
    return weights


def least_tokens(raw: bytes, weights: npt.NDArray[np.float64]) -> int:
    """So many tokens a text has at least. raw: the text in UTF-8"""
    counts = np.bincount(np.frombuffer(raw, np.uint8), minlength=256)
    return max(0, math.ceil(float(counts @ weights) - 1e-6))
