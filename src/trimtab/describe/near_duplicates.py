"""Texts that are nearly the same: MinHash signatures (Broder 1997) of word shingles, candidates by bands, confirmed by agreement."""

import re
import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

N_HASHES = 64
ROWS_PER_BAND = 4
SHINGLE_WORDS = 3
LIKENESS = 0.8
"""Share of equal hashes, an estimate of the Jaccard likeness of two texts' shingles (standard error at most 0.06), that counts as near."""
_PRIME = (1 << 31) - 1
_MOST_IN_BUCKET = 50

Signature = NDArray[np.uint32]


def normalised(text: str) -> str:
    """A text by its words in small letters: what differs in spaces, case and punctuation only is the same."""
    return " ".join(re.findall(r"\w+", text.casefold()))


class MinHash:
    """The same 64 random hash functions for every text."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.factor = random.integers(1, _PRIME, N_HASHES, dtype=np.uint64)[:, None]
        self.shift = random.integers(0, _PRIME, N_HASHES, dtype=np.uint64)[:, None]

    def signature(self, text: str) -> Signature:
        """Of a normalised text (N_HASHES,)."""
        words = text.split()
        shingles = {" ".join(words[k : k + SHINGLE_WORDS]) for k in range(max(1, len(words) - SHINGLE_WORDS + 1))}
        codes = np.fromiter((zlib.crc32(shingle.encode()) % _PRIME for shingle in shingles), dtype=np.uint64, count=len(shingles))
        least: Signature = ((self.factor * codes + self.shift) % np.uint64(_PRIME)).min(axis=1).astype(np.uint32)
        return least


def near_groups(signatures: Sequence[Signature]) -> list[list[int]]:
    """Groups of two and more positions whose signatures are alike, directly or through others; largest first.

    Two texts of likeness 0.8 share a band of 4 in 1 - (1 - 0.8^4)^16 = 99.98 % of cases.
    """
    parent = list(range(len(signatures)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for band in range(N_HASHES // ROWS_PER_BAND):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        at = slice(band * ROWS_PER_BAND, (band + 1) * ROWS_PER_BAND)
        for k, signature in enumerate(signatures):
            kept = buckets[signature[at].tobytes()]
            for other in kept:
                if root(other) != root(k) and float((signatures[other] == signature).mean()) >= LIKENESS:
                    parent[root(k)] = root(other)
            if len(kept) < _MOST_IN_BUCKET:  # a bucket of thousands is one phrase; its first ones stand for it
                kept.append(k)
    groups: dict[int, list[int]] = defaultdict(list)
    for k in range(len(signatures)):
        groups[root(k)].append(k)
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda group: (-len(group), group[0]))
