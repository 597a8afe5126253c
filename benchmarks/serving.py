"""What the gateway costs a real model: tokens per second at concurrency 8, and the time from no process to the first token.

The same engine worker is used directly (token ids in, token ids out, no HTTP, no texts) and through `trimtab serve` (chats in, a stream of
events out, audit log on), in turns, round by round, with prompts that no round repeats.

Cold start: the gateway runs, no process of the model does; from the request to its first event, over the worker's own start, load and
first token. Once with the weights dropped from the page cache, once with them in it. Where pages cannot be dropped (no Linux, or a file
that another program has mapped) both are warm.

    python benchmarks/serving.py [--quick] [--lock deploy.toml] [--recipe llamacpp-as-shipped] [--rounds N] [--starts N]

ratios: medians over rounds with a 95 % bootstrap interval. The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parts.demo_lock import RECIPE, write_demo_lock
from parts.gateway_process import Running, gateway

from trimtab.core.deployment import Candidate
from trimtab.engines.base import GenerateRequest
from trimtab.engines.client import WorkerClient
from trimtab.flows.parts.locked import found_source, read_lock
from trimtab.flows.parts.opening import build_candidate, open_model
from trimtab.record.home import cache_dir

CONCURRENCY = 8
TOKENS = 64
TARGETS = {"throughput_ratio_at_least": 0.95, "cold_start_ratio_at_most": 1.3}
LEAVES_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """median of ratios, and its 95 % interval"""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Ratio":
        draws = np.random.default_rng(0).choice(np.asarray(ratios), size=(4000, len(ratios)))
        low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
        return cls(median=round(statistics.median(ratios), 4), low=round(float(low), 4), high=round(float(high), 4))

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def chat(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Case {number}: " + f"tell me in many words what happened on day {number} of the journey. " * 4}]


class Stream(asyncio.Protocol):
    """One request and all that comes of it. It shares the cores with what is measured, so it only keeps the bytes."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.came = bytearray()
        self.first_s: float | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.began_s = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.came += data
        if self.first_s is None and b"data: {" in self.came:
            self.first_s = time.perf_counter() - self.began_s

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def streamed(port: int, number: int, max_tokens: int) -> float:
    """Ask the gateway and read to the end; seconds to the first event. Raises RuntimeError for anything but a whole stream."""
    body = json.dumps({"model": "m", "messages": chat(number), "max_tokens": max_tokens, "ignore_eos": True, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: Stream(head.encode() + body), "127.0.0.1", port)
    await stream.ended
    came = bytes(stream.came)
    if not came.startswith(b"HTTP/1.1 200 ") or b"data: [DONE]" not in came or b'"error"' in came or stream.first_s is None:
        raise RuntimeError(came[:2000].decode(errors="replace"))
    return stream.first_s


async def gateway_rate(port: int, numbers: range) -> float:
    """Tokens per second of all these requests."""
    left = iter(numbers)

    async def ask() -> None:
        for number in left:
            await streamed(port, number, TOKENS)

    began_s = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CONCURRENCY)))
    return len(numbers) * TOKENS / (time.perf_counter() - began_s)


async def worker_rate(client: WorkerClient, numbers: range) -> float:
    prompts = [(number, tuple((await client.prompt(chat(number)))[0])) for number in numbers]
    left = iter(prompts)

    async def ask() -> None:
        for number, ids in left:
            request = GenerateRequest(request_id=number, prompt_ids=ids, max_tokens=TOKENS, temperature=1.0, seed=number, ignore_end=True)
            n_tokens = sum([len(group) async for group in client.generate_groups(request)])
            if n_tokens != TOKENS:
                raise RuntimeError(f"{n_tokens} tokens in place of {TOKENS}")

    began_s = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CONCURRENCY)))
    return len(numbers) * TOKENS / (time.perf_counter() - began_s)


def cpu_s(pid: int) -> float:
    """What a process has used of the cores so far, its children not counted."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def throughput(candidate: Candidate, running: Running, rounds: int, n_requests: int) -> dict[str, Any]:
    client = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="serve")
    rates: dict[str, list[float]] = {"gateway": [], "worker": []}
    spent_us: list[float] = []
    try:
        for index in range(rounds + 1):
            numbers = range(1 + index * n_requests, 1 + (index + 1) * n_requests)
            for side in ("gateway", "worker") if index % 2 else ("worker", "gateway"):
                before_s = cpu_s(running.pid)
                rate = await (gateway_rate(running.port, numbers) if side == "gateway" else worker_rate(client, numbers))
                if index:  # the first round warms up
                    rates[side].append(rate)
                    if side == "gateway":
                        spent_us.append(1e6 * (cpu_s(running.pid) - before_s) / (len(numbers) * TOKENS))
    finally:
        await client.close()
    ratio = Ratio.of([ours / bare for ours, bare in zip(rates["gateway"], rates["worker"], strict=True)])
    print(
        f"tokens/s at {CONCURRENCY}: {', '.join(f'{side} {statistics.median(found):.1f}' for side, found in rates.items())}; ratio {ratio}"
    )
    print(f"the gateway's own CPU time: {statistics.median(spent_us):.0f} us a token")
    return {
        "tokens_per_s": {side: round(statistics.median(found), 2) for side, found in rates.items()},
        "ratio": vars(ratio),
        "gateway_cpu_us_per_token": round(statistics.median(spent_us), 1),
    }


async def worker_start(candidate: Candidate, number: int) -> float:
    began_s = time.perf_counter()
    client = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="serve")
    try:
        ids, _ = await client.prompt(chat(number))
        request = GenerateRequest(request_id=number, prompt_ids=tuple(ids), max_tokens=1, ignore_end=True)
        async for _ in client.generate(request):
            return time.perf_counter() - began_s
    finally:
        await client.close()
    raise RuntimeError("the worker gave no token")


def wait_until_gone(running: Running) -> None:
    ends_s = time.monotonic() + 60
    while time.monotonic() < ends_s:
        with urllib.request.urlopen(f"{running.url}/models", timeout=10) as response:
            if json.load(response)["data"][0]["state"] == "sleeping":
                return
        time.sleep(0.1)
    raise RuntimeError("the model did not leave")


def drop_pages(candidate: Candidate) -> None:
    """Have the weights read from the disk next time, where the system can be told so."""
    if hasattr(os, "posix_fadvise"):
        for file in candidate.snapshot.files:
            handle = os.open(candidate.snapshot.root / file.name, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def cold_starts(candidate: Candidate, running: Running, n: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for cache in ("cold", "warm"):
        seconds: dict[str, list[float]] = {"gateway": [], "worker": []}
        for index in range(n + 1):
            for side in ("gateway", "worker") if index % 2 else ("worker", "gateway"):
                if cache == "cold":
                    drop_pages(candidate)
                took_s = asyncio.run(streamed(running.port, index, 1) if side == "gateway" else worker_start(candidate, index))
                wait_until_gone(running)
                if index:  # the first one warms up what is not the model's
                    seconds[side].append(took_s)
        ratio = Ratio.of([ours / bare for ours, bare in zip(seconds["gateway"], seconds["worker"], strict=True)])
        medians = {side: round(statistics.median(found), 3) for side, found in seconds.items()}
        print(f"no process to first token, page cache {cache}: gateway {medians['gateway']} s, worker {medians['worker']} s; ratio {ratio}")
        figures[cache] = {"seconds": medians, "ratio": vars(ratio)}
    return figures


async def candidate_of(path: Path) -> Candidate:
    lock = read_lock(path)
    opened = open_model(found_source(lock.source, path), cache_dir=cache_dir(), offline=False)
    return await build_candidate(opened, lock.build.engine, lock.recipe, lock.settings, products_dir=cache_dir() / "products")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds of 16 requests, two starts")
    parser.add_argument("--lock", type=Path, default=None, help="a deploy.toml [default: one of the demo model, made from --recipe]")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--starts", type=int, default=None)
    options = parser.parse_args()
    rounds, starts = options.rounds or (2 if options.quick else 10), options.starts or (2 if options.quick else 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "home"
        path = options.lock
        if path is None:
            path = folder / "deploy.toml"
            write_demo_lock(path, recipe=options.recipe)
        candidate = asyncio.run(candidate_of(path))
        site = folder / "site.toml"
        table = f'[[models]]\nname = "m"\nlock = "{path.absolute()}"\nallow_uncertified = true\n'
        site.write_text(f"{table}idle_s = {LEAVES_S}\n")
        with gateway(site, home=home) as running:
            starts_found = cold_starts(candidate, running, starts)
        site.write_text(f"{table}min_replicas = 1\n")
        with gateway(site, home=home) as running:
            rate = asyncio.run(throughput(candidate, running, rounds, 16 if options.quick else 64))
    ok = (
        rate["ratio"]["median"] >= TARGETS["throughput_ratio_at_least"]
        and starts_found["cold"]["ratio"]["median"] <= TARGETS["cold_start_ratio_at_most"]
    )
    figures = {"deployment": candidate.id, "throughput": rate, "start": starts_found}
    print(json.dumps({"name": "serving", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
