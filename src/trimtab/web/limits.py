"""How often something may be tried."""

import math
import threading
import time
from collections.abc import Callable

MOST = 1000
"""Keys that are remembered; beyond it the oldest are forgotten."""


class Tries:
    """`burst` at once, then one every `every_s` seconds, a key. Any thread may use it."""

    def __init__(self, burst: int, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at: dict[str, float] = {}  # when all tries of a key are there again

    def wait_s(self, key: str) -> int:
        """Whole seconds until the next try; 0 = now."""
        with self._lock:
            spent_s = self._free_at.get(key, 0.0) - self._clock()
        return max(0, math.ceil(spent_s - (self._burst - 1) * self._every_s))

    def count(self, key: str) -> None:
        """One was used up."""
        with self._lock:
            now = self._clock()
            free_at = max(self._free_at.pop(key, 0.0), now) + self._every_s
            self._free_at[key] = min(free_at, now + self._burst * self._every_s)
            while len(self._free_at) > MOST:
                self._free_at.pop(next(iter(self._free_at)))
