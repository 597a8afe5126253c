"""Cold start: medians over fresh workers, each closed whatever happens."""

import asyncio
import time

import pytest

from trimtab.core.errors import EngineCrashed, InfeasibleError
from trimtab.engines.base import TokenEvent
from trimtab.measure.cold import cold_start


class Worker:
    pid = 0
    closed = False

    def __init__(self, first_after_s, crash=False):
        self.first_after_s = first_after_s
        self.crash = crash

    async def generate(self, request):
        if self.crash:
            raise EngineCrashed("It crashed.")
        for index in range(request.max_tokens if self.first_after_s else 0):
            await asyncio.sleep(self.first_after_s)
            time_ns = time.monotonic_ns() + index * 10**12
            yield TokenEvent(request_id=request.request_id, token_id=1, logprob=None, time_ns=time_ns)

    async def close(self):
        self.closed = True


def opener(workers, load_s):
    waiting, waits = iter(workers), iter(load_s)

    async def open_client():
        await asyncio.sleep(next(waits))
        return next(waiting)

    return open_client


def test_medians_of_fresh_workers():
    workers = [Worker(0.01) for _ in range(3)]
    found = asyncio.run(cold_start(opener(workers, [0.02, 0.06, 1.0]), [1, 2, 3]))
    assert found.n == 3
    assert 0.06 <= found.load_s < 1.0
    # The first token counts, from the start of the process; the second is dated 1,000 s later.
    assert 1000 * found.load_s + 10 <= found.cold_ttft_ms < 100_000
    assert all(worker.closed for worker in workers)


def test_no_token_is_an_answer():
    workers = [Worker(0)]
    with pytest.raises(InfeasibleError, match="no token"):
        asyncio.run(cold_start(opener(workers, [0]), [1]))
    assert workers[0].closed


def test_a_crash_closes_the_worker():
    workers = [Worker(0.01, crash=True)]
    with pytest.raises(EngineCrashed):
        asyncio.run(cold_start(opener(workers, [0]), [1]))
    assert workers[0].closed
