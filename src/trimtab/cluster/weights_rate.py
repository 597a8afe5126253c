"""Bytes a second, shared fairly: whoever asks gets the next turn, and a turn is one piece of one answer."""

import threading
import time
from collections.abc import Callable

BURST_S = 0.1


class ByteRate:
    """A token bucket of `bytes_per_s`, None = no limit; any thread may use it. It holds what BURST_S brings.

    Turns are given in the order in which they are asked for, so answers that run side by side advance piece by piece, one like the other.
    """

    def __init__(
        self,
        bytes_per_s: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock, self._sleep = clock, sleep
        self._turn = threading.Lock()
        self._free_s = clock()

    def take(self, n_bytes: int) -> None:
        """Returns when so many bytes may go."""
        if self._bytes_per_s is None:
            return
        with self._turn:
            now_s = self._clock()
            self._free_s = max(self._free_s, now_s - BURST_S) + n_bytes / self._bytes_per_s
            wait_s = self._free_s - now_s
        if wait_s > 0:
            self._sleep(wait_s)
