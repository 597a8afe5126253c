"""The session on real workers of the demo model: numbers are plausible, and a worker that is not asked sleeps."""

import asyncio
import random
import time

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.workload import Workload
from trimtab.engines.client import WorkerClient
from trimtab.measure.cold import cold_start
from trimtab.measure.noise import read_counters
from trimtab.measure.session import timed_session
from trimtab.sources.open import open_source

pytestmark = [pytest.mark.slow, pytest.mark.model]

WORKLOAD = Workload(name="tiny", prompt_tokens=24, output_tokens=6, concurrency=(1, 2))


@pytest.fixture(scope="module")
def snapshot(demo_model, tmp_path_factory):
    pytest.importorskip("llama_cpp")
    return open_source(str(demo_model), cache_dir=tmp_path_factory.mktemp("cache"))


def make_prompts(n, n_tokens, seed):
    rng = random.Random(seed)
    return [[rng.randrange(100, 40_000) for _ in range(n_tokens)] for _ in range(n)]


def idle_cpu_s(pid, seconds):
    before = read_counters([pid]).own_s - read_counters([]).own_s
    time.sleep(seconds)
    return read_counters([pid]).own_s - read_counters([]).own_s - before


def test_two_workers_take_turns(snapshot):
    async def start(threads):
        return await WorkerClient.start("llamacpp", snapshot, Settings(context_tokens=64, slots=2, threads=threads), purpose="serve")

    async def run():
        cold = await cold_start(lambda: start(1), make_prompts(1, 8, 99)[0], repeats=1)
        clients = {"base": await start(1), "other": await start(1)}
        try:
            result = await timed_session(clients, WORKLOAD, make_prompts, time_budget_s=60, min_rounds=2, max_rounds=2)
            return cold, result, [idle_cpu_s(client.pid, 1.0) for client in clients.values()]
        finally:
            for client in clients.values():
                await client.close()

    cold, result, idle_s = asyncio.run(run())
    assert 0 < cold.load_s < cold.cold_ttft_ms / 1000
    assert result.left == {}
    assert max(idle_s) < 0.2
    for name in ("base", "other"):
        measurement = result.measurement(name)
        assert [(point.n_requests, point.failed) for point in measurement.points] == [(2, 0), (4, 0)]
        assert measurement.points[0].itl_ms.n == 2 * 5
        # The weights alone are 98 MB.
        assert measurement.peak_memory_bytes is None or 90e6 < measurement.peak_memory_bytes < 2e9
    for level in WORKLOAD.concurrency:
        ratio = result.ratios("base", "e2e_ms_p50", level)["other"]
        assert ratio.low < ratio.ratio < ratio.high
