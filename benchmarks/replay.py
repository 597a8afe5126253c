"""A recorded day at the gateway: how many requests get their first token and their pace in time, kept loaded and with scale to zero.

usage: python benchmarks/replay.py [--quick] [--lock deploy.toml] [--trace azure_llm_conv.csv] [--requests N] [--seconds S] ...

--lock: default the demo model, OpenVINO with 8 bits. --trace: TIMESTAMP,ContextTokens,GeneratedTokens as Azure publishes it; default a
made-up hour in which requests come in bursts. Requests at even steps keep their lengths (cut to what the context holds) and their
pattern of arrivals, played so that N of them take S seconds on this machine. They are sent when they are due, whatever became of those
before. A request attains (--slo TTFT_MS,TPOT_MS) if its first token comes within TTFT_MS of when it was due and its mean time per
further token is at most TPOT_MS. `kept` holds one replica always; `scale_to_zero` lets it go after S / 20 without requests. Shares have
exact one-sided 95 % bounds.

--quick: 12 requests in 20 s. The last line of stdout is one JSON object: name, figures, targets, ok. There is no target: `ok` says
that every request was answered.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from parts.demo_lock import write_demo_lock
from parts.gateway_process import gateway

from trimtab.core.workload import WorkloadRequest
from trimtab.plan.requests import read_trace
from trimtab.record.deploy import read_deploy_toml
from trimtab.stats.binomial import share_bounds

FIRST_TOKEN_ID = 300
"""Prompts are random ids from here on: below lie bytes and special tokens in the vocabularies that are met."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """One request: seconds after the start, and its lengths in tokens."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came of one. Times count from when it was due; error: empty if it was answered."""

    ttft_ms: float
    tpot_ms: float
    error: str = ""


def made_up() -> list[WorkloadRequest]:
    """An hour of bursts: lengths and gaps are log-normal, as they roughly are in the published traces."""
    draw, at_s, rows = random.Random(0), 0.0, []
    while at_s < 3600.0:
        prompt, output = (max(8, round(draw.lognormvariate(middle, 0.8))) for middle in (6.0, 4.5))
        rows.append(WorkloadRequest(prompt_tokens=prompt, output_tokens=output, arrival_s=at_s))
        at_s += draw.lognormvariate(-0.5, 1.5)
    return rows


def schedule(rows: Sequence[WorkloadRequest], n: int, seconds: float, context_tokens: int) -> list[Due]:
    """`n` requests at even steps, their arrivals shrunk to `seconds`."""
    picked = [rows[round(place)] for place in np.linspace(0, len(rows) - 1, n)]
    first, last = picked[0].arrival_s or 0.0, picked[-1].arrival_s or 0.0
    scale = seconds / max(last - first, 1e-9)
    found = []
    for row in picked:
        output = min(row.output_tokens, context_tokens // 2)
        prompt = min(row.prompt_tokens, context_tokens - output)
        found.append(Due(at_s=((row.arrival_s or 0.0) - first) * scale, prompt_tokens=prompt, output_tokens=output))
    return found


async def play(url: str, model: str, requests: list[Due], vocab: int) -> list[Seen]:
    draw = random.Random(0)
    began_s = time.monotonic()

    async def one(session: aiohttp.ClientSession, due: Due, prompt: list[int]) -> Seen:
        await asyncio.sleep(max(0.0, began_s + due.at_s - time.monotonic()))
        body = {"model": model, "prompt": prompt, "max_tokens": due.output_tokens, "ignore_eos": True, "stream": True}
        first_s = last_s = 0.0
        try:
            async with session.post(f"{url}/completions", json=body) as response:
                if response.status != 200:
                    return Seen(ttft_ms=float("inf"), tpot_ms=float("inf"), error=(await response.text())[:200])
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        last_s = time.monotonic()
                        first_s = first_s or last_s
        except aiohttp.ClientError as error:
            return Seen(ttft_ms=float("inf"), tpot_ms=float("inf"), error=str(error))
        ttft_s = first_s - began_s - due.at_s
        return Seen(ttft_ms=1e3 * ttft_s, tpot_ms=1e3 * (last_s - first_s) / max(1, due.output_tokens - 1))

    prompts = [[draw.randrange(FIRST_TOKEN_ID, vocab) for _ in range(due.prompt_tokens)] for due in requests]
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        return list(await asyncio.gather(*(one(session, due, prompt) for due, prompt in zip(requests, prompts, strict=True))))


def served(lock: Path, knobs: str, requests: list[Due], vocab: int) -> list[Seen]:
    """The requests against a gateway of its own, which is ended afterwards."""
    with tempfile.TemporaryDirectory() as name:
        site = Path(name) / "site.toml"
        table = f'[[models]]\nname = "model"\nlock = "{lock.absolute()}"\nallow_uncertified = true\n'
        site.write_text(f"{table}queue_limit = 10000\nqueue_wait_s = 600\n{knobs}\n")
        with gateway(site, home=Path(name) / "home") as running:
            return asyncio.run(play(running.url, "model", requests, vocab))


def figures_of(seen: list[Seen], ttft_ms: float, tpot_ms: float) -> dict[str, Any]:
    within = sum(one.ttft_ms <= ttft_ms and one.tpot_ms <= tpot_ms for one in seen)
    bounds = share_bounds(within, len(seen))
    answered = [one for one in seen if not one.error]
    quantiles = {name: round(float(np.quantile([one.ttft_ms for one in answered], q)), 1) for name, q in (("p50", 0.5), ("p95", 0.95))}
    return {
        "n": len(seen),
        "answered": len(answered),
        "attained": round(within / len(seen), 3),
        "low": round(bounds.low, 3),
        "high": round(bounds.high, 3),
        "ttft_ms": quantiles,
        "errors": sorted({one.error for one in seen if one.error})[:3],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=Path, default=None)
    parser.add_argument("--trace", type=Path, default=None)
    parser.add_argument("--quick", action="store_true", help="12 requests in 20 s")
    parser.add_argument("--requests", type=int, default=None, help="default 120")
    parser.add_argument("--seconds", type=float, default=None, help="default 600")
    parser.add_argument("--slo", default="2000,100", help="TTFT_MS,TPOT_MS [default: 2000,100]")
    parser.add_argument("--vocab", type=int, default=49152, help="size of the model's vocabulary")
    options = parser.parse_args()
    n, seconds = options.requests or (12 if options.quick else 120), options.seconds or (20.0 if options.quick else 600.0)
    ttft_ms, tpot_ms = map(float, options.slo.split(","))
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        path = options.lock or Path(folder) / "deploy.toml"
        lock = read_deploy_toml(path) if options.lock else write_demo_lock(path, recipe="openvino-int8-asym")
        rows = read_trace(options.trace).requests if options.trace else made_up()
        requests = schedule(rows, n, seconds, lock.settings.context_tokens or 1024)
        for name, knobs in (("kept", "min_replicas = 1"), ("scale_to_zero", f"idle_s = {seconds / 20:g}")):
            figures[name] = figures_of(served(path, knobs, requests, options.vocab), ttft_ms, tpot_ms)
            print(f"{name}: {figures[name]}", flush=True)
    ok = all(row["answered"] == row["n"] for row in figures.values())
    print(json.dumps({"name": "replay", "figures": figures, "targets": {}, "ok": ok}))


if __name__ == "__main__":
    main()
