"""Which ids have been seen, in 16 MiB for ever."""

import hashlib


class Seen:
    """Two Bloom filters in turn: of the last 2,000,000 to 4,000,000 ids each is known again.

    A new id passes for a seen one in at most 4 of 100,000 cases, when both filters are full; a seen one never passes for a new one
    as long as it is among these.
    """

    BITS = 2**26
    HASHES = 6

    def __init__(self, capacity: int = 2_000_000) -> None:
        self._capacity = capacity
        self._newer, self._older = bytearray(self.BITS // 8), bytearray(0)
        self._n = 0

    def add(self, name: str) -> bool:
        """Note an id. Returns whether it was seen before."""
        raw = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).digest()
        one, other = int.from_bytes(raw[:8]), int.from_bytes(raw[8:]) | 1
        places = [(one + turn * other) % self.BITS for turn in range(self.HASHES)]
        if self._holds(self._newer, places) or (self._older and self._holds(self._older, places)):
            return True
        for place in places:
            self._newer[place >> 3] |= 1 << (place & 7)
        self._n += 1
        if self._n >= self._capacity:
            self._older, self._newer, self._n = self._newer, bytearray(self.BITS // 8), 0
        return False

    @staticmethod
    def _holds(bits: bytearray, places: list[int]) -> bool:
        return all(bits[place >> 3] >> (place & 7) & 1 for place in places)
