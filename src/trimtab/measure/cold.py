"""Cold start: from no process to ready, and to the first token."""

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trimtab.core.errors import InfeasibleError
from trimtab.engines.base import GenerateRequest
from trimtab.measure.load import LoadClient


class ClosableClient(LoadClient, Protocol):
    async def close(self) -> None:
        """End the worker."""


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Medians over `n` fresh processes. Files were in the system's page cache unless they were never read before.

    load_s: process start to ready to serve; cold_ttft_ms: process start to the first token of the first request
    """

    load_s: float
    cold_ttft_ms: float
    n: int


async def cold_start(open_client: Callable[[], Awaitable[ClosableClient]], prompt: Sequence[int], *, repeats: int = 3) -> ColdStart:
    """Start `repeats` processes one after the other, ask each for two tokens, and end it.

    open_client: starts a process and returns when it is ready to serve. Raises what it raises, and InfeasibleError if no token came.
    """
    starts = [await _one_start(open_client, prompt) for _ in range(repeats)]
    return ColdStart(
        load_s=statistics.median(load_s for load_s, _ in starts),
        cold_ttft_ms=statistics.median(ttft_ms for _, ttft_ms in starts),
        n=repeats,
    )


async def _one_start(open_client: Callable[[], Awaitable[ClosableClient]], prompt: Sequence[int]) -> tuple[float, float]:
    start_ns = time.monotonic_ns()
    client = await open_client()
    try:
        load_s = (time.monotonic_ns() - start_ns) / 1e9
        first_ns: int | None = None
        request = GenerateRequest(request_id=0, prompt_ids=tuple(prompt), max_tokens=2, ignore_end=True)
        async for event in client.generate(request):
            if first_ns is None and event.token_id is not None:
                first_ns = event.time_ns
        if first_ns is None:
            raise InfeasibleError("The engine was ready but gave no token to its first request.")
        return load_s, (first_ns - start_ns) / 1e6
    finally:
        await client.close()
