"""Two models in memory for one: how often they swap, against serving in the order of arrival, and what the waiting costs.

The scheduler that serves runs on simulated time; loads and answers take what they take on the demo model, so nothing depends on this
machine. Three kinds of traffic: all at once, a stream, and clients that ask again when they have their answer. Whether all are answered,
whether memory holds, and the longest wait beside the stated bound are part of the result.

    python benchmarks/swaps.py [--quick] [--requests N] [--patience SECONDS] [--site site.toml]

--site: also serve a site of yours with `trimtab serve` and send its first two models the same mixed requests, from clients that ask
again when they have their answer. Its memory should hold one of the two.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parts.gateway_process import Running, gateway
from parts.serving_sim import Costs, Simulation, first_come_loads

from trimtab.serve.server_process import free_port

COSTS = {
    "a": Costs(memory_bytes=600, load_s=2.1, service_s=0.6, stop_s=0.2),
    "b": Costs(memory_bytes=600, load_s=2.1, service_s=0.6, stop_s=0.2),
}
MEMORY_BYTES = 1000
RATE_PER_S = 4.0
CLIENTS = 8
TOKENS = 16
TARGETS = {"swaps_over_first_come": 0.5, "answered": 1.0}


def simulated(kind: str, n: int, patience_s: float, seed: int) -> dict[str, Any]:
    """Figures of one kind of traffic: swaps, the same for first come first served, and waits in seconds."""
    draw = random.Random(seed)
    versions = [draw.choice("ab") for _ in range(n)]
    left = iter(versions)
    simulation = Simulation(COSTS, MEMORY_BYTES, patience_s, {"queue_limit": n})

    def next_one(at_s: float) -> None:
        version = next(left, None)
        if version is not None:
            simulation.ask(version, at_s)

    if kind == "clients":
        simulation.on_end = lambda number, now_s: next_one(now_s)
        for _ in range(CLIENTS):
            next_one(0.0)
    else:
        at_s = 0.0
        for _ in range(n):
            next_one(at_s)
            at_s += draw.expovariate(RATE_PER_S) if kind == "stream" else 0.0
    total_s = simulation.run()
    waits = [one.granted_s - one.asked_s for one in simulation.outcomes if one.granted_s is not None]
    return {
        "kind": kind,
        "n": n,
        "answered": sum(one.ended_s is not None for one in simulation.outcomes) / n,
        "loads": simulation.n_loads,
        "first_come_loads": first_come_loads(versions),
        "most_bytes": simulation.most_bytes,
        "total_s": round(total_s, 1),
        "wait_p50_s": round(statistics.median(waits), 2),
        "wait_max_s": round(max(waits), 2),
    }


def served(site: Path, n: int, seed: int) -> dict[str, Any]:
    """Figures of real models behind `trimtab serve`. Raises RuntimeError where an answer is none."""
    with tempfile.TemporaryDirectory() as folder, gateway(site, home=Path(folder), admin_port=free_port()) as running:
        return asyncio.run(asked(running, n, seed))


async def asked(running: Running, n: int, seed: int) -> dict[str, Any]:
    waits: list[float] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        async with session.get(f"{running.url}/models") as response:
            names = [row["id"] for row in (await response.json())["data"] if row["alias_of"] is None and row["parent"] is None][:2]
        draw = random.Random(seed)
        versions = [draw.choice(names) for _ in range(n)]
        left = iter(enumerate(versions))

        async def client() -> None:
            for number, name in left:
                began_s = time.monotonic()
                ask = [{"role": "user", "content": f"Say something about the number {number}."}]
                body = {"model": name, "messages": ask, "max_tokens": TOKENS}
                async with session.post(f"{running.url}/chat/completions", json=body) as response:
                    answer = await response.json()
                    if response.status != 200 or not answer["usage"]["completion_tokens"]:
                        raise RuntimeError(f"{name}: {answer}")
                waits.append(time.monotonic() - began_s)

        began_s = time.monotonic()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        total_s = time.monotonic() - began_s
        async with session.get(f"{running.admin_url}/state") as response:
            state = await response.json()
    return {
        "kind": "served",
        "n": n,
        "answered": len(waits) / n,
        "loads": sum(state["loads"].values()),
        "first_come_loads": first_come_loads(versions),
        "load_s": {lane["version"]: lane["load_s"] for lane in state["versions"]},
        "total_s": round(total_s, 1),
        "answer_p50_s": round(statistics.median(waits), 2),
        "answer_max_s": round(max(waits), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same; it takes a second anyway")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--patience", type=float, default=10.0, help="seconds that a busy model keeps others waiting")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--site", type=Path, default=None)
    options = parser.parse_args()
    rows = [
        simulated(kind, options.requests, options.patience, seed)
        for kind in ("at once", "stream", "clients")
        for seed in range(options.seeds)
    ]
    for kind in ("at once", "stream", "clients"):
        of_kind = [row for row in rows if row["kind"] == kind]
        loads, first = (sum(row[key] for row in of_kind) / len(of_kind) for key in ("loads", "first_come_loads"))
        waits = max(row["wait_max_s"] for row in of_kind)
        print(f"{kind:<8} {loads:5.1f} loads, in the order of arrival {first:5.1f}; longest wait {waits:.1f} s")
    if options.site is not None:
        row = served(options.site, options.requests, seed=0)
        print(
            f"served   {row['loads']:5.1f} loads, in the order of arrival {row['first_come_loads']:5.1f}; slowest {row['answer_max_s']} s"
        )
        rows.append(row)
    values = {
        "swaps_over_first_come": max(row["loads"] / row["first_come_loads"] for row in rows),
        "answered": min(row["answered"] for row in rows),
        "most_bytes": max(row.get("most_bytes", 0) for row in rows),
    }
    ok = (
        values["swaps_over_first_come"] <= TARGETS["swaps_over_first_come"]
        and values["answered"] == TARGETS["answered"]
        and values["most_bytes"] <= MEMORY_BYTES
    )
    print(json.dumps({"name": "swaps", "figures": {"rows": rows, **values}, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
